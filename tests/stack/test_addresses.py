"""Addresses that people really set: taken, or told what they are; and places for files that nobody else would see."""

import contextlib
import http.server
import os
import subprocess
import sys
import threading

import pytest
from kfp.dsl import Metrics, Model
from mlflow import MlflowClient
from support import company

from helpers import begin, cluster, stack
from helpers.pipelines.lean_pipeline import upload_model_to_mlflow
from helpers.pipelines.mlflow_pipeline import open_experiment, reach

PAGE = "<!doctype html>\n<html><body>Log in with your company's account</body></html>"


@contextlib.contextmanager
def answering(answers):
    """Serve a stand-in for a program at a port: a function gives status, headers and text for a path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, text = answers(self.path)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(text)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("variable", "given", "says"),
    [
        ("MLFLOW_TRACKING_URI", "127.0.0.1:5000", "'127.0.0.1:5000', without http:// or https:// in front"),
        ("MLFLOW_TRACKING_URI", "localhost:5000/", "without http:// or https://"),
        ("MLFLOW_TRACKING_URI", "mlflow:5000", "without http:// or https://"),
        ("MLFLOW_TRACKING_URI", "mlflow.example/team/mlflow", "without http:// or https://"),
        ("MLFLOW_TRACKING_URI", "mlflow", "which is no server"),
        ("MLFLOW_TRACKING_URI", "http://h:5000/#/experiments/1", "a page for a browser: take the server's address, http://h:5000$"),
        ("MLFLOW_TRACKING_URI", "https://h/team/#/experiments/1/runs/0a?x=1", "address, https://h/team$"),
        ("MLFLOW_TRACKING_URI", "http://h:5000/?workflowType=machine_learning#/models", "address, http://h:5000$"),
        ("MLFLOW_TRACKING_URI", "http://kim:" + "secret" + "@h/#/experiments", "address, http://h$"),
        ("MLFLOW_S3_ENDPOINT_URL", "localhost:9000", "MLFLOW_S3_ENDPOINT_URL is 'localhost:9000', without http://"),
        ("MLFLOW_S3_ENDPOINT_URL", "s3.example", "without http://"),
        ("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:8888/#/buckets", "a page for a browser"),
        ("KF_PIPELINES_ENDPOINT", "localhost:8888", "KF_PIPELINES_ENDPOINT is 'localhost:8888', without http://"),
        ("KF_PIPELINES_ENDPOINT", "kubeflow.example/pipeline", "without http://"),
        ("KF_PIPELINES_ENDPOINT", "http://localhost:8080/#/runs/details/1", "address, http://localhost:8080$"),
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_told_how_it_is_meant(other, monkeypatch, variable, given, says):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv(variable, given)
    with pytest.raises(stack.StackError, match=says) as raised:
        cluster.endpoint() if variable.startswith("KF") else stack.connect()
    assert "secret" not in str(raised.value)


def of_mlflow_2(path):
    """As MLflow 2.22 answers."""
    if "logged-models" in path:
        return 404, {"Content-Type": "text/html"}, "<!doctype html>\n<title>404 Not Found</title>"
    return 200, {"Content-Type": "application/json"}, '{"experiments": []}'


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        (lambda path: (302, {"Location": "/login"}, "") if "api" in path else (200, {}, PAGE), "is a web page, as for a log-in"),
        (lambda path: (200, {"Content-Type": "text/html"}, PAGE), "is a web page, as for a log-in"),
        (lambda path: (403, {"Content-Type": "text/html"}, PAGE), "is a web page|lets you in, but not"),
        (lambda path: (400, {}, "<html>No required SSL certificate was sent"), "wants a certificate"),  # nginx
        (lambda path: (400, {}, "<html>The SSL certificate error"), "wants a certificate, or refuses yours"),
        (lambda path: (200, {}, "[]"), "no MLflow server"),
        (lambda path: (200, {}, "hello"), "no MLflow server"),
        (lambda path: (404, {}, PAGE), "no MLflow server|web page"),
        (lambda path: (500, {}, "broken"), "has trouble of its own"),
        (of_mlflow_2, "is older than MLflow 3, and the series needs that"),
    ],
)  # fmt: skip
def test_what_answers_is_recognised(other, monkeypatch, no_longer_than, answers, says):
    with answering(answers) as url, no_longer_than(30):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        with pytest.raises(stack.StackError, match=says) as raised:
            stack.connect()
    assert len(str(raised.value).splitlines()) == 1 and not other.work.exists()


# --- places for files ------------------------------------------------------------------------------


@pytest.mark.parametrize("root", ["{}/roots", "file://{}/roots", "./roots", "file:roots"])
def test_a_folder_of_the_servers_machine_is_refused_before_anything_is_written(tmp_path, other, monkeypatch, root):
    root = root.format(tmp_path)
    with company.mlflow_server(tmp_path / "server", "--no-serve-artifacts", f"--default-artifact-root={root}") as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        monkeypatch.chdir(other.folder)
        client, model = MlflowClient(url), Model(uri="model")
        os.mkdir("model")
        (other.folder / "model" / "MLmodel").write_text("flavors: {}\n")
        where = {"model_name": "svc", "experiment_name": "iris", "mlflow_s3_endpoint_url": "", "patience": 0}
        with pytest.raises(ValueError, match="a folder of the server's machine, where this task cannot write"):
            upload_model_to_mlflow(model, Metrics(uri="none"), **where, job_id="1", mlflow_tracking_uri=url)
        found = client.get_experiment_by_name("iris")
        assert client.search_runs([found.experiment_id]) == []
        with pytest.raises(stack.StackError, match="a folder of the server's own machine"):
            begin.experiment("iris")
        with pytest.raises(stack.StackError, match="a folder of the server's own machine"):
            stack.check_store(found.artifact_location)
    assert [path.name for path in other.folder.rglob("*") if path.is_file()] == ["MLmodel"]
    assert not (tmp_path / "roots").exists()


@pytest.mark.parametrize(
    "location", ["s3://a/b", "mlflow-artifacts:/1", "mlflow-artifacts://h:5/1", "gs://a", "wasbs://a@b"]
)
def test_a_store_is_none(location):
    from helpers.stack.access import refuse_folder

    class Client:
        def get_experiment_by_name(self, name):
            return type(
                "Experiment", (), {"experiment_id": "1", "artifact_location": location, "lifecycle_stage": "active"}
            )

    refuse_folder(location)
    assert open_experiment(Client(), "iris") == "1"


@pytest.mark.nightly
def test_mlflow_2_itself_is_recognised(tmp_path):
    """The real one, from the index that pip is set to."""
    old = tmp_path / "old"
    subprocess.run([sys.executable, "-m", "venv", old], check=True)
    pip = [old / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "mlflow==2.22.1", "setuptools<81"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with company.mlflow_server(tmp_path / "server", python=old / "bin" / "python") as url:
        with pytest.raises(ConnectionError, match="is a web page|no MLflow server"):
            reach(lambda: MlflowClient(url).search_logged_models(["0"], max_results=1), url, 0)
        with pytest.raises(stack.StackError, match="is older than MLflow 3"):
            stack.check_server(url)
