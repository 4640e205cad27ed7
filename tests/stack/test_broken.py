"""The two servers killed, stopped, on a full disk, with a damaged state: nothing is lost, and what is wrong is said."""

import contextlib
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import time
from contextlib import suppress

import psutil
import pytest
from mlflow import MlflowClient
from support import older
from support.place import bucket, seen, taken, upload_through_server

from helpers import stack
from helpers.stack import control, state
from helpers.stack import servers as parts

needs_weed = pytest.mark.skipif(parts.weed() is None, reason="SeaweedFS has no build for this machine")
READY = "The MLflow tracking server and the S3 store are ready."


@pytest.fixture
def bystander(tmp_path):
    """Somebody else's process that bears a server's name."""
    program = shutil.copy(shutil.which("sleep"), tmp_path / "weed")
    process = subprocess.Popen([program, "600"])
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()


# --- killed --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_mlflow_is_restarted_with_its_data(place, servers):
    os.environ.pop("MLFLOW_TRACKING_URI")
    assert stack.connect() == servers
    MlflowClient().create_experiment("before the kill")
    before, store = place.pid("mlflow"), place.pid("s3")
    os.kill(before, signal.SIGKILL)
    time.sleep(0.2)
    assert stack.connect() == servers, "the usual port was not given back"
    assert place.pid("s3") == store and place.pid("mlflow") != before
    assert MlflowClient().get_experiment_by_name("before the kill") is not None
    assert len(place.processes()) == 2


@pytest.mark.slow
@needs_weed
def test_killed_store_is_restarted_with_its_objects_on_other_ports(place, servers, tmp_path):
    bucket().put_object(Key="kept/a", Body=b"a" * 100_000)
    before = place.stored()
    store = psutil.Process(place.pid("s3"))
    store.kill()
    psutil.wait_procs([store], timeout=5)
    with taken(*before["ports"]["s3"]):
        moved = stack.start()
    after = place.stored()
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
    before, old = place.stored(), place.processes()
    (place.work / "stack.json").write_text((place.work / "stack.json").read_text()[:50])
    with taken(5000, 9000):  # or a test beside this one gets them as soon as the next one stops these servers
        stack.start()
    os.environ.update(stack.environment())
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in old)
    assert len(place.processes()) == 2
    assert place.stored()["secret_key"] != before["secret_key"]
    assert MlflowClient().get_experiment_by_name("before the loss") is not None
    assert bucket().Object("before the loss").get()["Body"].read() == b"kept"
    assert stat.S_IMODE((place.work / "stack.json").stat().st_mode) == 0o600


# --- stop ----------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_weed
def test_stop_ends_the_servers_and_nobody_else_and_keeps_the_data(place, servers, bystander):
    MlflowClient().create_experiment("before the stop")
    bucket().put_object(Key="before the stop", Body=b"kept")
    ours, before = place.processes(), place.stored()
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


@pytest.mark.slow
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
    first = place.pid("s3")
    with open(place.work / "logs" / "s3.log", "r+b") as log:
        log.seek(1 << 20)  # beyond what the store itself writes meanwhile
        log.write(b"write filerldb2/04/000011.log: no space left on device\n")
    stack.start()
    os.environ.update(stack.environment())
    second = place.pid("s3")
    stack.start()
    assert first != second == place.pid("s3")
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
    # The server itself mends a database that lacks tables, but not one of yesterday: the upgrade runs at each start.
    stack.stop()
    stack.start()
    assert "Updating database tables" in (other.work / "logs" / "mlflow.log").read_text()
