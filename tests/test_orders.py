"""All notebooks in reverse order, twice in a row and with other parameters; tests/test_alone.py has each alone."""

import re

import nbformat
import pytest
from mlflow import MlflowClient

from helpers import series, settings

pytestmark = pytest.mark.slow

# tests/test_cluster.py runs the one that needs a cluster, alone and several times on one stack.
NOTEBOOKS = sorted(path.stem for path in settings.NOTEBOOKS.glob("0*.ipynb") if path.stem != series.NEEDS_CLUSTER)


def test_in_reverse_order_and_each_twice_in_a_row(series_copy):
    order = [name for name in reversed(NOTEBOOKS) for _ in range(2)]
    said = series_copy("helpers.series", "--jobs", "1", *order)
    assert re.findall(r"^(\w+) +done", said, re.MULTILINE) == order


def test_other_parameters_change_the_result(series_copy):
    chosen = {"my-linear": "linear", "my-poly": "poly"}
    accuracies = set()
    for model_name, kernel in chosen.items():
        said = series_copy("helpers.series", "--params", f"kernel={kernel} model_name={model_name}")
        client = MlflowClient(re.search(r"^MLflow UI: +(\S+)", said, re.MULTILINE)[1])
        experiments = {experiment.experiment_id: experiment.name for experiment in client.search_experiments()}
        runs = client.search_runs(list(experiments), f"attributes.run_name = '{model_name}'")
        with_kernel = [run for run in runs if run.data.params.get("kernel") == kernel]
        assert {experiments[run.info.experiment_id] for run in with_kernel} >= {"iris-by-hand", "iris"}
        assert {run.info.status for run in runs} == {"FINISHED"}
        accuracies |= {run.data.metrics["training_accuracy"] for run in with_kernel
                       if "training_accuracy" in run.data.metrics}
    assert len(accuracies) == len(chosen), accuracies
    for path in series_copy.root.glob("work/runs/*/0*.ipynb"):
        executed = nbformat.read(path, as_version=4)
        assert not [output for cell in executed.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"]
