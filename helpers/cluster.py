"""Reach Kubeflow Pipelines on a cluster, and follow what runs there."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import requests
import yaml

from helpers import paths
from helpers.stack.access import refuse_address

# securityContext in a pipeline's Kubernetes part, which mlflow_pipeline uses, came with this backend
# (kubeflow/pipelines, pull requests 12832 and 12859).
LOWEST_BACKEND = "2.16.0"
TOKEN_FILE = "/var/run/secrets/kubeflow/pipelines/token"
NAMESPACE_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")


class ClusterError(paths.SeriesError):
    """The KFP API cannot be reached, or refuses; the message says what to do."""


def place() -> str:
    """Say where this notebook runs.

    Returns
    -------
    str
        ``"a Kubeflow Notebook"``, ``"a pod"``, ``"CI"`` or ``"a laptop"``.
    """
    if os.environ.get("NB_PREFIX"):
        return "a Kubeflow Notebook"
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return "a pod"
    return "CI" if os.environ.get("CI") else "a laptop"


def endpoint() -> str:
    """Return the address of the KFP API.

    Returns
    -------
    str
        ``KF_PIPELINES_ENDPOINT`` if it is set; inside a cluster the service's
        name, elsewhere the end of a port-forward.
    """
    inside = place() in ("a Kubeflow Notebook", "a pod")
    usual = "http://ml-pipeline.kubeflow.svc.cluster.local:8888" if inside else "http://localhost:8888"
    chosen = (os.environ.get("KF_PIPELINES_ENDPOINT") or usual).rstrip("/")
    refuse_address(chosen, "KF_PIPELINES_ENDPOINT")
    return chosen


def token() -> str | None:
    """Return the token that the PodDefault or the reader's shell provides.

    Returns
    -------
    str or None
        The content of the file that ``KF_PIPELINES_SA_TOKEN_PATH`` names, or of
        the place where Kubeflow mounts it; None if there is none.
    """
    path = Path(os.environ.get("KF_PIPELINES_SA_TOKEN_PATH") or TOKEN_FILE)
    return path.read_text().strip() if path.is_file() else None


def namespace() -> str:
    """Return the profile's namespace.

    Returns
    -------
    str
        That of the pod inside a cluster; elsewhere ``"kubeflow"``, where a
        single-user installation runs everything.
    """
    path = Path(NAMESPACE_FILE)
    return path.read_text().strip() if path.is_file() else "kubeflow"


def check_api(host: str, bearer: str | None, user_namespace: str) -> tuple[str, bool]:
    """Ask the KFP API who it is, and whether it lets this reader in.

    Parameters
    ----------
    host : str
        Its address.
    bearer : str or None
        The token to show.
    user_namespace : str
        Where the runs will be.

    Returns
    -------
    tuple of str and bool
        The backend's version, and whether it serves several users.

    Raises
    ------
    ClusterError
        Names what was refused and the remedy.
    """
    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
    try:
        answer = requests.get(f"{host}/apis/v2beta1/healthz", headers=headers, timeout=10, allow_redirects=False)
        if answer.ok and "json" in answer.headers.get("Content-Type", ""):
            health = answer.json()
            multi_user = bool(health.get("multi_user"))
            answer = requests.get(
                f"{host}/apis/v2beta1/experiments",
                headers=headers,
                timeout=10,
                allow_redirects=False,
                params={"page_size": 1} | ({"namespace": user_namespace} if multi_user else {}),
            )
    except requests.RequestException as error:
        raise ClusterError(
            f"No KFP API answers at {host} ({type(error).__name__}). On a laptop, forward its port in another terminal: "
            "kubectl port-forward -n kubeflow svc/ml-pipeline 8888:8888 - or set KF_PIPELINES_ENDPOINT."
        ) from None
    if answer.ok and "json" in answer.headers.get("Content-Type", ""):
        return health.get("tag_name") or "unknown", multi_user
    raise ClusterError(_refusal(host, answer, bearer, user_namespace))


def _refusal(host: str, answer: requests.Response, bearer: str | None, user_namespace: str) -> str:
    status, text = answer.status_code, answer.text[:300]
    if status in (301, 302, 303, 307, 308) or answer.ok or "<html" in text.lower():
        return (
            f"{host} answers with a login page, not with the KFP API: it is behind Dex or oauth2-proxy. Put a token of "
            "yours into a file and name it in KF_PIPELINES_SA_TOKEN_PATH, or forward the API's port instead."
        )
    if "issuer is not configured" in text:
        return (
            f"{host} does not know who issued your token (Jwt issuer is not configured): it is another cluster's, or "
            "was made for another audience. Make one: kubectl create token default-editor -n "
            f"{user_namespace} --audience pipelines.kubeflow.org"
        )
    if status == 401 and not bearer:
        return (
            f"{host} wants a token and there is none. In a Kubeflow Notebook, make the notebook with the "
            "configuration 'Allow access to Kubeflow Pipelines' (deploy/notebook/poddefault.yaml has one); elsewhere "
            "put a token into a file and name it in KF_PIPELINES_SA_TOKEN_PATH."
        )
    if status == 401:
        return (
            f"{host} refuses your token (401): it has probably expired. Get a new one, or restart the notebook's pod."
        )
    if status == 403:
        return (
            f"{host} lets you in, but not into the namespace {user_namespace!r} (403). Set the parameter namespace to "
            "that of your profile, or ask its owner to add you as a contributor."
        )
    return f"{host} answers {status}: {text.strip() or answer.reason}"


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
    if _numbers(backend) and _numbers(backend) < _numbers(LOWEST_BACKEND):
        raise ClusterError(
            f"The cluster runs KFP {backend}, and this pipeline needs {LOWEST_BACKEND} or newer: an older one refuses it "
            f"with 'unknown field'. Upgrade the cluster, or compile with its version (this is {sdk}) and without "
            "set_security_context."
        )


def _numbers(version: str) -> tuple[int, ...]:
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
    return _root(file).get("inputDefinitions", {}).get("parameters", {})


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


def follow(client, run_id: str, file: str | os.PathLike, timeout: float = 1800):
    """Print one line per task as it changes its state, until the run has ended.

    Parameters
    ----------
    client : kfp.Client
        The one that started the run.
    run_id : str
        Which run.
    file : str or os.PathLike
        The compiled pipeline, which names the tasks.
    timeout : float
        Seconds to wait at most.

    Returns
    -------
    kfp_server_api.V2beta1Run
        The run as it ended.

    Raises
    ------
    ClusterError
        If it has not ended in time; it runs on.
    """
    begin, said = time.monotonic(), {}
    while True:
        run = client.get_run(run_id)
        for task in task_details(run, file):
            name, state = task.display_name, (task.state or "PENDING").lower()
            if state == said.get(name) or state in ("pending", "runtime_state_unspecified"):
                continue
            if name not in said and state in ("succeeded", "failed"):  # quicker than the next look at it
                print(f"{name:<32}running")
            print(f"{name:<32}{state}", flush=True)
            said[name] = state
        if run.state in ENDED:
            return run
        if time.monotonic() - begin > timeout:
            raise ClusterError(
                f"Run {run_id} is still {run.state} after {timeout:.0f} s and goes on. Follow it in the KFP UI, or end "
                f"it: client.terminate_run({run_id!r})."
            )
        time.sleep(1)


def task_details(run, file: str | os.PathLike) -> list:
    """Return the details of a run's own tasks, in the order in which they started.

    Parameters
    ----------
    run : kfp_server_api.V2beta1Run
        As `kfp.Client.get_run` returns it. The backend lists nodes of the
        workflow engine too, such as drivers and executors.
    file : str or os.PathLike
        The compiled pipeline, which names the tasks.

    Returns
    -------
    list of kfp_server_api.V2beta1PipelineTaskDetail
        One for each task that has begun.
    """
    names = _root(file)["dag"]["tasks"]
    details = (run.run_details.task_details if run.run_details else None) or []
    return sorted((task for task in details if task.display_name in names), key=lambda task: str(task.start_time))


def _root(file: str | os.PathLike) -> dict:
    """Return the part of a compiled pipeline that has its parameters and tasks."""
    with open(file) as stream:
        return next(yaml.safe_load_all(stream))["root"]
