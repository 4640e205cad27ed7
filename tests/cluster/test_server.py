"""The server's own command with the settings of the manifests, run here."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
import requests
from mlflow import MlflowClient
from support import older
from support.manifests import environment_of, init_of, server_of
from support.place import bucket, end, wait_for

from helpers import paths, stack
from helpers.stack.process import free_port

ROOT = paths.ROOT
DEPLOY = ROOT / "deploy"


@pytest.fixture(scope="module")
def store(place):
    """A real object store, with the bucket that Kubeflow Pipelines makes; its address and keys."""
    if shutil.which("weed") is None and not (Path(sys.executable).parent / "weed").exists():
        pytest.skip("there is no SeaweedFS for this machine, and it is the store: run this test on Linux or an ARM Mac")
    stack.start()
    variables = stack.environment()
    keys = {name: variables[name] for name in ("MLFLOW_S3_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    client(keys).create_bucket(Bucket="mlpipeline")
    return keys


def client(store):
    return boto3.client(
        "s3",
        endpoint_url=store["MLFLOW_S3_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id=store["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=store["AWS_SECRET_ACCESS_KEY"],
    )


@pytest.fixture(scope="module", params=["direct", "proxied"])
def server(request, render, store, tmp_path_factory):
    """The rendered command with its rendered settings: only address, port and database are this machine's."""
    folder = tmp_path_factory.mktemp(request.param)
    container, port = server_of(render(request.param)), free_port()
    here = {"--host": "127.0.0.1", "--port": str(port)}
    arguments = [f"{n}={here.get(n, v)}" if v else n for n, _, v in (a.partition("=") for a in container["args"])]
    plain = {name: value for name, value in environment_of(container).items() if isinstance(value, str)}
    variables = {"PATH": os.environ["PATH"]} | plain | store
    variables |= {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db", "HOME": str(folder)}
    assert container["command"] == ["mlflow", "server"]
    log = folder / "log"
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", *container["command"], *arguments],
            cwd=folder,
            env=variables,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/health", process, log)
        yield request.param, url
    finally:
        end(process)


def status(url, host):
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    return requests.get(url + path, headers={"Host": host}, timeout=30).status_code


@pytest.mark.slow
def test_the_server_answers_to_its_names_and_to_no_other(server):
    url, name = server[1], "mlflow-server-service"
    known = [
        f"{name}{rest}:5000"
        for rest in ("", ".mlflow-system", ".mlflow-system.svc", ".mlflow-system.svc.cluster.local")
    ]
    known += ["localhost:5000", "127.0.0.1:5000", "localhost:15000"]
    strange = [
        "evil.example",
        "evil.example:5000",
        f"{name}.mlflow-system.svc.evil.example:5000",
        "10.1.2.3:5000",
        f"{name}.other:5000",
    ]
    assert {host: status(url, host) for host in known} == dict.fromkeys(known, 200)
    assert {host: status(url, host) for host in strange} == dict.fromkeys(strange, 403)
    # A probe comes to the pod's own address.
    assert requests.get(f"{url}/health", headers={"Host": "10.1.2.3:5000"}, timeout=30).status_code == 200


@pytest.mark.slow
def test_files_go_where_the_overlay_says_with_the_keys_that_it_says(server, store, tmp_path):
    way, url = server
    (tmp_path / "note.txt").write_text(way)
    code = (
        "import mlflow; client = mlflow.MlflowClient(); run = client.create_run(client.create_experiment('iris')).info;"
        "client.log_artifact(run.run_id, 'note.txt'); print(run.run_id, run.artifact_uri)"
    )
    bare = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "MLFLOW_TRACKING_URI": url,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    uploads = {
        keys: subprocess.run(
            [sys.executable, "-c", code.replace("iris", keys)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=bare | (store if keys == "keys" else {}),
        )
        for keys in ("keys", "no keys")
    }
    run_id, place = uploads["keys" if way == "direct" else "no keys"].stdout.split()[:2]
    if way == "direct":
        assert uploads["no keys"].returncode == 1 and "Unable to locate credentials" in uploads["no keys"].stderr
        assert place.startswith("s3://mlpipeline/private/kubeflow-user-example-com/mlflow/")
        bucket, key = "mlpipeline", place.removeprefix("s3://mlpipeline/")
        proxy = requests.get(f"{url}/api/2.0/mlflow-artifacts/artifacts?path=", timeout=30)
        assert proxy.status_code == 503, "the server must not hand out files for others"
    else:
        assert place.startswith("mlflow-artifacts:/")
        bucket, key = "mlflow", place.removeprefix("mlflow-artifacts:/")
    assert client(store).get_object(Bucket=bucket, Key=f"{key}/note.txt")["Body"].read() == way.encode()
    listed = requests.get(f"{url}/api/2.0/mlflow/artifacts/list", params={"run_id": run_id}, timeout=30).json()
    assert [file["path"] for file in listed["files"]] == ["note.txt"], "what the UI shows"


@pytest.mark.slow
def test_a_database_of_an_older_mlflow_is_upgraded_before_the_server_starts(render, tmp_path):
    upgrade = init_of(render("direct"), "upgrade")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    arguments = [argument.replace("$(MLFLOW_BACKEND_STORE_URI)", uri) for argument in upgrade["args"]]
    command = [sys.executable, "-m", *upgrade["command"], *arguments]
    for database in ("empty", "of before", "of today"):
        if database == "of before":
            (tmp_path / "mlflow.db").unlink()
            older.make(uri)
            assert not older.is_of_today(tmp_path / "mlflow.db")
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, (database, done.stderr)
        assert older.is_of_today(tmp_path / "mlflow.db")
    assert MlflowClient(uri).get_experiment_by_name("of before").experiment_id == "7"


def test_the_bucket_is_made_once_and_left_alone_after(render, store):
    init = init_of(render("proxied"), "bucket")
    assert init["command"] == ["python", "-c"]

    def run(**variables):
        own = {"PATH": os.environ["PATH"], "AWS_DEFAULT_REGION": "us-east-1"} | store | variables
        return subprocess.run([sys.executable, "-c", *init["args"]], env=own, capture_output=True, text=True)

    assert run(BUCKET="new-one").stdout == "Made the bucket new-one\n"
    client(store).put_object(Bucket="new-one", Key="kept", Body=b"1")
    assert run(BUCKET="new-one").stdout == "There is a bucket new-one\n"
    assert client(store).list_objects_v2(Bucket="new-one")["KeyCount"] == 1
    refused = run(BUCKET="another", AWS_SECRET_ACCESS_KEY="wrong")
    assert refused.returncode == 1 and "CreateBucket" not in refused.stderr, "a refusal is no missing bucket"


def test_files_are_backed_up_and_restored_byte_by_byte(other):
    stack.start()
    os.environ.update(stack.environment())
    boto3.DEFAULT_SESSION = None
    kept = {"1/a/model.pkl": os.urandom(300_000), "1/a/이탈.txt": b"x", "2/empty": b""}
    for key, content in kept.items():
        bucket().put_object(Key=key, Body=content)
    script = [sys.executable, "-c", (paths.DEPLOY / "mlflow" / "files.py").read_text()]
    saved = subprocess.run([*script, "backup"], capture_output=True, check=True).stdout
    for key in kept:
        bucket().Object(key).delete()
    subprocess.run([*script, "restore"], input=saved, check=True)
    assert {entry.key: entry.get()["Body"].read() for entry in bucket().objects.all()} == kept
