"""Note on the MLflow server which checks a learner of a workshop has passed.

Outside a workshop nothing here does anything.
"""

from __future__ import annotations

import datetime
import os
import threading

LEARNER = "workshop.learner"  # tag of the experiment that keeps a learner's progress
PASSED = "passed."  # begins the tags that it keeps
SECONDS = 3  # that a notebook waits at most


def record(task: str) -> None:
    """Note that the learner of this workshop has passed a check; never fail, and never wait long.

    Parameters
    ----------
    task : str
        Number of the notebook and of the task, such as ``"05-1"``.
    """
    note({PASSED + task: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")})


def note(tags: dict[str, str]) -> None:
    """Set tags of the experiment that keeps this learner's progress.

    Parameters
    ----------
    tags : dict of str to str
        None at all only puts the learner on the list.
    """
    if not os.environ.get("WORKSHOP_LEARNER", "").strip():
        return
    import mlflow  # noqa: F401 - takes seconds, which are not the server's

    done = threading.Event()
    # A thread, since no client's time limits hold for all that can go wrong on the way to a server.
    thread = threading.Thread(target=_send, args=(tags, done), daemon=True)
    thread.start()
    thread.join(SECONDS)
    if not done.is_set():
        print(
            "The teacher's list could not be told, since the MLflow server does not answer. Your work is not affected."
        )


def _send(tags: dict[str, str], done: threading.Event) -> None:
    try:
        from mlflow import MlflowClient

        from helpers import names

        uri = os.environ["MLFLOW_TRACKING_URI"]
        client = MlflowClient(uri)
        learner = names.learner()
        experiment_id = _experiment(client, names.own_name("progress"))
        for name, value in {LEARNER: learner, **tags}.items():
            client.set_experiment_tag(experiment_id, name, value)
        done.set()
    except Exception:  # noqa: BLE001 - whatever it is, a notebook does not stop for it
        return


def _experiment(client, name: str) -> str:
    """Return the id of an experiment, made if need be; two kernels may want it at once."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name)
        except MlflowException:
            found = client.get_experiment_by_name(name)
    return found.experiment_id
