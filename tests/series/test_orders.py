"""Notebooks alone, twice in a row, and all of them with other parameters and backwards."""

import re

import nbformat
import pytest
from mlflow import MlflowClient
from sklearn.datasets import load_iris
from sklearn.svm import SVC

from helpers.series.notebooks import NEEDS_CLUSTER, numbered

# tests/cluster/test_cluster.py runs the one that needs a cluster, alone and several times on one stack.
NOTEBOOKS = [path.stem for path in numbered() if path.stem != NEEDS_CLUSTER]
X, Y = load_iris(return_X_y=True)
RBF = SVC(kernel="rbf").fit(X, Y).score(X, Y)
ONE = "02_track_on_a_server"


def series(place, *arguments):
    """Run notebooks in a place and return what the command said."""
    done = place.run("-m helpers.series", *arguments, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == ONE else pytest.mark.nightly) for name in NOTEBOOKS]
)
def test_alone_and_twice_in_a_row(other, name):
    said = series(other, "--jobs", "1", name, name)
    assert re.findall(r"^(\w+) +done", said, re.MULTILINE) == [name, name]
    assert {path.stem for path in other.work.glob("runs/*/*.ipynb")} == {name, f"{name}-2"}


@pytest.mark.parametrize(
    ("kernel", "arguments"),
    [
        pytest.param("linear", ["--jobs", "1", *NOTEBOOKS[::-1]], marks=pytest.mark.slow),
        pytest.param("poly", [], marks=pytest.mark.nightly),
    ],
    ids=["backwards", "in order"],
)
def test_in_any_order_other_parameters_change_the_result(other, kernel, arguments):
    said = series(other, *arguments, "--params", f"kernel={kernel} model_name=my-{kernel}")
    done = re.findall(r"^(\w+) +done", said, re.MULTILINE)
    assert done == arguments[2:] if arguments else sorted(done) == NOTEBOOKS
    client = MlflowClient(re.search(r"^MLflow UI: +(\S+)", said, re.MULTILINE)[1])
    experiments = {experiment.experiment_id: experiment.name for experiment in client.search_experiments()}
    runs = client.search_runs(list(experiments), f"attributes.run_name = 'my-{kernel}'")
    with_kernel = [run for run in runs if run.data.params.get("kernel") == kernel]
    assert {experiments[run.info.experiment_id] for run in with_kernel} >= {"iris-by-hand", "iris"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    (rate,) = {run.data.metrics["training_accuracy"] for run in with_kernel if "training_accuracy" in run.data.metrics}
    assert rate != RBF, "the kernel made no difference"
    for path in other.work.glob("runs/*/*.ipynb"):
        executed = nbformat.read(path, as_version=4)
        assert not [
            output for cell in executed.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"
        ]
