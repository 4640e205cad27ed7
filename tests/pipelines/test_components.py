"""The three components as plain functions, the last one against real servers."""

import json

import dill
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.types import DataType
from sklearn.datasets import load_iris
from support.place import bucket

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


def test_upload_makes_a_finished_run_whose_model_predicts_the_same(servers, data, trained):
    where = {"model_name": "iris-svc_1.0", "experiment_name": "components", "job_id": "job-1"}
    where |= {"mlflow_tracking_uri": servers.tracking_uri, "mlflow_s3_endpoint_url": servers.s3_endpoint_url or ""}
    run_id = upload_sklearn_model_to_mlflow(**trained, **where)
    client = MlflowClient(servers.tracking_uri)
    run = client.get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "iris-svc_1.0")
    with open(trained["params"]) as params, open(trained["metrics"]) as metrics:
        assert run.data.params == {name: str(value) for name, value in json.load(params).items()}
        assert run.data.metrics == json.load(metrics)
    assert run.data.tags["kfp_job_id"] == "job-1"

    files = {file.path.split("/")[1] for file in client.list_artifacts(run_id, "iris-svc_1.0")}
    assert {"MLmodel", "model.pkl", "conda.yaml", "requirements.txt", "input_example.json"} <= files
    rows = pd.read_csv(data / "data")
    uploaded = mlflow.pyfunc.load_model(f"runs:/{run_id}/iris-svc_1.0")
    np.testing.assert_array_equal(uploaded.predict(rows), unpickled(trained["model"]).predict(rows))
    assert uploaded.metadata.signature == unpickled(trained["signature"])
    if weed():
        key = f"{run.info.artifact_uri.removeprefix(f's3://{stack.BUCKET}/')}/iris-svc_1.0/MLmodel"
        assert bucket().Object(key).content_length
