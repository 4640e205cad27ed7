"""The three components as plain functions, the last one against real servers."""

import json
import os
import shutil

import boto3
import dill
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.types import DataType
from sklearn.datasets import load_iris

from helpers import stack
from helpers.pipelines.mlflow_pipeline import load_iris_data, train_from_csv, upload_sklearn_model_to_mlflow
from helpers.stack.servers import weed

TRAINED = ("model", "input_example", "signature", "conda_env", "params", "metrics")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    load_iris_data(str(folder / "data"), str(folder / "target"))
    return folder


def train(data, folder, kernel: str = "rbf") -> dict[str, str]:
    files = {name: str(folder / name) for name in TRAINED}
    train_from_csv(train_data=str(data / "data"), train_target=str(data / "target"), kernel=kernel, **files)
    return files


def unpickled(path):
    with open(path, "rb") as file:
        return dill.load(file)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    return train(data, tmp_path_factory.mktemp("trained"))


# --- load and train ------------------------------------------------------------------------------


def test_load_writes_iris_as_two_tables(data):
    rows, target = pd.read_csv(data / "data"), pd.read_csv(data / "target")
    assert rows.shape == (150, 4) and target.shape == (150, 1)
    assert list(rows.columns) == ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"]
    assert list(target.columns) == ["target"]
    assert target["target"].value_counts().to_dict() == {0: 50, 1: 50, 2: 50}
    np.testing.assert_array_equal(rows.to_numpy(), load_iris().data)


def test_training_writes_what_mlflow_needs(data, trained):
    model, example = unpickled(trained["model"]), unpickled(trained["input_example"])
    assert model.kernel == "rbf" and list(model.classes_) == [0, 1, 2]
    assert example.shape == (1, 4)

    signature = unpickled(trained["signature"])
    assert signature.inputs.input_names() == list(pd.read_csv(data / "data").columns)
    assert set(signature.inputs.input_types()) == {DataType.double}
    (output,) = signature.outputs.inputs
    assert (output.type, output.shape) == (np.dtype("int64"), (-1,))

    environment = unpickled(trained["conda_env"])
    python, pip, packages = environment["dependencies"]
    assert python.startswith("python=3.") and pip == "pip"
    assert [package.split("==")[0] for package in packages["pip"]] == ["mlflow", "dill", "pandas", "scikit-learn"]
    assert f"mlflow=={mlflow.__version__}" in packages["pip"]
    assert environment["name"] and environment["channels"]

    with open(trained["params"]) as params, open(trained["metrics"]) as metrics:
        assert json.load(params)["kernel"] == "rbf"
        metrics = json.load(metrics)
    assert set(metrics) == {"accuracy", "f1_macro"}
    # Thirty rows that it did not learn from: a score of 1 over all rows would not be believable.
    assert all(0.8 < value <= 1 for value in metrics.values())
    assert metrics["accuracy"] * 30 == pytest.approx(round(metrics["accuracy"] * 30))


def test_training_twice_writes_the_same(data, trained, tmp_path):
    again = train(data, tmp_path)
    for name in TRAINED:
        with open(trained[name], "rb") as one, open(again[name], "rb") as two:
            assert one.read() == two.read(), name


def test_kernel_makes_a_difference(data, trained, tmp_path):
    linear = unpickled(train(data, tmp_path, "linear")["model"])
    assert linear.kernel == "linear"
    assert len(linear.support_) != len(unpickled(trained["model"]).support_)


@pytest.mark.parametrize("kernel", ["", "RBF", "precomputed", "gauss"])
def test_training_refuses_a_kernel_that_svc_does_not_know(data, tmp_path, kernel):
    with pytest.raises(ValueError, match="unknown to SVC: take one of linear, poly, rbf, sigmoid"):
        train(data, tmp_path, kernel)
    assert not list(tmp_path.iterdir())


# --- upload --------------------------------------------------------------------------------------


@pytest.fixture
def arguments(servers, trained, tmp_path, monkeypatch):
    """What the upload takes, in an experiment of the test's own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield trained | {
        "model_name": "svc",
        "experiment_name": tmp_path.name,
        "job_id": "job-1",
        "mlflow_tracking_uri": servers.tracking_uri,
        "mlflow_s3_endpoint_url": servers.s3_endpoint_url or "",
    }
    mlflow.set_tracking_uri(None)


def runs(arguments) -> list:
    client = MlflowClient(arguments["mlflow_tracking_uri"])
    experiment = client.get_experiment_by_name(arguments["experiment_name"])
    return client.search_runs([experiment.experiment_id]) if experiment else []


def test_upload_makes_a_finished_run_whose_model_predicts_the_same(data, arguments):
    run_id = upload_sklearn_model_to_mlflow(**arguments | {"model_name": "iris-svc_1.0"})
    (run,) = runs(arguments)
    assert (run.info.run_id, run.info.status, run.info.run_name) == (run_id, "FINISHED", "iris-svc_1.0")
    with open(arguments["params"]) as params, open(arguments["metrics"]) as metrics:
        assert run.data.params == {name: str(value) for name, value in json.load(params).items()}
        assert run.data.metrics == json.load(metrics)
    assert run.data.tags["kfp_job_id"] == "job-1"

    client = MlflowClient()
    assert [file.path for file in client.list_artifacts(run_id)] == ["iris-svc_1.0"]
    files = {file.path.split("/")[1] for file in client.list_artifacts(run_id, "iris-svc_1.0")}
    assert {"MLmodel", "model.pkl", "conda.yaml", "requirements.txt", "input_example.json"} <= files
    rows = pd.read_csv(data / "data")
    uploaded = mlflow.pyfunc.load_model(f"runs:/{run_id}/iris-svc_1.0")
    np.testing.assert_array_equal(uploaded.predict(rows), unpickled(arguments["model"]).predict(rows))
    assert uploaded.metadata.signature == unpickled(arguments["signature"])

    if os.environ.get("MLFLOW_S3_ENDPOINT_URL"):
        store = boto3.Session().client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
        prefix = run.info.artifact_uri.removeprefix(f"s3://{stack.BUCKET}/")
        found = store.list_objects_v2(Bucket=stack.BUCKET, Prefix=prefix)["Contents"]
        assert f"{prefix}/iris-svc_1.0/MLmodel" in {entry["Key"] for entry in found}


def test_repeated_task_finds_its_run_and_another_job_makes_another(arguments):
    first = upload_sklearn_model_to_mlflow(**arguments)
    assert upload_sklearn_model_to_mlflow(**arguments) == first
    assert [(run.info.run_id, run.info.status) for run in runs(arguments)] == [(first, "FINISHED")]
    assert upload_sklearn_model_to_mlflow(**arguments | {"job_id": "job-2"}) != first
    assert upload_sklearn_model_to_mlflow(**arguments | {"model_name": "second"}) != first
    assert len(runs(arguments)) == 3


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://nowhere.invalid:5000"])
def test_upload_knows_a_dead_server_in_seconds(arguments, address, no_longer_than):
    with no_longer_than(60), pytest.raises(ConnectionError, match=f"No MLflow server answers at {address}"):
        upload_sklearn_model_to_mlflow(**arguments | {"mlflow_tracking_uri": address})


def test_upload_to_a_deleted_experiment_says_so_and_makes_no_run(arguments):
    client = MlflowClient(arguments["mlflow_tracking_uri"])
    experiment = client.create_experiment(arguments["experiment_name"])
    client.delete_experiment(experiment)
    with pytest.raises(MlflowException, match="deleted experiment"):
        upload_sklearn_model_to_mlflow(**arguments)
    assert not client.search_runs([experiment], run_view_type=mlflow.entities.ViewType.ALL)


@pytest.mark.parametrize("damaged", TRAINED[:4])
def test_damaged_file_is_known_before_there_is_a_run(arguments, tmp_path, damaged):
    shutil.copy(arguments[damaged], tmp_path / "damaged")
    os.truncate(tmp_path / "damaged", 20)
    with pytest.raises((dill.UnpicklingError, EOFError, ValueError)):
        upload_sklearn_model_to_mlflow(**arguments | {damaged: str(tmp_path / "damaged")})
    assert not runs(arguments)


def test_damaged_metrics_do_not_leave_a_run_running(arguments, tmp_path):
    (tmp_path / "damaged").write_text('{"accuracy": ')
    with pytest.raises((RuntimeError, ValueError)):
        upload_sklearn_model_to_mlflow(**arguments | {"metrics": str(tmp_path / "damaged")})
    assert [run.info.status for run in runs(arguments)] in ([], ["FAILED"])


@pytest.mark.skipif(weed() is None, reason="SeaweedFS has no build for this machine")
def test_wrong_key_fails_the_run_with_its_cause_and_the_right_one_mends_it(place, arguments):
    # In a process of its own: MLflow keeps its S3 client, and so the keys, for minutes.
    done = place.run(
        f"""
        from helpers.pipelines.mlflow_pipeline import upload_sklearn_model_to_mlflow
        upload_sklearn_model_to_mlflow(**{arguments!r})
        """,
        timeout=120,
        AWS_SECRET_ACCESS_KEY="wrong",
    )
    last = [line for line in done.stderr.splitlines() if line][-1]
    assert last.startswith("RuntimeError: Run ") and "SignatureDoesNotMatch" in last
    assert "AWS_SECRET_ACCESS_KEY" in last and os.environ["AWS_SECRET_ACCESS_KEY"] not in done.stderr
    (run,) = runs(arguments)
    assert run.info.status == "FAILED"
    assert "SignatureDoesNotMatch" in run.data.tags["failure"]

    assert upload_sklearn_model_to_mlflow(**arguments) == run.info.run_id
    (run,) = runs(arguments)
    assert run.info.status == "FINISHED"
    assert "failure" not in run.data.tags


@pytest.mark.skipif(weed() is None, reason="SeaweedFS has no build for this machine")
def test_store_that_is_down_fails_the_run(place, arguments):
    done = place.run(
        f"""
        from helpers.pipelines.mlflow_pipeline import upload_sklearn_model_to_mlflow
        upload_sklearn_model_to_mlflow(**{arguments | {"mlflow_s3_endpoint_url": "http://127.0.0.1:9"}!r})
        """,
        timeout=120,
    )
    assert "RuntimeError: Run " in done.stderr and "http://127.0.0.1:9" in done.stderr.splitlines()[-1]
    assert [run.info.status for run in runs(arguments)] == ["FAILED"]


@pytest.mark.skipif(weed() is None, reason="SeaweedFS has no build for this machine")
def test_a_file_that_the_store_does_not_list_fails_the_run(arguments, monkeypatch):
    upload = MlflowClient.log_artifact

    def lose_one(client, run_id, folder):  # as a store does whose disk was full
        upload(client, run_id, folder)
        bucket, _, prefix = client.get_run(run_id).info.artifact_uri.removeprefix("s3://").partition("/")
        s3 = boto3.resource("s3", endpoint_url=arguments["mlflow_s3_endpoint_url"])
        s3.Object(bucket, f"{prefix}/{arguments['model_name']}/MLmodel").delete()

    monkeypatch.setattr(MlflowClient, "log_artifact", lose_one)
    with pytest.raises(RuntimeError, match="does not list every file"):
        upload_sklearn_model_to_mlflow(**arguments)
    monkeypatch.undo()
    (run,) = runs(arguments)
    assert run.info.status == "FAILED" and "does not list" in run.data.tags["failure"]
    assert upload_sklearn_model_to_mlflow(**arguments) == run.info.run_id
    assert [run.info.status for run in runs(arguments)] == ["FINISHED"]
