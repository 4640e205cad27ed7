"""All notebooks with other parameters, backwards and in order; tests/test_alone.py has each alone and twice."""

import re

import nbformat
import pytest
from mlflow import MlflowClient

from helpers import paths

from helpers.series import run

pytestmark = pytest.mark.slow

# tests/test_cluster.py runs the one that needs a cluster, alone and several times on one stack.
NOTEBOOKS = sorted(path.stem for path in paths.NOTEBOOKS.glob("0*.ipynb") if path.stem != run.NEEDS_CLUSTER)


def test_in_any_order_other_parameters_change_the_result(series_copy):
    backwards = NOTEBOOKS[::-1]
    chosen = {"my-linear": ("linear", ["--jobs", "1", *backwards]), "my-poly": ("poly", [])}
    accuracies = set()
    for model_name, (kernel, arguments) in chosen.items():
        said = series_copy("helpers.series", *arguments, "--params", f"kernel={kernel} model_name={model_name}")
        done = re.findall(r"^(\w+) +done", said, re.MULTILINE)
        assert done == backwards if arguments else sorted(done) == NOTEBOOKS
        client = MlflowClient(re.search(r"^MLflow UI: +(\S+)", said, re.MULTILINE)[1])
        experiments = {experiment.experiment_id: experiment.name for experiment in client.search_experiments()}
        runs = client.search_runs(list(experiments), f"attributes.run_name = '{model_name}'")
        with_kernel = [run for run in runs if run.data.params.get("kernel") == kernel]
        assert {experiments[run.info.experiment_id] for run in with_kernel} >= {"iris-by-hand", "iris"}
        assert {run.info.status for run in runs} == {"FINISHED"}
        accuracies |= {
            run.data.metrics["training_accuracy"] for run in with_kernel if "training_accuracy" in run.data.metrics
        }
    assert len(accuracies) == len(chosen), accuracies
    for path in series_copy.root.glob("work/runs/*/0*.ipynb"):
        executed = nbformat.read(path, as_version=4)
        assert not [
            output for cell in executed.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"
        ]
