"""What the set-up cell of a notebook calls: a folder of its own, an experiment, a registered model."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path

import filelock

from helpers import environment, names, paths
from helpers import parameters as settings
from helpers.paths import SeriesError
from helpers.stack import access
from helpers.workshop import progress

# Libraries that talk while they work, and what makes them quiet. The learner's own choice wins.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    # A server that is down is known in seconds instead of minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
_MADE_BY = "made_by_notebook"  # tag of a registered model
_held: dict[Path, filelock.BaseFileLock] = {}  # until the kernel ends


def _hold(folder: Path, name: str) -> str:
    """Return a name that no other kernel of this state folder holds: this one, or with ``-2`` and so on."""
    folder.mkdir(exist_ok=True)
    number = 1
    while True:
        chosen = name if number == 1 else f"{name}-{number}"
        if folder / chosen in _held:
            return chosen
        lock = filelock.FileLock(folder / f"{chosen}.lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            number += 1
        else:
            _held[folder / chosen] = lock
            return chosen


def parameters(name: str, values: dict[str, object]) -> None:
    """Make a notebook's parameters fit what it declares, or refuse them in a sentence; the same as the runner does.

    Parameters
    ----------
    name : str
        The notebook's file name without its ending.
    values : dict
        Its ``globals()``: a number where text is meant becomes text.

    Raises
    ------
    SeriesError
        Names the parameter and the remedy.
    """
    settings.settle(paths.NOTEBOOKS / f"{name}.ipynb", values)


def notebook(name: str, values: dict[str, object] | None = None) -> Path:
    """Give a notebook an empty folder of its own, go there, and make MLflow quiet.

    Two kernels that run the same notebook at once get two folders: the second
    one's name ends in ``-2``.

    Parameters
    ----------
    name : str
        The notebook's file name without its ending, such as ``"01_save_a_model"``.
    values : dict, optional
        Its ``globals()``, whose parameters are checked first, as `parameters` does.

    Returns
    -------
    pathlib.Path
        The folder, now the current working directory.

    Raises
    ------
    SeriesError
        If the state folder cannot be written to, or a parameter does not fit.
    """
    if values is not None:
        parameters(name, values)
    environment.tidy(os.environ)  # tasks and servers of models inherit it
    if sys.flags.optimize:
        raise SeriesError("PYTHONOPTIMIZE was set when this kernel began, so no check would check: unset it, restart.")
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it tells of a cache that it builds once
    paths.check_work_dir()
    folder = paths.work_dir() / "notebooks"
    folder = folder / _hold(folder, name)
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
    except OSError as error:
        raise SeriesError(f"Cannot empty the folder {folder}: {error}. Remove it, then run this again.") from None
    os.chdir(folder)
    return folder


def experiment(experiment_name: str) -> str:
    """Return the name to use, and refuse that of an experiment that was deleted, or into which this reader may not write.

    Parameters
    ----------
    experiment_name : str
        Of an experiment on the server that `connect` found.

    Returns
    -------
    str
        The same name; in a workshop the learner's own, see `helpers.names.own_name`.

    Raises
    ------
    helpers.paths.SeriesError
        If the name is empty or not usable, or its experiment is deleted (MLflow keeps the name taken) or somebody else's.
    """
    from mlflow import MlflowClient, MlflowException

    if not experiment_name.strip():
        raise SeriesError("experiment_name is empty: take any name, for example 'iris'.")
    experiment_name = names.own_name(experiment_name)
    found = MlflowClient().get_experiment_by_name(experiment_name)
    if found is not None and found.lifecycle_stage == "deleted":
        raise SeriesError(
            f"The experiment {experiment_name!r} was deleted, and its name stays taken. Take another experiment_name, "
            f"or restore it: mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    if found is not None and os.environ.get("_SERIES_TRACKING_URI") != os.environ.get("MLFLOW_TRACKING_URI"):
        access.refuse_folder(found.artifact_location)
        try:  # a server with a log-in says only to who writes whether one may
            MlflowClient().set_experiment_tag(found.experiment_id, "used_by", "mlflow-kubeflow-notebooks")
        except MlflowException as error:
            raise _refused(error, "experiment", experiment_name) from None
    progress.note({})  # the teacher's list of a workshop: this learner has begun
    return experiment_name


def registered_model(registered_model_name: str, notebook: str) -> str:
    """Make an empty registered model; one that the same notebook made before goes, with its versions.

    Two kernels that run the same notebook at once get two: the second one's name ends in ``-2``.

    Parameters
    ----------
    registered_model_name : str
        On the server that `stack.connect` chose.
    notebook : str
        The notebook's file name without its ending.

    Returns
    -------
    str
        The name to use; in a workshop the learner's own, see `helpers.names.own_name`.

    Raises
    ------
    helpers.paths.SeriesError
        If the name is not usable, or belongs to a registered model that this notebook did not make.
    """
    names.check_model_name(registered_model_name, "registered_model_name")
    paths.check_work_dir()
    registered_model_name = _hold(paths.work_dir() / "registered_models", names.own_name(registered_model_name))
    from mlflow import MlflowClient, MlflowException

    client = MlflowClient()
    try:
        found = client.get_registered_model(registered_model_name)
        if found.tags.get(_MADE_BY) != notebook:
            raise SeriesError(
                f"The server already has a registered model {registered_model_name!r} that this notebook did not "
                "make, so it stays as it is. Take another registered_model_name."
            )
        client.delete_registered_model(registered_model_name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise _refused(error, "registered model", registered_model_name) from None
    client.create_registered_model(registered_model_name, tags={_MADE_BY: notebook})
    return registered_model_name


def _refused(error: Exception, kind: str, name: str) -> Exception:
    """Return what to raise where a server refuses to let this reader change what has a name."""
    if error.get_http_status_code() != 403:
        return error
    parameter = f"{kind.replace(' ', '_')}_name"
    return SeriesError(
        f"The {kind} {name!r} is somebody else's: the server lets you look at it and not change it. Take another "
        f"{parameter}, such as {f'kim-{name}'!r}, or ask its owner for the right to edit it."
    )
