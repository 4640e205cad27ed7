"""Where the API of Kubeflow Pipelines is, and whether it lets this reader in."""

from __future__ import annotations

import os
from pathlib import Path

import requests

from helpers import paths
from helpers.stack.access import refuse_address

TOKEN_FILE = "/var/run/secrets/kubeflow/pipelines/token"
NAMESPACE_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"


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
            f"No KFP API answers at {host} ({type(error).__name__}). Where kubectl has a cluster "
            "(kubectl config use-context NAME), its port is forwarded for you; by hand: kubectl port-forward -n kubeflow "
            "svc/ml-pipeline 8888:8888 - or set KF_PIPELINES_ENDPOINT."
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
    if status in (401, 403) and ("no user identity" in text or "Audiences in Jwt" in text or status == 401):
        return (
            f"{host} refuses your token ({status}): it has expired, is of another cluster, or was made for another "
            f"audience. Make one: kubectl create token default-editor -n {user_namespace} --audience "
            "pipelines.kubeflow.org - or restart the notebook's pod."
        )
    if status == 403:
        return (
            f"{host} lets you in, but not into the namespace {user_namespace!r} (403). Set the parameter namespace to "
            "that of your profile, or ask its owner to add you as a contributor."
        )
    return f"{host} answers {status}: {text.strip() or answer.reason}"
