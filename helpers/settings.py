"""Where am I, where may I write, and which names may I use."""

from __future__ import annotations

import importlib.metadata
import logging
import math
import os
import platform
import re
import shutil
from pathlib import Path

import filelock
import platformdirs

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"

# Libraries that talk while they work, and what makes them quiet. The learner's own choice wins.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    # A server that is down is known in seconds instead of minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}

_own_folders: dict[Path, filelock.BaseFileLock] = {}


class SeriesError(RuntimeError):
    """What went wrong and what to do about it, in words for the learner.

    Jupyter, papermill and nbval show the sentence alone: a traceback through
    the plumbing would hide it.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def work_dir() -> Path:
    """Return the folder that holds all state of this checkout.

    That is ``work/`` in the checkout. A checkout that cannot be written to,
    such as one shared by a class, gets a folder of the user instead.

    Returns
    -------
    pathlib.Path
        Whether it exists and can be written to says `check_work_dir`.
    """
    folder = ROOT / "work"
    if not folder.exists() and not os.access(ROOT, os.W_OK):
        folder = platformdirs.user_state_path("mlflow-kubeflow-notebooks") / ROOT.name
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


def begin_notebook(name: str) -> Path:
    """Give a notebook an empty folder of its own, go there, and make MLflow quiet.

    Two kernels that run the same notebook at once get two folders: the second
    one's name ends in ``-2``.

    Parameters
    ----------
    name : str
        The notebook's file name without its ending, such as ``"01_save_a_model"``.

    Returns
    -------
    pathlib.Path
        The folder, now the current working directory.

    Raises
    ------
    SeriesError
        If the state folder cannot be written to.
    """
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it tells of a cache that it builds once
    check_work_dir()
    parent = work_dir() / "notebooks"
    parent.mkdir(exist_ok=True)
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        if folder in _own_folders:
            break
        lock = filelock.FileLock(f"{folder}.lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            number += 1
        else:
            _own_folders[folder] = lock  # held, and so the folder is ours, until the kernel ends
            break
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
    except OSError as error:
        raise SeriesError(f"Cannot empty the folder {folder}: {error}. Remove it, then run this again.") from None
    os.chdir(folder)
    return folder


def check_model_name(model_name: str, parameter: str = "model_name") -> None:
    """Refuse a model name that is no safe folder name or S3 key.

    Parameters
    ----------
    model_name : str
        Letters, digits, ``.``, ``_`` and ``-``; starts with a letter or a digit.
    parameter : str
        What the message calls it.

    Raises
    ------
    SeriesError
        If the name is empty or holds anything else.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", model_name) or ".." in model_name:
        raise SeriesError(
            f"{parameter}={model_name!r} is not usable: take 1 to 100 letters, digits, '.', '_' or '-', "
            "beginning with a letter or a digit, for example 'svc'."
        )


def check_kernel(kernel: str) -> None:
    """Refuse a kernel that ``sklearn.svm.SVC`` cannot train on a table.

    Parameters
    ----------
    kernel : str
        One of ``linear``, ``poly``, ``rbf`` and ``sigmoid``.

    Raises
    ------
    SeriesError
        If it is none of the four.
    """
    kernels = ("linear", "poly", "rbf", "sigmoid")
    if kernel not in kernels:
        raise SeriesError(f"kernel={kernel!r} is unknown to SVC: take one of {', '.join(kernels)}.")


def items(text: str, parameter: str = "kernels") -> list[str]:
    """Split a parameter that holds several values.

    Parameters
    ----------
    text : str
        Values separated by commas; papermill passes no lists from a shell.
    parameter : str
        What the message calls it.

    Returns
    -------
    list of str
        Without spaces around them, each once, in order.

    Raises
    ------
    SeriesError
        If there is none.
    """
    found = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found:
        raise SeriesError(f"{parameter}={text!r} names nothing: write values separated by commas.")
    return found


def numbers(text: str, parameter: str) -> list[float]:
    """Split a parameter that holds several numbers above zero.

    Parameters
    ----------
    text : str
        Numbers separated by commas.
    parameter : str
        What the message calls it.

    Returns
    -------
    list of float
        Each once, in order.

    Raises
    ------
    SeriesError
        If there is none, or one is no number above zero.
    """
    found = []
    for part in items(text, parameter):
        try:
            number = float(part)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise SeriesError(f"{parameter}={text!r}: {part!r} is no number above zero, for example 0.1 or 10.")
        found.append(number)
    return list(dict.fromkeys(found))


def gateway_prefix() -> str | None:
    """Return the path that a gateway gives this Jupyter server, on a machine where nobody has a browser.

    Returns
    -------
    str or None
        ``NB_PREFIX`` inside a Kubeflow Notebook, JupyterHub's prefix on a hub,
        None elsewhere.
    """
    return os.environ.get("NB_PREFIX") or os.environ.get("JUPYTERHUB_SERVICE_PREFIX") or None


def jupyter_base_url() -> str | None:
    """Return the path under which this notebook's Jupyter server is reached.

    Returns
    -------
    str or None
        What `gateway_prefix` says, else the base URL of the server that started
        this kernel, always with a slash at both ends; None outside Jupyter.
    """
    prefix = gateway_prefix()
    if prefix is None:
        from jupyter_server.serverapp import list_running_servers

        parents = {server["pid"]: server["base_url"] for server in list_running_servers()}
        prefix = parents.get(os.getppid())
    return None if prefix is None else f"/{prefix.strip('/')}/".replace("//", "/")


def installed(name: str) -> str:
    """Return the version of an installed package, or of Python itself.

    Parameters
    ----------
    name : str
        A distribution's name, or ``"python"``.

    Returns
    -------
    str
        Such as ``"3.11.7"``.

    Raises
    ------
    importlib.metadata.PackageNotFoundError
        If no such package is installed.
    """
    return platform.python_version() if name == "python" else importlib.metadata.version(name)
