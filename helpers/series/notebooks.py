"""Which notebooks there are: the one list that all else asks."""

from __future__ import annotations

import re
from pathlib import Path

from helpers import paths
from helpers.paths import SeriesError

NEEDS_CLUSTER = "06_run_on_kubeflow"
_NUMBERED = re.compile(r"\d\d_\w+\.ipynb")  # such as 01_save_a_model.ipynb; 10 and above come after it


class Refused(SeriesError):
    """What was asked for cannot be run; nothing was."""


def numbered(folder: Path = paths.NOTEBOOKS) -> list[Path]:
    """Return the notebooks of a folder that have a number: the series, its exercises or their solutions.

    Parameters
    ----------
    folder : pathlib.Path
        Such as ``notebooks/``.

    Returns
    -------
    list of pathlib.Path
        In order.
    """
    return sorted(path for path in folder.glob("*.ipynb") if _NUMBERED.fullmatch(path.name))


def tasks(folder: Path = paths.NOTEBOOKS) -> list[Path]:
    """Return the notebooks that a pipeline runs as a task; a reader runs them only by name.

    Parameters
    ----------
    folder : pathlib.Path
        Where the series lies.

    Returns
    -------
    list of pathlib.Path
        In order.
    """
    return sorted((folder / "tasks").glob("*.ipynb"))


def find(names: list[str], folder: Path = paths.NOTEBOOKS) -> list[Path]:
    """Return the notebooks that a reader names.

    Parameters
    ----------
    names : list of str
        Each a number such as ``01``, or a file's name with or without its
        ending. None at all stands for the whole series.
    folder : pathlib.Path
        Where the notebooks lie.

    Returns
    -------
    list of pathlib.Path
        In the order of ``names``; in the order of the series if there are none.

    Raises
    ------
    Refused
        If there is no such notebook.
    """
    series = {path.stem: path for path in numbered(folder)}
    only_named = {path.stem: path for path in tasks(folder)}
    if not series:
        raise Refused(f"There are no notebooks in {folder}: the checkout is not complete.")
    chosen = []
    for name in names or series:
        stem = Path(name).name.removesuffix(".ipynb")
        found = [path for key, path in (series | only_named).items() if stem in (key, key.partition("_")[0])]
        if not found:
            raise Refused(f"There is no notebook {name!r}. There are {', '.join(series)}; the number alone will do.")
        chosen += found
    return chosen
