"""The lean upload: what it needs, what it refuses, and what it leaves on a real server."""

import inspect
import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import boto3
import mlflow
import pytest
from kfp.dsl import Metrics, Model
from mlflow import MlflowClient
from mlflow.store.artifact import s3_artifact_repo
from sklearn.datasets import load_iris

from helpers.pipelines import lean_pipeline, mlflow_pipeline, sweep_pipeline
from helpers.pipelines.lean_pipeline import load_csv, train_classifier, upload_model_to_mlflow
from helpers.pipelines.mlflow_pipeline import load_iris_data, train_from_csv, upload_sklearn_model_to_mlflow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Iris, trained: the model and the metrics as KFP hands them over."""
    folder = tmp_path_factory.mktemp("trained")
    load_iris(as_frame=True).frame.to_csv(folder / "iris.csv", index=False)
    load_csv(str(folder / "iris.csv"), "target", "", str(folder / "data"), str(folder / "target"))
    model, metrics = Model(uri=str(folder / "model")), Metrics(uri=str(folder / "metrics"))
    train_classifier(str(folder / "data"), str(folder / "target"), "rbf", model, metrics)
    return model, metrics


@pytest.fixture
def where(servers, request):
    return {
        "model_name": "classifier",
        "experiment_name": "lean",
        "job_id": request.node.name,
        "mlflow_tracking_uri": servers.tracking_uri,
        "mlflow_s3_endpoint_url": servers.s3_endpoint_url,
    }


@pytest.fixture
def client(servers):
    mlflow.set_tracking_uri(servers.tracking_uri)
    return MlflowClient(servers.tracking_uri)


def runs_of(client, job_id, experiment_name="lean"):
    experiment = client.get_experiment_by_name(experiment_name)
    return client.search_runs([experiment.experiment_id], f"tags.kfp_job_id = '{job_id}'") if experiment else []


def folder_model(path: Path, **files: bytes) -> Model:
    path.mkdir()
    for name, content in {"MLmodel": b"flavors: {}\n", **files}.items():
        (path / name.replace("_pkl", ".pkl")).write_bytes(content)
    return Model(uri=str(path))


def test_run_has_what_training_said_and_a_model_without_a_pickle(trained, where, client):
    run = client.get_run(upload_model_to_mlflow(*trained, **where))
    assert run.info.status == "FINISHED" and run.info.run_name == "classifier"
    assert run.data.params == {"kernel": "rbf", "C": "1.0", "rows": "150", "test_size": "0.2", "random_state": "7"}
    assert run.data.metrics == trained[1].metadata and set(run.data.metrics) == {"accuracy", "f1_macro"}
    files = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "classifier")}
    assert {"MLmodel", "model.skops", "conda.yaml", "requirements.txt", "serving_input_example.json"} <= files
    assert not [name for name in files if Path(name).suffix in (".pkl", ".pickle", ".joblib", ".dill")]
    loaded = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/classifier")
    assert loaded.predict(loaded.input_example).shape == (1,)


def test_it_runs_where_nothing_is_installed_but_mlflows_client(trained, where, client):
    # The packages that its list leaves out are made not to exist.
    absent = ("sklearn", "pandas", "numpy", "scipy", "dill", "skops", "kfp")
    program = f"""
        import importlib.abc, json, sys, types

        class Absent(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in {absent!r}:
                    raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

        sys.meta_path.insert(0, Absent())
        model, metrics = (types.SimpleNamespace(**part) for part in json.loads(sys.argv[1]))
        print(upload_model_to_mlflow(model, metrics, **json.loads(sys.argv[2])))
        try:
            import pandas
        except ModuleNotFoundError:
            print("no pandas")
    """
    source = (
        "from __future__ import annotations\n" + inspect.getsource(upload_model_to_mlflow) + textwrap.dedent(program)
    )
    handed = json.dumps([{"path": part.path, "metadata": dict(part.metadata)} for part in trained])
    done = subprocess.run([sys.executable, "-c", source, handed, json.dumps(where)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *_, run_id, word = done.stdout.splitlines()
    assert word == "no pandas" and client.get_run(run_id).info.status == "FINISHED"
    assert lean_pipeline.PACKAGES[upload_model_to_mlflow] == ["boto3", "mlflow-skinny"]


def test_hostile_files_are_uploaded_and_never_run(where, client, tmp_path):
    ran = tmp_path / "it_ran"

    class Hostile:
        def __reduce__(self):
            return Path.touch, (ran,)

    code = f"open({str(ran)!r}, 'w')"
    hostile = pickle.dumps(Hostile())
    model = folder_model(
        tmp_path / "model",
        model_pkl=hostile,
        python_model_pkl=hostile,
        **{
            "model.skops": hostile,
            "conda.yaml": (f"!!python/object/apply:os.system ['touch {ran}']").encode(),
            "code.py": code.encode(),
        },
    )
    Path(model.path, "MLmodel").write_text(
        f"flavors: {{python_function: {{loader_module: code, code: code.py}}}}\nx: !!python/object/apply:os.system ['touch {ran}']\n"
    )
    run_id = upload_model_to_mlflow(model, Metrics(uri="none"), **where)
    assert not ran.exists() and client.get_run(run_id).info.status == "FINISHED"
    stored = mlflow.artifacts.download_artifacts(f"runs:/{run_id}/classifier/model.pkl", dst_path=str(tmp_path))
    assert Path(stored).read_bytes() == hostile
    pickle.loads(hostile)
    assert ran.exists(), "the file is hostile indeed"


def test_what_is_no_model_folder_is_refused_and_makes_no_run(where, client, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for name in ("empty", "file", "missing"):
        with pytest.raises(ValueError, match="no MLflow model folder"):
            upload_model_to_mlflow(Model(uri=str(tmp_path / name)), Metrics(uri="none"), **where)
    assert not runs_of(client, where["job_id"])


@pytest.mark.parametrize("target", ["/etc/hostname", "..", "MLmodel"])
def test_a_link_out_of_the_folder_is_refused_and_makes_no_run(where, client, tmp_path, target):
    model = folder_model(tmp_path / "model")
    os.symlink(target, Path(model.path, "notes"))
    with pytest.raises(ValueError, match="notes is a link"):
        upload_model_to_mlflow(model, Metrics(uri="none"), **where)
    assert not runs_of(client, where["job_id"])


def test_a_repeated_task_finds_its_run_and_another_job_makes_another(trained, where, client):
    first = upload_model_to_mlflow(*trained, **where)
    assert upload_model_to_mlflow(*trained, **where) == first
    assert upload_model_to_mlflow(*trained, **where | {"job_id": "another"}) != first
    assert len(runs_of(client, where["job_id"])) == 1


def test_a_wrong_key_fails_the_run_with_its_cause_and_the_right_one_mends_it(trained, where, client):
    right = os.environ["AWS_SECRET_ACCESS_KEY"]
    os.environ["AWS_SECRET_ACCESS_KEY"] = "not-the-secret"
    with pytest.raises(RuntimeError, match="(?s)could not be filled and is FAILED.*Check AWS_ACCESS_KEY_ID"):
        upload_model_to_mlflow(*trained, **where)
    (run,) = runs_of(client, where["job_id"])
    assert run.info.status == "FAILED" and run.data.tags["failure"] and "not-the-secret" not in str(run.data.tags)
    os.environ["AWS_SECRET_ACCESS_KEY"] = right
    boto3.DEFAULT_SESSION = None
    s3_artifact_repo._cached_get_s3_client.cache_clear()  # a task is a process of its own
    assert upload_model_to_mlflow(*trained, **where) == run.info.run_id
    mended = client.get_run(run.info.run_id)
    assert mended.info.status == "FINISHED" and "failure" not in mended.data.tags


def test_a_file_that_the_store_does_not_list_fails_the_run(trained, where, client, monkeypatch):
    upload = MlflowClient.log_artifacts

    def lose_one(self, run_id, folder, path):  # as a store does whose disk was full
        upload(self, run_id, folder, path)
        bucket, _, prefix = self.get_run(run_id).info.artifact_uri.removeprefix("s3://").partition("/")
        boto3.resource("s3", endpoint_url=where["mlflow_s3_endpoint_url"]).Object(
            bucket, f"{prefix}/{path}/MLmodel"
        ).delete()

    monkeypatch.setattr(MlflowClient, "log_artifacts", lose_one)
    with pytest.raises(RuntimeError, match="does not list every file"):
        upload_model_to_mlflow(*trained, **where)
    (run,) = runs_of(client, where["job_id"])
    assert run.info.status == "FAILED" and "does not list" in run.data.tags["failure"]


def test_a_dead_server_is_named(trained, where, no_longer_than):
    with no_longer_than(60), pytest.raises(ConnectionError, match="No MLflow server answers at http://127.0.0.1:9 "):
        upload_model_to_mlflow(*trained, **where | {"mlflow_tracking_uri": "http://127.0.0.1:9"})


def test_text_that_a_cluster_adds_to_the_metadata_is_no_metric(trained, where, client):
    model, metrics = trained
    on_cluster = Metrics(
        uri=metrics.uri, metadata=metrics.metadata | {"display_name": "metrics", "store_session_info": "{}"}
    )
    run = client.get_run(upload_model_to_mlflow(model, on_cluster, **where))
    assert run.info.status == "FINISHED" and run.data.metrics == metrics.metadata


@pytest.mark.parametrize("upload", ["lean", "first", "sweep"])
def test_tasks_that_make_the_same_experiment_at_once_all_find_it(trained, where, client, monkeypatch, upload, tmp_path):
    """Each has looked and found none; then another one makes it."""
    name = f"at-once-{upload}"
    look, seen = MlflowClient.get_experiment_by_name, []

    def looks_first(self, asked):
        found = look(self, asked)
        if asked == name and found is None and not seen:
            seen.append(name)
            client.create_experiment(name, "mlflow-artifacts:/at-once")
        return found

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", looks_first)
    where = where | {"experiment_name": name, "artifact_location": "mlflow-artifacts:/at-once"}
    if upload == "lean":
        run_id = upload_model_to_mlflow(*trained, **where)
    elif upload == "first":
        files = ("model", "input_example", "signature", "conda_env", "params", "metrics")
        made = {file: str(tmp_path / file) for file in files}
        load_iris_data(str(tmp_path / "data"), str(tmp_path / "target"))
        train_from_csv(str(tmp_path / "data"), str(tmp_path / "target"), "rbf", **made)
        run_id = upload_sklearn_model_to_mlflow(**made, **where)
    else:
        del where["mlflow_s3_endpoint_url"], where["model_name"]
        run_id = sweep_pipeline.log_sweep([{"C": 1.0}], [0.5], **where)
    assert seen and client.get_run(run_id).info.status == "FINISHED"


def test_packages_of_your_own_training_are_asked_for_by_name_and_no_other_list_is_changed():
    assert load_csv not in mlflow_pipeline.PACKAGES and upload_model_to_mlflow not in mlflow_pipeline.PACKAGES

    def my_training(data: str):
        pass

    with pytest.raises(ValueError, match=r"PACKAGES has no entry for my_training: PACKAGES\[my_training\] = "):
        lean_pipeline.with_packages(my_training)
    with pytest.raises(ValueError, match="PACKAGES has no entry for load_csv"):
        lean_pipeline.make_lean_pipeline(mlflow_pipeline.from_packages)


def test_a_deleted_experiment_is_named(trained, where, client):
    client.delete_experiment(client.create_experiment("lean-deleted"))
    with pytest.raises(ValueError, match="'lean-deleted' was deleted"):
        upload_model_to_mlflow(*trained, **where | {"experiment_name": "lean-deleted"})


def test_its_run_lies_below_that_of_kubeflows_plugin(trained, where, client, monkeypatch):
    parent = client.create_run(client.create_experiment("plugin")).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", parent)
    run = client.get_run(upload_model_to_mlflow(*trained, **where))
    assert run.data.tags["mlflow.parentRunId"] == parent and run.info.run_id != parent
    assert client.get_run(parent).info.status == "RUNNING", "that one is the plugin's to end"


def test_artifact_location_of_a_new_experiment(trained, where, client):
    run_id = upload_model_to_mlflow(
        *trained, **where | {"experiment_name": "lean-proxied"}, artifact_location="mlflow-artifacts:/lean-proxied"
    )
    assert client.get_run(run_id).info.artifact_uri.startswith("mlflow-artifacts:/lean-proxied/")
    assert client.list_artifacts(run_id, "classifier")


def test_an_unknown_kernel_is_named(tmp_path):
    with pytest.raises(ValueError, match="kernel='cubic' is unknown to SVC"):
        train_classifier("data", "target", "cubic", Model(uri=str(tmp_path / "m")), Metrics(uri=str(tmp_path / "n")))
    assert not list(tmp_path.iterdir())


def test_the_model_opens_no_pickle_when_it_is_loaded(trained, monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("something was unpickled")

    for module in ("pickle", "cloudpickle", "dill"):
        monkeypatch.setattr(f"{module}.load", refuse)
        monkeypatch.setattr(f"{module}.loads", refuse)
    loaded = mlflow.sklearn.load_model(trained[0].path)
    assert type(loaded).__name__ == "Pipeline"
    with pytest.raises(AssertionError, match="unpickled"):
        pickle.loads(pickle.dumps(1))
