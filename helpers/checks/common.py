"""What the checks of all exercises need: the reader's names, runs on the server, files, tables."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path

from helpers.names import own_name


class NotYet(Exception):
    """A task is not done.

    Parameters
    ----------
    wrong : str
        A sentence: what is still wrong.
    hint : str
        A sentence: what to do.
    """

    def __init__(self, wrong: str, hint: str) -> None:
        super().__init__(wrong)
        self.wrong, self.hint = wrong, hint


class Names:
    """The reader's variables.

    Parameters
    ----------
    names : dict
        The ``globals()`` of the notebook.
    """

    def __init__(self, names: dict) -> None:
        self._names = names

    def get(self, name: str, kind: type | tuple[type, ...], what: str):
        """Return a variable of the reader's.

        Parameters
        ----------
        name : str
            What the task calls it.
        kind : type or tuple of type
            What it has to be.
        what : str
            What it is to hold, for the hint.

        Returns
        -------
        object
            Its value.

        Raises
        ------
        NotYet
            If there is no such variable, or it is of another type.
        """
        if name not in self._names:
            raise NotYet(f"there is no `{name}`.", f"leave {what} in the variable `{name}`.")
        value = self._names[name]
        # True is an int to Python, and to nobody who asked for a number.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind in (int, float)):
            raise NotYet(f"`{name}` is a value of type {type(value).__name__}.", f"leave {what} in `{name}`.")
        return value

    def function(self, name: str, what: str) -> Callable:
        """Return a function of the reader's.

        Parameters
        ----------
        name : str
            What the task calls it.
        what : str
            What it is to do, for the hint.

        Returns
        -------
        callable
            The plain function, also where the reader has made a component of it.

        Raises
        ------
        NotYet
            If there is none.
        """
        if name not in self._names:
            raise NotYet(f"there is no function `{name}`.", f"define `{name}`, which {what}.")
        function = getattr(self._names[name], "python_func", self._names[name])
        if not callable(function):
            raise NotYet(f"`{name}` is no function.", f"define `{name}` with `def`; it {what}.")
        return function


def call(function: Callable, *arguments: object, **named: object):
    """Call a function of the reader's and keep what it prints to itself.

    Returns
    -------
    object
        What it returns.

    Raises
    ------
    NotYet
        If it raises anything.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return function(*arguments, **named)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the reader's code
        said = (str(error).strip().splitlines() or ["no message"])[0]
        raise NotYet(
            f"`{getattr(function, '__name__', 'your function')}` raised {type(error).__name__}: {said}",
            "call it yourself in a cell of your own and read the whole traceback.",
        ) from None


def file(name: str, what: str) -> Path:
    """Return a file of the notebook's folder.

    Parameters
    ----------
    name : str
        Relative to the current folder.
    what : str
        How to make it, for the hint: begins with a verb.

    Returns
    -------
    pathlib.Path
        It exists.

    Raises
    ------
    NotYet
        If it does not.
    """
    if not Path(name).exists():
        raise NotYet(f"there is no `{name}` in this notebook's folder.", f"{what}.")
    return Path(name)


def run(run_id: str, experiment: str):
    """Ask the server for a run.

    Parameters
    ----------
    run_id : str
        From the reader.
    experiment : str
        With what the name of the run's experiment has to begin.

    Returns
    -------
    mlflow.entities.Run
        Of that experiment, and not deleted.

    Raises
    ------
    NotYet
        If the server knows no such run, or has it elsewhere.
    """
    import mlflow

    client = mlflow.MlflowClient()
    try:
        found = client.get_run(run_id)
    except mlflow.MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise NotYet("the server knows no run with that id.", "take the id from `run.info.run_id`.") from None
    if found.info.lifecycle_stage == "deleted":
        raise NotYet("that run was deleted.", "make a new one and leave its id.")
    experiment = own_name(experiment)
    name = client.get_experiment(found.info.experiment_id).name
    if not name.startswith(experiment):
        raise NotYet(f"the run lies in the experiment {name!r}.", f"put it into {experiment!r}.")
    return found


def finished(found) -> None:
    """Refuse a run that has not ended well.

    Raises
    ------
    NotYet
        If its status is another than ``FINISHED``.
    """
    if found.info.status != "FINISHED":
        raise NotYet(
            f"the run is {found.info.status}.", "let the run end without an exception, so that it is FINISHED."
        )


def by_pipeline(found) -> None:
    """Refuse a run that no pipeline has made.

    Raises
    ------
    NotYet
        If it lacks the tag that the upload sets.
    """
    if "kfp_job_id" not in found.data.tags:
        raise NotYet("no pipeline made that run.", "call the pipeline and take the id from its `.output`.")


def artifacts(found, folder: str | None = None) -> list[str]:
    """Return the names of a run's files.

    Parameters
    ----------
    found : mlflow.entities.Run
        From `run`.
    folder : str, optional
        Of the run; its root if not given.

    Returns
    -------
    list of str
        With the folder in front.
    """
    import mlflow

    return [entry.path for entry in mlflow.MlflowClient().list_artifacts(found.info.run_id, folder)]


def s3():
    """Return a client of the object store that the reader's libraries use.

    Returns
    -------
    botocore.client.BaseClient
        Of the store at ``MLFLOW_S3_ENDPOINT_URL``.
    """
    import boto3

    return boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL"))


def objects(bucket: str, prefix: str) -> dict[str, int]:
    """Return what is in the store.

    Parameters
    ----------
    bucket, prefix : str
        Where to look.

    Returns
    -------
    dict of str to int
        Keys to sizes in bytes.
    """
    pages = s3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", [])}


def iris():
    """Return the iris measurements and species.

    Returns
    -------
    tuple of pandas.DataFrame and pandas.Series
        150 rows each.
    """
    from sklearn.datasets import load_iris

    return load_iris(return_X_y=True, as_frame=True)
