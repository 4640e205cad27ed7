"""Begin with an empty registered model, and never with somebody else's."""

from __future__ import annotations

import mlflow
from mlflow.exceptions import MlflowException

from helpers import settings, workshop

_TAG = "made_by_notebook"


def begin_registered_model(registered_model_name: str, notebook: str) -> str:
    """Make an empty registered model; one that the same notebook made before goes, with its versions.

    Parameters
    ----------
    registered_model_name : str
        On the server that `stack.connect` chose.
    notebook : str
        The notebook's file name without its ending.

    Returns
    -------
    str
        The same name; in a workshop the learner's own, see `helpers.workshop.own_name`.

    Raises
    ------
    helpers.settings.SeriesError
        If the name is not usable, or belongs to a registered model that this notebook did not make.
    """
    settings.check_model_name(registered_model_name, "registered_model_name")
    registered_model_name = workshop.own_name(registered_model_name)
    client = mlflow.MlflowClient()
    try:
        found = client.get_registered_model(registered_model_name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    else:
        if found.tags.get(_TAG) != notebook:
            raise settings.SeriesError(
                f"The server already has a registered model {registered_model_name!r} that this notebook did not "
                "make, so it stays as it is. Take another registered_model_name."
            )
        client.delete_registered_model(registered_model_name)
    client.create_registered_model(registered_model_name, tags={_TAG: notebook})
    return registered_model_name
