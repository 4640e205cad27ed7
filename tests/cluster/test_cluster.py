"""Notebook 06 and `helpers.cluster` against the stand-in of a cluster: what works, and what a reader is told."""

import json
import os
import re

import boto3
import nbformat
import pytest
import requests
import yaml
from mlflow import MlflowClient
from support.kfp_server import serve
from support.with_cluster import EXPERIMENT, cluster

from helpers import cluster as kubeflow_cluster
from helpers import paths, stack
from helpers.series import run
from helpers.series.notebooks import numbered

NAME = "06_run_on_kubeflow"
TOKEN = "a-token-of-the-stand-in"


def executed(place):
    return max((place.work / "runs").glob(f"*/{NAME}.ipynb"), key=os.path.getmtime).read_text()


def run_notebook(place, capsys, *arguments, **options):
    """Run 06 through papermill; return exit code, what was said, and the executed notebook's text."""
    with cluster(**options):
        code = run.main([NAME, *arguments])
    said = capsys.readouterr()
    return code, said.out + said.err, executed(place)


@pytest.mark.slow
def test_slow_multi_user_cluster_with_keys_in_the_task(place, servers, capsys, tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    store = boto3.client("s3", endpoint_url=servers.s3_endpoint_url, region_name="us-east-1")
    store.create_bucket(Bucket="mlpipeline")
    name = "direct"
    token_file = str(tmp_path / "token")
    with cluster(token=TOKEN, namespaces=["team-a"], slow=3):
        # The namespace's keys: the stand-in takes a secret's content from here, and a PodDefault gives them to the reader.
        os.environ |= {name: value for name, value in stack.environment().items() if name.startswith("AWS_")}
        os.environ |= {"KF_PIPELINES_SA_TOKEN_PATH": token_file}
        os.environ["MLFLOW_S3_ENDPOINT_URL"] = servers.s3_endpoint_url
        code = run.main([NAME, "--params", f"namespace=team-a keys=direct experiment_name={name}"])
    said = capsys.readouterr()
    assert code == 0, said.out + said.err
    text = executed(place)
    assert "for several users" in text and "The run succeeded" in text
    objects = store.list_objects_v2(Bucket="mlpipeline", Prefix="private/team-a/mlflow/")["Contents"]
    assert any(entry["Key"].endswith("/svc/MLmodel") for entry in objects)
    assert TOKEN not in text and stack.environment()["AWS_SECRET_ACCESS_KEY"] not in text


@pytest.mark.slow
def test_proxied_run_makes_one_mlflow_run_and_leaves_nothing_in_kfp(place, servers, capsys):
    client = MlflowClient(servers.tracking_uri)
    code, said, text = run_notebook(place, capsys, "--params", "kernel=poly model_name=my-svc")
    assert code == 0, said
    experiment = client.get_experiment_by_name(EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id], "tags.model_name = 'my-svc'")
    assert run.info.status == "FINISHED" and run.data.params["kernel"] == "poly"
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    assert "0 left of 3" in text


@pytest.mark.parametrize(
    ("options", "bearer", "says"),
    [
        ({"token": TOKEN}, None, "wants a token and there is none"),
        ({"token": TOKEN, "unknown_issuer": True}, "of another cluster", "Jwt issuer is not configured"),
        ({"token": TOKEN, "namespaces": ["else"]}, TOKEN, r"not into the namespace 'kubeflow' \(403\)"),
        ({"version": "2.14.3"}, None, "runs KFP 2.14.3, and this pipeline needs 2.15.0"),
        ({"down": True}, None, r"No KFP API answers at http://127.0.0.1:\d+ .*kubectl port-forward"),
    ],
    ids=["no token", "other issuer", "other namespace", "older backend", "down"],
)
def test_refusals_are_said_in_a_sentence(options, bearer, says):
    with serve(**options) as url, pytest.raises(kubeflow_cluster.ClusterError, match=says):
        version, _ = kubeflow_cluster.check_api(url, bearer, "kubeflow")
        kubeflow_cluster.check_versions("2.17.0", version)


@pytest.mark.slow
def test_a_refusal_ends_the_notebook_with_its_sentence(place, servers, capsys):
    with cluster(token=TOKEN):
        assert run.main([NAME]) == 1
    said = capsys.readouterr().err
    assert re.search(r"06_run_on_kubeflow failed in cell \[\d+\]: ClusterError: .*wants a token", said), said
    assert "Traceback" not in said


def test_an_mlflow_server_that_is_away_is_told_before_anything_is_sent(other, capsys, monkeypatch):
    with serve() as url:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", url)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        monkeypatch.setattr(stack, "connect", lambda: pytest.fail("a server of this machine is none of the cluster"))
        assert run.main([NAME]) == 1
        assert requests.get(f"{url}/apis/v2beta1/runs", timeout=5).json() == {}
    assert re.search("failed in cell .*StackError: No MLflow server answers at", capsys.readouterr().err)


LEAN = paths.DEPLOY / "lean_pipeline.yaml"


def test_arguments_are_put_together_and_what_is_missing_or_unknown_is_named_before_anything_is_sent():
    chosen = {"model_name": "svc", "of another pipeline": 1}
    found = kubeflow_cluster.arguments(LEAN, chosen, '{"source": "s3://a/b.csv", "model_name": "x"}')
    assert found == {"source": "s3://a/b.csv", "model_name": "x"}
    for given, says in {
        "": 'wants source, which has no default. Pass arguments=.{"source"',
        '{"source": "x", "colour": 1}': "takes no colour. It takes: .*model_type, .*source",
        "source=x": "is no JSON object",
        "[1]": "is no JSON object",
    }.items():
        with pytest.raises(kubeflow_cluster.ClusterError, match=says):
            kubeflow_cluster.arguments(LEAN, chosen, given)


@pytest.mark.parametrize("name", ["mlflow_pipeline", "lean_pipeline", "lean_pipeline_packages"])
def test_an_older_backend_takes_the_copy_that_is_made_for_it(tmp_path, capsys, name):
    import kfp

    file = paths.DEPLOY / f"{name}.yaml"
    for version in ("2.16.0", "2.17.0", "unknown"):
        assert kubeflow_cluster.for_backend(file, version, tmp_path) == file
    assert not capsys.readouterr().out
    older = kubeflow_cluster.for_backend(file, "2.15.0", tmp_path)
    assert "KFP 2.15.0 does not know securityContext" in capsys.readouterr().out
    arguments = {"source": "x"} if "lean" in name else {}
    with serve(version="2.15.0", slow=60) as url:
        client = kfp.Client(host=url, namespace="kubeflow")
        with pytest.raises(Exception, match="securityContext"):
            client.create_run_from_pipeline_package(str(file), arguments)
        assert client.create_run_from_pipeline_package(str(older), arguments).run_id
    theirs, ours = (list(yaml.safe_load_all(path.read_text())) for path in (older, file))
    assert theirs[0] == ours[0] and "optional: true" in older.read_text(), "secrets stay"


def test_the_copy_for_an_older_backend_is_made_by_a_command_and_never_over_its_original(tmp_path, capsys, monkeypatch):
    from helpers.cluster import __main__ as command

    monkeypatch.chdir(tmp_path)
    assert command.main([str(LEAN)]) == 0 and (tmp_path / LEAN.name).exists()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "no_tasks.yaml").write_text("pipelineInfo: {}\n---\nplatforms: {kubernetes: {}}\n")
    assert command.main(["elsewhere/no_tasks.yaml"]) == 0, "a Kubernetes part without a task's settings"
    (tmp_path / "other.yaml").write_text("a: 1\n")
    for file, says in {
        LEAN.name: "would take its place",
        "missing.yaml": "missing.yaml cannot be read: No such file",
        "other.yaml": "is no pipeline that KFP 2 has compiled",
    }.items():
        assert command.main([file]) == 1 and says in capsys.readouterr().err


@pytest.mark.nightly
@pytest.mark.parametrize("failing", ["model_type guess", "colour red"])
def test_another_pipeline_goes_the_same_way(place, servers, capsys, tmp_path, failing):
    rows = "".join(f"{number},{number % 7},{'xy'[number % 2]}\n" for number in range(40))
    (tmp_path / "table.csv").write_text("a,b,target\n" + rows)
    given = json.dumps({"source": str(tmp_path / "table.csv")})
    own = ["-p", "pipeline_path", "deploy/lean_pipeline.yaml", "-p", "arguments", given, "-p", "failing", failing]
    code, said, text = run_notebook(place, capsys, *own, "-p", "pipeline_name", "lean")
    assert code == 0, said
    assert "svc/model.skops" in text
    assert f"{int(failing == 'model_type guess')} task failed" in text


def test_login_page_is_recognised():
    import http.server
    import threading

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", "/dex/auth")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(kubeflow_cluster.ClusterError, match="login page.*KF_PIPELINES_SA_TOKEN_PATH"):
            kubeflow_cluster.check_api(f"http://127.0.0.1:{server.server_port}", None, "kubeflow")
        server.shutdown()


def test_follow_gives_up_and_says_how_to_end_the_run():
    import kfp

    file = paths.DEPLOY / "mlflow_pipeline.yaml"
    with serve(slow=60) as url:
        client = kfp.Client(host=url, namespace="kubeflow")
        run = client.create_run_from_pipeline_package(str(file))
        with pytest.raises(kubeflow_cluster.ClusterError, match="goes on.*terminate_run"):
            kubeflow_cluster.follow(client, run.run_id, file, timeout=2)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"NB_PREFIX": "/notebook/a/b"}, "a Kubeflow Notebook"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "a pod"),
        ({"CI": "true"}, "CI"),
        ({}, "a laptop"),
    ],
)
def test_place(monkeypatch, variables, expected):
    for name in ("NB_PREFIX", "KUBERNETES_SERVICE_HOST", "CI", "KF_PIPELINES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert kubeflow_cluster.place() == expected
    inside = expected in ("a Kubeflow Notebook", "a pod")
    assert kubeflow_cluster.endpoint().startswith("http://ml-pipeline.kubeflow" if inside else "http://localhost:8888")


def test_05_and_06_run_the_same_file():
    stored = {}
    for path in (path for path in numbered() if path.stem[:2] in ("05", "06")):
        outputs = json.dumps([cell.get("outputs") for cell in nbformat.read(path, 4).cells])
        stored[path.stem] = re.search(r"checksum of the file: (\w{12})", outputs)[1]
    assert len(stored) == 2 and len(set(stored.values())) == 1, stored
