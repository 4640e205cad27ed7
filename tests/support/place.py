"""A state folder of a test's own, and what runs in it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import boto3
import psutil
import requests
from mlflow import MlflowClient

from helpers import stack
from helpers.stack import process


class Place:
    """A state folder away from the learner's; ``SERIES_WORK`` leads to it.

    Parameters
    ----------
    folder : pathlib.Path
        Of the test; ``work`` in it is the state folder, made when something starts there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, folder / "work"
        folder.mkdir(parents=True, exist_ok=True)

    def popen(self, code: str, *more: str, python: str | Path = sys.executable, **variables: str) -> subprocess.Popen:
        """Start Python here; code that starts with "-" is a command line, more its arguments. Its output is bytes."""
        arguments = [*code.split(), *more] if code.startswith("-") else ["-c", textwrap.dedent(code)]
        own = {"SERIES_WORK": str(self.work), "PYTHONIOENCODING": "utf-8"}
        return subprocess.Popen(
            [python, *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | own | variables,
        )

    def run(self, code: str, *more: str, timeout: float = 180, **options) -> subprocess.CompletedProcess:
        """Run Python here to its end; return exit code, stdout and stderr."""
        started = self.popen(code, *more, **options)
        try:
            out, err = started.communicate(timeout=timeout)
        finally:
            started.kill()
        return subprocess.CompletedProcess([code, *more], started.returncode, out.decode(), err.decode())

    def processes(self) -> list[psutil.Process]:
        """Return every process of this place's servers, whoever its parent is."""
        return process.alive(self.work, below=True)

    def stored(self) -> dict:
        """Return what the stack noted about its servers."""
        return json.loads((self.work / "stack.json").read_text())

    def pid(self, name: str) -> int:
        """Return the process number of a server, which has one process."""
        (server,) = process.alive(self.work / name)
        return server.pid


def bucket():
    # Not the default session, which keeps the keys that it was made with.
    return boto3.Session().resource("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"]).Bucket(stack.BUCKET)


def seen(text: str) -> str:
    """Return what a terminal shows of a text with carriage returns."""
    lines = []
    for line in text.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown)
    return "\n".join(lines)


@contextlib.contextmanager
def taken(*ports: int):
    """Listen on ports; one that somebody has already is as good."""
    sockets = []
    for port in ports:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            listener.listen()
        sockets.append(listener)
    yield
    for listener in sockets:
        listener.close()


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


def wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    """Wait until a server that a test started answers, whatever it answers."""

    def answers() -> bool:
        with contextlib.suppress(requests.RequestException):
            requests.get(url, timeout=5, proxies={"http": ""})
            return True
        return False

    assert process.wait_until(answers, lambda: server.poll() is None, 120) == "ready", process.tail(log, 60)


def end(server: subprocess.Popen) -> None:
    """End a server that a test started, and what it started."""
    if server.poll() is None:
        process.end([*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)])
    server.wait()
