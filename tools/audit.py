"""List known vulnerabilities of the versions in requirements.lock: ``make audit``.

pip-audit skips what its source does not know, and where it reaches no source it skips everything and still says that it
found none. Here that is no pass: then the record kept by hand, docs/vulnerabilities.md, counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys

from packaging.utils import canonicalize_name

from helpers import paths
from tools.versions import read_pins

LOCKS = [paths.ROOT / name for name in ("requirements.lock", "maintainers.lock")]
RECORD = paths.ROOT / "docs" / "vulnerabilities.md"


class Unasked(Exception):
    """The source could not be asked about every package."""


def known_vulnerabilities(said: str, packages: set[str]) -> list[str]:
    """Read what pip-audit answered.

    Parameters
    ----------
    said : str
        Its JSON.
    packages : set of str
        Names of those that it was to ask about.

    Returns
    -------
    list of str
        Of each vulnerability: package, version, its number, and the version without it.

    Raises
    ------
    Unasked
        If it did not ask about each of them.
    """
    try:
        dependencies = json.loads(said)["dependencies"]
    except (ValueError, KeyError, TypeError):
        raise Unasked("pip-audit gave no answer") from None
    asked = {canonicalize_name(entry["name"]) for entry in dependencies if "vulns" in entry}
    missing = {canonicalize_name(name) for name in packages} - asked
    if missing:
        raise Unasked(f"about {len(missing)} of {len(packages)} packages, such as {min(missing)}")
    return [
        f"{entry['name']} {entry['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no version yet'}"
        for entry in dependencies
        for found in entry["vulns"]
    ]


def main() -> int:
    """Ask, and print what is known; return the exit code.

    That is 1 for a vulnerability on which docs/vulnerabilities.md has no decision, for a record that is not of this
    lock, and in CI for a source that could not be asked.
    """
    lock = "".join(path.read_text(encoding="utf-8") for path in LOCKS)
    if f"Locks: `{hashlib.sha256(lock.encode()).hexdigest()}`" not in RECORD.read_text(encoding="utf-8"):
        print(f"{RECORD.name} is not of this lock: look at what changed, and renew it.", file=sys.stderr)
        return 1
    form = ["--format=json", "--desc=off", "--progress-spinner=off", "--disable-pip", "--no-deps"]
    command = [sys.executable, "-m", "pip_audit", *form, *(f"--requirement={path}" for path in LOCKS)]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        found = known_vulnerabilities(done.stdout, set(read_pins(lock)))
    except Unasked as reason:
        print(
            f"The source of vulnerabilities could not be asked ({reason}). What was looked at by hand: docs/{RECORD.name}"
        )
        return 1 if os.environ.get("CI") else 0
    record = RECORD.read_text(encoding="utf-8")
    undecided = [
        line for line in found if not re.search(rf"\b{re.escape(line.split(': ')[1].split(',')[0])}\b", record)
    ]
    for line in found:
        print(line + ("" if line in undecided else f" (decided on: docs/{RECORD.name})"))
    print(f"{len(found)} known vulnerabilities, {len(undecided)} of them without a decision.")
    return 1 if undecided else 0


if __name__ == "__main__":
    sys.exit(main())
