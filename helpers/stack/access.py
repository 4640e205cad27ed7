"""Whether an MLflow server and its store let this reader in, asked through the clients that will use them."""

from __future__ import annotations

import os
import re
from unittest import mock

from helpers.stack.state import StackError


def check_server(tracking_uri: str) -> None:
    """Find out in seconds whether an MLflow server answers and lets this reader in, by MLflow's own client.

    Parameters
    ----------
    tracking_uri : str
        Its address.

    Raises
    ------
    StackError
        If it does not; the message has the cause and the remedy, and never a password.
    """
    if not tracking_uri.startswith(("http://", "https://")):
        shown = re.sub(r"//[^/]*@", "//", tracking_uri)
        raise StackError(
            f"MLFLOW_TRACKING_URI is {shown!r}, which is no server: the series needs one. "
            "Unset the variable to let the series start its own."
        )
    from mlflow import MlflowClient

    from helpers.pipelines.mlflow_pipeline import reach

    try:
        with mock.patch.dict(os.environ, {"MLFLOW_HTTP_REQUEST_TIMEOUT": "8"}):
            reach(lambda: MlflowClient(tracking_uri).search_experiments(max_results=1), tracking_uri, 0)
    except Exception as error:  # noqa: BLE001 - of several libraries
        raise StackError(
            f"{_first_line(error)} Without MLFLOW_TRACKING_URI the series starts a server of its own."
        ) from None


def check_store(location: str) -> None:
    """Find out whether the files of an experiment can be reached with the keys that this reader has.

    Parameters
    ----------
    location : str
        Where the experiment keeps them: its ``artifact_location``.

    Raises
    ------
    StackError
        If not: names what the store said, and the variables that lead to it.
    """
    try:
        _look(location)
    except Exception as error:  # noqa: BLE001 - of MLflow, boto3 and requests
        raise StackError(
            f"The files of this experiment lie at {location}, which cannot be reached: {_first_line(error)} "
            "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION, and MLFLOW_S3_ENDPOINT_URL, which "
            "is unset for Amazon's own store; AWS_CA_BUNDLE names the file of a private CA."
        ) from None


def _look(location: str) -> None:
    """List what lies below a location; not at its root, for which MLflow forgets the server's path prefix."""
    from mlflow.artifacts import list_artifacts

    list_artifacts(artifact_uri=f"{location.rstrip('/')}/nothing-lies-here")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def passes_files_on() -> bool:
    """Tell whether the MLflow server takes files for its store; False if it was told not to."""
    try:
        with mock.patch.dict(os.environ, {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}):  # it will not think better of it
            _look("mlflow-artifacts:/series")
    except Exception as error:  # noqa: BLE001 - of MLflow and requests
        if re.search("no-serve-artifacts|too many 503", str(error)):
            return False
    return True
