"""End the runs of this stack whose process has died: a killed process cannot end its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import requests

from helpers import paths

TAG = "series_process"  # of a run that `mlflow.start_run` made: which process did
_JOB_TAG = "kfp_job_id"  # of a run that a task of a pipeline made
FAILURE = "The process that made this run was gone before the run had ended: killed, or cut off. Run it again."


_own: str | None = None  # what `process_mark` returns, once it was asked for


def process_mark() -> str:
    """Return a mark of this process, which others can tell from that of a dead one.

    The mark is the name of a file that this process keeps locked. The system takes the lock back
    when the process ends, however it ends; a process number could be another program's by then.

    Returns
    -------
    str
        The same each time, also in a child that is forked from this process.
    """
    global _own
    if _own is None:
        mark, folder = uuid.uuid4().hex, _folder()
        folder.mkdir(parents=True, exist_ok=True)
        new = folder / f"{mark}.new"  # nobody sees the mark before it is locked
        # Never closed, and so not by a forked child that ends first: that would unlock it for both.
        fcntl.flock(os.open(new, os.O_WRONLY | os.O_CREAT, 0o600), fcntl.LOCK_EX)
        new.replace(folder / mark)
        _own = mark
    return _own


def end_lost_runs(tracking_uri: str) -> list[str]:
    """Set runs FAILED that are RUNNING though nothing runs any more, with a tag ``failure`` that says so.

    Judged are the runs that were made by a process with a `process_mark`, or by a task of a
    pipeline. A run of a living process, or of an unknown one, is left alone.

    Parameters
    ----------
    tracking_uri : str
        Of the stack of this machine.

    Returns
    -------
    list of str
        The ids of these runs. No failure of this function is one of its caller: then the list is shorter.
    """
    ended = []
    with contextlib.suppress(Exception):  # whatever it is, it is no reason not to start
        api = _Api(tracking_uri)
        # First the runs, then the processes: one that ends in between is seen to have ended its run.
        runs = [run for run in api.running() if {TAG, _JOB_TAG} & set(_tags(run))]
        living, dead = _marks()
        commands = _commands() if runs else []
        for run in runs:
            run_id = run["info"]["run_id"]
            if _is_lost(run, living, dead, commands) and api.status(run_id) == "RUNNING":
                api.fail(run_id)
                ended.append(run_id)
        left = {_tags(run).get(TAG) for run in runs if run["info"]["run_id"] not in ended}
        for mark in dead - left:
            (_folder() / mark).unlink(missing_ok=True)
    return ended


def _is_lost(run: dict, living: dict[str, float], dead: set[str], commands: list[str]) -> bool:
    tags, info = _tags(run), run["info"]
    if TAG in tags:
        # One that ended before and is RUNNING again was taken up anew, by a process that it does not name.
        return tags[TAG] in dead and not (info.get("end_time") and living)
    job = tags[_JOB_TAG]
    if any(f'"{job}"' in command for command in commands):
        return False
    if re.fullmatch(r"\d{1,8}", job):  # an id of kfp.local, whose tasks are processes that have it in their commands
        return True
    # A notebook called the component as a function. Whoever was connected by then can be the one; this process, which
    # is just starting the stack, is not.
    return not any(since * 1000 <= info["start_time"] for mark, since in living.items() if mark != _own)


def _folder() -> Path:
    return paths.work_dir() / "processes"


def _marks() -> tuple[dict[str, float], set[str]]:
    """Return the marks of living processes, with the time since when, and those of dead ones."""
    living, dead = {}, set()
    for path in _folder().glob("[0-9a-f]" * 32):
        with contextlib.suppress(FileNotFoundError), open(path) as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
                dead.add(path.name)
            except BlockingIOError:
                living[path.name] = path.stat().st_mtime
    return living, dead


def _commands() -> list[str]:
    commands = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            commands.append(" ".join(process.cmdline()))
    return commands


def _tags(run: dict) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}


class _Api:
    """What is needed of MLflow's REST interface: importing MLflow takes seconds, and each notebook begins with this."""

    def __init__(self, tracking_uri: str) -> None:
        self._base = f"{tracking_uri}/api/2.0/mlflow"

    def running(self) -> Iterator[dict]:
        """Yield every run that is RUNNING, of every experiment that is not deleted."""
        experiments = [found["experiment_id"] for found in self._pages("experiments", max_results=1000)]
        for first in range(0, len(experiments), 100):
            yield from self._pages(
                "runs",
                experiment_ids=experiments[first : first + 100],
                filter="attributes.status = 'RUNNING'",
                max_results=1000,
            )

    def status(self, run_id: str) -> str:
        """Return a run's status."""
        return self._ask("GET", "runs/get", params={"run_id": run_id})["run"]["info"]["status"]

    def fail(self, run_id: str) -> None:
        """Say why, then end the run."""
        self._ask("POST", "runs/set-tag", json={"run_id": run_id, "key": "failure", "value": FAILURE})
        self._ask(
            "POST", "runs/update", json={"run_id": run_id, "status": "FAILED", "end_time": time.time_ns() // 1_000_000}
        )

    def _pages(self, kind: str, **body) -> Iterator[dict]:
        token = None
        while True:
            page = self._ask("POST", f"{kind}/search", json=body | ({"page_token": token} if token else {}))
            yield from page.get(kind, [])
            token = page.get("next_page_token")
            if not token:
                return

    def _ask(self, method: str, path: str, **arguments) -> dict:
        answer = requests.request(method, f"{self._base}/{path}", timeout=10, proxies={"http": ""}, **arguments)
        answer.raise_for_status()
        return answer.json()
