"""A room of learners: names of their own, one server for all, who is how far, and a fresh start.

``python -m helpers.workshop start | status | reset LEARNER | wheels FOLDER``
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import os
import re
import subprocess
import sys
from pathlib import Path

from helpers import begin, names, paths, stack
from helpers.paths import SeriesError
from helpers.workshop import progress

LEARNERS = 30
_LOOPBACK = ("127.0.0.1", "localhost")


class WorkshopError(SeriesError):
    """A workshop's command cannot do what was asked; the message says why and what to do."""


# --- the server ----------------------------------------------------------------------------------


def start(learners: int = LEARNERS, host: str = _LOOPBACK[0], port: int | None = None) -> stack.Stack:
    """Start one MLflow server that takes the runs and files of a whole class.

    Parameters
    ----------
    learners : int
        How many work at once.
    host : str
        Loopback; anything else is refused.
    port : int, optional
        Of the MLflow server; a free one if not given.

    Returns
    -------
    helpers.stack.Stack
        Where it is.

    Raises
    ------
    helpers.SeriesError
        If the request cannot be met, or a server does not come up.
    """
    if host not in _LOOPBACK:
        raise WorkshopError(
            f"The server does not listen on {host}: MLflow asks nobody who they are, so this one is for this machine "
            "alone (127.0.0.1). Learners on other machines open a tunnel, ssh -N -L 5000:127.0.0.1:PORT TEACHERS-MACHINE, "
            "or use the server of a cluster: deploy/README.md."
        )
    if not 1 <= learners <= 500:
        raise WorkshopError(f"--learners {learners}: one server on one machine is for 1 to 500.")
    if port is not None and not 1024 <= port <= 65535:
        raise WorkshopError(f"--port {port}: take one from 1024 to 65535.")
    return stack.start(learners=learners, port=port)


def _client():
    """Return a client of the server that the environment names, or else of this machine's."""
    from mlflow import MlflowClient

    for variable, value in begin.QUIET.items():
        os.environ.setdefault(variable, value)
    given = os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    uri = given
    if not given:
        variables = stack.environment()
        uri = variables["MLFLOW_TRACKING_URI"]
        os.environ.update({name: variables[name] for name in ("NO_PROXY", "no_proxy")})  # no proxy on the way to it
    try:
        stack.check_server(uri)
    except stack.StackError:
        if given:
            raise
        raise WorkshopError("The workshop's server is down. Start it again, nothing is lost: make workshop") from None
    return MlflowClient(uri)


# --- who is how far ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far one learner is.

    Attributes
    ----------
    learner : str
        Their name.
    finished, failed, running : int
        How many of their runs ended well, ended otherwise, or go on.
    passed : list of str
        The checks that they passed, in order.
    last : datetime.datetime or None
        When they last did something.
    """

    learner: str
    finished: int
    failed: int
    running: int
    passed: list[str]
    last: datetime.datetime | None


def status() -> list[Progress]:
    """Ask the server how far everybody is.

    Returns
    -------
    list of Progress
        One of each learner who has begun a notebook, by name.
    """
    client = _client()
    experiments = _all(client.search_experiments)
    rolls = {
        experiment.tags[progress.LEARNER]: experiment
        for experiment in experiments
        if experiment.name == f"{experiment.tags.get(progress.LEARNER)}-progress"
    }
    return [
        _progress(
            client,
            name,
            rolls[name],
            [experiment for experiment in experiments if experiment.name.startswith(f"{name}-")],
        )
        for name in sorted(rolls)
    ]


def _progress(client, name: str, roll, experiments: list) -> Progress:
    runs = _all(client.search_runs, [experiment.experiment_id for experiment in experiments])
    count = collections.Counter(run.info.status for run in runs)
    passed = {
        tag.removeprefix(progress.PASSED): value for tag, value in roll.tags.items() if tag.startswith(progress.PASSED)
    }
    times = [datetime.datetime.fromisoformat(value) for value in passed.values()]
    milliseconds = [time for run in runs for time in (run.info.start_time, run.info.end_time) if time]
    milliseconds += [time for time in (roll.creation_time, roll.last_update_time) if time]
    times += [datetime.datetime.fromtimestamp(time / 1000, datetime.UTC) for time in milliseconds]
    return Progress(
        name,
        count["FINISHED"],
        count["FAILED"] + count["KILLED"],
        count["RUNNING"] + count["SCHEDULED"],
        sorted(passed),
        max(times, default=None),
    )


def _all(search, *arguments, **options) -> list:
    """Return what every page of an answer holds."""
    found, token = [], None
    while True:
        page = search(*arguments, page_token=token, **options)
        found += page
        token = page.token
        if not token:
            return found


def table(class_: list[Progress]) -> str:
    """Write who is how far, for a terminal.

    Parameters
    ----------
    class_ : list of Progress
        From `status`.

    Returns
    -------
    str
        A line for each learner.
    """
    if not class_:
        return "Nobody has begun a notebook yet."
    width = max(len("learner"), *(len(one.learner) for one in class_))
    lines = [f"{'learner':<{width}}  finished  failed  running  last activity     passed"]
    for one in class_:
        last = f"{one.last.astimezone():%Y-%m-%d %H:%M}" if one.last else "-"
        lines.append(
            f"{one.learner:<{width}}  {one.finished:>8}  {one.failed:>6}  {one.running:>7}  {last:<16}  "
            f"{' '.join(one.passed) or '-'}"
        )
    return "\n".join(lines)


# --- a fresh start -------------------------------------------------------------------------------


def belongings(name: str) -> tuple[list, list[str]]:
    """Return what the server has of one learner.

    Parameters
    ----------
    name : str
        The learner's.

    Returns
    -------
    tuple of list
        Experiments that hold a name of theirs, deleted ones too, and names of registered models.
    """
    client, prefix = _client(), f"{names.check_learner(name)}-"
    experiments = [
        experiment
        for experiment in _all(client.search_experiments, view_type=3)  # ViewType.ALL
        if experiment.name.startswith(prefix)
        and not (experiment.lifecycle_stage == "deleted" and experiment.name.endswith(_ending(experiment)))
    ]
    models = [model.name for model in _all(client.search_registered_models) if model.name.startswith(prefix)]
    return experiments, models


def reset(name: str) -> tuple[int, int]:
    """Take a learner's experiments, registered models and progress away, and let their names be free again.

    MLflow keeps the name of a deleted experiment taken, so each gets another one first.

    Parameters
    ----------
    name : str
        The learner's. What is another's stays as it is.

    Returns
    -------
    tuple of int
        How many experiments and how many registered models went.
    """
    client = _client()
    experiments, models = belongings(name)
    for experiment in experiments:
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)  # or it cannot be renamed
        client.rename_experiment(experiment.experiment_id, experiment.name + _ending(experiment))
        client.delete_experiment(experiment.experiment_id)
    for model in models:
        client.delete_registered_model(model)
    return len(experiments), len(models)


def _ending(experiment) -> str:
    return f"-deleted-{experiment.experiment_id}"  # nobody else's: two resets may come in one second


# --- before the day ------------------------------------------------------------------------------


def wheels(folder: Path) -> list[str]:
    """Collect every package of the lock that this machine and Python need, each checked by its hash.

    Parameters
    ----------
    folder : pathlib.Path
        Takes them; made if need be. What is in it stays.

    Returns
    -------
    list of str
        Packages that exist as source alone: they are collected too, and built where they are installed.

    Raises
    ------
    WorkshopError
        If a package cannot be had.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--require-hashes"]
    command += ["--no-deps", "--only-binary=:all:", f"--dest={folder}"]
    command.append(f"--requirement={paths.ROOT / 'requirements.lock'}")
    sources: list[str] = []
    while True:
        done = subprocess.run([*command, *(f"--no-binary={name}" for name in sources)], capture_output=True, text=True)
        if done.returncode == 0:
            return sources
        # The lock pins every package, so one that is not found has no wheel for this machine.
        missing = re.search(r"No matching distribution found for ([\w.-]+)==", done.stderr)
        if not missing or missing[1] in sources:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
            raise WorkshopError(
                f"The packages could not be collected in {folder}: {' '.join(said[-1:])}. "
                "Look at the network and the free space, then run this again."
            )
        sources.append(missing[1])


# --- the command line ----------------------------------------------------------------------------


def _start(asked: argparse.Namespace) -> None:
    servers = start(asked.learners, asked.host, asked.port)
    print(
        f"MLflow UI: {servers.tracking_uri}\n\nEach learner on this machine sets, before Jupyter starts, a name of "
        "letters and digits in place of <name>:\n"
    )
    print(f"export MLFLOW_TRACKING_URI={servers.tracking_uri} WORKSHOP_LEARNER=<name>\n")
    print(
        f"The server stays up. To see who is how far: {paths.command('helpers.workshop status')}. To stop it: make stop"
    )


def _reset(asked: argparse.Namespace) -> None:
    experiments, models = belongings(asked.learner)
    who = names.check_learner(asked.learner)
    if not experiments and not models:
        print(f"The server has nothing of {who}.")
        return
    print(
        "\n".join(
            [
                "This goes:",
                *(f"  experiment {one.name}" for one in experiments),
                *(f"  registered model {name}" for name in models),
            ]
        )
    )
    if not asked.yes and not _agrees(f"Reset {who}? [y/N] "):
        print("Nothing was changed.")
        return
    count = reset(who)
    print(f"{who} can begin anew: {count[0]} experiments and {count[1]} registered models are gone.")


def _agrees(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        print("(nobody answers; --yes asks nothing)")
        return False


def _wheels(asked: argparse.Namespace) -> None:
    folder = Path(asked.folder).expanduser()
    print("Collecting the packages of requirements.lock, about 400 MB ...", flush=True)
    sources = wheels(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(
        f"{len(list(folder.iterdir()))} files, {size / 1e6:.0f} MB, are in {asked.folder}, for machines of this kind "
        "with the same Python. For others run this there, into the same folder."
    )
    if sources:
        print(f"No wheel exists of: {', '.join(sources)}. Its source is there and is built when it is installed.")
    print("Without the internet: make run WHEELS=/path/to/folder")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m helpers.workshop", description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(required=True)
    action = actions.add_parser("start", help="start one server for all")
    action.add_argument("--learners", type=int, default=LEARNERS, help="how many work at once")
    action.add_argument("--host", default=_LOOPBACK[0], help="loopback, and nothing else")
    action.add_argument("--port", type=int, help="of the MLflow server; a free one if not given")
    action.set_defaults(do=_start)
    actions.add_parser("status", help="who is how far").set_defaults(do=lambda asked: print(table(status())))
    action = actions.add_parser("reset", help="let one learner begin anew")
    action.add_argument("learner")
    action.add_argument("--yes", action="store_true", help="ask nothing")
    action.set_defaults(do=_reset)
    action = actions.add_parser("wheels", help="collect all packages for machines without the internet")
    action.add_argument("folder")
    action.set_defaults(do=_wheels)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    asked = _parser().parse_args(arguments)
    try:
        asked.do(asked)
    except SeriesError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    return 0
