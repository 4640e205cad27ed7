"""The reader's copies of notebooks and exercises, and JupyterLab on them.

``python -m helpers.series.copies lab | fresh | originals``
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import sys
from pathlib import Path

from helpers import environment, paths
from helpers.paths import SeriesError

MINE = paths.ROOT / "my"
FOLDERS = ("notebooks", "exercises")
BESIDE = ("deploy", "docs", "workshops", "README.md")  # what the notebooks link to, with ../
_RECORD = ".originals.json"  # of which original each copy was made
START = "notebooks/00_start_here.ipynb"
# With these settings JupyterLab asks the internet for nothing, nor the reader about news; the reader's own come first.
_SETTINGS = Path(__file__).with_name("jupyterlab")


def bring(mine: Path = MINE, root: Path = paths.ROOT) -> list[str]:
    """Copy what the reader has no copy of yet; never write over a copy that was changed.

    Parameters
    ----------
    mine : pathlib.Path
        Takes the copies; made if need be.
    root : pathlib.Path
        Of the checkout or the image.

    Returns
    -------
    list of str
        The copies, as paths below ``mine``, that the reader has changed and whose originals are newer.

    Raises
    ------
    SeriesError
        If the folder cannot be written to.
    """
    newer = []
    try:
        mine.mkdir(parents=True, exist_ok=True)
        record = _record(mine)
        for original in _originals(root):
            name = original.relative_to(root).as_posix()
            copy, text = mine / name, original.read_bytes()
            mark = hashlib.sha256(text).hexdigest()
            if copy.exists():
                kept = hashlib.sha256(copy.read_bytes()).hexdigest()
                if kept == mark or record.get(name) == mark:
                    continue  # as the original, or changed since this very original was copied
                if kept != record.get(name):
                    newer.append(name)
                    continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            new = copy.with_name(f".{copy.name}.new")
            new.write_bytes(text)
            new.replace(copy)
            record[name] = mark
        (mine / _RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
        for name in BESIDE:  # so that a copy's links lead where the original's do
            if (root / name).exists() and not os.path.lexists(mine / name):
                (mine / name).symlink_to(os.path.relpath(root / name, mine))
    except OSError as error:
        raise SeriesError(
            f"Cannot copy the notebooks to {mine}: {error}. Free some space or make it writable."
        ) from None
    return newer


def begin_anew(mine: Path = MINE, root: Path = paths.ROOT) -> Path | None:
    """Set the reader's copies aside and copy the originals again.

    Parameters
    ----------
    mine, root : pathlib.Path
        As for `bring`.

    Returns
    -------
    pathlib.Path or None
        Where the copies of before are; None if there were none.
    """
    aside = None
    if mine.exists():
        aside = mine.with_name(f"{mine.name}-{datetime.datetime.now():%Y-%m-%d-%H%M%S}")
        mine.rename(aside)
    bring(mine, root)
    return aside


def _originals(root: Path) -> list[Path]:
    found = [path for name in FOLDERS for path in sorted((root / name).rglob("*")) if path.is_file()]
    return [
        path for path in found if path.suffix in (".ipynb", ".png", ".svg") and ".ipynb_checkpoints" not in path.parts
    ]


def _record(mine: Path) -> dict[str, str]:
    try:
        return dict(json.loads((mine / _RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _open(folder: Path, start: str) -> None:
    """Become JupyterLab on a folder."""
    environment.tidy(os.environ)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    options = ["--ServerApp.root_dir=.", f"--LabApp.default_url=/lab/tree/{start}"]
    options.append(f"--LabApp.app_settings_dir={_SETTINGS}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--allow-root")
    os.chdir(folder)
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *options])


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m helpers.series.copies", description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["lab", "bring", "fresh", "originals"])
    parser.add_argument("--into", type=Path, default=MINE, help="the folder of the copies")
    asked = parser.parse_args(arguments)
    try:
        if asked.action == "originals":
            _open(paths.ROOT, START)
        if asked.action == "fresh":
            aside = begin_anew(asked.into)
            print(
                f"New copies are in {paths.short(asked.into)}."
                + (f" Yours are in {paths.short(aside)}." if aside else "")
            )
            return 0
        for name in bring(asked.into):
            print(f"A newer {name} has come. Yours stays; make fresh sets your copies aside and begins anew.")
        if asked.action == "lab":
            _open(asked.into, START)
    except SeriesError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
