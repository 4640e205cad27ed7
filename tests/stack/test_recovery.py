"""Runs whose process died are ended at the next start, and no others; a damaged database has a copy."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys

import pytest
import requests
from mlflow import MlflowClient

from helpers import stack
from helpers.stack import database, lost_runs, state

# A notebook that has begun a run and is busy; its state is told when it is there.
BUSY = """
    import time
    from helpers import stack

    stack.connect()
    import mlflow
    mlflow.set_experiment("recovery")
    run = mlflow.start_run(run_name="busy")
    print("run", run.info.run_id, flush=True)
    time.sleep(600)
    """


@pytest.fixture
def client(servers):
    return MlflowClient(servers.tracking_uri)


@pytest.fixture
def experiment(client):
    found = client.get_experiment_by_name("recovery")
    return found.experiment_id if found else client.create_experiment("recovery")


@contextlib.contextmanager
def busy(place):
    """Run a notebook's beginning in a process; yield it with the id of its run."""
    environment = {
        name: "" for name in os.environ if name.startswith(("MLFLOW_", "AWS_"))
    }  # its own connect finds them
    process = place.popen(BUSY, **environment)
    try:
        lines = iter(process.stdout.readline, b"")
        run_id = next(line.decode().split()[1] for line in lines if line.startswith(b"run "))
        yield process, run_id
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def task(job: str):
    """Run a process that has a job's id in its command, as a task of kfp.local has."""
    inputs = json.dumps({"inputs": {"parameterValues": {"job_id": job}}})
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "--executor_input", inputs])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def status(client, run_id: str) -> str:
    return client.get_run(run_id).info.status


@pytest.mark.slow
def test_killed_process_has_its_run_ended_and_a_living_one_has_not(place, servers, client):
    with busy(place) as (killed, lost), busy(place) as (_, living):
        stack.start()
        assert [status(client, run_id) for run_id in (lost, living)] == ["RUNNING", "RUNNING"]
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        stack.start()
        run = client.get_run(lost)
        assert run.info.status == "FAILED" and run.info.end_time
        assert run.data.tags["failure"] == lost_runs.FAILURE
        assert status(client, living) == "RUNNING"
        assert "failure" not in client.get_run(living).data.tags
    stack.start()
    assert status(client, living) == "FAILED"
    assert len(list((place.work / "processes").iterdir())) <= 1, "marks of the dead are left"


def test_run_that_is_nobodys_of_ours_is_left_alone(servers, client, experiment):
    foreign = client.create_run(experiment).info.run_id
    elsewhere = client.create_run(experiment, tags={lost_runs.TAG: "0" * 32}).info.run_id  # of a stack elsewhere
    stack.start()
    assert [status(client, run_id) for run_id in (foreign, elsewhere)] == ["RUNNING", "RUNNING"]


def test_run_of_a_task_is_ended_when_no_process_has_its_job(servers, client, experiment):
    runs = {job: client.create_run(experiment, tags={"kfp_job_id": job}).info.run_id for job in ("4711", "47110")}
    with task("47110"):
        stack.start()
        assert {job: status(client, run_id) for job, run_id in runs.items()} == {"4711": "FAILED", "47110": "RUNNING"}
    stack.start()
    assert status(client, runs["47110"]) == "FAILED"


@pytest.mark.slow
def test_component_called_as_a_function_is_left_alone_while_a_notebook_lives_that_may_have_called_it(
    place, servers, client, experiment
):
    job = {"kfp_job_id": "8f14e45f-ceea-467f-a0e6-0d2a0a9a0f61"}
    with busy(place):
        run_id = client.create_run(experiment, tags=job).info.run_id
        stack.start()
        assert status(client, run_id) == "RUNNING"
    stack.start()
    assert status(client, run_id) == "FAILED"


@pytest.mark.slow
def test_run_that_another_notebook_took_up_again_is_left_alone(place, servers, client):
    with busy(place) as (first, run_id):
        client.set_terminated(run_id)
        with busy(place):
            client.update_run(run_id, status="RUNNING")  # as mlflow.start_run(run_id=...) does
            first.kill()
            first.wait()
            stack.start()
            assert status(client, run_id) == "RUNNING"
    stack.start()
    assert status(client, run_id) == "FAILED"


def test_workshop_ends_nobodys_runs(place, servers, client, experiment, monkeypatch):
    run_id = client.create_run(experiment, tags={"kfp_job_id": "12"}).info.run_id
    called = []
    monkeypatch.setattr(lost_runs, "end_lost_runs", called.append)
    known = state.read()
    known.learners = 3
    monkeypatch.setattr(state, "read", lambda: known)
    stack.start()
    assert not called
    assert status(client, run_id) == "RUNNING"


def test_all_pages_are_read(servers, client, experiment, monkeypatch):
    runs = {
        client.create_run(experiment, tags={"kfp_job_id": str(job)}).info.run_id
        for job in range(90_000_000, 90_000_007)
    }
    request = requests.request

    def small_pages(method, url, json=None, **more):
        if json and "max_results" in json:
            json["max_results"] = 2
        return request(method, url, json=json, **more)

    monkeypatch.setattr(requests, "request", small_pages)
    assert runs <= set(lost_runs.end_lost_runs(servers.tracking_uri))


def test_server_that_fails_is_no_reason_not_to_start(place):
    assert lost_runs.end_lost_runs("http://127.0.0.1:9") == []


def test_mark_outlives_no_process_but_a_forked_child_does_not_take_it_away(place):
    done = place.run("""
        import os
        from helpers.stack import lost_runs

        mark = lost_runs.process_mark()
        if os.fork() == 0:
            assert lost_runs.process_mark() == mark
            raise SystemExit  # closes what it has, like any program that ends
        os.wait()
        print(mark, sorted(lost_runs._marks()[0]) == [mark])
        """)
    mark, living = done.stdout.split()
    assert living == "True", done.stderr
    assert mark in lost_runs._marks()[1]


@pytest.mark.slow
@pytest.mark.parametrize("connect", [True, False])
def test_tag_is_only_on_runs_of_this_stack(place, servers, experiment, connect):
    address = {
        "MLFLOW_TRACKING_URI": "" if connect else servers.tracking_uri
    }  # without connect(), a server of one's own
    done = place.run(
        f"""
        from helpers import stack
        from helpers.stack import lost_runs
        {"stack.connect()" if connect else ""}
        import mlflow
        with mlflow.start_run(experiment_id={experiment!r}) as run:
            pass
        print(lost_runs.TAG in mlflow.get_run(run.info.run_id).data.tags)
        """,
        **address,
    )
    assert done.stdout.splitlines()[-1] == str(connect), done.stderr


# --- the database --------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path):
    """A database of some pages, with a copy."""
    file = tmp_path / "mlflow.db"
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE runs (name TEXT)")
        connection.executemany("INSERT INTO runs VALUES (?)", [(f"run {number:04}" * 20,) for number in range(500)])
    database.keep_copy(file)
    return file


def rows(file) -> int:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return connection.execute("SELECT count(*) FROM runs").fetchone()[0]


def damage(file, kind: str) -> None:
    if kind == "garbage":
        file.write_bytes(b"garbage " * 4096)
    elif kind == "zeros":
        size = file.stat().st_size
        with open(file, "r+b") as stream:
            stream.seek(size // 2)
            stream.write(bytes(8192))
    else:
        os.truncate(file, {"empty": 0, "a page": 4096, "half": file.stat().st_size // 2, "odd": 10_001}[kind])


@pytest.mark.parametrize("kind", ["garbage", "zeros", "empty", "a page", "half", "odd"])
def test_damaged_database_is_set_aside_and_its_copy_takes_its_place(kept, kind):
    damage(kept, kind)
    damaged = kept.read_bytes()
    database.keep_copy(kept)  # must not put the damaged one in the place of the good copy
    told = database.mend(kept)
    assert rows(kept) == 500
    (aside,) = kept.parent.glob("mlflow.damaged-*.db")
    assert aside.read_bytes() == damaged
    assert str(aside) in told and "Its copy" in told
    assert database.mend(kept) is None


def test_journal_goes_aside_with_its_database(kept, monkeypatch):
    beside = kept.parent / "mlflow.db-journal"
    beside.write_bytes(b"would be applied to the copy")
    monkeypatch.setattr(database, "is_sound", lambda file: file != kept)  # whose reading might use the journal up
    database.mend(kept)
    assert not beside.exists()
    assert [path.read_bytes() for path in kept.parent.glob("*.db-journal")] == [b"would be applied to the copy"]
    assert rows(kept) == 500


def test_damaged_database_without_a_copy_is_set_aside_and_said_so(kept):
    database.copy_of(kept).unlink()
    damage(kept, "garbage")
    assert "there is no copy" in database.mend(kept)
    assert not kept.exists() and len(list(kept.parent.glob("mlflow.damaged-*.db"))) == 1


def test_sound_database_is_left_alone(kept):
    before = kept.read_bytes()
    assert database.mend(kept) is None and kept.read_bytes() == before
    assert database.mend(kept.with_name("none.db")) is None
    os.truncate(kept, 0)
    database.copy_of(kept).unlink()
    assert database.mend(kept) is None, "a server that was killed when it first started leaves an empty file"


def test_locked_database_is_not_a_damaged_one(kept, monkeypatch):
    monkeypatch.setattr(
        database.sqlite3, "connect", lambda *a, connect=sqlite3.connect, **k: connect(*a, **k | {"timeout": 0})
    )
    with contextlib.closing(sqlite3.connect(kept)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        assert database.mend(kept) is None


def test_copy_follows_the_database_and_is_made_only_when_it_changed(kept):
    copy = database.copy_of(kept)
    first = copy.stat()
    database.keep_copy(kept)
    assert copy.stat().st_ino == first.st_ino
    with contextlib.closing(sqlite3.connect(kept)) as connection, connection:
        connection.execute("INSERT INTO runs VALUES ('one more')")
    database.keep_copy(kept)
    assert rows(copy) == 501
    assert {path.name for path in kept.parent.iterdir()} == {"mlflow.db", "mlflow.copy.db"}


def test_killed_writer_is_no_damage(kept):
    """SQLite takes back by itself what a killed program had half written."""
    half = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"""
import sqlite3, time
connection = sqlite3.connect({str(kept)!r})
connection.execute("PRAGMA cache_spill = 1"); connection.execute("PRAGMA cache_size = 2")
connection.execute("UPDATE runs SET name = name || 'half written'")
print("now", flush=True); time.sleep(600)
""",
        ],
        stdout=subprocess.PIPE,
    )
    assert half.stdout.readline() == b"now\n"
    half.kill()
    half.communicate()
    assert (kept.parent / "mlflow.db-journal").exists()
    assert database.mend(kept) is None
    assert rows(kept) == 500


@pytest.mark.slow
@pytest.mark.parametrize("with_copy", [True, False])
def test_start_says_what_happened_to_a_damaged_database(other, with_copy):
    done = other.run("-m helpers.stack start")
    assert done.returncode == 0, done.stderr
    client = MlflowClient(stack.status()["mlflow"]["url"])
    client.create_experiment("kept")
    stack.stop()
    file = other.work / "mlflow" / "mlflow.db"
    if not with_copy:
        database.copy_of(file).unlink()
    damage(file, "half")
    done = other.run("-m helpers.stack start")
    assert done.returncode == 0, done.stderr
    told = [line.split("\r")[-1] for line in done.stdout.split("\n") if "was damaged" in line]
    assert len(told) == 1 and ("Its copy" in told[0]) is with_copy
    found = MlflowClient(stack.status()["mlflow"]["url"]).get_experiment_by_name("kept")
    assert (found is not None) is with_copy
