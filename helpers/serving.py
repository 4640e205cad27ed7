"""Start a model server of a notebook, wait for it, and let none outlive its kernel unnoticed."""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psutil
import requests

from helpers import paths
from helpers.stack import process
from helpers.stack.process import free_port

__all__ = ["ServingError", "free_port", "start", "stop", "stop_all"]

START_SECONDS = 120
_NAME = "model server"  # ends the mark of its processes


class ServingError(paths.SeriesError):
    """A model server did not come up; the message has the last lines of its log."""


def start(command: list[str], port: int, log: str | os.PathLike = "model_server.log") -> subprocess.Popen:
    """Start a model server and wait until it answers.

    Parameters
    ----------
    command : list of str
        Such as ``["mlflow", "models", "serve", ...]``, which loads the model's pickle if it has one; the
        programs of this environment come first.
    port : int
        Where the command listens.
    log : str or os.PathLike
        Takes all that it prints.

    Returns
    -------
    subprocess.Popen
        To be given to `stop`; the end of this kernel stops it as well.

    Raises
    ------
    ServingError
        If it ends while it starts, or does not answer within `START_SECONDS`.
    """
    stop_all(Path.cwd())  # what a killed kernel left behind
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    # It is tied to the folder of its notebook: who begins there next, or stops the stack, ends it.
    mark = Path.cwd() / _NAME
    with open(log, "wb") as stream:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"PATH": path, process.MARK: str(mark)},
        )
    atexit.register(stop, server)

    def answers() -> bool:
        # Any program may answer /ping: this one has to have the port.
        if not process.listens(process.alive(mark), port):
            return False
        try:
            return requests.get(f"http://127.0.0.1:{port}/ping", timeout=5, proxies={"http": ""}).ok
        except requests.RequestException:
            return False

    outcome = process.wait_until(answers, lambda: server.poll() is None, START_SECONDS)
    if outcome == "ready":
        return server
    stop(server)
    what = {"ended": "ended while it was starting", "late": f"did not answer within {START_SECONDS} s and was stopped"}[
        outcome
    ]
    raise ServingError(f"The model server {what}. The last lines of {log}:\n{process.tail(Path(log), 10)}")


def stop(server: subprocess.Popen) -> None:
    """End a model server and its workers.

    Parameters
    ----------
    server : subprocess.Popen
        From `start`; one that has ended is left alone.
    """
    if server.poll() is None:
        parent = psutil.Process(server.pid)
        process.end([parent, *parent.children(recursive=True)])
    server.wait()


def stop_all(folder: Path) -> None:
    """End every model server that was started in a folder or below it.

    Parameters
    ----------
    folder : pathlib.Path
        A notebook's folder, or the state folder for all of them.
    """
    process.end(found for found in process.alive(folder, below=True) if _is_model(found))


def _is_model(found: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return Path(found.environ()[process.MARK]).name == _NAME
    return False
