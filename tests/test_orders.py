"""Every notebook alone, in reverse order, twice in a row and with other parameters, each on a fresh stack."""

import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from mlflow import MlflowClient

from helpers import series, settings

pytestmark = pytest.mark.slow

# tests/test_cluster.py runs the one that needs a cluster, alone and several times on one stack.
NOTEBOOKS = sorted(path.stem for path in settings.NOTEBOOKS.glob("0*.ipynb") if path.stem != series.NEEDS_CLUSTER)


@pytest.fixture
def checkout(tmp_path):
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
            [sys.executable, "-m", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1200)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    command.root = root
    yield command
    command("helpers.stack", "stop")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_alone(checkout, name):
    checkout("helpers.series", name)
    assert [path.stem for path in checkout.root.glob("work/runs/*/*.ipynb")] == [name]


def test_in_reverse_order_and_each_twice_in_a_row(checkout):
    order = [name for name in reversed(NOTEBOOKS) for _ in range(2)]
    said = checkout("helpers.series", "--jobs", "1", *order)
    assert re.findall(r"^(\w+) +done", said, re.MULTILINE) == order


def test_other_parameters_change_the_result(checkout):
    chosen = {"my-linear": "linear", "my-poly": "poly"}
    accuracies = set()
    for model_name, kernel in chosen.items():
        said = checkout("helpers.series", "--params", f"kernel={kernel} model_name={model_name}")
        client = MlflowClient(re.search(r"^MLflow UI: +(\S+)", said, re.MULTILINE)[1])
        experiments = {experiment.experiment_id: experiment.name for experiment in client.search_experiments()}
        runs = client.search_runs(list(experiments), f"attributes.run_name = '{model_name}'")
        with_kernel = [run for run in runs if run.data.params.get("kernel") == kernel]
        assert {experiments[run.info.experiment_id] for run in with_kernel} >= {"iris-by-hand", "iris"}
        assert {run.info.status for run in runs} == {"FINISHED"}
        accuracies |= {run.data.metrics["training_accuracy"] for run in with_kernel
                       if "training_accuracy" in run.data.metrics}
    assert len(accuracies) == len(chosen), accuracies
    for path in checkout.root.glob("work/runs/*/0*.ipynb"):
        executed = nbformat.read(path, as_version=4)
        assert not [output for cell in executed.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"]
