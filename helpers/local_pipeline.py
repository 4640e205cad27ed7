"""Run a pipeline with `kfp.local` so that its output can be read."""

from __future__ import annotations

import builtins
import collections
import contextlib
import io
import logging
import os
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

from helpers import paths

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_STARTED = re.compile(r"Executing task '(.+)'")
_ENDED = re.compile(r"Task '(.+)' finished with status (\w+)")
_CACHED = re.compile(r"Task (\S+) cache hit")
_EXCEPTION = re.compile(r"\s*((?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit|Timeout)\b(?:: .*)?)$")
_KILLED = re.compile(r"\s*(?:\S+: line \d+:\s+\d+ )?Killed\b")  # the shell's words, with or without place
_STATES = {"SUCCESS": "succeeded", "FAILURE": "failed"}


class PipelineError(paths.SeriesError):
    """A task of a locally run pipeline failed; the message says which, why, and where its log is."""


@contextlib.contextmanager
def task_states(log: str | os.PathLike = "pipeline.log") -> Iterator[None]:
    """Print one line per task as it changes state, and put everything else into a log.

    A task that a loop starts many times has one line of the kind for all of them, which counts. `kfp.local` prints some ninety lines a task, with clock times and paths.

    Parameters
    ----------
    log : str or os.PathLike
        The file for all that was printed; an older one is overwritten.

    Raises
    ------
    PipelineError
        If a task fails: names the task, the last exception in its log, and the log.
    """
    path = Path(log)
    interpreter, search_path = sys.executable, os.environ.get("PATH", "")
    with open(path, "w", encoding="utf-8") as stream, tempfile.TemporaryDirectory() as scratch:
        tee = _Tee(stream, sys.stdout)
        # kfp.local puts this interpreter's path wherever an argument says "python3", which breaks
        # on a path with a space and alters the learner's values. Named "python3" and found
        # through PATH, the interpreter is put in place of itself.
        bin_folder = str(Path(interpreter).parent)
        os.environ["PATH"] = bin_folder + os.pathsep + search_path
        sys.executable = "python3"
        with (
            _variable("TMPDIR", scratch),
            _root_logger_to(tee),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(tee),
        ):
            warnings.filterwarnings("ignore", message="You may be attemping to run a task that uses custom")
            warnings.filterwarnings(
                "ignore", message=r".*(not supported|no effect|ignored).*local", category=UserWarning
            )
            try:
                yield
            except RuntimeError as error:
                if "finished with status" not in str(error):
                    raise
                tee.write(f"{error}\n")  # for a component run by itself, kfp.local says the end here alone
                failed = tee.failed or tee.failed_once
            else:
                failed = tee.failed
            finally:
                tee.end_line()
                sys.executable = interpreter
                os.environ["PATH"] = search_path
    if failed:
        task, cause = next(iter(failed.items()))
        raise PipelineError(f"Task {task!r} failed: {cause}\nThe whole log: {paths.short(path)}") from None


class _Tee(io.TextIOBase):
    """Write all to a log and pass the changes of state on."""

    def __init__(self, log: io.TextIOBase, screen: io.TextIOBase) -> None:
        self._log, self._screen = log, screen
        self._lock = threading.RLock()
        self._of_thread = threading.local()  # tasks of a loop run side by side: what each has said so far
        self.failed: dict[str, str] = {}  # task: why; without those of which a later try succeeded
        self.failed_once: dict[str, str] = {}
        self._running: collections.Counter[str] = collections.Counter()
        self._open: str | None = None  # the task whose end stands on the last line, which can still change
        self._ends: collections.Counter[str] = collections.Counter()  # of that task: states to numbers

    def write(self, text: str) -> int:
        with self._lock:
            self._log.write(text)
            self._log.flush()
            rest = getattr(self._of_thread, "rest", "")
            *lines, self._of_thread.rest = (rest + _ANSI.sub("", text)).split("\n")
            for line in lines:
                self._read(line)
        return len(text)

    def _read(self, line: str) -> None:
        if match := _STARTED.search(line):
            self._of_thread.cause = None
            if not self._running[match[1]] and self._open != match[1]:
                self.end_line()
                self._show(f"{match[1]:<32}running\n")
            self._running[match[1]] += 1
        elif match := _CACHED.search(line):
            self._say_end(match[1], "cached")
        elif match := _ENDED.search(line):
            self._running[match[1]] -= 1
            self._say_end(match[1], _STATES.get(match[2], match[2].lower()))
            if match[2] == "FAILURE":
                self.failed[match[1]] = getattr(self._of_thread, "cause", None) or "it ended without an exception."
                self.failed_once |= self.failed
            else:
                self.failed.pop(match[1], None)
        elif match := _EXCEPTION.match(line):
            self._of_thread.cause = match[1]
        elif _KILLED.match(line):
            self._of_thread.cause = "it was killed, most likely because the memory ran out. Free some and run it again."

    def _say_end(self, task: str, state: str) -> None:
        again = self._open == task
        if not again:
            self.end_line()
        self._open = task
        self._ends[state] += 1
        times = sum(self._ends.values()) > 1
        ends = [f"{state} {count} times" if times else state for state, count in sorted(self._ends.items())]
        self._show(("\r" if again else "") + f"{task:<32}" + ", ".join(ends).replace(" 1 times", " once"))
        if state == "failed" and not self._running[task]:
            self.end_line()  # if it is tried again, that is news

    def end_line(self) -> None:
        """Let nothing more be counted into the last line."""
        if self._open:
            self._show("\n")
        self._open = None
        self._ends.clear()

    def _show(self, text: str) -> None:
        self._screen.write(text)
        self._screen.flush()

    def writable(self) -> bool:
        return True


@contextlib.contextmanager
def _root_logger_to(stream: io.TextIOBase) -> Iterator[None]:
    """Catch what kfp.local says of its cache: it does so through the root logger alone, at level INFO."""
    root, handler = logging.getLogger(), logging.StreamHandler(stream)
    level, handlers, print_ = root.level, root.handlers[:], builtins.print
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        # All of it: tasks that ran side by side leave kfp.local's own handlers and indenting print behind.
        root.handlers[:] = handlers
        root.setLevel(level)
        builtins.print = print_


@contextlib.contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
