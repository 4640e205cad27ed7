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
    refuse_address(tracking_uri, "MLFLOW_TRACKING_URI")
    if endpoint := os.environ.get("MLFLOW_S3_ENDPOINT_URL"):
        refuse_address(endpoint, "MLFLOW_S3_ENDPOINT_URL")
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
            client = MlflowClient(tracking_uri)
            reach(lambda: client.search_experiments(max_results=1), tracking_uri, 0)
            try:  # logged models came with MLflow 3
                reach(lambda: client.search_logged_models(["0"], max_results=1), tracking_uri, 0)
            except ConnectionError as error:
                if not re.search("is no MLflow server|is a web page", str(error)):
                    raise
                raise ConnectionError(
                    f"The server at {tracking_uri} is older than MLflow 3, and the series needs that: upgrade it."
                ) from None
    except Exception as error:  # noqa: BLE001 - of several libraries
        raise StackError(
            f"{_first_line(error)} Without MLFLOW_TRACKING_URI the series starts a server of its own."
        ) from None


def refuse_address(given: str, variable: str) -> None:
    """Refuse an address that no client understands, and say how it is meant.

    Parameters
    ----------
    given : str
        What a variable holds.
    variable : str
        Its name.

    Raises
    ------
    StackError
        If ``http://`` is missing, or it was copied from a page in the browser.
    """
    shown = re.sub(r"//[^/]*@", "//", given)
    if re.fullmatch(r"(localhost|[\w-]+(\.[\w-]+)+|[\w-]+(?=:\d))(:\d+)?(/.*)?", given):
        raise StackError(f"{variable} is {shown!r}, without http:// or https:// in front: put one there.")
    if re.search("[?#]", given):  # what the UI puts behind the server's address
        server = re.split("[?#]", shown)[0].rstrip("/")
        raise StackError(f"{variable} is {shown!r}, a page for a browser: take the server's address, {server}")


def check_store(location: str) -> None:
    """Find out whether the files of an experiment can be reached from here, with the keys that this reader has.

    Parameters
    ----------
    location : str
        Where the experiment keeps them: its ``artifact_location``.

    Raises
    ------
    StackError
        If not: names what the store said, and the variables that lead to it.
    """
    refuse_folder(location)
    try:
        _look(location)
    except Exception as error:  # noqa: BLE001 - of MLflow, boto3 and requests
        raise StackError(
            f"The files of this experiment lie at {location}, which cannot be reached: {_first_line(error)} "
            "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION, and MLFLOW_S3_ENDPOINT_URL, which "
            "is unset for Amazon's own store; AWS_CA_BUNDLE names the file of a private CA."
        ) from None


def refuse_folder(location: str) -> None:
    """Refuse a location that is a folder of the server's machine: MLflow's client would write to one of its own.

    Parameters
    ----------
    location : str
        Where an experiment keeps its files.

    Raises
    ------
    StackError
        If it names no store.
    """
    if not re.match("(?!file:)[a-z][a-z0-9+.-]+:", location):
        raise StackError(
            f"The files of this experiment belong into {location}, a folder of the server's own machine, so what you "
            "log would stay on yours. Take another experiment_name, on a server with --serve-artifacts or a bucket as "
            "its --default-artifact-root."
        )


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
