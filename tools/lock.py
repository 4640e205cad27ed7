"""Choose versions within the ranges of pyproject.toml and write requirements.lock: ``make lock``.

It works for uv and for pip. To pip a package with an extra is another thing than the package without, and where hashes
are asked for it looks at the newest version of the one that it finds no pin for: so a lock needs both.
"""

from __future__ import annotations

import re
import subprocess
import sys

from helpers import paths

LOCK = paths.ROOT / "requirements.lock"


def with_plain(text: str) -> str:
    """Put before each package with extras the same one without them.

    Parameters
    ----------
    text : str
        Of a lock that keeps extras.

    Returns
    -------
    str
        Of a lock with which pip comes to the same end as uv.
    """
    written = []
    for entry in re.split(r"\n(?=\S)", text.rstrip("\n")):
        plain = re.sub(r"^([\w.-]+)\[[\w,.-]+\]==", r"\1==", entry)
        if plain != entry and plain not in written:
            written.append(plain)
        if entry not in written:
            written.append(entry)
    return "\n".join(written) + "\n"


def main() -> int:
    """Renew the lock."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "uv",
            "pip",
            "compile",
            "pyproject.toml",
            "--group",
            "test",
            "--group",
            "setup",
            "--universal",
            "--python-version",
            "3.11",
            "--generate-hashes",
            "--no-header",
            "--no-annotate",
            "--no-strip-extras",
            "--quiet",
            *sys.argv[1:],
            "--output-file",
            LOCK.name,
        ],
        cwd=paths.ROOT,
        check=True,
    )
    LOCK.write_text(with_plain(LOCK.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
