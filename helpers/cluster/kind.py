"""``make cluster``: a cluster in Docker, by kind, with KFP, the MLflow server and the image of `deploy`, and its check."""

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from helpers import paths
from helpers.cluster import check
from helpers.cluster.api import ClusterError
from helpers.cluster.pipeline import numbers

NAME = "mlflow-kubeflow"
IMAGE = "localhost/mlflow-kubeflow-notebooks/python:0.1.0"
MANIFESTS = "https://github.com/kubeflow/pipelines//manifests/kustomize/{}?ref={}"
MISSING = {
    "docker": "Docker runs the cluster: install it, and start it",
    "kind": "kind makes a cluster in Docker: install kind {kind} or newer",
    "kubectl": "kubectl talks to the cluster: install it",
}


def kubeconfig() -> Path:
    """Return the file with this cluster's address and key: one of its own, so that the reader's stays as it is."""
    return paths.work_dir() / "kind" / "kubeconfig"


def call(*command: str, given: str | None = None, shown: bool = True) -> str:
    """Run a program of the cluster's in the checkout, and return what it printed, if that was not shown.

    Parameters
    ----------
    command
        The program and its arguments.
    given : str, optional
        For its standard input: what must stand in no list of processes.
    shown : bool
        Whether the reader sees what it prints.

    Raises
    ------
    ClusterError
        If it fails: names the step.
    """
    if shown:
        print("$", *command, flush=True)
    into = {} if shown else {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = os.environ | {"KUBECONFIG": str(kubeconfig())}
    done = subprocess.run(command, input=given, text=True, cwd=paths.ROOT, env=environment, **into)
    if done.returncode:
        said = "" if shown else f": {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}"
        raise ClusterError(
            f"{' '.join(command)} ended with {done.returncode}{said}. Mend it and run this again: what is there stays."
        )
    return done.stdout or ""


def ready(versions: dict[str, str], programs: Sequence[str] = tuple(MISSING)) -> None:
    """See that Docker runs, and that what it takes is there.

    Raises
    ------
    ClusterError
        Names what is not.
    """
    for program in programs:
        if not shutil.which(program):
            raise ClusterError(f"{MISSING[program].format(**versions)}. There is no {program} here.")
    try:
        call("docker", "version", shown=False)
    except ClusterError:
        raise ClusterError("Docker is installed, but does not answer: start it, and see that you may use it.") from None
    found = call("kind", "version", shown=False)
    if numbers(found) < numbers(versions["kind"]):
        raise ClusterError(f"{MISSING['kind'].format(**versions)}. This is {found.strip()}.")


def secret(name: str, values: dict[str, str]) -> None:
    """Make a secret of the MLflow server, unless it is there: its values are on no command line."""
    if call(
        "kubectl", "-n", "mlflow-system", "get", "secret", name, "--ignore-not-found", "-o", "name", shown=False
    ).strip():
        return
    about = {"name": name, "namespace": "mlflow-system"}
    whole = {"apiVersion": "v1", "kind": "Secret", "metadata": about, "stringData": values}
    call("kubectl", "apply", "-f", "-", given=json.dumps(whole))


def up(versions: dict[str, str]) -> None:
    """Make the cluster and what belongs into it; what is there is left, or brought up to date."""
    kubeconfig().parent.mkdir(parents=True, exist_ok=True)
    if NAME in call("kind", "get", "clusters", shown=False).split():
        call("kind", "export", "kubeconfig", "--name", NAME, "--kubeconfig", str(kubeconfig()))
    else:
        where = ("--kubeconfig", str(kubeconfig()), "--wait", "5m")
        call("kind", "create", "cluster", "--name", NAME, "--image", versions["node"], *where)
    call("docker", "build", "-q", "-f", "deploy/image/Dockerfile", "-t", IMAGE, ".")
    call("kind", "load", "docker-image", IMAGE, "--name", NAME)

    first, rest = (
        MANIFESTS.format(part, versions["pipelines"]) for part in ("cluster-scoped-resources", "env/platform-agnostic")
    )
    call("kubectl", "apply", "--server-side", "-k", first)
    call("kubectl", "wait", "--for", "condition=established", "--timeout=60s", "crd", "--all")
    call("kubectl", "apply", "--server-side", "--force-conflicts", "-k", rest)
    call("kubectl", "-n", "kubeflow", "wait", "deployment", "--all", "--for=condition=Available", "--timeout=20m")

    call("kubectl", "apply", "-f", "deploy/mlflow/base/namespace.yaml")
    secret("mlflow-postgres", {"password": secrets.token_hex(24)})
    asked = (
        "get",
        "secret",
        "mlpipeline-minio-artifact",
        "-o",
        'go-template={{range $k, $v := .data}}{{$k}}={{base64decode $v}}{{"\\n"}}{{end}}',
    )
    pairs = call("kubectl", "-n", "kubeflow", *asked, shown=False).split()
    secret("mlflow-s3", dict(pair.split("=", 1) for pair in pairs))
    call("kubectl", "apply", "-k", "deploy/mlflow/overlays/proxied")
    parts = ("statefulset/mlflow-postgres", "deployment/mlflow-server")
    call("kubectl", "-n", "mlflow-system", "rollout", "status", *parts, "--timeout=10m")


def main(arguments: list[str] | None = None) -> int:
    """Make the cluster and check it, or delete it; return 0 if all went well."""
    parser = argparse.ArgumentParser("python -m helpers.cluster.kind", description=__doc__.partition(": ")[2])
    parser.add_argument("what", choices=["up", "down"])
    what, rest = parser.parse_known_args(arguments)
    versions = tomllib.loads((paths.DEPLOY / "kind.toml").read_text(encoding="utf-8"))
    try:
        ready(versions)
        if what.what == "down":
            call("kind", "delete", "cluster", "--name", NAME, "--kubeconfig", str(kubeconfig()))
            kubeconfig().unlink(missing_ok=True)
            return 0
        up(versions)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    os.environ["KUBECONFIG"] = str(kubeconfig())
    for variable in check.ports.SERVICES:
        os.environ.pop(variable, None)  # of another cluster
    code = check.main(rest)
    print(f"\nTo use this cluster: export KUBECONFIG={paths.short(kubeconfig())}    To delete it: make cluster-down")
    return code


if __name__ == "__main__":
    sys.exit(main())
