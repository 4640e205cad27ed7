"""The image and its workflow."""

import json
import os
import re
import subprocess

import pytest
import yaml

from helpers import paths
from helpers.pipelines import mlflow_pipeline

ROOT = paths.ROOT
DEPLOY = ROOT / "deploy"


@pytest.fixture
def dockerfile():
    """The instructions of the Dockerfile, as pairs of a word and the rest."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "image" / "Dockerfile").read_text(), flags=re.M)
    return [tuple(line.split(None, 1)) for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]


def test_the_image_is_what_tasks_and_notebooks_need(dockerfile):
    given = {}
    for word, rest in dockerfile:
        given.setdefault(word, []).append(rest)
    assert set(given) <= {"FROM", "COPY", "RUN", "ENV", "USER", "WORKDIR", "EXPOSE", "CMD"}
    assert given["FROM"] == [mlflow_pipeline.STOCK_IMAGE]
    assert given["USER"] == ["1000"] and given["EXPOSE"] == ["8888"] and given["WORKDIR"] == ["/home/jovyan"]
    assert "HOME=/home/jovyan" in given["ENV"][0] and "NB_PREFIX=/" in given["ENV"][0]
    assert any("--require-hashes -r /opt/series/requirements.lock" in step for step in given["RUN"])
    assert any(
        "useradd --uid 1000" in step and step.split("useradd")[1].split("&&")[0].strip().endswith("jovyan")
        for step in given["RUN"]
    )
    assert json.loads(given["CMD"][-1]) == ["start-notebook"]
    assert dockerfile.index(("USER", "1000")) > max(
        n for n, (word, _) in enumerate(dockerfile) if word in ("RUN", "COPY")
    )


def test_what_the_image_copies_exists_and_is_in_the_build_context(dockerfile):
    ignore = (DEPLOY / "image" / "Dockerfile.dockerignore").read_text().split()
    assert ignore[0] == "*"
    let_in = {str(p.relative_to(ROOT)) for rule in ignore if rule[0] == "!" for p in ROOT.glob(rule[1:])}
    copied = [p for w, r in dockerfile if w == "COPY" for p in r.split()[:-1] if not p.startswith("--")]
    for source in copied:
        path = source.rstrip("/")
        assert (ROOT / path).exists(), f"{source} does not exist"
        assert any(p == path or p.startswith(f"{path}/") for p in let_in), f"{source} is kept out of the build"
    assert {
        "requirements.lock",
        "helpers",
        "notebooks",
        "deploy/image/start-notebook",
        "LICENSE",
        "README.md",
    } <= let_in


def test_everybody_calls_the_image_by_the_same_name():
    image = mlflow_pipeline.IMAGE
    name, _, tag = image.rpartition(":")
    for path in ("deploy/image/Dockerfile", "deploy/README.md", ".github/workflows/image.yml"):
        mentioned = re.findall(rf"{re.escape(name)}:[\w.]+", (ROOT / path).read_text())
        assert mentioned and set(mentioned) == {image}, path
    assert workflow()["env"]["IMAGE"] == image
    assert f"tag such as `v{tag}`" in (DEPLOY / "README.md").read_text()


def test_the_documented_change_makes_the_pipeline_use_a_published_image():
    (command,) = re.findall(r"^sed (\S+|'.*?') deploy/mlflow_pipeline.yaml", (DEPLOY / "README.md").read_text(), re.M)
    done = subprocess.run(
        ["sed", command.strip("'"), DEPLOY / "mlflow_pipeline.yaml"], capture_output=True, text=True, check=True
    )
    executors = next(yaml.safe_load_all(done.stdout))["deploymentSpec"]["executors"].values()
    assert {e["container"]["image"] for e in executors} == {
        mlflow_pipeline.IMAGE.replace("localhost/", "ghcr.io/OWNER/")
    }


def workflow():
    return yaml.safe_load((ROOT / ".github" / "workflows" / "image.yml").read_text())


def test_the_workflow_runs_pinned_actions_with_the_least_rights():
    found = workflow()
    assert found[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads the word "on" as true
    assert found["permissions"] == {}
    build, publish = (found["jobs"][name] for name in ("build", "publish"))
    assert build["permissions"] == {"contents": "read", "packages": "write"}
    assert publish["permissions"] == {"packages": "write"} and publish["needs"] == "build"
    processors = [entry["processor"] for entry in build["strategy"]["matrix"]["include"]]
    assert (
        all(f'"$name-{processor}"' in publish["steps"][0]["run"] for processor in processors) and len(processors) == 2
    )
    uses = [step["uses"] for step in build["steps"] if "uses" in step]
    assert uses and all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", use) for use in uses), uses
    for step in build["steps"] + publish["steps"]:
        assert ("uses" in step) != ("run" in step)
        assert "${{" not in step.get("run", ""), "what comes from outside goes through env"
        assert subprocess.run(["bash", "-n", "-c", step.get("run", "")]).returncode == 0
    assert build["steps"][0]["with"] == {"persist-credentials": False}
    assert any("docker build -f deploy/image/Dockerfile" in step.get("run", "") for step in build["steps"])


def test_the_workflow_publishes_only_a_tag_that_is_the_images_version():
    (check,) = [s["run"] for s in workflow()["jobs"]["build"]["steps"] if s.get("name", "").startswith("The tag")]
    version = mlflow_pipeline.IMAGE.rpartition(":")[2]
    for tag, code in ((f"v{version}", 0), ("v9.9.9", 1), (version, 1)):
        own = os.environ | {"IMAGE": mlflow_pipeline.IMAGE, "GITHUB_REF_NAME": tag}
        assert subprocess.run(["bash", "-e", "-c", check], env=own).returncode == code, tag


@pytest.mark.parametrize(("given", "port"), [("tcp://10.0.0.1:80", "8888"), ("8899", "8899"), (None, "unset")])
def test_a_service_called_jupyter_does_not_choose_the_port(tmp_path, given, port):
    """Kubernetes sets JUPYTER_PORT to the address of a Service of that name."""
    for name in ("python", "jupyter"):
        (tmp_path / name).write_text('#!/bin/sh\n[ "$1" = lab ] && echo "port ${JUPYTER_PORT-unset}"; exit 0\n')
        (tmp_path / name).chmod(0o755)
    own = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)} | ({"JUPYTER_PORT": given} if given else {})
    done = subprocess.run(["sh", DEPLOY / "image" / "start-notebook"], env=own, capture_output=True, text=True)
    assert done.stdout == f"port {port}\n", done.stderr
