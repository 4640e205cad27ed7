"""The components of the sweep, against scikit-learn and a real server."""

import json
import subprocess
import sys

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from kfp import compiler
from kfp.dsl import HTML, ClassificationMetrics, Metrics
from mlflow import MlflowClient
from sklearn.dummy import DummyClassifier
from sklearn.model_selection import GridSearchCV, ParameterGrid, StratifiedKFold
from sklearn.svm import SVC

from helpers import names, paths
from helpers.pipelines.mlflow_pipeline import IMAGE, load_iris_data, train_from_csv
from helpers.pipelines.sweep_pipeline import (
    CANDIDATES,
    evaluate,
    hold_out,
    log_sweep,
    pick_best,
    score_candidate,
    sweep_pipeline,
)
from helpers.series import collect

PARTS = ("train_data", "train_target", "test_data", "test_target")


def split(folder):
    load_iris_data(str(folder / "data"), str(folder / "target"))
    files = {name: str(folder / name) for name in PARTS}
    hold_out(str(folder / "data"), str(folder / "target"), **files)
    return files


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    return folder, split(folder)


def outputs(folder):
    return Metrics(uri=str(folder / "metrics")), HTML(uri=str(folder / "report"))


def test_the_rows_held_out_are_those_that_training_keeps_back(parts, tmp_path):
    folder, files = parts
    train, test = pd.read_csv(files["train_data"]), pd.read_csv(files["test_data"])
    assert (len(train), len(test)) == (120, 30)
    whole = pd.read_csv(folder / "data")
    assert sorted(map(tuple, pd.concat([train, test]).to_numpy())) == sorted(map(tuple, whole.to_numpy()))
    for kernel in ("linear", "rbf", "poly", "sigmoid"):
        model = SVC(kernel=kernel).fit(train, pd.read_csv(files["train_target"])["target"])
        names = ("model", "input_example", "signature", "conda_env", "params", "metrics")
        trained = {name: str(tmp_path / name) for name in names}
        train_from_csv(str(folder / "data"), str(folder / "target"), kernel, **trained)
        with open(trained["metrics"]) as file:
            assert json.load(file)["accuracy"] == model.score(test, pd.read_csv(files["test_target"])["target"])


@pytest.mark.parametrize(
    "grid",
    [
        {"kernel": ["linear", "rbf"], "C": [0.1, 1.0, 10.0]},
        {"kernel": ["poly", "sigmoid"], "C": [0.01, 3.0]},
        {"kernel": ["rbf"], "C": [100.0, 0.001, 1.0]},
    ],
    ids=str,
)
def test_best_is_that_of_scikit_learns_own_search(parts, tmp_path, grid):
    _, files = parts
    candidates = list(ParameterGrid(grid))
    scores = [score_candidate(files["train_data"], files["train_target"], candidate) for candidate in candidates]
    best = pick_best(candidates, scores, *outputs(tmp_path))
    folds = StratifiedKFold(n_splits=5, shuffle=True, random_state=7)
    X, y = pd.read_csv(files["train_data"]), pd.read_csv(files["train_target"])["target"]
    search = GridSearchCV(SVC(), grid, cv=folds).fit(X, y)
    np.testing.assert_allclose(scores, search.cv_results_["mean_test_score"], rtol=0, atol=1e-12)
    assert best._asdict() == search.best_params_


def test_of_several_best_the_first_is_picked_and_shown(tmp_path):
    candidates = [{"C": 1.0, "kernel": kernel} for kernel in ("poly", "linear", "rbf")]
    metrics, report = outputs(tmp_path)
    assert pick_best(candidates, [0.5, 0.9, 0.9], metrics, report) == ("linear", 1.0)
    assert metrics.metadata == {"cv_accuracy": 0.9, "candidates": 3}
    with open(report.path) as file:
        text = file.read()
    assert text.count("<tr") == 4 and text.index("linear") < text.index("yes") < text.index("rbf")


def test_sweep_is_a_finished_parent_with_finished_children(servers):
    values = {"experiment_name": "sweep", "mlflow_tracking_uri": servers.tracking_uri}
    scores = [0.1 * number for number in range(len(CANDIDATES))]
    parent = log_sweep(CANDIDATES, scores, job_id="one", **values)
    again = log_sweep(CANDIDATES, scores, job_id="one", **values)
    other = log_sweep(CANDIDATES[:1], [0.5], job_id="two", **values)
    assert parent == again != other
    client = MlflowClient(servers.tracking_uri)
    found = client.get_run(parent)
    assert found.info.status == "FINISHED" and found.data.metrics == {"best_cv_accuracy": pytest.approx(0.5)}
    children = client.search_runs([found.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert {run.info.status for run in children} == {"FINISHED"}
    logged = sorted((run.data.metrics["cv_accuracy"], run.data.params) for run in children)
    assert [score for score, _ in logged] == pytest.approx(scores)
    assert [params for _, params in logged] == [{name: str(value) for name, value in c.items()} for c in CANDIDATES]


def test_a_sweep_that_cannot_be_logged_leaves_no_run_running(servers, monkeypatch):
    values = {"experiment_name": "sweep-broken", "mlflow_tracking_uri": servers.tracking_uri, "job_id": "broken"}
    log_batch = MlflowClient.log_batch

    def fail_at_last(self, run_id, **more):
        if more["metrics"][0].value == 0.5:
            raise OSError("the server went away")
        return log_batch(self, run_id, **more)

    client = MlflowClient(servers.tracking_uri)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="went away"):
        patch.setattr(MlflowClient, "log_batch", fail_at_last)
        log_sweep(CANDIDATES[:2], [0.4, 0.5], **values)
    experiment = client.get_experiment_by_name("sweep-broken").experiment_id
    assert sorted(run.info.status for run in client.search_runs([experiment])) == ["FAILED", "FAILED", "FINISHED"]
    log_sweep(CANDIDATES[:2], [0.4, 0.5], **values)  # the second try finds the runs of the first
    assert [run.info.status for run in client.search_runs([experiment])] == ["FINISHED"] * 3


def test_what_happens_on_the_server_is_tried_again(tmp_path):
    compiler.Compiler().compile(sweep_pipeline, str(tmp_path / "sweep.yaml"))
    tasks = next(yaml.safe_load_all((tmp_path / "sweep.yaml").read_text()))["root"]["dag"]["tasks"]
    again = {name for name, task in tasks.items() if task.get("retryPolicy", {}).get("maxRetryCount")}
    assert again == {"log-sweep", "upload-sklearn-model-to-mlflow", "evaluate", "promote-if-better"}


def test_confusion_matrix_counts_species_against_answers(servers, parts, tmp_path):
    _, files = parts
    mlflow.set_tracking_uri(servers.tracking_uri)
    client = MlflowClient(servers.tracking_uri)
    run_id = client.create_run("0").info.run_id
    model = DummyClassifier(strategy="constant", constant=2)
    model.fit(pd.read_csv(files["train_data"]), pd.read_csv(files["train_target"])["target"])
    mlflow.sklearn.save_model(model, tmp_path / "svc", pip_requirements=["scikit-learn"])
    client.log_artifacts(run_id, str(tmp_path / "svc"), "svc")
    confusion = ClassificationMetrics(uri=str(tmp_path / "confusion"))
    evaluate(
        files["test_data"],
        files["test_target"],
        run_id,
        "svc",
        servers.tracking_uri,
        servers.s3_endpoint_url,
        confusion,
    )
    rows = confusion.metadata["confusionMatrix"]["rows"]
    assert [row["row"] for row in rows] == [[0, 0, 10], [0, 0, 10], [0, 0, 10]]


@pytest.mark.parametrize("text", ["", " , ", "rbf,1", "0", "-1", "nan", "inf"])
def test_numbers_are_refused_by_name(text):
    with pytest.raises(paths.SeriesError, match="penalties="):
        names.numbers(text, "penalties")


def test_numbers_and_items():
    assert names.numbers(" 0.1, 1,1 ,10,", "penalties") == [0.1, 1.0, 10.0]
    assert names.items("rbf, linear,rbf") == ["rbf", "linear"]


def test_file_compiles_with_keys_for_three_tasks_and_no_installation(tmp_path):
    done = subprocess.run(
        [sys.executable, collect.PIPELINES / "sweep_pipeline.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    specification, for_kubernetes = yaml.safe_load_all((tmp_path / "sweep_pipeline.yaml").read_text())
    executors = for_kubernetes["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    secrets = {name: len(executor["secretAsEnv"]) for name, executor in executors.items() if "secretAsEnv" in executor}
    filled = {"upload-sklearn-model-to-mlflow": 2, "evaluate": 2, "promote-if-better": 2, "log-sweep": 1}
    assert secrets == {f"exec-{name}": count for name, count in filled.items()}, "the last needs a log-in and no keys"
    for name, executor in specification["deploymentSpec"]["executors"].items():
        container = executor["container"]
        assert container["image"] == IMAGE and executors[name]["securityContext"]["runAsNonRoot"], name
        before_the_program = container["command"][:2] + [part[:2000] for part in container["command"][2:3]]
        assert "pip install" not in " ".join(before_the_program), name
