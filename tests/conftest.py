"""What the tests of the helpers share: a checkout of their own, away from the learner's servers and settings."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import boto3
import mlflow
import psutil
import pytest
from mlflow.store.artifact import s3_artifact_repo

from helpers import settings, stack

HELPERS = Path(settings.__file__).parent


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    """Hide the learner's settings from a test, and what a test sets from the next one."""
    before, folder = dict(os.environ), Path.cwd()
    for name in list(os.environ):
        if name.startswith(("AWS_", "MLFLOW_", "_SERIES_", "JUPYTERHUB_", "KFP_", "WORKSHOP_")) or name == "NB_PREFIX":
            del os.environ[name]
    mlflow.set_tracking_uri(None)  # another test's server: MLflow puts it before the variable, and asks it for minutes
    yield
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def no_longer_than():
    """Return a context that ends what hangs."""
    return _no_longer_than


@contextlib.contextmanager
def _no_longer_than(seconds):
    """End what hangs: a generous bound that tells minutes of retries from an answer, and measures nothing."""

    def alarm(*_):
        raise TimeoutError(f"still busy after {seconds} s")

    before = signal.signal(signal.SIGALRM, alarm)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Checkout:
    """A copy of the helpers in a folder of its own, and so with a state folder of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.work = root, root / "work"
        root.mkdir(parents=True)
        shutil.copytree(HELPERS, root / "helpers", ignore=shutil.ignore_patterns("__pycache__"))

    def popen(self, code: str, *, python: str | Path = sys.executable, **variables: str) -> subprocess.Popen:
        """Start Python in this checkout; code that starts with "-" is a command line. Its output is bytes."""
        arguments = code.split() if code.startswith("-") else ["-c", textwrap.dedent(code)]
        return subprocess.Popen(
            [python, *arguments],
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(self.root), "PYTHONIOENCODING": "utf-8"} | variables,
        )

    def run(self, code: str, *, timeout: float = 180, python: str | Path = sys.executable, **variables: str):
        """Run Python in this checkout to its end; return exit code, stdout and stderr."""
        process = self.popen(code, python=python, **variables)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(code, process.returncode, out.decode(), err.decode())

    def processes(self) -> list[psutil.Process]:
        """Return every process of this checkout's servers, whoever its parent is."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("_SERIES_SERVER", "").startswith(f"{self.work}{os.sep}"):
                    found.append(process)
            except (psutil.Error, OSError):
                pass
        return found


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout whose path has a space and letters of Korea; `settings.ROOT` leads to it."""
    checkout = Checkout(tmp_path_factory.mktemp("module") / "노트북 series")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "ROOT", checkout.root)
        yield checkout
        stack.stop()
    assert not checkout.processes(), "servers outlived stop()"


@pytest.fixture
def other(tmp_path, monkeypatch):
    """One more checkout, for one test; `settings.ROOT` leads to it."""
    checkout = Checkout(tmp_path / "other")
    monkeypatch.setattr(settings, "ROOT", checkout.root)
    yield checkout
    if checkout.work.is_dir():
        stack.stop()


@pytest.fixture
def servers(checkout):
    """The running stack of the module's checkout, its addresses and keys set."""
    found = stack.start()
    os.environ.update(stack.environment())
    # This process may have talked to another test's store: boto3 and MLflow keep their clients, keys and all.
    boto3.DEFAULT_SESSION = None
    s3_artifact_repo._cached_get_s3_client.cache_clear()
    return found


@pytest.fixture
def series_copy(tmp_path):
    """A copy of the checkout without state, in a folder of an unusual name; returns a way to run its commands."""
    root = tmp_path / "복사본 1"
    for name in ("helpers", "notebooks", "deploy", "docs", ".github"):
        shutil.copytree(settings.ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb*"))
    shutil.copy(settings.ROOT / "requirements.lock", root)
    own = ("MLFLOW_", "AWS_", "_SERIES_")  # the reader's servers are none of this test's business
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    environment["PYTHONPATH"] = str(root)  # before the installed helpers, in the kernels too

    def command(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1200,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    command.root = root
    yield command
    command("helpers.stack", "stop")
