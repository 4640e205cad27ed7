"""Everything runs, and is watched: sockets on loopback alone, and no key where it should not be."""

import base64
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from support.place import Place

from helpers import paths
from helpers.stack.process import free_port


class Watch(threading.Thread):
    """Look again and again at every process of a tree: its command line, and where it listens."""

    def __init__(self, mark: str) -> None:
        super().__init__(daemon=True)
        self.listening: dict[tuple[str, int], str] = {}  # address and port, and who
        self.datagrams: set[tuple[str, int]] = set()
        self.commands: set[str] = set()
        self._mark, self._ours, self._end = mark, {}, threading.Event()

    def run(self) -> None:
        while not self._end.wait(0.3):
            self.look()

    def look(self) -> None:
        """Look once."""
        for process in psutil.process_iter():
            try:
                command = " ".join(process.cmdline())
                self.commands.add(command)
                key = (process.pid, process.create_time())
                if key not in self._ours and command:
                    self._ours[key] = process.environ().get("_SERIES_SAFETY_TEST") == self._mark
                if self._ours.get(key):
                    for connection in process.net_connections("inet"):
                        self._see(connection, command)
            except (psutil.Error, OSError):
                pass

    def _see(self, connection, command: str) -> None:
        address = tuple(connection.laddr)
        if connection.status == psutil.CONN_LISTEN:
            self.listening[address] = command
        elif connection.type == socket.SOCK_DGRAM and address and not connection.raddr:  # it takes anybody's
            self.datagrams.add(address)

    def stop(self) -> None:
        """Look no more."""
        self._end.set()
        self.join()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Notebook 07, with its pipeline and its model server, beside a JupyterLab, on a stack of their own, watched; what they left behind."""
    folder, mark = tmp_path_factory.mktemp("safety"), secrets.token_hex(8)
    place, port, watch = Place(folder), free_port(), Watch(mark)
    (folder / "tmp").mkdir()
    own = {"TMPDIR": str(folder / "tmp"), "HOME": str(folder), "_SERIES_SAFETY_TEST": mark}
    watch.start()
    with open(folder / "jupyterlab.log", "wb") as stream:
        options = ["--no-browser", "--allow-root", f"--port={port}", "--ServerApp.root_dir=."]  # as `make lab` has them
        jupyter = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            cwd=paths.NOTEBOOKS,
            env=os.environ | own | {"JUPYTER_TOKEN": secrets.token_hex(16), "SERIES_WORK": str(place.work)},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        done = place.run("-m helpers.series 07 --params", "model_name=my-svc", timeout=900, **own)
        (folder / "said.txt").write_text(done.stdout + done.stderr)
        state = json.loads((place.work / "stack.json").read_text())
        time.sleep(1)  # one more look
        watch.stop()
        assert done.returncode == 0, done.stdout + done.stderr
        yield {"folder": folder, "state": state, "watch": watch, "jupyter": port}
    finally:
        watch.stop()
        jupyter.terminate()
        jupyter.wait(30)
        place.run("-m helpers.stack stop")


def places(folder: Path, keys: set[str]) -> list[str]:
    """Return the files below a folder that hold a key, as it is or in base64; but for the one that is to hold it."""
    forms = {form for key in keys for form in (key.encode(), base64.b64encode(key.encode()).rstrip(b"="))}
    return [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "stack.json" and any(form in path.read_bytes() for form in forms)
    ]


@pytest.mark.slow
def test_every_socket_listens_on_loopback_while_everything_runs(run):
    watch, ports_of = run["watch"], run["state"]["ports"]
    assert {address for address, _ in watch.listening} <= {"127.0.0.1", "::1"}, watch.listening
    assert {address for address, _ in watch.datagrams} <= {"127.0.0.1", "::1"}, watch.datagrams
    ports = {port for _, port in watch.listening}
    assert {ports_of["mlflow"][0], run["jupyter"]} <= ports
    if "s3" in ports_of:
        assert ports >= {port + twin for port in ports_of["s3"] for twin in (0, 10000)}
    seen = {
        who
        for who in ("ipykernel_launcher", "mlflow models serve", "scoring_server", "jupyterlab", "weed")
        if any(who in command for command in watch.listening.values())
    }
    assert {"ipykernel_launcher", "jupyterlab"} <= seen and seen & {"mlflow models serve", "scoring_server"}, (
        watch.listening
    )


@pytest.mark.slow
def test_no_key_in_logs_outputs_metadata_yaml_or_command_lines(run):
    keys = {name: run["state"][name] for name in ("access_key", "secret_key")}
    assert places(run["folder"], {keys["secret_key"]}) == []
    # The other one is a name, which SeaweedFS logs and keeps in its own data.
    assert [
        path
        for path in places(run["folder"], {keys["access_key"]})
        if "s3" not in Path(path).parts and not Path(path).name.startswith("s3.")
    ] == []
    read = {path.suffix for path in run["folder"].rglob("*") if path.is_file()}
    executed = list(run["folder"].glob("work/runs/*/*.ipynb"))
    assert len(executed) == 1 and "papermill" in nbformat.read(executed[0], as_version=4).metadata
    assert {".ipynb", ".log", ".yaml", ".json", ".db"} <= read
    for command in run["watch"].commands:
        assert not any(key in command for key in keys.values()), "a key in a process list"
    assert any("kfp.dsl.executor_main" in command for command in run["watch"].commands), (
        "no task of a pipeline was seen"
    )
