"""`make cluster` with stand-ins for docker, kind and kubectl: order, messages, and a second time. It was never run with real ones."""

import os
import re
import sys
from textwrap import dedent

import pytest

from helpers import paths
from helpers.cluster import kind

PROGRAM = """
    #!/bin/sh
    ''''exec "{python}" "$0" "$@" # '''  # a Python whose path has a space
    # A stand-in: notes what it was asked, answers from files, and fails where a file says so.
    import pathlib, sys

    here = pathlib.Path(__file__).parent
    asked = " ".join([pathlib.Path(__file__).name, *sys.argv[1:]])
    with open(here / "calls", "a") as calls:
        print(asked, file=calls)
    if "apply -f -" in asked:
        (here / "secrets").open("a").write(sys.stdin.read())
    for line in (here / "fails").read_text().splitlines():
        if line in asked:
            sys.exit("it went wrong")
    if asked == "kind version":
        print((here / "version").read_text())
    elif asked == "kind get clusters":
        print((here / "clusters").read_text())
    elif "create cluster" in asked:
        (here / "clusters").write_text("other\\nmlflow-kubeflow\\n")
    elif "mlpipeline-minio-artifact" in asked:
        print("accesskey=minio\\nsecretkey=a=b")
    elif "get secret" in asked and (here / "secrets").exists():
        print("secret/there" if sys.argv[5] in (here / "secrets").read_text() else "")
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """The folder of the stand-ins, which are all that there is; the check of the cluster always succeeds."""
    for name in kind.MISSING:
        (tmp_path / name).write_text(dedent(PROGRAM).lstrip().format(python=sys.executable))
        (tmp_path / name).chmod(0o755)
    for name, text in {"fails": "", "clusters": "other\n", "version": "kind v0.30.0 go1.24.6 linux/amd64"}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SERIES_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("KUBECONFIG", "the reader's own")
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://another")
    monkeypatch.setattr(kind.check, "main", lambda rest: (tmp_path / "calls").open("a").write(f"check {rest}\n") and 0)
    return tmp_path


def calls(programs):
    said = (programs / "calls").read_text().splitlines()
    (programs / "calls").unlink()
    return said


def order(said, *parts):
    found = [next(place for place, line in enumerate(said) if part in line) for part in parts]
    return found == sorted(found)


def test_the_steps_are_in_order_and_a_second_time_makes_nothing_twice(programs, capsys):
    assert kind.main(["up", "--packages"]) == 0
    said = calls(programs)
    assert order(
        said,
        "docker version",
        "kind create cluster --name mlflow-kubeflow --image kindest/node:v",
        "docker build",
        "kind load docker-image localhost/mlflow-kubeflow-notebooks/python:0.1.0",
        "manifests/kustomize/cluster-scoped-resources?ref=2.17.0",
        "manifests/kustomize/env/platform-agnostic?ref=2.17.0",
        "wait deployment --all",
        "deploy/mlflow/base/namespace.yaml",
        "apply -k deploy/mlflow/overlays/proxied",
        "rollout status",
        "check ['--packages']",
    )
    secrets = (programs / "secrets").read_text()
    assert '"secretkey": "a=b"' in secrets and "mlflow-postgres" in secrets
    assert "a=b" not in "".join(said) + capsys.readouterr().out
    own = str(programs / "work" / "kind" / "kubeconfig")
    assert os.environ["KUBECONFIG"] == own and "KF_PIPELINES_ENDPOINT" not in os.environ

    assert kind.main(["up"]) == 0
    again = calls(programs)
    assert "create cluster" not in "".join(again) and "apply -f -" not in "".join(again)
    assert order(again, f"kind export kubeconfig --name mlflow-kubeflow --kubeconfig {own}", "docker build", "check []")

    assert kind.main(["down"]) == 0
    assert calls(programs)[-1] == f"kind delete cluster --name mlflow-kubeflow --kubeconfig {own}"


@pytest.mark.parametrize(
    ("missing", "fails", "version", "says"),
    [
        ("docker", "", "0.30.0", "Docker runs the cluster: install it, and start it. There is no docker here."),
        ("kind", "", "0.30.0", "install kind 0.30.0 or newer. There is no kind here."),
        ("kubectl", "", "0.30.0", "There is no kubectl here."),
        ("", "docker version", "0.30.0", "Docker is installed, but does not answer: start it"),
        ("", "", "kind v0.29.0 go1.24", "install kind 0.30.0 or newer. This is kind v0.29.0 go1.24."),
        ("", "create cluster", "0.30.0", "kind create cluster .* ended with 1. Mend it and run this again"),
        ("", "get clusters", "0.30.0", "kind get clusters ended with 1: it went wrong. Mend it"),
    ],
)
def test_what_is_missing_or_fails_is_said_and_ends_it(programs, capsys, missing, fails, version, says):
    if missing:
        (programs / missing).unlink()
    (programs / "fails").write_text(fails)
    (programs / "version").write_text(version)
    assert kind.main(["up"]) == 1
    assert re.search(says, capsys.readouterr().err)
    seen = calls(programs) if (programs / "calls").exists() else []
    assert not any(line.startswith(("check", "docker build")) for line in seen)


def test_the_image_is_the_one_that_pipelines_name():
    assert kind.IMAGE in (paths.DEPLOY / "mlflow_pipeline.yaml").read_text()
