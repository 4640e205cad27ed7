"""The stand-in for the Kubeflow Pipelines API, seen by the real clients: `kfp.Client` and plain HTTP."""

from pathlib import Path

import kfp
import kfp_server_api
import pytest
import requests
import yaml
from kfp import compiler, dsl
from support.kfp_server import serve

from helpers import cluster, paths

PIPELINE = str(paths.DEPLOY / "mlflow_pipeline.yaml")
SERVER_ERROR = kfp_server_api.ApiException

pytestmark = pytest.mark.filterwarnings("ignore:This client only works with Kubeflow Pipeline v2")


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def say(text: str) -> str:
    import os

    print(f"I say {text}", sorted(name for name in os.environ if name.startswith(("AWS_", "MLFLOW_"))))
    if text == "nothing":
        raise ValueError("there is nothing to say")
    return text


@dsl.pipeline(name="small")
def small(text: str = "a word", mlflow_tracking_uri: str = "http://mlflow-server-service.mlflow-system.svc:5000"):
    first = say(text=text)
    say(text=mlflow_tracking_uri).after(first)


@pytest.fixture
def small_file(tmp_path):
    compiler.Compiler().compile(small, str(tmp_path / "small.yaml"))
    return str(tmp_path / "small.yaml")


@pytest.fixture(autouse=True)
def no_settings_of_this_user(tmp_path, monkeypatch):
    monkeypatch.setattr(kfp.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))


@pytest.fixture
def api():
    with serve() as url:
        yield kfp.Client(host=url)


def log_of(client, run):
    return [
        cluster.read_log(client._existing_config.host, None, run.run_id, node) for node in cluster.failed_nodes(run)
    ]


def finish(client, run_id):
    return client.wait_for_run_completion(run_id, timeout=180, sleep_duration=1)


def test_health_and_version():
    for options, version, multi_user in [
        ({}, "2.17.0", False),
        ({"version": "2.15.0", "namespaces": ["mine"]}, "2.15.0", True),
    ]:
        with serve(**options) as url:
            health = requests.get(f"{url}/apis/v2beta1/healthz", timeout=5).json()
            assert (health["tag_name"], health["multi_user"]) == (version, multi_user)
            assert kfp.Client(host=url).get_kfp_healthz().multi_user is multi_user
            assert requests.get(f"{url}/pipeline/apis/v2beta1/healthz", timeout=5).json() == health
            assert requests.get(f"{url}/apis/v2beta1/nonsense", timeout=5).status_code == 404


def test_upload_a_pipeline_and_a_new_version_of_it(api, small_file):
    pipeline = api.upload_pipeline(PIPELINE, pipeline_name="iris", description="a description")
    assert (pipeline.display_name, pipeline.description) == ("iris", "a description")
    assert api.get_pipeline_id("iris") == pipeline.pipeline_id
    assert api.get_pipeline_id("other") is None
    assert api.pipelines.pipeline_service_get_pipeline_by_name("iris").pipeline_id == pipeline.pipeline_id
    with pytest.raises(SERVER_ERROR, match="409"):
        api.upload_pipeline(PIPELINE, pipeline_name="iris")

    version = api.upload_pipeline_version(small_file, "second", pipeline_name="iris")
    with pytest.raises(SERVER_ERROR, match="409"):
        api.upload_pipeline_version(small_file, "second", pipeline_id=pipeline.pipeline_id)
    found = api.list_pipeline_versions(pipeline.pipeline_id)
    assert [item.display_name for item in found.pipeline_versions] == ["iris", "second"]
    first, second = found.pipeline_versions
    assert second.pipeline_version_id == version.pipeline_version_id
    assert list(yaml.safe_load_all(Path(PIPELINE).read_text())) == list(first.pipeline_spec.values())
    assert api.get_pipeline_version(pipeline.pipeline_id, version.pipeline_version_id).pipeline_spec[
        "pipelineInfo"
    ] == {"name": "small"}

    with pytest.raises(SERVER_ERROR, match="it has existing pipeline versions"):
        api.delete_pipeline(pipeline.pipeline_id)
    for item in found.pipeline_versions:
        api.delete_pipeline_version(pipeline.pipeline_id, item.pipeline_version_id)
    api.delete_pipeline(pipeline.pipeline_id)
    with pytest.raises(SERVER_ERROR, match="404"):
        api.get_pipeline(pipeline.pipeline_id)


def test_a_run_gets_the_secrets_of_its_yaml_and_nothing_else_of_the_environment(api, small_file, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    spec = yaml.safe_load(Path(small_file).read_text())
    (label,) = spec["deploymentSpec"]["executors"].keys() - {"exec-say-2"}
    secret = {"secretName": "s", "keyToEnv": [{"secretKey": "accesskey", "envVar": "AWS_ACCESS_KEY_ID"}]}
    platform = {"platforms": {"kubernetes": {"deploymentSpec": {"executors": {label: {"secretAsEnv": [secret]}}}}}}
    Path(small_file).write_text(yaml.safe_dump_all([spec, platform]))
    run = finish(api, api.create_run_from_pipeline_package(small_file, {"text": "nothing"}).run_id)
    (log,) = log_of(api, run)
    assert "I say nothing ['AWS_ACCESS_KEY_ID']" in log
    # What a function printed may follow its exception: Python hands it over at its end.
    assert cluster.said_last(log).splitlines()[0] == "ValueError: there is nothing to say"


@pytest.mark.parametrize("token", [None, "wrong"])
def test_401(token):
    with serve(token="right", namespaces=["mine"]) as url:
        client = kfp.Client(host=url, namespace="mine", existing_token=token)
        with pytest.raises(SERVER_ERROR, match=r"(?s)\(401\).*there is no user identity header"):
            client.list_experiments()
        assert kfp.Client(host=url, namespace="mine", existing_token="right").list_experiments().experiments is None


def test_namespaces(small_file):
    with serve(token="right", namespaces=["mine"]) as url:
        client = kfp.Client(host=url, namespace="mine", existing_token="right")
        experiment = client.create_experiment("iris")
        assert experiment.namespace == "mine"
        with pytest.raises(SERVER_ERROR, match=r"(?s)\(403\).*is not authorized"):
            client.create_experiment("iris", namespace="yours")
        with pytest.raises(SERVER_ERROR, match=r'\(400\)[\s\S]*"Failed to create a pipeline"'):
            client.upload_pipeline(small_file, namespace="yours")
        client.upload_pipeline(small_file, "private", namespace="mine")
        assert client.get_pipeline_id("private") is None, "the real one looks among shared pipelines alone"
        assert client.pipelines.pipeline_service_get_pipeline_by_name("private", namespace="mine")

        run = client.create_run_from_pipeline_package(
            small_file, {"text": "nothing"}, experiment_id=experiment.experiment_id
        )
        assert len(cluster.failed_nodes(finish(client, run.run_id))) == 1

        without = kfp.Client(host=url, existing_token="right")
        for call in (lambda: without.list_runs(), lambda: without.create_experiment("iris")):
            with pytest.raises(SERVER_ERROR, match=r"(?s)\(400\).*cannot have an empty namespace in multi-user mode"):
                call()


def test_unknown_fields_and_wrong_types_are_refused(api, small_file):
    url = f"{api._existing_config.host}/apis/v2beta1"

    def refusal(path, body):
        answer = requests.post(f"{url}/{path}", json=body, timeout=5)
        assert answer.status_code == 400, answer.text
        return answer.json()["message"]

    assert 'unknown field "colour"' in refusal("experiments", {"display_name": "iris", "colour": "red"})
    assert 'unknown field "kernel"' in refusal("runs", {"runtime_config": {"kernel": "rbf"}})
    assert "display_name: 5" in refusal("experiments", {"display_name": 5})
    assert "mode" in refusal("recurringruns", {"mode": "SOMETIMES"})
    assert "syntax error" in requests.post(f"{url}/runs", data="{", timeout=5).json()["message"]

    spec = yaml.safe_load(Path(small_file).read_text())
    Path(small_file).write_text(yaml.safe_dump(spec | {"colour": "red"}))
    with pytest.raises(SERVER_ERROR, match=r'(?s)\(400\).*unknown field \\"colour\\"'):
        api._upload_api.upload_pipeline(small_file, name="small")
    with serve(version="2.16.0") as older, pytest.raises(SERVER_ERROR) as caught:
        kfp.Client(host=older)._upload_api.upload_pipeline(small_file, name="small")
    assert caught.value.status == 500 and "colour" not in caught.value.body, "the real one says nothing more"
    body = {"display_name": "small", "pipeline_spec": spec, "runtime_config": {"parameters": {"txt": "a word"}}}
    assert "parameter(s) provided are not required by pipeline: txt" in refusal("runs", body)
    assert "requires type string" in refusal("runs", body | {"runtime_config": {"parameters": {"text": 5}}})
    assert api.list_experiments().experiments[0].display_name == "Default" and api.list_runs().runs is None
