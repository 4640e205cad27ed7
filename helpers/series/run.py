"""Run the notebooks of the series in order, two at once where the machine can, through papermill.

``python -m helpers.series [NAME ...] [-p NAME VALUE ...]``
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import logging
import os
import re
import shlex
import sys
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import nbformat
from psutil import virtual_memory

from helpers import environment, machine, paths, stack
from helpers import parameters as settings
from helpers.paths import SeriesError
from helpers.series.kernel import OwnKernel
from helpers.series.notebooks import NEEDS_CLUSTER, Refused, find, tasks

CLEAR = "\r\x1b[K"  # the line of a terminal
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class NotebookError(SeriesError):
    """A notebook failed; the message says which, in which cell, and why."""


def parse(text: str) -> list[tuple[str, str]]:
    """Split ``"kernel=linear model_name=my-svc"`` as a shell would.

    Parameters
    ----------
    text : str
        Pairs with an equals sign, separated by spaces; quotes keep spaces together.

    Returns
    -------
    list of tuple of str
        Names and values.

    Raises
    ------
    Refused
        If a part is no pair.
    """
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise Refused(f"The parameters {text!r} cannot be read ({error}): write them as name=value.") from None
    pairs = [tuple(part.split("=", 1)) for part in parts]
    for part, pair in zip(parts, pairs, strict=True):
        if len(pair) < 2 or not pair[0]:
            raise Refused(f"{part!r} is no parameter: write it as name=value, for example kernel=linear.")
    return pairs


def parameters_for(notebooks: list[Path], pairs: list[tuple[str, str]]) -> dict[Path, dict]:
    """Check parameters, and give each notebook those that it declares.

    Parameters
    ----------
    notebooks : list of pathlib.Path
        Those to be run.
    pairs : list of tuple of str
        Names and values as the reader wrote them.

    Returns
    -------
    dict
        Of each notebook: parameters to values, which have the type of the declared default.

    Raises
    ------
    Refused
        If no notebook declares a parameter, or a value is not usable.
    """
    declared = {path: settings.declared(path) for path in notebooks}
    known = sorted({name for defaults in declared.values() for name in defaults})
    chosen = {path: {} for path in declared}
    for name, text in pairs:
        if name not in known:
            raise Refused(f"There is no parameter {name!r}. Known are: {', '.join(known) or 'none'}.")
        for path, defaults in declared.items():
            if name in defaults:
                chosen[path][name] = settings.fitting(name, text, defaults[name])
    return chosen


def jobs() -> int:
    """Return how many notebooks this machine runs at once without slowing its reader down.

    Returns
    -------
    int
        Two where there are two cores and memory for both, else one.
    """
    return 2 if machine.cores() >= 2 and machine.memory() >= 4e9 and virtual_memory().available >= 2e9 else 1


def run(chosen: list[tuple[Path, dict]], folder: Path, at_once: int = 1) -> None:
    """Execute notebooks in order and print a line for each that has ended.

    Parameters
    ----------
    chosen : list of tuple
        Notebooks and their parameters.
    folder : pathlib.Path
        Takes the executed notebooks.
    at_once : int
        How many run at the same time.

    Raises
    ------
    NotebookError
        If one fails; those after it are not begun.
    """
    width, names = max(len(path.stem) for path, _ in chosen), set()
    line, stop = Line(), threading.Event()

    def one(path: Path, parameters: dict, output: Path) -> None:
        if stop.is_set():
            return
        progress = Progress(f"{path.stem:<{width}}", path, injected=bool(parameters), line=line)
        try:
            _execute(path, output, parameters, progress)
        except BaseException:
            stop.set()
            progress.end("failed")
            raise
        progress.end("done")

    tasks = []
    for path, parameters in chosen:
        name, number = path.name, 1
        while name in names:  # named twice
            number += 1
            name = f"{path.stem}-{number}.ipynb"
        names.add(name)
        tasks.append((path, parameters, folder / name))
    with ThreadPoolExecutor(at_once, "notebook") as pool:
        futures = [pool.submit(one, *task) for task in tasks]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        except KeyboardInterrupt:
            stop.set()
            while not all(future.done() for future in futures):  # one may still be starting its kernel
                OwnKernel.kill_all()
                time.sleep(0.2)
            raise


class Line:
    """The last line of a terminal, which says what runs; of those that have ended one line each stays above it."""

    def __init__(self) -> None:
        self._lock, self._running, self._terminal = threading.Lock(), {}, sys.stdout.isatty()

    def show(self, title: str, state: str) -> None:
        """Say how far a notebook is; nothing where there is no terminal."""
        with self._lock:
            self._running[title] = state
            self._draw()

    def end(self, title: str, text: str) -> None:
        """Let a notebook's last word stay."""
        with self._lock:
            self._running.pop(title, None)
            print((CLEAR if self._terminal else "") + title + text, flush=True)
            self._draw()

    def _draw(self) -> None:
        if self._terminal and self._running:
            states = (f"{title.strip()}: {state}" for title, state in self._running.items())
            print(CLEAR + ", ".join(states), end="", flush=True)


class Progress:
    """Say on one line which notebook runs, which cell it is at, and how long it took.

    Parameters
    ----------
    title : str
        Begins the line.
    path : pathlib.Path
        The notebook, whose code cells are counted.
    injected : bool
        Whether papermill adds a cell with parameters.
    line : Line, optional
        Shared with the notebooks that run at the same time.
    """

    def __init__(self, title: str, path: Path, *, injected: bool = False, line: Line | None = None) -> None:
        self.cell = 0
        self._title, self._begin, self._line = title, time.monotonic(), line or Line()
        cells = nbformat.read(path, as_version=4).cells
        self._cells = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in cells) + injected
        self._line.show(title, "starts")

    def step(self, cell: object, cell_index: int) -> None:
        """Count a code cell that begins to run; nbclient calls this."""
        self.cell += 1
        self._line.show(self._title, f"cell {self.cell} of {self._cells}")

    def end(self, word: str) -> None:
        """Finish the line."""
        self._line.end(self._title, f"  {word:<6}{time.monotonic() - self._begin:6.1f} s")


def _execute(path: Path, output: Path, parameters: dict, progress: Progress) -> None:
    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError, execute_notebook

    try:
        execute_notebook(
            path,
            output,
            parameters,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            log_output=False,
            kernel_manager_class=OwnKernel,
            on_cell_execute=progress.step,
        )
    except PapermillExecutionError as error:
        if _was_meant(output, error.cell_index):
            return
        # Our own errors are sentences of more than one line; of others the last line tells most.
        message = _ANSI.sub("", f"{error.ename}: {error.evalue}".strip())
        raise NotebookError(
            f"{path.stem} failed in cell [{error.exec_count}]: {message}\nLook at it here: {output}"
        ) from None
    except DeadKernelError:
        raise NotebookError(
            f"{path.stem} failed in cell [{progress.cell}]: its kernel died, most often because memory ran out (the "
            f"series needs 2 GB).\nLook at it here: {output}"
        ) from None
    except RuntimeError as error:
        if "Kernel died before replying" not in str(error):
            raise
        raise NotebookError(
            f"{path.stem}: its kernel did not start; what it wrote stands above. Is there a home folder, and disk space?"
        ) from None


def _was_meant(output: Path, cell_index: int) -> bool:
    """Tell whether a cell was to fail; papermill takes every error for a failure and marks it as such."""
    from papermill.execute import remove_error_markers

    notebook = remove_error_markers(nbformat.read(output, as_version=4))
    if "raises-exception" not in notebook.cells[cell_index].metadata.get("tags", []):
        return False
    nbformat.write(notebook, output)
    return True


def new_folder() -> Path:
    """Make a folder for executed notebooks, named after the time.

    Returns
    -------
    pathlib.Path
        Nobody else's, even when two start in the same second.
    """
    runs = paths.work_dir() / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    name, number = f"{datetime.datetime.now():%Y-%m-%d-%H%M%S}", 1
    while True:
        folder = runs / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
        number += 1


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : list of str, optional
        Those of the process if not given.

    Returns
    -------
    int
        The exit code: 0, 1 if a notebook failed, 2 if the request was refused.
    """
    parser = argparse.ArgumentParser(prog="python -m helpers.series", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="01 or 01_save_a_model; none: all")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="set a parameter")
    parser.add_argument("--params", default="", metavar="'NAME=VALUE ...'", help="set several at once")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="how many run at once; as a rule 2, or 1 on a small machine"
    )
    parser.add_argument("--refresh", action="store_true", help="execute the stored notebooks in place")
    asked = parser.parse_args(arguments)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it warns of is checked here
    environment.tidy(os.environ)  # kernels, and what they start, inherit it
    try:
        if asked.jobs is not None and asked.jobs < 1:
            raise Refused(f"--jobs {asked.jobs} runs nothing: at least one notebook has to run at a time.")
        pairs = [*map(tuple, asked.p), *parse(asked.params)]
        notebooks = find(asked.names)
        if asked.refresh:
            if pairs:
                raise Refused("The stored notebooks are refreshed with their own parameters: leave yours away.")
            from helpers.series import refresh

            if not asked.names:
                notebooks = [path for path in notebooks if path.stem != NEEDS_CLUSTER] + tasks()
            refresh.refresh(notebooks)
            return 0
        parameters = parameters_for(notebooks, pairs)
        paths.check_work_dir()
        left_out = [
            path
            for path in notebooks
            if path.stem == NEEDS_CLUSTER and not asked.names and not os.environ.get("KF_PIPELINES_ENDPOINT")
        ]
        notebooks = [path for path in notebooks if path not in left_out]
        # Notebook 06 has a server on its cluster.
        servers = stack.connect() if any(path.stem != NEEDS_CLUSTER for path in notebooks) else None
        folder = new_folder()
        run([(path, parameters[path]) for path in notebooks], folder, asked.jobs or jobs())
    except Refused as error:
        print(error, file=sys.stderr)
        return 2
    except SeriesError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. The servers stay up; to stop them: make stop", file=sys.stderr)
        return 130
    for path in left_out:
        print(f"{path.stem}     not run: it needs a cluster, and KF_PIPELINES_ENDPOINT is not set")
    print(
        (f"\nMLflow UI:           {servers.tracking_uri}" if servers else "")
        + f"\nExecuted notebooks:  {paths.short(folder)}"
    )
    if servers and os.environ.get("_SERIES_TRACKING_URI") == servers.tracking_uri:
        print("The servers stay up. To stop them: make stop")
    return 0
