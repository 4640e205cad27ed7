"""Choose versions within the ranges of pyproject.toml and write both locks: ``make lock``.

It works for uv and for pip. To pip a package with an extra is another thing than the package without, and where hashes
are asked for it looks at the newest version of the one that it finds no pin for: so a lock needs both.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from helpers import paths

READERS, MAINTAINERS = (paths.ROOT / name for name in ("requirements.lock", "maintainers.lock"))


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


def write(lock: Path, *options: str) -> None:
    """Let uv choose versions for one lock.

    Parameters
    ----------
    lock : pathlib.Path
        Written anew; versions that it has stay unless an option says otherwise.
    options : str
        Of ``uv pip compile``.
    """
    command = [sys.executable, "-m", "uv", "pip", "compile", "--universal", "--python-version", "3.11"]
    form = ["--generate-hashes", "--no-header", "--no-annotate", "--no-strip-extras", "--quiet"]
    subprocess.run([*command, *form, *options, "--output-file", lock.name], cwd=paths.ROOT, check=True)
    lock.write_text(with_plain(lock.read_text(encoding="utf-8")), encoding="utf-8")


def main() -> int:
    """Renew both locks: what readers and tasks get, then what maintainers get beside it."""
    write(READERS, "pyproject.toml", "--group", "setup", *sys.argv[1:])
    write(MAINTAINERS, "--group", "maintainers", "--constraints", READERS.name, *sys.argv[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
