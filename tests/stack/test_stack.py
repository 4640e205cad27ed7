"""The two servers: started, taken over, killed, stopped, with real processes."""

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import psutil
import pytest
import requests
from mlflow import MlflowClient
from support import older

from helpers import stack
from helpers.stack import control, process, state
from helpers.stack import servers as parts

needs_weed = pytest.mark.skipif(parts.weed() is None, reason="SeaweedFS has no build for this machine")
READY = "The MLflow tracking server and the S3 store are ready."


def bucket():
    # Not the default session, which keeps the keys that it was made with.
    return boto3.Session().resource("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"]).Bucket(stack.BUCKET)


def stored(place) -> dict:
    return json.loads((place.work / "stack.json").read_text())


def pid(place, name: str) -> int:
    (server,) = process.alive(place.work / name)
    return server.pid


def seen(text: str) -> str:
    """Return what a terminal shows of a text with carriage returns."""
    lines = []
    for line in text.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown)
    return "\n".join(lines)


@contextmanager
def taken(*ports: int):
    """Listen on ports; one that somebody has already is as good."""
    sockets = []
    for port in ports:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            listener.bind(("127.0.0.1", port))
            listener.listen()
        sockets.append(listener)
    yield
    for listener in sockets:
        listener.close()


@pytest.fixture
def bystander(tmp_path):
    """Somebody else's process that bears a server's name."""
    program = shutil.copy(shutil.which("sleep"), tmp_path / "weed")
    process = subprocess.Popen([program, "600"])
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()


# --- start ---------------------------------------------------------------------------------------


@needs_weed
def test_two_starts_at_once_make_one_stack_on_free_ports(place):
    stack.stop()
    with taken(5000, 9000):
        both = [place.popen("from helpers import stack; print(repr(stack.start()))") for _ in range(2)]
        outputs = [[text.decode() for text in process.communicate(timeout=240)] for process in both]
        assert [process.returncode for process in both] == [0, 0], outputs
    shown = [seen(out) for out, _ in outputs]
    assert shown[0] == shown[1]
    assert shown[0].splitlines()[0] == READY
    assert "Stack(tracking_uri='http://127.0.0.1:" in shown[0].splitlines()[1]
    assert len(shown[0].splitlines()) == 2
    # Both said what they were waiting for.
    progress = sorted(out.split("\r")[1][:20] for out, _ in outputs)
    assert progress[0].startswith("Starting the") and progress[1].startswith("Waiting while"), progress

    names = [process.name() for process in place.processes()]
    assert names.count("weed") == 1, names
    assert len(names) == 2, "an MLflow server is one process"

    status, ports = stack.status(), stored(place)["ports"]
    for name, usual in parts.USUAL_PORTS.items():
        port = urlsplit(status[name]["url"]).port
        assert port == ports[name][0] != usual
        assert status[name]["running"] and status[name]["memory"] > 50e6
        assert requests.get(status[name]["url"], timeout=5).status_code in (200, 403)
    assert status["mlflow"]["url"] in shown[0] and status["s3"]["url"] in shown[0]


def test_usual_port_is_left_when_only_its_twin_is_taken():
    with taken(19000):
        assert 9000 not in parts.choose_ports("s3", [], True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may leave a socket in another user's name")
@pytest.mark.parametrize(("kind", "twin"), [("s3", 0), ("s3-grpc", 10000)])
def test_port_is_left_when_another_users_killed_store_left_its_socket(monkeypatch, kind, twin):
    port = parts.choose_ports("s3", [], False)[0]
    monkeypatch.setitem(parts.USUAL_PORTS, "s3", port)
    assert port in parts.choose_ports("s3", [], True)
    left = Path(f"/tmp/seaweedfs-{kind}-{port + twin}.sock")
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(left))
    try:
        assert port in parts.choose_ports("s3", [], True), "one of our own is no obstacle: SeaweedFS removes it"
        os.chown(left, 65534, 65534)
        assert port not in parts.choose_ports("s3", [], True)
        assert port not in parts.choose_ports("s3", [port] * 5, True)
    finally:
        left.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s3", "mlflow"])
def test_port_that_somebody_takes_while_we_start_is_left(other, monkeypatch, name):
    port = parts.choose_ports(name, [], False)[0]
    monkeypatch.setitem(parts.USUAL_PORTS, name, port)
    honest = process.is_free
    monkeypatch.setattr(process, "is_free", lambda number, twin=0: number == port or honest(number, twin))  # it was
    with taken(port):
        stack.start()
    assert stored(other)["ports"][name][0] != port
    assert all(server["running"] for server in stack.status().values())


def test_ports_of_before_are_kept_when_free_and_left_when_not():
    ports = parts.choose_ports("s3", [], False)
    assert len(set(ports) | {port + 10000 for port in ports}) == 10
    clients = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(clients.read_text().split()[0]) if clients.exists() else 32768
    assert all(port + 10000 < min(first, 32768) or first < 32768 for port in ports), "a client may get a twin"
    assert parts.choose_ports("s3", ports, True) == ports
    assert parts.choose_ports("s3", ports, False) != ports
    with taken(ports[3] + 10000):
        assert not set(ports[3:4]) & set(parts.choose_ports("s3", ports, True))


def test_second_start_starts_nothing(place, servers):
    before = {process.pid for process in place.processes()}
    assert stack.start() == servers
    assert {process.pid for process in place.processes()} == before


def test_everything_listens_on_loopback_only(place, servers):
    addresses = [
        connection.laddr
        for process in place.processes()
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(addresses) >= 2
    assert {address.ip for address in addresses} == {"127.0.0.1"}


def test_keys_are_the_owners_alone(place, servers):
    assert stat.S_IMODE((place.work / "stack.json").stat().st_mode) == 0o600
    keys = [stored(place)["access_key"].encode(), stored(place)["secret_key"].encode()]
    assert all(len(key) >= 20 for key in keys)
    for one in place.processes():
        assert not any(key in " ".join(one.cmdline()).encode() for key in keys)
    with suppress(Exception):  # a wrong key must not be answered with the right one in a log either
        boto3.client("s3", endpoint_url=servers.s3_endpoint_url, aws_secret_access_key="wrong").list_buckets()
    read = 0
    for path in place.work.rglob("*"):
        if path.is_file() and path.name != "stack.json":
            content, read = path.read_bytes(), read + 1
            assert keys[1] not in content, path  # the other one is a name, which SeaweedFS logs
    assert read > 5


def test_memory_is_lean(place, servers):
    assert sum(server["memory"] for server in stack.status().values()) < 900e6


# --- both ways of storing files ------------------------------------------------------------------


@needs_weed
def test_client_with_keys_writes_to_the_bucket_itself(servers, tmp_path):
    client = MlflowClient(servers.tracking_uri)
    run = client.create_run(client.create_experiment("direct"))
    assert run.info.artifact_uri.startswith("s3://mlflow/")
    (tmp_path / "a.txt").write_text("direct")
    client.log_artifact(run.info.run_id, tmp_path / "a.txt")
    key = run.info.artifact_uri.removeprefix("s3://mlflow/") + "/a.txt"
    assert bucket().Object(key).get()["Body"].read() == b"direct"
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["a.txt"]


def upload_through_server(servers, name: str, tmp_path) -> None:
    """Upload a file with no key in the environment, and look for it in the bucket."""
    environment = dict(os.environ)
    for variable in list(os.environ):
        if variable.startswith(("AWS_", "MLFLOW_S3")):
            del os.environ[variable]
    client = MlflowClient(servers.tracking_uri)
    run = client.create_run(client.create_experiment(name, artifact_location=f"mlflow-artifacts:/{name}"))
    (tmp_path / "b.txt").write_text(name)
    client.log_artifact(run.info.run_id, tmp_path / "b.txt")
    os.environ.update(environment)
    assert bucket().Object(f"{name}/{run.info.run_id}/artifacts/b.txt").get()["Body"].read() == name.encode()


@needs_weed
def test_client_without_keys_writes_through_the_server(servers, tmp_path):
    upload_through_server(servers, "proxied", tmp_path)


@needs_weed
def test_wrong_key_is_known_in_seconds(place, servers):
    client = MlflowClient(servers.tracking_uri)
    run = client.create_run(client.create_experiment("wrong key"))
    # In a process of its own: MLflow keeps its S3 client, and so the keys, for minutes.
    done = place.run(
        f"""
        from mlflow import MlflowClient
        MlflowClient().log_text({run.info.run_id!r}, "text", "c.txt")
        """,
        timeout=120,
        AWS_SECRET_ACCESS_KEY="wrong",
    )  # left to itself it tries for 248 s
    assert done.returncode == 1
    assert "SignatureDoesNotMatch" in done.stderr.splitlines()[-1]


# --- connect -------------------------------------------------------------------------------------


def test_connect_uses_the_readers_own_server_and_starts_none(servers, other, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", servers.tracking_uri + "/")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://store.example")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    assert stack.connect() == stack.Stack(servers.tracking_uri, "http://store.example")
    assert os.environ["AWS_ACCESS_KEY_ID"] == "mine"
    assert not other.work.exists()


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://nowhere.invalid:5000"])
def test_connect_refuses_a_server_that_is_down_in_seconds(other, monkeypatch, address, no_longer_than):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with (
        no_longer_than(60),
        pytest.raises(stack.StackError, match=f"No MLflow server answers at {address}.*unset MLFLOW_TRACKING_URI"),
    ):
        stack.connect()
    assert not other.work.exists()


@pytest.mark.parametrize("address", ["sqlite:///mlflow.db", "databricks", "./mlruns"])
def test_connect_refuses_what_is_no_server(other, monkeypatch, address):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(stack.StackError, match="is no server.*Unset the variable"):
        stack.connect()


def test_proxy_and_foreign_keys_do_not_disturb(place, servers):
    foreign = {
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
        "ALL_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "example.org",
        "no_proxy": "example.org",
    }
    work = """
        from helpers import stack
        print(stack.connect().tracking_uri)
        import os
        from mlflow import MlflowClient
        client = MlflowClient()
        run = client.create_run("0")
        client.log_text(run.info.run_id, "text", "d.txt")
        print([file.path for file in client.list_artifacts(run.info.run_id)], os.environ["NO_PROXY"].split(",")[0])
        """
    mine = {name: "" for name in os.environ if name.startswith(("AWS_", "MLFLOW_"))}
    done = place.run(work, **mine, **foreign, AWS_SESSION_TOKEN="of-another-account", AWS_PROFILE="nobody")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [servers.tracking_uri, "['d.txt'] example.org"]
    # The reader's own server on this machine is not sought behind the proxy either.
    done = place.run(
        "from helpers import stack; print(stack.connect().tracking_uri)",
        **foreign,
        MLFLOW_TRACKING_URI=servers.tracking_uri,
    )
    assert done.stdout.split() == [servers.tracking_uri], done.stderr


# --- killed --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_mlflow_is_restarted_with_its_data(place, servers):
    os.environ.pop("MLFLOW_TRACKING_URI")
    assert stack.connect() == servers
    MlflowClient().create_experiment("before the kill")
    before, store = pid(place, "mlflow"), pid(place, "s3")
    os.kill(before, signal.SIGKILL)
    time.sleep(0.2)
    assert stack.connect() == servers, "the usual port was not given back"
    assert pid(place, "s3") == store and pid(place, "mlflow") != before
    assert MlflowClient().get_experiment_by_name("before the kill") is not None
    assert len(place.processes()) == 2


@pytest.mark.slow
@needs_weed
def test_killed_store_is_restarted_with_its_objects_on_other_ports(place, servers, tmp_path):
    bucket().put_object(Key="kept/a", Body=b"a" * 100_000)
    before = stored(place)
    store = psutil.Process(pid(place, "s3"))
    store.kill()
    psutil.wait_procs([store], timeout=5)
    with taken(*before["ports"]["s3"]):
        moved = stack.start()
    after = stored(place)
    assert not set(after["ports"]["s3"]) & set(before["ports"]["s3"])
    assert (after["access_key"], after["secret_key"]) == (before["access_key"], before["secret_key"])
    os.environ.update(stack.environment())
    bucket().put_object(Key="kept/b", Body=b"b" * 100_000)
    found = {entry.key: entry.get()["Body"].read() for entry in bucket().objects.filter(Prefix="kept/")}
    assert found == {"kept/a": b"a" * 100_000, "kept/b": b"b" * 100_000}
    upload_through_server(moved, "moved", tmp_path)  # the server knows the store's new address


@needs_weed
@pytest.mark.parametrize("content", ['{"ports": {"s3": [9000', "[]", '{"ports": 1, "access_key": "a"}', "{}"])
def test_damaged_state_reads_as_none(other, content):
    other.work.mkdir()
    (other.work / "stack.json").write_text(content)
    assert stack.stop() == []
    assert not stack.status()["mlflow"]["running"]
    with pytest.raises(stack.StackError, match="-m helpers.stack start"):
        stack.environment()


@pytest.mark.slow
@needs_weed
def test_servers_of_a_lost_state_are_replaced_and_nothing_stored_is_lost(place, servers):
    MlflowClient().create_experiment("before the loss")
    bucket().put_object(Key="before the loss", Body=b"kept")
    before, old = stored(place), place.processes()
    (place.work / "stack.json").write_text((place.work / "stack.json").read_text()[:50])
    with taken(5000, 9000):  # or a test beside this one gets them as soon as the next one stops these servers
        stack.start()
    os.environ.update(stack.environment())
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in old)
    assert len(place.processes()) == 2
    assert stored(place)["secret_key"] != before["secret_key"]
    assert MlflowClient().get_experiment_by_name("before the loss") is not None
    assert bucket().Object("before the loss").get()["Body"].read() == b"kept"
    assert stat.S_IMODE((place.work / "stack.json").stat().st_mode) == 0o600


# --- stop ----------------------------------------------------------------------------------------


@needs_weed
def test_stop_ends_the_servers_and_nobody_else_and_keeps_the_data(place, servers, bystander):
    MlflowClient().create_experiment("before the stop")
    bucket().put_object(Key="before the stop", Body=b"kept")
    ours, before = place.processes(), stored(place)
    done = place.run("-m helpers.stack stop")
    assert (done.stdout, done.stderr) == ("Stopped: mlflow, s3.\n", "")
    assert not place.processes()
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in ours)
    assert bystander.is_running() and bystander.name() == "weed"
    assert place.run("-m helpers.stack stop").stdout == "Stopped: nothing was running.\n"
    assert place.run("-m helpers.stack status").stdout.count("not running") == 2

    done = place.run("-m helpers.stack start")
    os.environ.update(stack.environment())  # a neighbour may have taken a port meanwhile
    assert seen(done.stdout) == f"{READY}\nMLflow UI: {os.environ['MLFLOW_TRACKING_URI']}\n", done.stderr
    assert stack.environment()["AWS_SECRET_ACCESS_KEY"] == before["secret_key"]
    assert MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_experiment_by_name("before the stop") is not None
    assert bucket().Object("before the stop").get()["Body"].read() == b"kept"


def test_stop_and_status_of_a_fresh_checkout_make_nothing(other):
    assert stack.stop() == []
    assert [answer["running"] for answer in stack.status().values()] == [False, False]
    assert not other.work.exists()


# --- what can be wrong with the machine ----------------------------------------------------------


def test_server_that_cannot_start_says_why_and_leaves_nothing_running(other):
    (other.work / "mlflow").mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(other.work / "mlflow" / "mlflow.db")) as newer, newer:  # of a later MLflow
        newer.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        newer.execute("INSERT INTO alembic_version VALUES ('from_the_future')")
    done = other.run("-m helpers.stack start", timeout=state.START_SECONDS - 10)
    assert done.returncode == 1
    first, *rest = done.stderr.splitlines()
    assert first.startswith("The MLflow tracking server ended while it was starting. The last lines of ")
    assert first.endswith(f"{other.work / 'logs' / 'mlflow.log'}:")
    assert 0 < len(rest) <= 15
    assert "from_the_future" in done.stderr
    assert not other.processes()


def test_work_that_is_a_file_gets_one_clear_sentence(other):
    other.work.write_text("")
    done = other.run("-m helpers.stack start")
    assert done.returncode == 1
    assert done.stderr == (
        f"Cannot write to the state folder {other.work}: File exists. Free some space or make the "
        "folder writable, then run this again.\n"
    )


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk to fill")
def test_full_disk_gets_one_clear_sentence(other):
    other.work.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", other.work], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a disk to fill")
    try:
        sentence = (
            f"Cannot write to the state folder {other.work}: No space left on device. Free some space or make "
            "the folder writable, then run this again.\n"
        )
        with suppress(OSError), open(other.work / "fill", "wb", buffering=0) as stream:
            while stream.write(bytes(4096)):
                pass
        done = other.run("-m helpers.stack start")
        assert (done.returncode, done.stderr) == (1, sentence)
        # Room enough to begin, too little to go on.
        os.truncate(other.work / "fill", 4096 * 900)
        done = other.run("-m helpers.stack start")
        assert (done.returncode, done.stderr) == (1, sentence), done.stdout
        assert not other.processes()
        # Stopping needs no room.
        (other.work / "fill").unlink()
        with suppress(OSError), open(other.work / "fill", "wb", buffering=0) as stream:
            while stream.write(bytes(4096)):
                pass
        assert other.run("-m helpers.stack stop").stdout == "Stopped: nothing was running.\n"
    finally:
        subprocess.run(["umount", "-l", other.work], check=True)


@pytest.mark.slow
@needs_weed
def test_store_whose_disk_was_full_begins_anew_once(place, servers):
    bucket().put_object(Key="before it was full", Body=b"kept")
    first = pid(place, "s3")
    with open(place.work / "logs" / "s3.log", "r+b") as log:
        log.seek(1 << 20)  # beyond what the store itself writes meanwhile
        log.write(b"write filerldb2/04/000011.log: no space left on device\n")
    stack.start()
    os.environ.update(stack.environment())
    second = pid(place, "s3")
    stack.start()
    assert first != second == pid(place, "s3")
    assert bucket().Object("before it was full").get()["Body"].read() == b"kept"


@pytest.mark.slow
@needs_weed
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk to fill")
def test_full_store_gets_one_clear_sentence_and_keeps_its_objects(other, monkeypatch):
    (other.work / "s3").mkdir(parents=True)
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", other.work / "s3"], capture_output=True
    ).returncode:
        pytest.skip("this machine lets nobody mount a disk to fill")
    try:
        stack.connect()
        bucket().put_object(Key="kept", Body=b"kept")
        with suppress(OSError), open(other.work / "s3" / "fill", "wb", buffering=0) as stream:
            while stream.write(bytes(1 << 20)):
                pass
        # It still takes what fits into a last corner; when it no longer does so, it may not even start again.
        with monkeypatch.context() as patch, pytest.raises(stack.StackError) as raised:
            patch.setattr(parts, "takes_files", lambda known: False)
            stack.start()
        assert str(raised.value) == (
            f"The S3 store takes no files. Free some space on the disk of {other.work}, then run this again."
        )
        (other.work / "s3" / "fill").unlink()
        stack.connect()
        assert bucket().Object("kept").get()["Body"].read() == b"kept"
    finally:
        stack.stop()
        subprocess.run(["umount", "-l", other.work / "s3"], check=True)


@pytest.mark.slow
def test_store_that_refuses_at_the_last_attempt_is_not_a_server_that_ended(other, monkeypatch):
    honest, tries = control._wait_until_ready, []

    def taken_at_first(known, name, spawned):
        tries.append(name)
        if len(tries) <= 2:
            raise control._Again("somebody was faster at its port")
        honest(known, name, spawned)

    monkeypatch.setattr(control, "_wait_until_ready", taken_at_first)
    monkeypatch.setattr(parts, "takes_files", lambda known: False)
    with pytest.raises(stack.StackError, match="^The S3 store takes no files. Free some space"):
        stack.start()
    assert not other.processes()


# --- a database of before ------------------------------------------------------------------------


@pytest.mark.slow
def test_database_of_an_older_mlflow_keeps_its_runs(other):
    """As its first migrations made it, with an experiment of that time."""
    (other.work / "mlflow").mkdir(parents=True)
    older.make(f"sqlite:///{other.work / 'mlflow' / 'mlflow.db'}")
    stack.start()
    assert MlflowClient(stack.status()["mlflow"]["url"]).get_experiment_by_name("of before").experiment_id == "7"
