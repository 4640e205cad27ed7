"""Both uploads, the first and the lean one, against a real server: what a run has, and what ends one."""

import os

import boto3
import mlflow
import pytest
from kfp.dsl import Metrics, Model
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact import s3_artifact_repo
from sklearn.datasets import load_iris
from support.lean import train as train_lean

from helpers.pipelines.lean_pipeline import upload_model_to_mlflow
from helpers.pipelines.mlflow_pipeline import load_iris_data, train_from_csv, upload_sklearn_model_to_mlflow
from helpers.pipelines.sweep_pipeline import log_sweep
from helpers.stack.servers import weed

TRAINED = ("model", "input_example", "signature", "conda_env", "params", "metrics")
needs_weed = pytest.mark.skipif(weed() is None, reason="SeaweedFS has no build for this machine")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What the trainings hand to the uploads, as KFP does."""
    folder = tmp_path_factory.mktemp("trained")
    data, target = str(folder / "data"), str(folder / "target")
    load_iris_data(data, target)
    first = {name: str(folder / name) for name in TRAINED}
    train_from_csv(data, target, "rbf", **first)
    model, metrics, _ = train_lean(folder, load_iris(as_frame=True).frame, max_iter=5)
    return {
        "first": (upload_sklearn_model_to_mlflow, first),
        "lean": (upload_model_to_mlflow, {"model": model, "metrics": metrics}),
    }


class Upload:
    """An upload of one test's own job, to an experiment of its own."""

    def __init__(self, function, files, servers, name):
        self.function, self.client = function, MlflowClient(servers.tracking_uri)
        self.arguments = files | {"model_name": "svc", "experiment_name": name, "job_id": "job-1"}
        self.arguments |= {"mlflow_tracking_uri": servers.tracking_uri}
        self.arguments |= {"mlflow_s3_endpoint_url": servers.s3_endpoint_url or "", "patience": 0}
        mlflow.set_tracking_uri(servers.tracking_uri)

    def __call__(self, **changes):
        return self.function(**self.arguments | changes)

    def runs(self):
        experiment = self.client.get_experiment_by_name(self.arguments["experiment_name"])
        return self.client.search_runs([experiment.experiment_id]) if experiment else []


@pytest.fixture(params=["first", "lean"])
def upload(request, servers, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield Upload(*trained[request.param], servers, tmp_path.name)
    mlflow.set_tracking_uri(None)


@pytest.fixture
def lean(servers, trained, tmp_path):
    yield Upload(*trained["lean"], servers, tmp_path.name)
    mlflow.set_tracking_uri(None)


@pytest.fixture
def first(servers, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield Upload(*trained["first"], servers, tmp_path.name)
    mlflow.set_tracking_uri(None)


def test_a_repeated_task_finds_its_run_and_another_job_or_model_makes_another(upload):
    run_id = upload()
    assert upload() == run_id
    assert [(run.info.run_id, run.info.status, run.info.run_name) for run in upload.runs()] == [
        (run_id, "FINISHED", "svc")
    ]
    assert upload(job_id="job-2") != run_id != upload(model_name="iris-svc_1.0")
    assert len(upload.runs()) == 3


@pytest.mark.parametrize(
    ("address", "says"),
    [("http://127.0.0.1:9", "No MLflow server answers at"), ("http://nowhere.invalid:5000", "There is no host of")],
)
def test_a_dead_server_is_named_in_seconds(upload, address, says, no_longer_than):
    with no_longer_than(60), pytest.raises(ConnectionError, match=f"{says}.* {address}"):
        upload(mlflow_tracking_uri=address)


def test_a_deleted_experiment_is_said_and_gets_no_run(upload):
    upload.client.delete_experiment(number := upload.client.create_experiment(upload.arguments["experiment_name"]))
    with pytest.raises((MlflowException, ValueError), match="deleted"):
        upload()
    assert not upload.client.search_runs([number], run_view_type=mlflow.entities.ViewType.ALL)


@needs_weed
def test_a_wrong_key_fails_the_run_with_its_cause_and_the_right_one_mends_it(upload):
    def as_a_new_process():  # boto3 and MLflow keep their clients, keys and all; a task is a process of its own
        boto3.DEFAULT_SESSION = None
        s3_artifact_repo._cached_get_s3_client.cache_clear()

    right = os.environ["AWS_SECRET_ACCESS_KEY"]
    os.environ["AWS_SECRET_ACCESS_KEY"] = "not-the-secret"
    as_a_new_process()
    with pytest.raises(RuntimeError, match="SignatureDoesNotMatch.*AWS_SECRET_ACCESS_KEY") as raised:
        upload()
    (run,) = upload.runs()
    assert run.info.status == "FAILED" and "SignatureDoesNotMatch" in run.data.tags["failure"]
    assert "not-the-secret" not in f"{raised.value}{run.data.tags}" and right not in str(raised.value)
    os.environ["AWS_SECRET_ACCESS_KEY"] = right
    as_a_new_process()
    assert upload() == run.info.run_id
    (run,) = upload.runs()
    assert run.info.status == "FINISHED" and "failure" not in run.data.tags


@needs_weed
def test_a_file_that_the_store_does_not_list_fails_the_run(upload, monkeypatch):
    def lose_one(honest):
        def send(client, run_id, *more):  # as a store does whose disk was full
            honest(client, run_id, *more)
            bucket, _, prefix = client.get_run(run_id).info.artifact_uri.removeprefix("s3://").partition("/")
            s3 = boto3.Session().resource("s3", endpoint_url=upload.arguments["mlflow_s3_endpoint_url"])
            s3.Object(bucket, f"{prefix}/svc/MLmodel").delete()

        return send

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="does not list every file"):
        for name in ("log_artifact", "log_artifacts"):
            patch.setattr(MlflowClient, name, lose_one(getattr(MlflowClient, name)))
        upload()
    (run,) = upload.runs()
    assert run.info.status == "FAILED" and "does not list" in run.data.tags["failure"]
    assert upload() == run.info.run_id


@pytest.mark.parametrize("which", ["lean", "first", "sweep"])
def test_tasks_that_make_the_same_experiment_at_once_all_find_it(trained, servers, monkeypatch, which):
    """Each has looked and found none; then another one makes it."""
    name, look, seen = f"at-once-{which}", MlflowClient.get_experiment_by_name, []
    client = MlflowClient(servers.tracking_uri)

    def looks_first(self, asked):
        found = look(self, asked)
        if asked == name and found is None and not seen:
            seen.append(name)
            client.create_experiment(name, "mlflow-artifacts:/at-once")
        return found

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", looks_first)
    where = {"experiment_name": name, "artifact_location": "mlflow-artifacts:/at-once"}
    if which == "sweep":
        where |= {"job_id": "1", "mlflow_tracking_uri": servers.tracking_uri, "patience": 0}
        run_id = log_sweep([{"C": 1.0}], [0.5], **where)
    else:
        run_id = Upload(*trained[which], servers, name)(**where)
    assert seen and client.get_run(run_id).info.status == "FINISHED"


@needs_weed
def test_a_store_that_is_down_fails_the_run(upload, no_longer_than):
    with no_longer_than(60), pytest.raises(RuntimeError, match="^Run .* at http://127.0.0.1:9"):
        upload(mlflow_s3_endpoint_url="http://127.0.0.1:9")
    assert [run.info.status for run in upload.runs()] == ["FAILED"]


@pytest.mark.parametrize("damaged", [name for name in TRAINED if name != "params"])
def test_a_damaged_file_leaves_no_run_running(first, tmp_path, damaged):
    with open(first.arguments[damaged], "rb") as whole:
        (tmp_path / "damaged").write_bytes(whole.read(20))
    with pytest.raises(Exception):  # noqa: B017 - pickle, dill and json have several
        first(**{damaged: str(tmp_path / "damaged")})
    assert [run.info.status for run in first.runs()] == (["FAILED"] if damaged == "metrics" else [])


def test_text_that_a_cluster_adds_to_the_metadata_is_no_metric(lean):
    added = lean.arguments["metrics"].metadata | {"display_name": "metrics", "store_session_info": "{}"}
    run = lean.client.get_run(lean(metrics=Metrics(uri="none", metadata=added)))
    assert run.info.status == "FINISHED" and run.data.metrics == lean.arguments["metrics"].metadata


def test_parameters_that_a_cluster_wraps_keep_their_names(lean):
    params = lean.arguments["model"].metadata["params"]
    wrapped = Model(uri=lean.arguments["model"].path, metadata={"params": {"struct": params}})
    assert lean.client.get_run(lean(model=wrapped)).data.params == params != {}


def test_a_run_lies_below_that_of_kubeflows_plugin(upload, monkeypatch):
    parent = upload.client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", parent)
    run = upload.client.get_run(upload())
    assert run.data.tags["mlflow.parentRunId"] == parent and run.info.run_id != parent
    assert upload.client.get_run(parent).info.status == "RUNNING", "that one is the plugin's to end"


def test_a_new_experiment_lies_where_it_is_told(lean):
    run_id = lean(artifact_location="mlflow-artifacts:/lean-proxied")
    assert lean.client.get_run(run_id).info.artifact_uri.startswith("mlflow-artifacts:/lean-proxied/")
    assert lean.client.list_artifacts(run_id, "svc")
