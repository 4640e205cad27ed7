"""A server of the reader's own, as companies have them: let in with every log-in and CA, or told why not."""

import base64
import contextlib
import http.server
import os
import re
import socket
import threading
import time

import boto3
import pytest
from kfp.dsl import Metrics, Model
from mlflow import MlflowClient
from mlflow.server import get_app_client
from mlflow.store.artifact import s3_artifact_repo
from support import company
from support.proxy import Proxy

from helpers import begin, paths, stack
from helpers.pipelines.lean_pipeline import upload_model_to_mlflow
from helpers.series import exercises
from helpers.stack.process import free_port

TOKEN, SECRET = "a-token-of-the-company", "kims-password-of-tests"
BASIC = "Basic " + base64.b64encode(f"kim:{SECRET}".encode()).decode()
KIM = {"MLFLOW_TRACKING_USERNAME": "kim", "MLFLOW_TRACKING_PASSWORD": SECRET}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A server without a log-in, to stand behind gateways."""
    with company.mlflow_server(tmp_path_factory.mktemp("plain")) as url:
        yield url


@pytest.fixture(scope="module")
def auth(tmp_path_factory):
    """MLflow's own log-in; kim is an ordinary user, and an experiment and a model belong to the administrator."""
    own = {"MLFLOW_FLASK_SERVER_SECRET_KEY": "x", "MLFLOW_AUTH_ADMIN_PASSWORD": company.PASSWORD}
    with company.mlflow_server(tmp_path_factory.mktemp("auth"), "--app-name=basic-auth", **own) as url:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_USERNAME", company.ADMIN)
            patch.setenv("MLFLOW_TRACKING_PASSWORD", company.PASSWORD)
            get_app_client("basic-auth", tracking_uri=url).create_user("kim", SECRET)
            MlflowClient(url).create_experiment("theirs")
            MlflowClient(url).create_registered_model("theirs", tags={"made_by_notebook": "07_test"})
        yield url


@pytest.fixture
def pem(tmp_path):
    return company.certificate(tmp_path)


def tls(url, pem):
    """A line that speaks TLS, to a server that does not."""
    return Proxy(int(url.rpartition(":")[2]), pem=pem)


def connect(url, **variables):
    os.environ.update(variables, MLFLOW_TRACKING_URI=url)
    return stack.connect()


@pytest.mark.parametrize("variable", ["TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE", "TRACKING_INSECURE_TLS"])
def test_tls_with_a_private_ca_lets_in_by_each_variable_that_mlflow_knows(plain, other, pem, variable):
    name = variable if variable.startswith("REQ") else f"MLFLOW_{variable}"
    with tls(plain, pem) as line:
        assert connect(line.url, **{name: "true" if "INSECURE" in name else str(pem)}).tracking_uri == line.url
    assert not other.work.exists(), "a server of the series was started"


def test_a_certificate_of_the_reader_is_asked_for_by_name_and_shown(plain, other, pem, tmp_path):
    (tmp_path / "theirs").mkdir()
    theirs = company.certificate(tmp_path / "theirs")
    says = "wants a certificate, or refuses yours: name its file in MLFLOW_TRACKING_CLIENT_CERT_PATH"
    with Proxy(int(plain.rpartition(":")[2]), pem=pem, asks=True) as line:
        for own in ({}, {"MLFLOW_TRACKING_CLIENT_CERT_PATH": str(theirs)}):
            with pytest.raises(stack.StackError, match=says):
                connect(line.url, MLFLOW_TRACKING_SERVER_CERT_PATH=str(pem), **own)
        assert connect(line.url, MLFLOW_TRACKING_CLIENT_CERT_PATH=str(pem)).tracking_uri == line.url


def test_a_server_that_hangs_up_is_not_said_to_want_a_certificate(other):
    with Proxy(9) as line, pytest.raises(stack.StackError, match="speaks no TLS|No MLflow server answers"):
        connect(line.url.replace("http:", "https:"))


@pytest.mark.parametrize(
    ("options", "variables"),
    [
        ({"authorization": f"Bearer {TOKEN}"}, {"MLFLOW_TRACKING_TOKEN": TOKEN}),
        ({"authorization": BASIC}, KIM),
        ({"prefix": "/team/mlflow"}, {}),
    ],
    ids=["token", "password", "prefix"],
)
def test_a_gateway_that_wants_something_on_every_path_lets_in_who_has_it(plain, other, options, variables):
    with company.gateway(plain, **options) as url:
        assert connect(url, **variables).passes_files_on()
        stack.check_store("mlflow-artifacts:/1")


def speaks_ssh():
    """A port of a program that is no web server at all."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer():
        with contextlib.suppress(OSError):
            while True:
                client = listener.accept()[0]
                client.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
                time.sleep(0.2)
                client.close()

    threading.Thread(target=answer, daemon=True).start()
    return contextlib.closing(listener), f"http://127.0.0.1:{listener.getsockname()[1]}"


def serves_files():
    """A web server of something else."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    opened = contextlib.ExitStack()
    opened.callback(server.server_close)
    opened.callback(server.shutdown)
    return opened, f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize(
    ("gateway", "variables", "says"),
    [
        ({"authorization": f"Bearer {TOKEN}"}, {}, "wants a log-in.* set MLFLOW_TRACKING_TOKEN"),
        ({"authorization": BASIC}, KIM | {"MLFLOW_TRACKING_PASSWORD": "wrong-one"}, "wants a log-in, or refuses yours"),
        ({"pem": 1}, {}, "from a CA that is unknown here.*MLFLOW_TRACKING_SERVER_CERT_PATH"),
        ({"pem": -1}, {}, "certificate of .* has expired"),
        ({"prefix": "/team"}, {}, "no MLflow server: mend the address"),
        ("http://nowhere.invalid:5000", {}, "There is no host of the name in http://nowhere.invalid:5000"),
        ("http://127.0.0.1:9", {}, "No MLflow server answers at http://127.0.0.1:9"),
        (f"http://kim:{SECRET}@127.0.0.1:9", {}, "holds a password.*MLFLOW_TRACKING_USERNAME"),
        (f"postgresql://kim:{SECRET}@db/x", {}, "is 'postgresql://db/x', which is no server"),
        (speaks_ssh, {}, "is no MLflow server"),
        (serves_files, {}, "is a web page, as for a log-in"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_what_is_refused_is_told_with_cause_and_remedy_and_no_secret(
    plain, other, tmp_path, no_longer_than, gateway, variables, says
):
    if isinstance(gateway, str):
        opened, url = contextlib.nullcontext(), gateway
    elif callable(gateway):
        opened, url = gateway()
    elif "pem" in gateway:
        pem = company.certificate(tmp_path, gateway["pem"])
        opened = tls(plain, pem)
        url, variables = opened.url, {"MLFLOW_TRACKING_SERVER_CERT_PATH": str(pem)} if gateway["pem"] < 0 else {}
    else:
        opened, url = company.gateway(plain, **gateway), None
    with opened as yielded, no_longer_than(30), pytest.raises(stack.StackError, match=says) as raised:
        connect((url or yielded).removesuffix("/team"), **variables)
    said = str(raised.value)
    assert len(said.splitlines()) == 1 and not re.search(f"{SECRET}|{TOKEN}|wrong-one", said)
    assert not other.work.exists()


def test_an_ordinary_user_is_told_whose_a_name_is(auth, other):
    connect(auth, **KIM)
    assert begin.experiment("kims") == "kims"
    with pytest.raises(paths.SeriesError, match="experiment 'theirs' is somebody else's.*Take another experiment_name"):
        begin.experiment("theirs")
    with pytest.raises(paths.SeriesError, match="registered model 'theirs' is somebody else's.*registered_model_name"):
        begin.registered_model("theirs", "07_test")
    assert begin.registered_model("kims", "07_test") == "kims"


def upload(tmp_path, url, endpoint="", **more):
    """Upload a small model with the lean component."""
    (tmp_path / "model").mkdir(exist_ok=True)
    (tmp_path / "model" / "MLmodel").write_text("flavors: {}\n")
    where = {"model_name": "svc", "experiment_name": "kims", "job_id": "1", "patience": 0} | more
    model, metrics = Model(uri=str(tmp_path / "model")), Metrics(uri="none")
    return upload_model_to_mlflow(model, metrics, **where, mlflow_tracking_uri=url, mlflow_s3_endpoint_url=endpoint)


def test_a_store_that_is_closed_is_told_with_its_variables_and_an_error_without_words_too(servers, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-one")
    s3_artifact_repo._cached_get_s3_client.cache_clear()
    boto3.DEFAULT_SESSION = None
    with pytest.raises(
        stack.StackError, match="s3://mlflow/1, which cannot be reached.*Check AWS_ACCESS_KEY_ID"
    ) as raised:
        stack.check_store("s3://mlflow/1")
    assert "wrong-one" not in str(raised.value) and len(str(raised.value).splitlines()) == 1

    def silent(**_):
        raise TimeoutError

    monkeypatch.setattr("mlflow.artifacts.list_artifacts", silent)
    with pytest.raises(stack.StackError, match="cannot be reached: TimeoutError"):
        stack.check_store("s3://mlflow/1")


def test_a_task_of_an_ordinary_user_uploads_to_a_name_of_their_own_alone(auth, tmp_path, monkeypatch):
    for name, value in KIM.items():
        monkeypatch.setenv(name, value)
    run_id = upload(tmp_path, auth)
    assert MlflowClient(auth).get_run(run_id).info.status == "FINISHED"
    with pytest.raises(ConnectionError, match="lets you in, but not do this.*take another name"):
        upload(tmp_path, auth, experiment_name="theirs")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-one")
    with pytest.raises(ConnectionError, match="wants a log-in, or refuses yours"):
        upload(tmp_path, auth)


def test_a_task_reaches_server_and_store_behind_a_private_ca(servers, tmp_path, pem, monkeypatch):
    with tls(servers.tracking_uri, pem) as line, tls(servers.s3_endpoint_url, pem) as store:
        url, s3 = line.url, store.url
        with pytest.raises(ConnectionError, match="from a CA that is unknown here"):
            upload(tmp_path, url, s3, experiment_name="tls")
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(pem))
        monkeypatch.setenv("AWS_CA_BUNDLE", str(pem))
        boto3.DEFAULT_SESSION = None
        run_id = upload(tmp_path, url, s3, experiment_name="tls")
        run = MlflowClient(url).get_run(run_id)
    assert run.info.status == "FINISHED" and run.info.artifact_uri.startswith("s3://")


def test_a_server_that_comes_back_is_waited_for_and_gets_one_run(tmp_path):
    port, found = free_port(), []
    thread = threading.Thread(target=lambda: found.append(upload(tmp_path, f"http://127.0.0.1:{port}", patience=120)))
    thread.start()
    time.sleep(3)
    assert thread.is_alive() and not found, "it did not wait"
    with company.mlflow_server(tmp_path / "late", port=port) as url:
        thread.join(120)
        client = MlflowClient(url)
        experiment = client.get_experiment_by_name("kims")
        assert [run.info.run_id for run in client.search_runs([experiment.experiment_id])] == found


def test_a_gateway_whose_server_is_away_is_asked_again(plain, tmp_path):
    with company.gateway(plain, away=2) as url:
        assert MlflowClient(plain).get_run(upload(tmp_path, url, job_id="2", patience=60)).info.status == "FINISHED"
    with company.gateway(plain, away=99) as url, pytest.raises(ConnectionError, match="No MLflow server answers at"):
        upload(tmp_path, url, job_id="3")


@pytest.mark.parametrize(
    ("say", "heals"),
    [
        ("failed with exception ... too many 503 error responses", True),
        ("API request to x failed with error code 502 != 200", True),
        ("[Errno 104] Connection reset by peer", True),
        ("[Errno 113] No route to host", True),  # a Service of a cluster without a pod
        ("error code 500 != 200", False),
        ("error code 400 != 200", False),
        ("url: /api/2.0/mlflow-artifacts/artifacts/1/a (Caused by ... too many 503 error responses)", False),
    ],
)
def test_only_what_can_heal_is_tried_again(monkeypatch, say, heals):
    from helpers.pipelines.mlflow_pipeline import reach

    tries = []
    monkeypatch.setattr(time, "sleep", lambda seconds: None)

    def work():
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError(say)
        return "done"

    if heals:
        assert reach(work, "http://mlflow", 60) == "done"
    else:
        with pytest.raises((RuntimeError, ConnectionError)):
            reach(work, "http://mlflow", 60)
        assert len(tries) == 1


# --- every notebook that connects ------------------------------------------------------------------

CONNECT = ("02", "03", "05", "07", "08", "09")


@contextlib.contextmanager
def stored(servers, folder, *options):
    """Run a server beside the series' own store, told by Amazon's own variables alone where that is."""
    store = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    store["AWS_ENDPOINT_URL_S3"] = servers.s3_endpoint_url
    with company.mlflow_server(folder, *options, **store) as url:
        yield url, store


@contextlib.contextmanager
def company_server(kind, request, tmp_path):
    """Yield the address of a kind of server, and what its reader has set."""
    if kind == "log-in":
        yield request.getfixturevalue("auth"), KIM
    elif kind in ("token", "prefix"):
        options = {"authorization": f"Bearer {TOKEN}"} if kind == "token" else {"prefix": "/team/mlflow"}
        with company.gateway(request.getfixturevalue("plain"), **options) as url:
            yield url, {"MLFLOW_TRACKING_TOKEN": TOKEN} if kind == "token" else {}
    elif kind == "private CA":
        servers, pem = request.getfixturevalue("servers"), request.getfixturevalue("pem")
        own = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        own |= {"MLFLOW_TRACKING_SERVER_CERT_PATH": str(pem), "AWS_CA_BUNDLE": str(pem)}
        with tls(servers.tracking_uri, pem) as line, tls(servers.s3_endpoint_url, pem) as store:
            yield line.url, own | {"MLFLOW_S3_ENDPOINT_URL": store.url}
    else:
        options = {
            "no artifact serving": ["--no-serve-artifacts", "--default-artifact-root=s3://mlflow/team"],
            "below a bucket": ["--artifacts-destination=s3://mlflow/team/files"],
        }[kind]
        with stored(request.getfixturevalue("servers"), tmp_path / "server", *options) as (url, store):
            yield url, store if "no" in kind else {}


KINDS = ["log-in", "token", "prefix", "private CA", "no artifact serving", "below a bucket"]


@pytest.mark.parametrize(
    ("kind", "notebooks"),
    [pytest.param("log-in", ["02", "05"], marks=pytest.mark.slow, id="log-in, two of them")]
    + [pytest.param(kind, CONNECT, marks=pytest.mark.nightly, id=kind) for kind in KINDS],
)
def test_notebooks_run_against(kind, notebooks, request, other, tmp_path):
    request.getfixturevalue("servers")  # before the other place: its variables are put back after
    os.environ["SERIES_WORK"] = str(other.work)
    with company_server(kind, request, tmp_path) as (url, variables):
        for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_"))]:
            del os.environ[name]
        done = other.run("-m helpers.series", *notebooks, timeout=1200, MLFLOW_TRACKING_URI=url, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (other.work / "stack.json").exists(), "a server of the series was started"
    executed = "".join(path.read_text() for path in other.work.glob("runs/*/*.ipynb"))
    assert SECRET not in executed and TOKEN not in executed


SOLUTIONS = ("02", "03", "05", "07", "08", "09")


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS)
def test_exercises_check_themselves_against(kind, request, other, tmp_path):
    request.getfixturevalue("servers")
    os.environ["SERIES_WORK"] = str(other.work)
    with company_server(kind, request, tmp_path) as (url, variables):
        for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_"))]:
            del os.environ[name]
        said = {}
        for path in exercises.solutions():
            if path.stem[:2] in SOLUTIONS:
                done = other.run(
                    "-m papermill --no-progress-bar",
                    str(path),
                    str(tmp_path / path.name),
                    timeout=600,
                    MLFLOW_TRACKING_URI=url,
                    **variables,
                )
                assert done.returncode == 0, done.stderr[-3000:]
                said[path.stem] = re.findall(r"not yet: [^\n]*", (tmp_path / path.name).read_text())
    assert not any(said.values()), said
    assert not (other.work / "stack.json").exists(), "a server of the series was started"
