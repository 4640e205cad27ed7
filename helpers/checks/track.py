"""The checks of the exercises to notebook 02: runs on the server and files in the store."""

from __future__ import annotations

import os

from helpers import stack
from helpers.checks.common import Names, NotYet, artifacts, finished, iris, objects, run
from helpers.stack import access


def check_02_1(names: Names) -> str:
    """Ask the server for the run of a linear kernel, and measure its accuracy again."""
    from sklearn.svm import SVC

    found = run(names.get("run_id", str, "the id of your run"), "exercise-02")
    finished(found)
    if found.data.params.get("kernel") != "linear":
        raise NotYet(
            f"the run's parameters are {found.data.params or 'none'}.", "log the parameter `kernel` as `linear`."
        )
    logged = found.data.metrics.get("training_accuracy")
    if logged is None:
        raise NotYet(
            f"the run's metrics are {found.data.metrics or 'none'}.",
            "log the metric `training_accuracy` before the `with` block ends.",
        )
    data, target = iris()
    accuracy = SVC(kernel="linear").fit(data, target).score(data, target)
    if abs(logged - accuracy) > 1e-6:
        raise NotYet(
            f"the run says {logged:.4f}, and a linear SVC reaches {accuracy:.4f} on its own rows.",
            "log what `model.score(data, target)` returns, as a number between 0 and 1.",
        )
    return f"the server has a FINISHED run with kernel linear and training_accuracy {logged:.4f}, which a new fit confirms."


def check_02_2(names: Names) -> str:
    """Ask the server for the run that an exception ended."""
    found = run(names.get("failed_id", str, "the id of the run that failed"), "exercise-02")
    if found.info.status == "RUNNING":
        raise NotYet("the run is still RUNNING.", "let a `with mlflow.start_run()` block end it: nobody else does.")
    if found.info.status != "FAILED":
        raise NotYet(
            f"the run is {found.info.status}.",
            "let the exception leave the `with` block, and catch it outside: `try:` comes before `with`.",
        )
    if found.data.params.get("kernel") != "cubic":
        raise NotYet("the run does not say which kernel failed.", "log the parameter `kernel` before you call `fit`.")
    return "the server has a FAILED run that says which kernel was to blame: cubic."


def check_02_3(names: Names) -> str:
    """Ask the server and the store for a file that went through the server."""
    import mlflow

    if not access.passes_files_on():
        return "this server passes no files on, so there is nothing to do here."
    found = run(names.get("proxied_id", str, "the id of the run"), "exercise-02")
    uri = found.info.artifact_uri
    if not uri.startswith("mlflow-artifacts:"):
        raise NotYet(
            f"the run's files go to an address that begins with {uri.partition(':')[0]}:, so your keys are used.",
            'create an experiment of a new name with `artifact_location="mlflow-artifacts:/exercise-02"`.',
        )
    finished(found)
    if "notes.txt" not in artifacts(found):
        raise NotYet("the run has no file `notes.txt`.", 'log it with `mlflow.log_text(TEXT, "notes.txt")`.')
    text = mlflow.artifacts.load_text(f"{uri}/notes.txt")
    if not text.strip():
        raise NotYet("`notes.txt` is empty on the server.", "write a line into it before you log it.")
    return f"`notes.txt` went through the server, which holds the keys{_in_bucket(uri)}."


def _in_bucket(uri: str) -> str:
    """Find what the server of the series has put into its bucket; where a server of the reader's puts it is its own matter."""
    ours = os.environ.get("_SERIES_TRACKING_URI") == os.environ.get("MLFLOW_TRACKING_URI")
    if not ours or not os.environ.get("MLFLOW_S3_ENDPOINT_URL"):
        return ""
    key = f"{uri.removeprefix('mlflow-artifacts:').lstrip('/')}/notes.txt"
    found = objects(stack.BUCKET, key)
    if key not in found:
        raise NotYet("the bucket does not have the file.", "log `notes.txt` again, and look into work/logs/mlflow.log.")
    return f", and lies in the bucket with {found[key]} bytes"
