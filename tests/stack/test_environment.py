"""What a reader has set for another project does not matter here; what leads to a server of theirs does."""

import os
import shlex
import subprocess
import sys

import pytest
from mlflow import MlflowClient
from support import company

from helpers import environment, paths

WORK = """
from helpers import begin, serving, stack
begin.notebook("environment")
servers = stack.connect()
import mlflow
name = begin.experiment("environment")
mlflow.set_experiment(name)
with mlflow.start_run() as run:
    mlflow.log_param("kernel", "rbf")
    mlflow.log_text("text", "svc/MLmodel")
registered = begin.registered_model("environment", "test")
client = mlflow.MlflowClient()
client.create_model_version(registered, f"runs:/{run.info.run_id}/svc", run.info.run_id)
found = mlflow.MlflowClient(servers.tracking_uri, servers.tracking_uri)
assert [one.run_id for one in found.search_model_versions(f"name = '{registered}'")] == [run.info.run_id]
assert run.info.artifact_uri.startswith("s3://mlflow/"), run.info.artifact_uri
assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/svc/MLmodel") == "text"
print("went well")
"""
DEAD = "http://127.0.0.1:9"
AWS_CONFIG = {
    "acceleration": "[default]\ns3 =\n  use_accelerate_endpoint = true\n",
    "another store": f"[default]\nendpoint_url = {DEAD}\nregion = nowhere\n",
    "a file that cannot be parsed": "[default\nregion = a\n",
    "keys from a program": "[default]\ncredential_process = /bin/false\n",
}

VARIABLES = [
    {"AWS_DEFAULT_PROFILE": "work"},
    {"AWS_PROFILE": "work", "AWS_SESSION_TOKEN": "x", "AWS_DEFAULT_REGION": "eu-central-1"},
    {"AWS_ENDPOINT_URL": DEAD, "AWS_ENDPOINT_URL_S3": DEAD, "AWS_CA_BUNDLE": "/nowhere.pem"},
    {"AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true", "AWS_S3_ADDRESSING_STYLE": "x"},
    {"MLFLOW_RUN_ID": "0" * 32, "MLFLOW_EXPERIMENT_ID": "77"},
    {"MLFLOW_EXPERIMENT_NAME": "theirs", "MLFLOW_REGISTRY_URI": DEAD},
    {"MLFLOW_TRACKING_AWS_SIGV4": "true", "MLFLOW_TRACKING_AUTH": "nobody"},
    {"MLFLOW_TRACKING_TOKEN": "x", "MLFLOW_TRACKING_USERNAME": "kim", "MLFLOW_TRACKING_PASSWORD": "x"},
    {"MLFLOW_WORKSPACE": "team", "MLFLOW_ENABLE_WORKSPACES": "true"},
    {"MLFLOW_S3_UPLOAD_EXTRA_ARGS": '{"ServerSideEncryption": "aws:kms"}', "MLFLOW_S3_ENDPOINT_URL": DEAD},
    {"MLFLOW_TRACKING_SERVER_CERT_PATH": "/nowhere.pem", "MLFLOW_BACKEND_STORE_URI": "sqlite:////nowhere/a.db"},
    {"MLFLOW_PORT": "tcp://10.0.0.1:5000", "MLFLOW_HOST": "0.0.0.0", "MLFLOW_WORKERS": "9"},
    {"NO_PROXY": "*", "HTTP_PROXY": DEAD},
    {"http_proxy": DEAD, "https_proxy": DEAD, "no_proxy": "example.com"},
    {"UVICORN_PORT": "9", "UVICORN_RELOAD": "true", "WEB_CONCURRENCY": "7", "GUNICORN_CMD_ARGS": "--bind=x"},
    {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONSTARTUP": "/nowhere.py", "PYTHONDEVMODE": "0", "PYTHONUSERBASE": "/nowhere"},
]


@pytest.mark.parametrize(
    "variables",
    [VARIABLES[4], VARIABLES[5], {"HOME": "acceleration"}]
    + [pytest.param(row, marks=pytest.mark.slow) for row in VARIABLES[:4] + VARIABLES[6:]]
    + [pytest.param({"HOME": kind}, marks=pytest.mark.slow) for kind in list(AWS_CONFIG)[1:]],
    ids=lambda variables: "+".join(f"{k}" if k != "HOME" else variables[k] for k in variables),
)
def test_with_the_servers_of_the_series_nothing_else_matters(servers, shared, tmp_path, variables):
    if "HOME" in variables:
        (tmp_path / ".aws").mkdir()
        (tmp_path / ".aws" / "config").write_text(AWS_CONFIG[variables["HOME"]])
        variables = {"HOME": str(tmp_path)}
    for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_"))]:
        del os.environ[name]  # the servers are found by their state folder, as a reader's kernel finds them
    done = shared.run(WORK, **variables)
    assert done.returncode == 0 and "went well" in done.stdout, done.stdout + done.stderr


def test_make_runs_its_kernels_beside_another_package_of_the_same_name(other, tmp_path):
    theirs = tmp_path / "theirs" / "helpers" / "__init__.py"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("raise RuntimeError('another package')\n")
    hostile = {
        "PYTHONPATH": str(tmp_path / "theirs"),
        "PYTHONOPTIMIZE": "2",
        "PYTHONWARNINGS": "error",
        "PYTHONHOME": "/",
    }
    makefile = (paths.ROOT / "Makefile").read_text() + "\n_one: ; @$(VENV) -m helpers.series 00\n"
    command = ["make", "-s", "-f", "-", "_one", f"VENV={shlex.quote(sys.executable)}"]
    done = subprocess.run(
        command, cwd=paths.ROOT, input=makefile, capture_output=True, text=True, env=os.environ | hostile
    )
    assert done.returncode == 0 and "00_start_here  done" in done.stdout, done.stdout + done.stderr


def test_a_kernel_whose_checks_would_not_check_is_refused(other):
    done = other.run("from helpers import begin; begin.notebook('00')", PYTHONOPTIMIZE="1")
    assert "PYTHONOPTIMIZE was set" in done.stderr


@pytest.mark.slow
def test_a_user_without_a_home_runs_a_notebook(other):
    done = other.run("-m helpers.series 01", HOME="/nonexistent")
    assert done.returncode == 0, done.stdout + done.stderr
    done = other.run("-m helpers.series 01", HOME="/nonexistent", IPYTHONDIR="/proc/nowhere")
    assert done.returncode == 1 and done.stderr.strip().endswith("Is there a home folder, and disk space?")


def test_what_passes_and_what_does_not():
    given = {
        **{"JUPYTER_PORT": "tcp://10.0.0.1:80", "MLFLOW_PORT_5000_TCP": "tcp://10.0.0.1:5000", "JUPYTER_TOKEN": "x"},
        **{"JUPYTERLAB_DIR": "/other", "JUPYTER_CONFIG_DIR": "/mine", "PYTHONUTF8": "1", "PYTHONDEVMODE": "1"},
        **{"OMP_NUM_THREADS": "1", "HF_TOKEN": "x", "MLFLOW_LOGGING_LEVEL": "INFO", "MLFLOW_TRACKING_TOKEN": "x"},
    }
    theirs, ours = dict(given), dict(given)
    environment.tidy(theirs)
    environment.lead_home(ours, {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"})
    kept = {"JUPYTER_TOKEN", "JUPYTER_CONFIG_DIR", "PYTHONUTF8", "OMP_NUM_THREADS", "HF_TOKEN", "MLFLOW_LOGGING_LEVEL"}
    assert set(theirs) == kept | {"MLFLOW_TRACKING_TOKEN"}
    assert (
        kept | {"MLFLOW_TRACKING_URI", "AWS_CONFIG_FILE", "NO_PROXY"} < set(ours)
        and "MLFLOW_TRACKING_TOKEN" not in ours
    )


def test_a_proxy_leads_to_the_readers_server_and_is_not_asked_for_ours(other, tmp_path):
    """The server has a name that only the company's proxy knows."""
    company_name = "http://mlflow.company.example"
    with (
        company.mlflow_server(tmp_path / "server", "--allowed-hosts=mlflow.company.example") as url,
        company.gateway(url, prefix=company_name) as proxy,
    ):
        proxy = proxy.removesuffix(company_name)
        code = WORK.replace('.startswith("s3://mlflow/")', '.startswith("mlflow-artifacts:")')
        done = other.run(code, MLFLOW_TRACKING_URI=company_name, HTTP_PROXY=proxy, http_proxy=proxy)
        assert done.returncode == 0 and "went well" in done.stdout, done.stdout + done.stderr
        done = other.run(code, MLFLOW_TRACKING_URI=company_name, HTTP_PROXY=proxy, NO_PROXY=".example")
        assert "There is no host of the name in" in done.stderr
    assert not (other.work / "stack.json").exists()


@pytest.mark.slow
def test_a_registry_set_apart_counts_with_the_readers_server(other, tmp_path):
    with company.mlflow_server(tmp_path / "tracking") as url, company.mlflow_server(tmp_path / "registry") as registry:
        code = "from helpers import begin, stack; begin.notebook('x'); stack.connect(); begin.registered_model('apart', 'x')"
        done = other.run(code, MLFLOW_TRACKING_URI=url, MLFLOW_REGISTRY_URI=registry)
        assert done.returncode == 0, done.stderr
        found = [[one.name for one in MlflowClient(at).search_registered_models()] for at in (url, registry)]
    assert found == [[], ["apart"]]
