"""Look at what a reader of the exercises has made, and say whether it is right.

``checks.check("05-1", globals())``
"""

from __future__ import annotations

import importlib
import re

from helpers.checks.common import Names, NotYet
from helpers.paths import SeriesError
from helpers.workshop import progress

# The module of helpers/checks that holds the checks of an exercise: ``check_05_1`` looks at task 05-1.
MODULES = {
    "01": "save",
    "02": "track",
    "03": "components",
    "04": "compiled",
    "05": "run",
    "07": "serve",
    "08": "sweep",
    "09": "own_data",
}


def check(task: str, names: dict) -> None:
    """Print whether a task of the exercises is done, and if not, what is missing.

    Parameters
    ----------
    task : str
        Such as ``"05-1"``.
    names : dict
        The reader's variables: ``globals()``. Nothing in it is changed.

    Raises
    ------
    helpers.paths.SeriesError
        If there is no such task. A wrong answer raises nothing.
    """
    look = _find(task)
    try:
        found = look(Names(names))
    except NotYet as reason:
        print(f"{task} not yet: {reason.wrong} Hint: {reason.hint}")
        return
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a half-done answer may break anything
        said = (str(error).strip().splitlines() or ["no message"])[0]
        print(
            f"{task} not yet: looking at your answer ended in {type(error).__name__}: {said} "
            "Hint: run the notebook again from its top; if this stays, compare with the solution."
        )
        return
    print(f"{task} right: {found}")
    progress.record(task)


def tasks() -> list[str]:
    """Return the names of all tasks.

    Returns
    -------
    list of str
        In order, such as ``["01-1", "01-2", ...]``.
    """
    found = []
    for number, name in MODULES.items():
        functions = vars(importlib.import_module(f"helpers.checks.{name}"))
        found += [
            match[1].replace("_", "-")
            for function in functions
            if (match := re.fullmatch(rf"check_({number}_\d)", function))
        ]
    return sorted(found)


def _find(task: str):
    name = MODULES.get(task.partition("-")[0])
    module = importlib.import_module(f"helpers.checks.{name}") if name else None
    function = getattr(module, f"check_{task.replace('-', '_')}", None)
    if function is None:
        raise SeriesError(f"There is no task {task!r}. There are {', '.join(tasks())}.")
    return function
