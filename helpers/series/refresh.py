"""Execute the stored notebooks in place.

``python -m helpers.series --refresh [NAME ...]``
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from helpers import paths, stack
from helpers.paths import SeriesError
from helpers.series.collect import collect_stored, compile_stored, replace
from helpers.series.kernel import OwnKernel
from helpers.series.run import NotebookError, Progress

# Folders that mean nothing on another machine.
ABSOLUTE_PATH = re.compile(r"(?<![\w.-])/(?:(?:root|tmp|var/folders|private/var)/|(?:home|Users)/\w)")

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def refresh(notebooks: list[Path]) -> None:
    """Collect and compile the pipeline, then execute notebooks and store them with their outputs.

    Parameters
    ----------
    notebooks : list of pathlib.Path
        Each is replaced when it has run to its end and may be stored.

    Raises
    ------
    helpers.paths.SeriesError
        If a notebook fails or shows what must not be stored: it stays as it was.
    """
    collect_stored()
    compile_stored()  # a package's version may have changed as well
    stack.connect()
    width = max(len(path.stem) for path in notebooks)
    for path in notebooks:
        progress = Progress(f"{path.stem:<{width}}", path)
        try:
            refresh_one(path, progress)
        except BaseException:
            progress.end("failed")
            raise
        progress.end("stored")


def refresh_one(path: Path, progress: Progress | None = None) -> None:
    """Execute one notebook in place and clean it.

    Parameters
    ----------
    path : pathlib.Path
        The notebook.
    progress : helpers.series.run.Progress, optional
        Is told of each cell.

    Raises
    ------
    helpers.series.run.NotebookError
        If a cell fails.
    helpers.paths.SeriesError
        If an output must not be stored.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        kernel_manager_class=OwnKernel,
        record_timing=False,
        timeout=600,
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_execute=progress.step if progress else None,
    )
    try:
        client.execute()
    except CellExecutionError as error:
        raise NotebookError(f"{path.stem} failed and stays as it was: {error.ename}: {error.evalue}") from None
    except DeadKernelError:
        raise NotebookError(f"{path.stem} failed and stays as it was: its kernel died.") from None
    clean(notebook)
    check(notebook, path.stem)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    replace(path, nbformat.writes(notebook, version=nbformat.NO_CONVERT).rstrip("\n") + "\n")


def clean(notebook: nbformat.NotebookNode) -> None:
    """Take out of an executed notebook what would differ without a reason.

    Parameters
    ----------
    notebook : nbformat.NotebookNode
        Changed in place.
    """
    notebook.metadata = nbformat.from_dict(_METADATA)
    for cell in notebook.cells:
        for key in ("execution", "papermill", "ExecuteTime", "collapsed", "jupyter"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            merged: list[nbformat.NotebookNode] = []
            for output in cell.outputs:
                if output.output_type == "stream" and merged and merged[-1].get("name") == output.name:
                    merged[-1].text += output.text
                else:
                    merged.append(output)
            for output in merged:
                if output.output_type == "stream":
                    output.text = "".join(map(_as_on_a_terminal, _lines(output.text)))
            cell.outputs = merged


def _lines(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _as_on_a_terminal(line: str) -> str:
    """Let each part after a carriage return overwrite the beginning of what was there."""
    end = "\n" if line.endswith("\n") else ""
    shown = ""
    for part in line.removesuffix("\n").split("\r"):
        shown = part + shown[len(part) :]
    return shown + end


def check(notebook: nbformat.NotebookNode, name: str) -> None:
    """Refuse to store an error, a warning, a path of this machine or a key.

    Parameters
    ----------
    notebook : nbformat.NotebookNode
        Executed and cleaned.
    name : str
        For the message.

    Raises
    ------
    helpers.paths.SeriesError
        Names the cell and what is wrong with it; never repeats a key.
    """
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        meant = "raises-exception" in cell.metadata.get("tags", [])
        for output in cell.outputs:
            if output.output_type == "error" and not meant:
                reason = f"raised {output.ename}"
            elif output.output_type == "stream" and output.name == "stderr":
                reason = f"wrote to stderr: {output.text.strip().splitlines()[-1]}"
            else:
                reason = _unfit(str(output))
            if reason:
                raise SeriesError(f"{name} is not stored: its cell [{cell.execution_count}] {reason}.")


def _unfit(text: str) -> str:
    text = text.replace("\\\\", "\\")  # the text of a dictionary escapes them
    for variable in _KEYS:
        if os.environ.get(variable) and os.environ[variable] in text:
            return f"shows the value of {variable}"
    folders = [str(paths.ROOT)]
    with contextlib.suppress(RuntimeError):
        folders.append(str(Path.home()))
    for folder in folders:
        if len(folder) > 1 and re.search(re.escape(folder) + r"(?![\w.-])", text):
            return f"shows the folder {folder}"
    with contextlib.suppress(OSError, KeyError):
        if re.search(rf"[/\\](?:home|Users)[/\\]{re.escape(getpass.getuser())}\b", text):
            return "shows the user's name in a path"
    if found := ABSOLUTE_PATH.search(text):
        return f"shows a path of this machine: {text[found.start() : found.start() + 60]}"
    return ""
