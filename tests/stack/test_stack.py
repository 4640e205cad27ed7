"""The two servers: started, taken over, killed, stopped, with real processes."""

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import psutil
import pytest
import requests
from mlflow import MlflowClient
from support.place import bucket, seen, taken, upload_through_server

from helpers import stack
from helpers.stack import process
from helpers.stack import servers as parts

needs_weed = pytest.mark.skipif(parts.weed() is None, reason="SeaweedFS has no build for this machine")
READY = "The MLflow tracking server and the S3 store are ready."


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

    status, ports = stack.status(), place.stored()["ports"]
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
    assert other.stored()["ports"][name][0] != port
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
    keys = [place.stored()["access_key"].encode(), place.stored()["secret_key"].encode()]
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
