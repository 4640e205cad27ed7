"""An environment and a state folder for all that pytest runs, notebooks too; and a cluster's stand-in for notebook 06."""

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "tests"))

from support.clean import hide

NOTEBOOK = "06_run_on_kubeflow.ipynb"
_cluster = contextlib.ExitStack()


def pytest_configure(config):
    """Hide the settings of whoever runs this, and make a state folder; the workers of xdist inherit both."""
    if not hasattr(config, "workerinput"):
        hide()
        os.environ["SERIES_WORK"] = tempfile.mkdtemp(prefix="series-tests-")


def pytest_unconfigure(config):
    """End the servers that the notebooks started."""
    if not hasattr(config, "workerinput"):
        from helpers import stack

        stack.stop()
        shutil.rmtree(os.environ["SERIES_WORK"], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)  # before nbval starts the kernel, which inherits the environment
def pytest_runtest_setup(item):
    if item.path.name == NOTEBOOK and "KF_STAND_IN" not in item.config.stash:
        from support.with_cluster import cluster

        item.config.stash["KF_STAND_IN"] = _cluster.enter_context(cluster())


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    if "KF_STAND_IN" in item.config.stash and (nextitem is None or nextitem.path != item.path):
        del item.config.stash["KF_STAND_IN"]
        _cluster.close()
