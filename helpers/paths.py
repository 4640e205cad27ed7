"""Where the series lies, where it keeps its state, and the error that it raises."""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from pathlib import Path

import platformdirs

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
DEPLOY = ROOT / "deploy"


class SeriesError(RuntimeError):
    """What went wrong and what to do about it, in words for the learner.

    Jupyter, papermill and nbval show the sentence alone: a traceback through
    the plumbing would hide it.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def work_dir() -> Path:
    """Return the folder that holds all state of this checkout.

    Returns
    -------
    pathlib.Path
        What ``SERIES_WORK`` names. Without it ``work/`` in the checkout; a checkout that cannot be written to, such
        as one shared by a class, gets a folder of the user, with the checkout's name and a mark of where it lies.
        Whether it exists and can be written to says `check_work_dir`.
    """
    if os.environ.get("SERIES_WORK"):
        return Path(os.environ["SERIES_WORK"]).expanduser().absolute()
    folder = ROOT / "work"
    if not folder.exists() and not os.access(ROOT, os.W_OK):
        mark = hashlib.sha256(os.fsencode(ROOT)).hexdigest()[:8]
        folder = platformdirs.user_state_path("mlflow-kubeflow-notebooks") / f"{ROOT.name}-{mark}"
    return folder


def check_work_dir() -> None:
    """Make the state folder if need be and try to write a page of data to it.

    Raises
    ------
    SeriesError
        If it cannot be written to, or the disk is full.
    """
    folder = work_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        try:
            probe.write_bytes(bytes(65536))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise SeriesError(
            f"Cannot write to the state folder {folder}: {error.strerror}. "
            "Free some space or make the folder writable, then run this again."
        ) from None


def short(path: Path) -> str:
    """Return a path as a reader wants to see it.

    Parameters
    ----------
    path : pathlib.Path
        Any.

    Returns
    -------
    str
        Relative to the current folder if it lies there, else as it is.
    """
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def command(module: str) -> str:
    """Return a command line of the series that can be pasted into a shell, whichever Python comes first there.

    Parameters
    ----------
    module : str
        With its arguments, such as ``"helpers.workshop status"``.

    Returns
    -------
    str
        Such as ``".venv/bin/python -m helpers.workshop status"``; the path is relative where the current folder
        holds the environment.
    """
    python = Path(sys.executable)  # not resolved: behind the link lies a Python without the packages
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    return f"{shlex.quote(str(python))} -m {module}"
