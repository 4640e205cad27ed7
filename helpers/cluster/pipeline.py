"""A compiled pipeline and a backend: what the one takes, and what the other understands."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import yaml

from helpers.cluster.api import ClusterError

LOWEST_BACKEND = "2.15.0"  # the oldest that these pipelines were run on
# securityContext in a pipeline's Kubernetes part, which they use, came with this backend (kubeflow/pipelines, pull
# requests 12832 and 12859).
WITH_SECURITY_CONTEXT = "2.16.0"


def check_versions(sdk: str, backend: str) -> None:
    """Compare the SDK that compiled the pipeline with the backend that is to run it.

    Parameters
    ----------
    sdk, backend : str
        Versions, such as ``"2.17.0"``.

    Raises
    ------
    ClusterError
        If the backend is older than `LOWEST_BACKEND`.
    """
    if numbers(backend) and numbers(backend) < numbers(LOWEST_BACKEND):
        raise ClusterError(
            f"The cluster runs KFP {backend}, and this pipeline needs {LOWEST_BACKEND} or newer. Upgrade the cluster, "
            f"or compile with its version; this is {sdk}."
        )


def for_backend(file: str | os.PathLike, backend: str, folder: str | os.PathLike = ".") -> Path:
    """Return a compiled pipeline that a backend understands, and say what an older one has to do without.

    Parameters
    ----------
    file : str or os.PathLike
        The YAML file.
    backend : str
        Its version, such as ``"2.15.0"``.
    folder : str or os.PathLike
        Takes a file for an older backend.

    Returns
    -------
    pathlib.Path
        The same file, or another of the same name in the folder.

    Raises
    ------
    ClusterError
        If there is no such file, it is no compiled pipeline, or the copy would be written over it.
    """
    file, older = Path(file), Path(folder) / Path(file).name
    if not numbers(backend) or numbers(backend) >= numbers(WITH_SECURITY_CONTEXT):
        return file
    try:
        documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
        documents[0]["pipelineInfo"]
        for document in documents[1:]:
            tasks = document["platforms"]["kubernetes"].get("deploymentSpec", {}).get("executors", {})
            for executor in tasks.values():
                executor.pop("securityContext", None)
    except OSError as error:
        raise ClusterError(f"{file} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError, LookupError, TypeError, AttributeError):
        raise ClusterError(f"{file} is no pipeline that KFP 2 has compiled: name one of deploy/.") from None
    if older.exists() and older.samefile(file):
        raise ClusterError(f"The copy of {file} would take its place: call this in another folder.")
    older.write_text(yaml.safe_dump_all(documents, sort_keys=False), encoding="utf-8")
    print(
        f"KFP {backend} does not know securityContext, which came with {WITH_SECURITY_CONTEXT}: without it, tasks run as "
        "the user of their image."
    )
    return older


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def parameters(file: str | os.PathLike) -> dict[str, dict]:
    """Return what a compiled pipeline takes.

    Parameters
    ----------
    file : str or os.PathLike
        The YAML file.

    Returns
    -------
    dict of str to dict
        Names to their definitions in the file: ``parameterType``, and ``defaultValue`` if there is one.
    """
    return root(file).get("inputDefinitions", {}).get("parameters", {})


def arguments(file: str | os.PathLike, chosen: dict[str, object], given: str) -> dict[str, object]:
    """Put the arguments of a run together, and refuse what the API would refuse after it was sent.

    Parameters
    ----------
    file : str or os.PathLike
        The compiled pipeline.
    chosen : dict of str to object
        Values that are passed if the pipeline takes them.
    given : str
        A JSON object with more, or with others; may be empty.

    Returns
    -------
    dict of str to object
        To be sent.

    Raises
    ------
    ClusterError
        Names what is no JSON object, what the pipeline does not take, or what it wants and did not get.
    """
    known = parameters(file)
    try:
        more = dict(json.loads(given or "{}"))
    except (ValueError, TypeError):
        raise ClusterError(f'arguments={given!r} is no JSON object, such as {{"kernel": "linear"}}.') from None
    if unknown := sorted(more.keys() - known.keys()):
        raise ClusterError(f"The pipeline takes no {', '.join(unknown)}. It takes: {', '.join(sorted(known))}.")
    values = {name: value for name, value in chosen.items() if name in known} | more
    optional = {name for name, entry in known.items() if "defaultValue" in entry or entry.get("isOptional")}
    if missing := sorted(known.keys() - values.keys() - optional):
        example = json.dumps(dict.fromkeys(missing, "..."))
        raise ClusterError(
            f"The pipeline wants {', '.join(missing)}, which has no default. Pass arguments={example!r}."
        )
    return values


def find_pipeline(client, name: str, owner: str | None) -> str | None:
    """Return the id of an uploaded pipeline.

    Parameters
    ----------
    client : kfp.Client
        Connected.
    name : str
        The pipeline's.
    owner : str or None
        A namespace; None on a single-user installation. `kfp.Client.get_pipeline_id`
        sees shared pipelines alone.

    Returns
    -------
    str or None
        None if there is none.
    """
    import kfp_server_api

    if owner is None:
        return client.get_pipeline_id(name)
    try:
        return client.pipelines.pipeline_service_get_pipeline_by_name(name, namespace=owner).pipeline_id
    except kfp_server_api.ApiException as error:
        if error.status == 404:
            return None
        raise


def root(file: str | os.PathLike) -> dict:
    """Return the part of a compiled pipeline that has its parameters and tasks."""
    with open(file) as stream:
        return next(yaml.safe_load_all(stream))["root"]
