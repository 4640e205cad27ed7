"""The lean upload: what it needs, what it refuses, and what it leaves on a real server."""

import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import mlflow
import pytest
from kfp.dsl import Metrics, Model
from mlflow import MlflowClient
from sklearn.datasets import load_iris
from support.lean import train as train_lean

from helpers.pipelines import lean_pipeline
from helpers.pipelines.lean_pipeline import upload_model_to_mlflow
from tools.bench import common


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Iris, trained: the model and the metrics as KFP hands them over."""
    return train_lean(tmp_path_factory.mktemp("trained"), load_iris(as_frame=True).frame, max_iter=5)[:2]


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
    assert run.data.params == {"model_type": "classifier", "rows": "120", "max_iter": "5"}
    assert run.data.metrics == trained[1].metadata and set(run.data.metrics) == {"accuracy", "f1_macro"}
    files = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "classifier")}
    assert {"MLmodel", "model.skops", "conda.yaml", "requirements.txt", "serving_input_example.json"} <= files
    assert not [name for name in files if Path(name).suffix in (".pkl", ".pickle", ".joblib", ".dill")]
    loaded = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/classifier")
    assert loaded.predict(loaded.input_example).shape == (2,)


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
    source = common.source_of(upload_model_to_mlflow) + textwrap.dedent(program)
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
