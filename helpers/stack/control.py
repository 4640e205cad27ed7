"""Start, stop and find the MLflow tracking server and the S3 store of this machine.

``python -m helpers.stack start | stop | status``
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import dataclasses
import os
import sys
from urllib.parse import urlsplit

import psutil

from helpers import paths
from helpers.environment import direct, lead_home, tidy
from helpers.paths import SeriesError
from helpers.stack import access, database, link, lost_runs, process, servers, state
from helpers.stack.state import START_SECONDS, StackError, State

_TAKEN = ("address already in use", "port allocation failed")  # what the servers say of a port that somebody has


@dataclasses.dataclass(frozen=True)
class Stack:
    """Where the servers are.

    Attributes
    ----------
    tracking_uri : str
        Address of the MLflow tracking server.
    s3_endpoint_url : str or None
        Address of the S3 store; None where artifacts lie elsewhere.
    """

    tracking_uri: str
    s3_endpoint_url: str | None

    def link(self, page: str = "", text: str = "MLflow UI"):
        """Return a link to a page of the MLflow UI that the reader's browser can open.

        Parameters
        ----------
        page : str
            What follows ``#/`` in the address bar, such as ``"experiments/1/runs"``.
        text : str
            What the link says.

        Returns
        -------
        IPython.display.HTML
            A link for a browser on this machine and, inside Jupyter, a second
            one through Jupyter's own address, for a browser elsewhere. Behind a
            gateway every browser is elsewhere: then the second one alone.
        """
        from IPython.display import HTML

        page += "?workflowType=machine_learning"  # or the UI opens in its mode for generative AI
        server, base = urlsplit(self.tracking_uri), link.jupyter_base_url()
        addresses = {text: f"{self.tracking_uri}/#/{page}"}
        if base is not None and server.port is not None and server.hostname in ("127.0.0.1", "localhost"):
            through = f"{base}proxy/{server.port}/#/{page}"
            addresses = {text: through} if link.gateway_prefix() else addresses | {"the same through Jupyter": through}
        links = [f'<a href="{address}" target="_blank">{words}</a>' for words, address in addresses.items()]
        return HTML(" · ".join(links))

    def passes_files_on(self) -> bool:
        """Tell whether the server takes files for its store, so that clients need no keys.

        Returns
        -------
        bool
            False if it was started with ``--no-serve-artifacts``.
        """
        return access.passes_files_on()


def connect() -> Stack:
    """Make the servers ready and set the standard variables for them in this process.

    If ``MLFLOW_TRACKING_URI`` names a server of the reader's own, that one is
    used and none is started. Sets ``MLFLOW_TRACKING_URI`` and, for the stack of
    this machine, ``MLFLOW_S3_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID`` and
    ``AWS_SECRET_ACCESS_KEY``.

    Returns
    -------
    Stack
        Where the servers are.

    Raises
    ------
    StackError
        If a server does not answer or does not start.
    """
    tidy(os.environ)
    os.environ.update(direct(os.environ))
    given = os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    if given and given != os.environ.get("_SERIES_TRACKING_URI"):
        access.check_server(given)
        return Stack(given, os.environ.get("MLFLOW_S3_ENDPOINT_URL"))
    found = start()
    lead_home(os.environ, environment())
    os.environ["_SERIES_TRACKING_URI"] = found.tracking_uri
    with contextlib.suppress(OSError):
        lost_runs.process_mark()
    atexit.unregister(_keep_copy)
    atexit.register(_keep_copy)
    return found


def environment() -> dict[str, str]:
    """Return the standard variables that lead to the stack of this machine.

    Returns
    -------
    dict of str to str
        To be merged into ``os.environ`` of a process that talks to the stack.

    Raises
    ------
    StackError
        If no stack was ever started here.
    """
    known = state.read()
    if "mlflow" not in known.ports:
        raise StackError(f"The stack of this machine is not up. Start it: {paths.command('helpers.stack start')}")
    variables = {"MLFLOW_TRACKING_URI": known.url("mlflow"), **direct(os.environ)}
    if "s3" in known.ports:
        variables |= {
            "MLFLOW_S3_ENDPOINT_URL": known.url("s3"),
            "AWS_ACCESS_KEY_ID": known.access_key,
            "AWS_SECRET_ACCESS_KEY": known.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",  # any: the client wants one, the store ignores it
        }
    return variables


def start(*, learners: int | None = None, port: int | None = None) -> Stack:
    """Start what is not running, wait until both servers answer, and say so.

    Safe to call again, and from several kernels at once. A server that has died
    is started again with its data; runs whose process has died are ended, and a
    damaged database is replaced by its copy.

    Parameters
    ----------
    learners : int, optional
        For how many learners of a workshop: MLflow then passes on the files of
        all new experiments, and is started again if it runs otherwise. It stays
        so, also when it is started again without this, until `stop`.
    port : int, optional
        Of the MLflow server; a usual or a free one if not given.

    Returns
    -------
    Stack
        Where the servers are.

    Raises
    ------
    StackError
        If a server does not come up, and the message carries its last log lines;
        or if the port is another program's.
    """
    paths.check_work_dir()
    with state.locked(_say):
        known = state.read()
        _prepare(known, learners, port)
        spawned: set[str] = set()
        try:
            _bring_up(known, spawned, own_port=port is not None)
        except (SeriesError, OSError):
            _say("The servers did not start. What went wrong:", done=True)
            for name in spawned:
                _end(name)
            raise
        if not known.learners:  # whose processes are on other machines
            lost_runs.end_lost_runs(known.url("mlflow"))
        _keep_copy()
    store = known.url("s3") if servers.weed() else None
    _say(
        "The MLflow tracking server and the S3 store are ready."
        if store
        else "The MLflow tracking server is ready. SeaweedFS has no build for this machine: artifacts go to a local folder.",
        done=True,
    )
    return Stack(known.url("mlflow"), store)


def stop() -> list[str]:
    """End exactly the processes that `start` and `serving.start` started; the data stay.

    Returns
    -------
    list of str
        Names of the servers that were running.
    """
    if not paths.work_dir().is_dir():
        return []
    with state.locked():
        known = state.read()
        running = [name for name in ("mlflow", "s3") if process.alive(state.mark(name))]
        process.end(process.alive(paths.work_dir(), below=True))  # the servers of models as well
        _keep_copy()
        if known.learners:
            known.learners = None
            with contextlib.suppress(OSError):  # a full disk
                known.write()
    return running


def status() -> dict[str, dict]:
    """Return what is running.

    Returns
    -------
    dict of str to dict
        For ``"mlflow"`` and ``"s3"`` the keys ``running`` (bool), ``url`` (str
        or None), ``memory`` (resident bytes of all its processes) and ``log``
        (pathlib.Path).
    """
    known, answer = state.read(), {}
    for name in ("mlflow", "s3"):
        living = process.alive(state.mark(name)) if name in known.ports else []
        answer[name] = {
            "running": bool(living),
            "url": known.url(name) if living else None,
            "memory": sum(_resident(one) for one in living),
            "log": state.log(name),
        }
    return answer


class _Again(Exception):
    """A server is to be started once more, on other ports; the message says why if that does not help."""


def _prepare(known: State, learners: int | None, port: int | None) -> None:
    """End an MLflow server that is not the one asked for, and note what is asked for."""
    if port is not None and known.ports.get("mlflow") != [port]:
        if not process.is_free(port):
            raise StackError(f"Port {port} is taken by another program. Take another one, or let a free one be found.")
        _end("mlflow")
        known.ports["mlflow"] = [port]
    if learners is not None and learners != known.learners:
        _end("mlflow")
        known.learners = learners


def _bring_up(known: State, spawned: set[str], *, own_port: bool) -> None:
    """Start what is not running until all of it works, three times at most."""
    refused, reason = False, ""
    for attempt in range(3):
        for name in servers.names():
            if name in known.ports and process.alive(state.mark(name)):
                continue
            store = known.ports.get("s3")
            spawned.add(name)
            usual = attempt == 0 or refused or name == "mlflow" and own_port
            if mended := servers.spawn(known, name, usual_port=usual):
                _say(mended, done=True)
            if known.ports.get("s3") != store:
                _end("mlflow")  # it was told the store's old address: goes next
        name = ""
        try:
            for name in servers.names():
                _wait_until_ready(known, name, name in spawned)
            if not servers.weed() or servers.takes_files(known):
                return
            name, reason = "s3", _full()
            if refused:
                break
            refused = True
        except _Again as again:
            reason = str(again)
        except StackError:
            if refused and name == "s3":  # it can write nothing when it starts either, and says so in Go
                raise StackError(_full()) from None
            raise
        _end(name)
    raise StackError(reason)


def _full() -> str:
    return f"The S3 store takes no files. Free some space on the disk of {paths.work_dir()}, then run this again."


def _wait_until_ready(known: State, name: str, spawned: bool) -> None:
    title, log = servers.TITLES[name], state.log(name)
    outcome = process.wait_until(
        lambda: servers.answers(known, name),
        lambda: bool(process.alive(state.mark(name))),
        START_SECONDS,
        lambda seconds: _say(f"Starting the {title}: {seconds} s"),
    )
    lines = process.tail(log)
    if outcome == "ended":
        ended = f"The {title} ended while it was starting. The last lines of {log}:\n{lines}"
        # It was just dying when we looked, or somebody was faster at its port.
        if not spawned or any(words in lines.lower() for words in _TAKEN):
            raise _Again(ended)
        paths.check_work_dir()  # on a full disk the log says little
        raise StackError(ended)
    if outcome == "late":
        raise StackError(
            f"The {title} did not answer within {START_SECONDS} s and was stopped. Look into {log}, then run this "
            f"again. Its last lines:\n{lines}"
        )


def _end(name: str) -> None:
    process.end(process.alive(state.mark(name)))


def _resident(one: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return one.memory_info().rss
    return 0


def _keep_copy() -> None:
    database.keep_copy(servers.database_file())


def _say(text: str, *, done: bool = False) -> None:
    # Each text overwrites the one before: a finished notebook keeps the last one alone.
    print(f"\r{text}", end="\n" if done else "", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m helpers.stack", description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["start", "stop", "status"])
    action = parser.parse_args(arguments).action
    try:
        if action == "start":
            print(f"MLflow UI: {start().tracking_uri}")
        elif action == "stop":
            print("Stopped: " + (", ".join(stop()) or "nothing was running") + ".")
        else:
            for name, server in status().items():
                print(
                    f"{name:7}"
                    + (f"{server['url']}  {server['memory'] / 1e6:.0f} MB" if server["running"] else "not running")
                    + f"  log: {server['log']}"
                )
    except SeriesError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
