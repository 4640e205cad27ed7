"""A room of learners: names of their own, one server for all, who is how far, a fresh start, no internet."""

import http.server
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from urllib.parse import urlsplit

import nbformat
import psutil
import pytest
from mlflow import MlflowClient

from helpers import begin, paths, serving, stack
from helpers.stack.servers import weed
from helpers.workshop import progress, status

needs_weed = pytest.mark.skipif(weed() is None, reason="SeaweedFS has no build for this machine")
ALONE = (
    subprocess.run(["unshare", "-n", "ip", "link", "set", "lo", "up"], capture_output=True).returncode == 0
    if shutil.which("unshare") and shutil.which("ip")
    else False
)
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "work", "my*", "wheels", "__pycache__", ".ipynb*", ".pytest_cache")


@pytest.fixture
def room(place):
    """A client of the shared server, as a learner has it: with its address and without keys."""
    uri = status.start(12).tracking_uri
    os.environ["MLFLOW_TRACKING_URI"] = uri
    os.environ.update(begin.QUIET)
    return MlflowClient(uri)


def mlflow_processes(place) -> list[psutil.Process]:
    return [process for process in place.processes() if "weed" not in process.name()]


# --- the shared server ---------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "mlflow.example", ""])
def test_start_refuses_what_is_not_loopback(other, host, capsys):
    assert status.main(["start", "--host", host]) == 1
    said = capsys.readouterr()
    assert f"does not listen on {host}:" in said.err and "ssh -N -L" in said.err and "deploy/README.md" in said.err
    assert not other.work.exists(), "a server was started"


@pytest.mark.parametrize("asked, reason", [(["--learners", "0"], "1 to 500"), (["--port", "80"], "from 1024")])
def test_start_refuses_what_cannot_be(other, asked, reason, capsys):
    assert status.main(["start", *asked]) == 1
    assert reason in capsys.readouterr().err
    assert not other.work.exists()


@pytest.mark.slow
def test_pools_are_sized_for_the_class_and_everything_listens_on_loopback(place, capsys):
    assert status.main(["start", "--learners", "60"]) == 0
    said = capsys.readouterr().out
    uri = stack.status()["mlflow"]["url"]
    assert f"\nexport MLFLOW_TRACKING_URI={uri} WORKSHOP_LEARNER=<name>\n" in said
    servers = mlflow_processes(place)
    assert servers
    for process in servers:
        variables = process.environ()
        assert (
            variables["MLFLOW_SQLALCHEMYSTORE_POOL_SIZE"] == variables["MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW"] == "120"
        )
    listening = {
        connection.laddr.ip
        for process in place.processes()
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    # Who starts the stack again, by opening a notebook, keeps the class its server.
    stack.start()
    assert {process.pid for process in mlflow_processes(place)} == {process.pid for process in servers}


@pytest.mark.slow
@needs_weed
def test_a_stack_becomes_a_workshop_and_after_a_stop_a_stack_again(other):
    stack.start()
    client = MlflowClient(stack.environment()["MLFLOW_TRACKING_URI"])

    def location(name):
        return client.get_experiment(client.create_experiment(name)).artifact_location

    assert location("before").startswith("s3://")
    port = serving.free_port()
    assert urlsplit(status.start(2, port=port).tracking_uri).port == port
    client = MlflowClient(stack.environment()["MLFLOW_TRACKING_URI"])
    assert client.get_experiment_by_name("before") and location("during").startswith("mlflow-artifacts:/")
    assert all(process.environ()["MLFLOW_SQLALCHEMYSTORE_POOL_SIZE"] == "40" for process in mlflow_processes(other))
    stack.stop()
    stack.start()
    assert location("after").startswith("s3://")


def test_a_port_of_another_program_is_refused_and_nothing_is_started(other):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(stack.StackError, match="is taken by another program"):
            status.start(2, port=listener.getsockname()[1])
    assert not other.processes()


@pytest.mark.slow
@needs_weed
@pytest.mark.slow
def test_a_learner_without_keys_does_notebook_02(room, place):
    before = {process.pid for process in place.processes()}
    assert not [name for name in os.environ if name.startswith("AWS_")]
    done = place.run("-m helpers.series 02", WORKSHOP_LEARNER="anna")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {process.pid for process in place.processes()} == before, "a learner started a server"
    (path,) = place.work.glob("runs/*/02*.ipynb")
    text = "".join(
        output.get("text", "") for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])
    )
    assert "AWS_ACCESS_KEY_ID        is not set" in text
    assert "The server keeps these files" in text and "Here only the server can look" in text
    experiment = room.get_experiment_by_name("anna-iris-by-hand")
    runs = room.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {len(room.list_artifacts(run.info.run_id, "svc")) for run in runs} == {7}
    assert room.get_experiment_by_name("anna-iris-by-hand-proxied") and not room.get_experiment_by_name("iris-by-hand")
    (anna,) = [one for one in status.status() if one.learner == "anna"]
    assert (anna.finished, anna.failed, anna.running, anna.passed) == (3, 0, 0, [])


@pytest.mark.slow
def test_a_registered_model_is_the_learners(room, monkeypatch):
    assert begin.registered_model("iris-gate", "07_test") == "iris-gate"
    monkeypatch.setenv("WORKSHOP_LEARNER", "greta")
    assert begin.registered_model("iris-gate", "07_test") == "greta-iris-gate"
    assert {model.name for model in room.search_registered_models()} >= {"iris-gate", "greta-iris-gate"}


# --- who is how far ------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_empty_class_has_a_status(other, capsys):
    status.start(1)
    assert status.main(["status"]) == 0
    assert capsys.readouterr().out.endswith("Nobody has begun a notebook yet.\n")


@pytest.mark.slow
def test_a_server_that_is_down_is_said_with_the_remedy(other, capsys, no_longer_than):
    status.start(1)
    stack.stop()
    with no_longer_than(60):
        assert status.main(["status"]) == 1
    assert capsys.readouterr().err == "The workshop's server is down. Start it again, nothing is lost: make workshop\n"


@pytest.mark.slow
def test_status_counts_runs_and_checks_of_each(room, monkeypatch, capsys):
    for name in ("berta", "bert"):
        monkeypatch.setenv("WORKSHOP_LEARNER", name)
        experiment_id = room.create_experiment(begin.experiment("iris"))
        for outcome in ["FINISHED", "FINISHED", "FAILED", "KILLED", "RUNNING"][: 5 if name == "berta" else 1]:
            run_id = room.create_run(experiment_id).info.run_id
            if outcome != "RUNNING":
                room.set_terminated(run_id, outcome)
        if name == "berta":
            progress.record("05-2")
            progress.record("05-1")
    assert capsys.readouterr().out == ""
    found = {one.learner: one for one in status.status()}
    berta, bert = found["berta"], found["bert"]
    assert (berta.finished, berta.failed, berta.running, berta.passed) == (2, 2, 1, ["05-1", "05-2"])
    assert (bert.finished, bert.failed, bert.running, bert.passed) == (1, 0, 0, [])
    assert status.main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["learner", "finished", "failed", "running", "last", "activity", "passed"]
    assert any(re.fullmatch(r"berta +2 +2 +1  20\d\d-\d\d-\d\d \d\d:\d\d  05-1 05-2", line) for line in lines), lines


def test_record_outside_a_workshop_does_nothing(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    progress.record("05-1")
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://192.0.2.1:5000", "no address", None])
def test_record_without_a_server_is_one_quiet_sentence(monkeypatch, capsys, address, no_longer_than):
    monkeypatch.setenv("WORKSHOP_LEARNER", "anna")
    if address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with no_longer_than(30):
        progress.record("05-1")
    said = capsys.readouterr()
    assert (said.out.count("\n"), said.err) == (1, "") and "Your work is not affected" in said.out


@pytest.mark.slow
def test_a_slow_import_is_not_the_servers(room, place):
    """Importing MLflow takes seconds on a cold machine, more than a notebook waits for the server."""
    done = place.run(
        """
        import sys, time
        from helpers.workshop import progress

        class Slow:
            def find_spec(self, name, *_):
                if name == "mlflow":
                    time.sleep(progress.SECONDS + 1)

        sys.meta_path.insert(0, Slow())
        progress.record("04-1")
        """,
        WORKSHOP_LEARNER="coldstart",
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert [one.passed for one in status.status() if one.learner == "coldstart"] == [["04-1"]]


@pytest.mark.slow
def test_record_never_waits_for_a_server_that_hangs(monkeypatch, capsys, no_longer_than):
    end = threading.Event()

    class Hanging(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path != "/health":
                end.wait(120)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hanging)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WORKSHOP_LEARNER", "anna")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    try:
        with no_longer_than(30):
            progress.record("05-1")
        assert "Your work is not affected" in capsys.readouterr().out
    finally:
        end.set()
        server.shutdown()


# --- a fresh start -------------------------------------------------------------------------------


def content(client: MlflowClient) -> dict:
    """Return all that is active on the server, by name."""
    found = {
        one.name: sorted(run.info.run_id for run in client.search_runs([one.experiment_id]))
        for one in client.search_experiments()
    }
    return {"experiments": found, "models": {one.name for one in client.search_registered_models()}}


def fill(client: MlflowClient, prefix: str) -> None:
    for name in (f"{prefix}iris", f"{prefix}iris-components"):
        client.create_run(client.create_experiment(name))
    client.create_registered_model(f"{prefix}iris-svc")


@pytest.mark.slow
def test_reset_frees_one_learners_names_and_touches_nobody_else(room, monkeypatch, capsys):
    for prefix in ("ann-", "anni-", "anni2-", "carl-anni-", "ANNI-"):
        fill(room, prefix)
    for name in ("ann", "anni"):
        monkeypatch.setenv("WORKSHOP_LEARNER", name)
        progress.record("05-1")
    room.delete_experiment(room.create_experiment("anni-thrown-away"))  # by the learner, in the UI
    before = content(room)
    assert status.main(["reset", "anni", "--yes"]) == 0
    assert "anni can begin anew: 4 experiments and 1 registered models are gone." in capsys.readouterr().out
    after = content(room)
    assert after["experiments"] == {
        name: runs for name, runs in before["experiments"].items() if not name.startswith("anni-")
    }
    assert before["models"] - after["models"] == {"anni-iris-svc"} and after["models"] < before["models"]
    # All names can be had again, twice.
    for _ in range(2):
        for name in ("iris", "thrown-away"):
            assert begin.experiment(name) == f"anni-{name}"
            room.create_experiment(f"anni-{name}")
        progress.record("05-2")
        assert [one.passed for one in status.status() if one.learner == "anni"] == [["05-2"]]
        assert status.reset("anni") == (3, 0)
    assert content(room) == after
    assert status.main(["reset", "anni"]) == 0
    assert capsys.readouterr().out == "The server has nothing of anni.\n"


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["", "n\n", "anna\n"])
def test_reset_asks_first(room, monkeypatch, capsys, answer):
    if room.get_experiment_by_name("dora-iris") is None:
        fill(room, "dora-")
    before = content(room)
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    assert status.main(["reset", "dora"]) == 0
    said = capsys.readouterr().out
    assert "experiment dora-iris\n" in said and "registered model dora-iris-svc\n" in said
    assert said.endswith("Nothing was changed.\n") and content(room) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iris", "an-na", "", "%"])
def test_reset_of_no_learner_is_refused(room, name, capsys):
    before = content(room)
    assert status.main(["reset", name, "--yes"]) == 1
    assert "is not usable" in capsys.readouterr().err
    assert content(room) == before


# --- without the internet ------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["six==1.17.0 --hash=sha256:" + "0" * 64, "six==1.17.0"])
def test_a_package_that_no_hash_vouches_for_is_not_collected(monkeypatch, tmp_path, line):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    (tmp_path / "requirements.lock").write_text(f"{line}\n")
    with pytest.raises(paths.SeriesError, match="could not be collected"):
        status.wheels(tmp_path / "wheels")
    assert not list((tmp_path / "wheels").glob("*"))


@pytest.mark.slow
@pytest.mark.skipif(not ALONE, reason="this machine does not permit a network of one's own (unshare -n)")
def test_wheels_install_a_fresh_checkout_without_a_network(tmp_path):
    wheels, root = tmp_path / "the wheels", tmp_path / "fresh checkout"
    sources = status.wheels(wheels)
    assert sources == ["kfp-server-api"], "another package has no wheel: is what builds it in the lock?"
    shutil.copytree(paths.ROOT, root, ignore=NOT_COPIED)
    # Nothing of this machine's package index: no mirror, no cache.
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    variables |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "UV_NO_CACHE": "1", "UV_NO_CONFIG": "1"}
    make = "ip link set lo up && make set-up WHEELS='../the wheels'"
    done = subprocess.run(["unshare", "-n", "sh", "-c", make], cwd=root, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    listed = subprocess.run(
        [root / ".venv" / "bin" / "python", "-m", "pip", "list", "--format", "json"],
        capture_output=True,
        text=True,
        env=variables,
        check=True,
    ).stdout
    assert {"kfp-server-api", "mlflow", "kfp", "uv"} <= {package["name"] for package in json.loads(listed)}
    done = subprocess.run(
        [root / ".venv" / "bin" / "python", "-c", "import kfp, mlflow, helpers; print(helpers.__file__)"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=variables,
    )
    assert done.stdout.strip() == str(root / "helpers" / "__init__.py"), done.stderr
    # One package less, and the set-up says what to do.
    next(wheels.glob("dill-*")).unlink()
    shutil.rmtree(root / ".venv")
    done = subprocess.run(["unshare", "-n", "sh", "-c", make], cwd=root, env=variables, capture_output=True, text=True)
    assert done.returncode and "lacks a package: run make wheels" in done.stderr and "dill" in done.stderr
