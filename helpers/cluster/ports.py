"""The ports of KFP and MLflow on the cluster of the reader's kubeconfig, forwarded to free ones of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import requests

from helpers import paths
from helpers.cluster.api import ClusterError, endpoint, place
from helpers.stack.process import free_port

SERVICES = {
    "KF_PIPELINES_ENDPOINT": ("kubeflow", "ml-pipeline", 8888, "apis/v2beta1/healthz"),
    "MLFLOW_TRACKING_URI": ("mlflow-system", "mlflow-server-service", 5000, "health"),
}
_forwards: dict[str, subprocess.Popen] = {}


def open_ports(patience: float = 30) -> None:
    """Forward the ports of KFP and MLflow, where kubectl has a cluster and the reader named no other way to it.

    Nothing is done inside a cluster, where ``KF_PIPELINES_ENDPOINT`` is set, and where a KFP API answers at the usual
    port already. Each forward sets its variable, is opened again when a pod is replaced, and ends with this process.

    Parameters
    ----------
    patience : float
        Seconds that each may take to answer.

    Raises
    ------
    ClusterError
        If one cannot be opened, with what kubectl said.
    """
    inside = place() in ("a Kubeflow Notebook", "a pod")
    if inside or os.environ.get("KF_PIPELINES_ENDPOINT") or _answers(endpoint(), SERVICES["KF_PIPELINES_ENDPOINT"][3]):
        return
    kubectl = shutil.which("kubectl")
    if not kubectl or not (cluster := _cluster(kubectl)):
        return
    print("Forwarding ports of the kubectl context {}, server {}:".format(*cluster))
    for variable, (namespace, service, port, path) in SERVICES.items():
        if os.environ.get(variable):
            continue
        local, log = free_port(), paths.work_dir() / "logs" / f"forward-{service}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        keeper = [sys.executable, "-I", str(Path(__file__).with_name("forward.py")), kubectl, namespace, service]
        with log.open("w") as said:
            _forwards[variable] = subprocess.Popen(
                [*keeper, str(port), str(local)], stdin=subprocess.PIPE, stderr=said, start_new_session=True
            )
        address, end = f"http://127.0.0.1:{local}", time.monotonic() + patience
        while not _answers(address, path):
            if time.monotonic() > end:
                close_ports()
                why = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
                raise ClusterError(
                    f"kubectl cannot forward the port of {service} in the namespace {namespace}: {why}. Is this the "
                    f"cluster that you mean? kubectl config use-context NAME takes another; {variable} names an address."
                )
            time.sleep(0.2)
        os.environ[variable] = address
        print(f"  {address} is {service}.{namespace}:{port}")


def close_ports() -> None:
    """End the forwards of this process, and take their variables back."""
    for variable, keeper in _forwards.items():
        os.environ.pop(variable, None)
        keeper.stdin.close()
        keeper.wait()
    _forwards.clear()


def mlflow_uri(host: str) -> str:
    """Return where the MLflow server of `deploy` is, for a reader of whom nothing else is known.

    Parameters
    ----------
    host : str
        Address of the KFP API, which tells whether this is inside the cluster.

    Returns
    -------
    str
        The service's name inside; elsewhere the end of a port-forward.
    """
    return "http://mlflow-server-service.mlflow-system.svc:5000" if "cluster.local" in host else "http://localhost:5000"


def kubernetes() -> str:
    """Return ", Kubernetes v1.34.9", if the ports were forwarded here and kubectl knows; else nothing."""
    if not _forwards:
        return ""
    asked = subprocess.run(["kubectl", "version", "-o", "json"], capture_output=True, text=True)
    with contextlib.suppress(ValueError, LookupError):
        return f", Kubernetes {json.loads(asked.stdout)['serverVersion']['gitVersion']}"
    return ""


def _cluster(kubectl: str) -> tuple[str, str] | None:
    """Return the name of the kubeconfig's context and its server's address; None without one."""
    asked = subprocess.run([kubectl, "config", "view", "--minify", "-o", "json"], capture_output=True, text=True)
    try:
        view = json.loads(asked.stdout)
        return view["current-context"], view["clusters"][0]["cluster"]["server"]
    except (ValueError, LookupError, TypeError):
        return None


def _answers(address: str, path: str) -> bool:
    """Tell whether KFP or MLflow, and no other program, answers there."""
    try:
        answer = requests.get(f"{address}/{path}", timeout=5, allow_redirects=False)
    except requests.RequestException:
        return False
    return answer.ok and (path == "health" or "json" in answer.headers.get("Content-Type", ""))
