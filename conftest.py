"""Give notebook 06, and no other, the stand-in of a cluster while nbval compares it."""

import contextlib
import sys
from pathlib import Path

import pytest

NOTEBOOK = "06_run_on_kubeflow.ipynb"
_cluster = contextlib.ExitStack()


@pytest.hookimpl(tryfirst=True)  # before nbval starts the kernel, which inherits the environment
def pytest_runtest_setup(item):
    if item.path.name == NOTEBOOK and "KF_STAND_IN" not in item.config.stash:
        sys.path.insert(0, str(Path(__file__).parent / "tests"))
        from with_cluster import cluster

        item.config.stash["KF_STAND_IN"] = _cluster.enter_context(cluster())


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    if "KF_STAND_IN" in item.config.stash and (nextitem is None or nextitem.path != item.path):
        del item.config.stash["KF_STAND_IN"]
        _cluster.close()
