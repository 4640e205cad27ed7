"""The checks of the exercises to notebook 05: what a pipeline left on the server."""

from __future__ import annotations

from helpers.checks.common import Names, NotYet, artifacts, by_pipeline, call, file, finished, iris, objects, run
from helpers.names import own_name

UPLOAD = "upload-sklearn-model-to-mlflow"


def check_05_1(names: Names) -> str:
    """Ask the server for the run of the kernel poly, and the store for its files."""
    import mlflow

    found = run(names.get("run_id", str, "the id that the pipeline put out"), "exercise-05")
    by_pipeline(found)
    finished(found)
    if found.data.params.get("kernel") != "poly":
        raise NotYet(
            f"the run's kernel is {found.data.params.get('kernel')}.", 'call the pipeline with `kernel="poly"`.'
        )
    if "svc/MLmodel" not in artifacts(found, "svc"):
        raise NotYet("the run has no model in the folder svc.", "leave `model_name` as it is in `arguments`.")
    data, target = iris()
    # It loads a pickle of the reader's own run.
    right = int((mlflow.pyfunc.load_model(f"runs:/{found.info.run_id}/svc").predict(data) == target).sum())
    return f"a pipeline made a FINISHED run with kernel poly, and its model answers {right} of {len(data)} rows right."


def check_05_2(names: Names) -> str:
    """Make sure that a task refused, that it was the one which the reader names, and that no run came of it."""
    import mlflow

    said = names.get("said", str, "the text of the PipelineError")
    task = names.get("refused_by", str, "the name of the task that refused")
    path = file("refused.log", 'run the pipeline within `local_pipeline.task_states("refused.log")`')
    log = path.read_text(encoding="utf-8")
    if "is not usable" not in log:
        raise NotYet("in refused.log no task refuses a name.", 'call the pipeline with `model_name="a/b"`.')
    if "is not usable" not in said:
        raise NotYet(
            "`said` is not what the task said.", "catch `local_pipeline.PipelineError as error` and keep `str(error)`."
        )
    if task != UPLOAD:
        raise NotYet(f"it was not {task!r} that refused.", "the text of the error begins with the name of the task.")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(own_name("exercise-05"))
    if experiment and client.search_runs([experiment.experiment_id], "tags.model_name = 'a/b'"):
        raise NotYet("the server has a run for the model a/b.", "delete it: the pipeline itself makes none.")
    return f"{UPLOAD} refused the name a/b, and the server has no run for it."


def check_05_3(names: Names) -> str:
    """Call the reader's function and compare with the store's own list."""
    function = names.function("stored_bytes", "returns the bytes that a run's files take in the bucket")
    found = run(names.get("run_id", str, "the id of the run of the first task"), "exercise-05")
    bucket, _, prefix = found.info.artifact_uri.removeprefix("s3://").partition("/")
    if not found.info.artifact_uri.startswith("s3://"):
        return "there is no S3 store on this machine, so there is nothing to count."
    expected = objects(bucket, f"{prefix}/")
    answer = call(function, found.info.run_id)
    if not isinstance(answer, int) or isinstance(answer, bool):
        raise NotYet(f"`stored_bytes` returned a {type(answer).__name__}.", "return a whole number.")
    total = sum(expected.values())
    if answer == len(expected):
        raise NotYet(f"`stored_bytes` returned {answer}, which is the number of objects.", "add up the `Size` of each.")
    if answer != total:
        raise NotYet(
            f"`stored_bytes` returned {answer}, and the store counts {total}.",
            "list the objects under the run's `artifact_uri`, and none of its neighbours.",
        )
    return f"`stored_bytes` counts what the store counts, over {len(expected)} objects of the run."
