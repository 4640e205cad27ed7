"""Start a model server of a notebook, wait for it, and let none outlive its kernel unnoticed."""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import requests

from helpers import paths

# A model server is tied to the folder of its notebook: who begins there next, or stops the stack, ends it.
_MARK = "_SERIES_MODEL_SERVER"
START_SECONDS = 120


class ServingError(paths.SeriesError):
    """A model server did not come up; the message has the last lines of its log."""


def free_port() -> int:
    """Return a port of this machine's loopback interface that nobody listens on.

    Returns
    -------
    int
        Between 20000 and 32767, below the range that systems give to clients.
    """
    for _ in range(100):
        port = 20000 + int.from_bytes(os.urandom(2), "big") % 12768
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise ServingError("No free port between 20000 and 32767 was found: stop some servers of this machine.")


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
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"PATH": path, _MARK: str(Path.cwd())},
        )
    atexit.register(stop, process)
    begin = time.monotonic()
    while time.monotonic() < begin + START_SECONDS:
        if process.poll() is not None:
            raise ServingError(f"The model server ended while it was starting. The last lines of {log}:\n{_tail(log)}")
        try:
            if requests.get(f"http://127.0.0.1:{port}/ping", timeout=5, proxies={"http": ""}).ok:
                return process
        except requests.RequestException:
            time.sleep(0.2)
    stop(process)
    raise ServingError(
        f"The model server did not answer within {START_SECONDS} s and was stopped. The last lines of {log}:\n{_tail(log)}"
    )


def stop(process: subprocess.Popen) -> None:
    """End a model server and its workers.

    Parameters
    ----------
    process : subprocess.Popen
        From `start`; one that has ended is left alone.
    """
    try:
        parent = psutil.Process(process.pid) if process.poll() is None else None
        _end([parent, *parent.children(recursive=True)] if parent else [])
    except psutil.NoSuchProcess:
        pass
    process.wait()


def stop_all(folder: Path) -> None:
    """End every model server that was started in a folder or below it.

    Parameters
    ----------
    folder : pathlib.Path
        A notebook's folder, or the state folder for all of them.
    """
    found = []
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(_MARK)
        except (psutil.Error, OSError):
            continue
        if mark and process.pid != os.getpid() and Path(mark).is_relative_to(folder):
            found.append(process)
    _end(found)


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            pass
    _, alive = psutil.wait_procs(processes, timeout=10)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass
    psutil.wait_procs(alive, timeout=5)


def _tail(log: str | os.PathLike) -> str:
    return "\n".join(Path(log).read_text(encoding="utf-8", errors="replace").splitlines()[-10:])
