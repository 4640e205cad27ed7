"""What the tests share: an environment without settings, state folders of their own, a running stack."""

import contextlib
import os
import signal
from pathlib import Path

import boto3
import mlflow
import pytest
from mlflow.store.artifact import s3_artifact_repo
from support.place import Place

from helpers import stack


def pytest_collection_modifyitems(items):
    """Begin with notebooks and what takes minutes, or one worker waits for the other at the end."""
    first = {"test_orders.py": 0, "test_running.py": 1}
    items.sort(key=lambda item: first.get(item.path.name, 2 if item.path.suffix == ".ipynb" else 3))


@pytest.fixture(autouse=True)
def _own_environment(request, tmp_path):
    """Give a test a state folder, and hide what it sets from the next one."""
    before, folder = dict(os.environ), Path.cwd()
    work = request.getfixturevalue("place").work if "place" in request.fixturenames else tmp_path / "work"
    os.environ["SERIES_WORK"] = str(work)
    mlflow.set_tracking_uri(None)  # another test's server: MLflow puts it before the variable, and asks it for minutes
    yield
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def no_longer_than():
    """Return a context that ends what hangs: a generous bound that measures nothing."""

    @contextlib.contextmanager
    def bound(seconds):
        def alarm(*_):
            raise TimeoutError(f"still busy after {seconds} s")

        before = signal.signal(signal.SIGALRM, alarm)
        signal.alarm(seconds)
        try:
            yield
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)

    return bound


@contextlib.contextmanager
def _place(folder):
    place = Place(folder)
    yield place
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERIES_WORK", str(place.work))
        stack.stop()
    assert not place.processes(), "servers outlived stop()"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A state folder of a module's own, in a folder with a space and letters of Korea in its name."""
    with _place(tmp_path_factory.mktemp("module") / "노트북 series") as place:
        yield place


@pytest.fixture
def other(tmp_path, monkeypatch):
    """One more state folder, for one test."""
    with _place(tmp_path / "other") as place:
        monkeypatch.setenv("SERIES_WORK", str(place.work))
        yield place


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """The state folder of a stack that all tests of this process use and none harms."""
    with _place(tmp_path_factory.mktemp("shared") / "노트북 series") as place:
        yield place


def connect(work):
    """Start the stack of a state folder, if need be, and set the variables that lead to it."""
    os.environ["SERIES_WORK"] = str(work)
    found = stack.start()
    os.environ.update(stack.environment())
    # This process may have talked to another test's store: boto3 and MLflow keep their clients, keys and all.
    boto3.DEFAULT_SESSION = None
    s3_artifact_repo._cached_get_s3_client.cache_clear()
    return found


@pytest.fixture
def servers(request):
    """A running stack, its addresses and keys set: of the module's place if it asks for one, else the shared one."""
    name = "place" if "place" in request.fixturenames else "shared"
    return connect(request.getfixturevalue(name).work)
