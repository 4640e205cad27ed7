"""Make the exercises out of their solutions.

``python -m helpers.series.exercises generate | refresh``
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import nbformat

from helpers import paths
from helpers.paths import SeriesError
from helpers.series.notebooks import numbered

EXERCISES = paths.ROOT / "exercises"
# What stands above this line in a solution is given to the reader; the rest is left to find.
MARKER = "# --- your code ---"
STUB = "# Your code here"


def stub(source: str) -> str:
    """Return what an exercise shows in place of a solution.

    Parameters
    ----------
    source : str
        The solution's cell.

    Returns
    -------
    str
        The lines above `MARKER`, if it is there, and `STUB`, indented as the marker was.
    """
    given = re.match(rf"(.*?)^([ ]*){re.escape(MARKER)}$", source, re.DOTALL | re.MULTILINE)
    return f"{given[1]}{given[2]}{STUB}" if given else STUB


def generate(solution: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the exercise of a solution.

    Parameters
    ----------
    solution : nbformat.NotebookNode
        Its code cells tagged ``solution`` become stubs, its Markdown cells with that tag are left out.

    Returns
    -------
    nbformat.NotebookNode
        Without outputs; each cell's id begins with ``e`` where the solution's begins with ``s``.
    """
    cells = []
    for cell in solution.cells:
        found = nbformat.from_dict({**cell, "id": f"e{cell.id.removeprefix('s')}", "metadata": dict(cell.metadata)})
        solved = "solution" in cell.metadata.get("tags", [])
        if cell.cell_type == "code":
            found.outputs, found.execution_count = [], None
            if solved:
                found.source = stub(cell.source)
        elif solved:
            continue
        else:
            found.source = _move_links(cell.source)
        cells.append(found)
    return nbformat.from_dict({**solution, "cells": cells})


def _move_links(text: str) -> str:
    """Let the links of exercises/solutions/ lead to the same places from exercises/."""

    def moved(match: re.Match) -> str:
        target = match[1]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        return f"]({target.removeprefix('../')})" if target.startswith("../") else f"](solutions/{target})"

    return re.sub(r"\]\(([^)\s]+)\)", moved, text)


def solutions(folder: Path = EXERCISES) -> list[Path]:
    """Return the notebooks with the solutions.

    Parameters
    ----------
    folder : pathlib.Path
        Where the exercises lie.

    Returns
    -------
    list of pathlib.Path
        In order.

    Raises
    ------
    helpers.paths.SeriesError
        If there is none.
    """
    found = numbered(folder / "solutions")
    if not found:
        raise SeriesError(f"There are no solutions in {folder / 'solutions'}: the checkout is not complete.")
    return found


def generate_all(folder: Path = EXERCISES) -> list[Path]:
    """Write the exercise of each solution, and remove those that have none any more.

    Parameters
    ----------
    folder : pathlib.Path
        Where the exercises lie.

    Returns
    -------
    list of pathlib.Path
        Those that changed.
    """
    changed, expected = [], {path.name for path in solutions(folder)}
    for path in solutions(folder):
        text, exercise = written(path), folder / path.name
        if not exercise.exists() or exercise.read_text(encoding="utf-8") != text:
            exercise.write_text(text, encoding="utf-8")
            changed.append(exercise)
    for path in numbered(folder):
        if path.name not in expected:
            path.unlink()
            changed.append(path)
    return changed


def written(path: Path) -> str:
    """Return the file of an exercise.

    Parameters
    ----------
    path : pathlib.Path
        Its solution.

    Returns
    -------
    str
        As `generate_all` writes it.
    """
    solution = nbformat.read(path, as_version=4)
    return nbformat.writes(generate(solution), version=nbformat.NO_CONVERT).rstrip("\n") + "\n"


def refresh_all(folder: Path = EXERCISES) -> None:
    """Execute the solutions in place, then write the exercises.

    Parameters
    ----------
    folder : pathlib.Path
        Where the exercises lie.

    Raises
    ------
    helpers.paths.SeriesError
        If a solution fails: it stays as it was.
    """
    from helpers.series import refresh

    refresh.refresh(solutions(folder))
    generate_all(folder)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : list of str, optional
        Those of the process if not given.

    Returns
    -------
    int
        The exit code: 0, or 1 if a notebook failed.
    """
    parser = argparse.ArgumentParser(prog="python -m helpers.series.exercises", description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["generate", "refresh"], help="refresh executes the solutions first")
    action = parser.parse_args(arguments).action
    try:
        if action == "refresh":
            refresh_all()
        else:
            changed = generate_all()
            print(
                f"Made anew: {', '.join(path.name for path in changed)}" if changed else "The exercises are up to date."
            )
    except SeriesError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
