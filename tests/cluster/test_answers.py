"""What a real KFP 2.17.0 answered, recorded: the stand-in answers the same, and the helpers understand it."""

import json
import re
import time
import types

import pytest
import requests
from support.kfp_server import serve

from helpers import cluster, paths
from helpers.cluster import api

RECORDED = json.loads((paths.ROOT / "tests" / "cluster" / "answers.json").read_text())
ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def recorded_run(number):
    """A run as the client's classes hold it."""

    def held(value):
        if isinstance(value, dict):
            names = {"display_name": None, "state": None, "child_tasks": None, "start_time": "", "run_details": None}
            return types.SimpleNamespace(**names | {key: held(part) for key, part in value.items()})
        return [held(part) for part in value] if isinstance(value, list) else value

    return held(RECORDED[number]["response"])


def by_path(*words):
    return [n for n, one in enumerate(RECORDED) if all(word in f"{one['method']} {one['path']}" for word in words)]


@pytest.mark.parametrize(
    ("number", "states"),
    [
        (14, {"load-iris-data": "CACHED", "train-from-csv": "CACHED", "upload-sklearn-model-to-mlflow": "SUCCEEDED"}),
        (15, {"load-iris-data": "CACHED", "train-from-csv": "FAILED"}),
    ],
)
def test_cached_tasks_are_told_from_those_that_ran(number, states):
    run = recorded_run(number)
    tasks = cluster.task_details(run, paths.DEPLOY / "mlflow_pipeline.yaml")
    found = {task.display_name: cluster.state_of(run, task) for task in tasks}
    assert {name: found[name] for name in states} == states


def test_log_of_a_failed_task_is_asked_for_where_the_api_has_it():
    (log,) = [n for n in by_path("v1alpha1") if isinstance(RECORDED[n]["response"], str)]
    run_id, asked = re.search(r"runs/(.+)/nodes/(.+)/log", RECORDED[log]["path"]).groups()
    (run,) = by_path("GET", f"v2beta1/runs/{run_id}")
    (node,) = cluster.failed_nodes(recorded_run(run))
    assert asked.endswith(node.rpartition("-")[2])


def test_a_log_that_is_not_there_is_said_though_the_status_is_200(monkeypatch):
    (lost,) = [n for n in by_path("v1alpha1") if isinstance(RECORDED[n]["response"], dict)]
    text = json.dumps(RECORDED[lost]["response"], separators=(",", ":"))
    monkeypatch.setattr(requests, "get", lambda *_, **__: types.SimpleNamespace(ok=True, text=text))
    with pytest.raises(cluster.ClusterError, match="KFP has no log of node-1; .*pipeline/runid=7"):
        cluster.read_log("http://h", None, "7", "node-1")


@pytest.mark.parametrize("number", [n for n, one in enumerate(RECORDED) if one["status"] in (401, 403)])
def test_refusals_of_the_real_one_are_told_with_causes(number):
    one = RECORDED[number]
    answer = types.SimpleNamespace(status_code=one["status"], text=json.dumps(one["response"]), ok=False, reason="")
    said = api._refusal("http://h", answer, "a-token" if one["token"] else None, "team-b")
    expected = {(401, False): "wants a token", (401, True): "another audience", (403, True): "not into the namespace"}
    assert expected[one["status"], one["token"]] in said


def test_an_older_backend_names_the_pod_below_the_task():
    """As 2.15.0 answered: nothing is wrapped, and what fails is the task's own executor."""

    def detail(name, state, child):
        return types.SimpleNamespace(
            display_name=name,
            state=state,
            child_tasks=[types.SimpleNamespace(pod_name=f"mlflow-pipeline-2kwvq-{child}")],
        )

    details = [
        detail("executor", "SKIPPED", 2900900850),
        detail("root", "FAILED", 3856741291),
        detail("mlflow-pipeline-2kwvq", "FAILED", 2149745182),
        detail("train-from-csv", "FAILED", 1037620764),
        detail("executor", "FAILED", 2767464086),
    ]
    run = types.SimpleNamespace(run_details=types.SimpleNamespace(task_details=details))
    assert cluster.failed_nodes(run) == ["mlflow-pipeline-2kwvq-1037620764"]


# --- the stand-in --------------------------------------------------------------------------------


def shape(value):
    """Return keys and types; of a list that of its first entry."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    return [shape(part) for part in value[:1]] if isinstance(value, list) else type(value).__name__


def send(url, one, ids, headers):
    """Send a recorded request with the stand-in's ids in place of the recorded ones."""

    def own(text):
        return ID.sub(lambda found: ids.get(found[0], found[0]), text)

    path, body = own(one["path"]), one["request"]
    if isinstance(body, str) and body.startswith("--"):
        text = (paths.DEPLOY / "mlflow_pipeline.yaml").read_text() if "hello: world" not in body else "hello: world\n"
        return requests.request(one["method"], url + path, files={"uploadfile": ("p.yaml", text)}, headers=headers)
    body = json.loads(own(json.dumps(body))) if body else None
    return requests.request(one["method"], url + path, json=body, headers=headers)


def words(body):
    """Return an error's code and first words, as a reader sees them, without ids."""
    return body.get("code"), ID.sub("ID", body.get("message") or body.get("error_message")).split(":")[0]


NONE = "00000000-0000-0000-0000-000000000000"
# In the order in which they were sent. Left out is what notebook 06 does not ask for (ending and archiving a run,
# other pipelines), and what differs by what lay on that cluster: lists of runs, and all for several users, further below.
REPLAYED = [0, *range(2, 7), *range(14, 15), *range(16, 21), 30, *range(38, 48)]


def named(name):
    return lambda one, found: f'"{name}": "{found}"' in json.dumps(one["request"])


OF = {
    "run_id": lambda one, found: f"/runs/{found}" in one["path"],
    "recurring_run_id": lambda one, found: f"/recurringruns/{found}" in one["path"],
    "pipeline_version_id": lambda one, found: (
        f"/versions/{found}" in one["path"] or named("pipeline_version_id")(one, found)
    ),
    "experiment_id": named("experiment_id"),
    "pipeline_id": lambda one, found: True,
}


def test_the_stand_in_answers_as_the_real_one_did():
    ids, made, differences = {}, {}, []
    with serve() as url:
        for number in REPLAYED:
            one = RECORDED[number]
            # Some were recorded another time, of another run, version, experiment or pipeline: take what is here.
            for found in ID.findall(one["path"] + json.dumps(one["request"])):
                if found not in ids and found != NONE:
                    ids[found] = made[next(kind for kind, at in OF.items() if at(one, found))]
            answer = send(url, one, ids, {})
            while number == 14 and answer.json()["state"] in ("PENDING", "RUNNING"):
                time.sleep(0.5)
                answer = send(url, one, ids, {})
            theirs, ours = one["response"], answer.json()
            if answer.status_code != one["status"]:
                differences.append((number, one["path"], one["status"], answer.status_code, answer.text[:200]))
            elif one["status"] >= 400:
                if shape(theirs) != shape(ours) or words(theirs) != words(ours):
                    differences.append((number, one["path"], str(theirs)[:220], str(ours)[:220]))
            else:
                for name, value in theirs.items():
                    if name.endswith("_id") and isinstance(ours.get(name), str):
                        ids[value] = made[name] = ours[name]
                for version in ours.get("pipeline_versions", []):
                    made["pipeline_version_id"] = version["pipeline_version_id"]
                theirs = {key: value for key, value in theirs.items() if value != "(as sent)"}
                if missing := {k: v for k, v in shape(theirs).items() if type(v) is not type(shape(ours).get(k))}:
                    differences.append((number, one["path"], missing, sorted(shape(ours))))
    assert not differences, "\n".join(map(str, differences))
