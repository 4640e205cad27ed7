"""What is kept of the stack between two starts: ports and keys in ``stack.json``, read and written under a lock."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import psutil

from helpers import paths
from helpers.paths import SeriesError

START_SECONDS = 120


class StackError(SeriesError):
    """A server of the stack did not start, does not answer or cannot be reached."""


@dataclasses.dataclass
class State:
    """What the next start has to know of this one.

    Attributes
    ----------
    ports : dict of str to list of int
        Of ``"mlflow"`` and ``"s3"``, the first of each is the one that clients use.
    access_key, secret_key : str
        Of the S3 store, made at random for this state folder.
    learners : int or None
        How many share the MLflow server of a workshop; None outside one.
    """

    ports: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    access_key: str = dataclasses.field(default_factory=lambda: secrets.token_hex(10))
    secret_key: str = dataclasses.field(default_factory=lambda: secrets.token_hex(20))
    learners: int | None = None

    def url(self, name: str) -> str:
        """Return the address of a server."""
        return f"http://127.0.0.1:{self.ports[name][0]}"

    def write(self) -> None:
        """Store it, for its owner's eyes alone."""
        path = paths.work_dir() / "stack.json"
        new = path.with_name(f"stack.{os.getpid()}.new")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as stream:
                json.dump(dataclasses.asdict(self), stream, indent=2)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)


def read() -> State:
    """Return what was stored, or a new state.

    Returns
    -------
    State
        A damaged file is as good as none: the servers are found by their mark and get new keys.

    Raises
    ------
    StackError
        If the file is another user's.
    """
    path = paths.work_dir() / "stack.json"
    try:
        stored = json.loads(path.read_text())
        ports = {name: [int(port) for port in ports] for name, ports in stored["ports"].items()}
        learners = stored["learners"] if isinstance(stored["learners"], int) else None
        return State(ports, str(stored["access_key"]), str(stored["secret_key"]), learners)
    except PermissionError:
        raise StackError(
            f"{path} belongs to another user: the series was started as that user before. "
            "Be that user again, or take a copy of the series of your own."
        ) from None
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return State()


@contextlib.contextmanager
def locked(say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Keep other processes from starting and stopping servers of this state folder.

    Parameters
    ----------
    say : callable, optional
        Is told each second that another process has the lock.

    Yields
    ------
    None
        The lock is held.

    Raises
    ------
    StackError
        If another process keeps it for minutes, or the folder cannot be used.
    """
    try:
        lock, holder = filelock.FileLock(paths.work_dir() / "stack.lock"), paths.work_dir() / "stack.pid"
        for second in range(3 * START_SECONDS):
            try:
                lock.acquire(timeout=1)
                break
            except filelock.Timeout:
                _refuse_to_wait(holder, second)
                say(f"Waiting while another program starts it: {second + 1} s")
        else:
            raise StackError("Another process has been starting the stack for minutes. End it, then run this again.")
        try:
            with contextlib.suppress(OSError):  # a full disk
                holder.write_text(str(os.getpid()))
            yield
        finally:
            lock.release()
    except OSError as error:
        raise StackError(
            f"The state folder {paths.work_dir()} or a program cannot be used: {error}. Free some space or "
            "make the folder writable, then run this again."
        ) from None


def _refuse_to_wait(holder: Path, seconds: int) -> None:
    """Raise where the holder of the lock will never give it back by itself."""
    pid, status = None, "on another machine or in another container"
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        pid = int(holder.read_text())
        status = psutil.Process(pid).status()
    if status == psutil.STATUS_STOPPED:
        raise StackError(
            f"Process {pid} was stopped while it started the servers, as by Ctrl-Z: let it go on (fg) or end it (kill "
            f"-9 {pid}), then run this again."
        )
    if status.startswith("on another") and pid is not None and seconds >= 10:
        raise StackError(
            f"Process {pid}, which is {status}, or gone, keeps {holder.with_suffix('.lock')}. Wait for it there; if "
            "nothing runs there, delete that file. Or name a state folder of your own in SERIES_WORK."
        )


def log(name: str) -> Path:
    """Return the log of a server."""
    return paths.work_dir() / "logs" / f"{name}.log"


def mark(name: str) -> Path:
    """Return the mark that a server's processes carry, which is its folder too."""
    return paths.work_dir() / name
