"""Processes, ports and logs: which of ours live, which port is free, when a server is there, what it said last.

A process that the series starts carries a mark in its environment, and so does all that it starts. The system keeps
the mark as long as the process lives: no number that another program has by now, and no clock that was set, can
make one seem dead or alive.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

MARK = "_SERIES_SERVER"
# A port and its twin for gRPC, 10,000 above it, both lie below the range from which systems give client ports.
FIRST_PORT, LAST_PORT, TWIN = 12_000, 19_999, 10_000


def alive(mark: Path, *, below: bool = False) -> list[psutil.Process]:
    """Return the living processes that carry a mark.

    Parameters
    ----------
    mark : pathlib.Path
        A path of the state folder, which no other server of any checkout has.
    below : bool
        Whether to find marks below that path too.

    Returns
    -------
    list of psutil.Process
        Those of this user, whoever their parent is; never this very process.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            carried = process.environ().get(MARK)
            if carried is None or process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if carried == str(mark) or below and Path(carried).is_relative_to(mark):
                found.append(process)
    return found


def end(processes: Iterable[psutil.Process]) -> None:
    """Ask processes to end, and kill those that have not after ten seconds.

    Parameters
    ----------
    processes : iterable of psutil.Process
        Those that have ended by themselves are left alone.
    """
    processes = list(processes)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(processes, timeout=10)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)


def listens(processes: Iterable[psutil.Process], port: int) -> bool:
    """Tell whether one of these processes, and no other program, has a port.

    Parameters
    ----------
    processes : iterable of psutil.Process
        Such as `alive` returns.
    port : int
        Of this machine.

    Returns
    -------
    bool
        False as well where the system does not say.
    """
    for process in processes:
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return True
    return False


def is_free(port: int, twin: int = 0) -> bool:
    """Tell whether a port of the loopback interface is nobody's.

    Parameters
    ----------
    port : int
        To be tried.
    twin : int
        Distance of a second port that has to be free too; 0 for none.

    Returns
    -------
    bool
        False as well if another user's killed SeaweedFS left its socket file.
    """
    for number in {port, port + twin}:
        # SeaweedFS has sockets in /tmp that bear the number. One that another user's killed store left there can
        # only be removed by that user; and one that was put there is not to be talked to.
        for left in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
            with contextlib.suppress(OSError):
                if left.lstat().st_uid != os.getuid():
                    return False
        with socket.socket() as probe, socket.socket() as client:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # A Mac lets us bind beside a server that listens on every address (AirPlay): ask it.
            client.settimeout(1)
            if client.connect_ex(("127.0.0.1", number)) == 0:
                return False
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                return False
    return True


def free_port(twin: int = 0) -> int:
    """Return a port of this machine's loopback interface that nobody listens on.

    Parameters
    ----------
    twin : int
        As for `is_free`.

    Returns
    -------
    int
        Between `FIRST_PORT` and `LAST_PORT`.

    Raises
    ------
    OSError
        If a thousand tries found none.
    """
    for _ in range(1000):
        port = FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT + 1)
        if is_free(port, twin):
            return port
    raise OSError(f"no port between {FIRST_PORT} and {LAST_PORT} is free: stop some servers of this machine")


def wait_until(
    ready: Callable[[], bool], lives: Callable[[], bool], seconds: float, say: Callable[[int], None] = lambda _: None
) -> str:
    """Wait for a server.

    Parameters
    ----------
    ready : callable
        Returns whether it answers.
    lives : callable
        Returns whether its process is there.
    seconds : float
        How long to wait.
    say : callable, optional
        Is told each second how many have gone by.

    Returns
    -------
    str
        ``"ready"``, ``"ended"`` or ``"late"``.
    """
    begin, said = time.monotonic(), 0
    while not ready():
        gone = time.monotonic() - begin
        if not lives():
            return "ended"
        if gone > seconds:
            return "late"
        if gone >= said + 1:
            said = int(gone)
            say(said)
        time.sleep(0.2)
    return "ready"


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log.

    Parameters
    ----------
    log : pathlib.Path
        Its bytes may be cut off anywhere.
    lines : int
        How many.

    Returns
    -------
    str
        ``"(no log)"`` if there is none.
    """
    with contextlib.suppress(OSError):
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    return "(no log)"
