"""Folders, checkouts and machines as people have them."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from support.place import Place

from helpers import paths, stack
from helpers.stack import state

ODD = ["My%20Repo", "what? #1", 'it\'s "mine"', "$HOME & `id`; x", "고객 이탈", "a+b=c@d,e", "-dash", "back\\slash"]
ALL = "".join(sorted(set("".join(ODD)) - {"/"}))


@pytest.mark.parametrize("name", [ALL, *(pytest.param(name, marks=pytest.mark.slow) for name in ODD)])
def test_notebooks_run_in_a_folder_called(tmp_path, monkeypatch, name):
    place = Place(tmp_path / name)
    done = place.run("-m helpers.series", *(["02", "05"] if name == ALL else ["05"]), timeout=300)
    monkeypatch.setenv("SERIES_WORK", str(place.work))
    stack.stop()
    assert done.returncode == 0, done.stdout + done.stderr
    assert (place.work / "mlflow" / "mlflow.db").exists() and not place.processes()


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone as Git for Windows makes it: every text with CRLF, unless the repository says otherwise."""
    folder = tmp_path_factory.mktemp("windows") / "series"
    git = ["git", "-c", "core.autocrlf=true", "-c", "core.eol=crlf", "clone", "--quiet"]
    done = subprocess.run([*git, f"file://{paths.ROOT}", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this copy is no Git checkout")
    return folder


def test_a_clone_of_git_for_windows_has_the_same_bytes(clone):
    listed = subprocess.run(["git", "ls-files"], cwd=clone, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    texts = [name for name in listed if name and not name.endswith((".png", ".ico"))]
    assert len(texts) > 100 and [name for name in texts if b"\r\n" in (clone / name).read_bytes()] == []
    assert (clone / "deploy/image/start-notebook").read_bytes().startswith(b"#!/bin/sh\n")


# --- processes -------------------------------------------------------------------------------------


def hidden(*command):
    """Return the command in a process namespace of its own, which sees no server that runs outside, as in a container."""
    alone = ["unshare", "--pid", "--fork", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a process namespace")
    return [*alone, *command]


def test_a_second_container_on_the_same_folder_is_told_and_touches_nothing(servers, place):
    before = (place.work / "stack.json").read_bytes()
    command = hidden(sys.executable, "-c", "from helpers import stack; stack.start()")
    done = subprocess.run(command, cwd=place.folder, capture_output=True, text=True)
    assert done.returncode and "runs elsewhere already, as in another container, and nothing was touched" in done.stderr
    assert "goroutine" not in done.stdout + done.stderr
    assert (place.work / "stack.json").read_bytes() == before
    assert all(server["running"] for server in stack.status().values())
    stack.check_server(servers.tracking_uri)


@pytest.fixture
def holder(other):
    """A process that has the lock."""
    code = "from helpers.stack import state; import time\nwith state.locked():\n    print('held', flush=True); time.sleep(600)"
    other.work.mkdir()
    process = other.popen(code)
    assert process.stdout.readline()
    yield process
    process.kill()
    process.wait()


def wait_for_lock():
    with state.locked():
        return "got it"


def test_a_lock_whose_holder_was_stopped_names_it(holder):
    os.kill(holder.pid, signal.SIGSTOP)
    with pytest.raises(
        stack.StackError, match=f"Process {holder.pid} was stopped .* as by Ctrl-Z.*kill -9 {holder.pid}"
    ):
        wait_for_lock()


def test_a_lock_whose_holder_was_killed_is_free(holder, no_longer_than):
    holder.kill()
    with no_longer_than(5):
        assert wait_for_lock() == "got it"


def test_a_lock_that_somebody_out_of_sight_keeps_is_not_waited_for(holder, other, no_longer_than):
    (other.work / "stack.pid").write_text("999999999")
    with (
        no_longer_than(60),
        pytest.raises(stack.StackError, match="999999999, which is on another machine .*stack.lock"),
    ):
        wait_for_lock()


@pytest.mark.parametrize("step", [-86400, -3600, 3600, 10 * 86400])
def test_a_clock_that_steps_ends_no_server(servers, place, monkeypatch, step):
    """Seen by this process alone: the machine's clock is not ours to set."""
    pids = {name: place.pid(name) for name in ("s3", "mlflow")}
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + step)
    assert all(server["running"] for server in stack.status().values())
    stack.start()
    assert {name: place.pid(name) for name in ("s3", "mlflow")} == pids
