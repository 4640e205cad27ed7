"""The checks of the exercises to notebook 03: functions that become components."""

from __future__ import annotations

import os
import tempfile
import types
import uuid
from pathlib import Path

from helpers.checks.common import Names, NotYet, artifacts, call, iris, run
from helpers.names import own_name


def alone(function):
    """Return a function as a task has it: without anything that the notebook imported.

    Parameters
    ----------
    function : callable
        The reader's.

    Returns
    -------
    function
        The same code with no other names than Python's own.
    """
    if not isinstance(function, types.FunctionType):
        return function
    bare = {"__builtins__": __builtins__, "__name__": "task"}
    copy = types.FunctionType(function.__code__, bare, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _call_alone(function, *arguments, **named):
    try:
        return call(alone(function), *arguments, **named)
    except NotYet as reason:
        if "NameError" in reason.wrong:
            raise NotYet(reason.wrong, "import inside the function: its text alone travels to the task.") from None
        raise


def check_03_1(names: Names) -> str:
    """Call the reader's function as a task would, and read the interface of its component."""
    function = names.function("count_classes", "returns how many classes a file has")
    with tempfile.TemporaryDirectory() as folder:
        for classes in (["a"], [0, 1, 2, 2, 1], ["x", "y"] * 4):
            path = Path(folder) / "target.csv"
            path.write_text("target\n" + "".join(f"{name}\n" for name in classes))
            answer = _call_alone(function, str(path))
            if answer != len(set(classes)):
                raise NotYet(
                    f"for a file with the classes {sorted(set(classes))} it returned {answer!r}.",
                    "count the distinct values of the column `target`, not its rows.",
                )
    component = names.get("counter", object, "`from_image(count_classes)`")
    specification = getattr(component, "component_spec", None)
    if specification is None:
        raise NotYet("`counter` is no component.", "make one: `counter = from_image(count_classes)`.")
    outputs = {output.type for output in (specification.outputs or {}).values()}
    if outputs != {"Integer"}:
        raise NotYet(
            f"the component puts out {sorted(outputs) or 'nothing'}.", "annotate what the function returns: `-> int`."
        )
    inputs = {entry.type for entry in (specification.inputs or {}).values()}
    if inputs != {"system.Dataset@0.0.1"}:
        raise NotYet(f"the component takes {sorted(inputs)}.", 'annotate the parameter with `InputPath("Dataset")`.')
    return (
        "`count_classes` counted three files right, needs no name of your notebook, and `counter` puts out an Integer."
    )


FILES = ("model", "input_example", "signature", "conda_env", "params", "metrics")


def check_03_2(names: Names) -> str:
    """Run the reader's training as a task would, then the series' own upload, and ask the stored model."""
    import dill
    import mlflow
    from sklearn.tree import DecisionTreeClassifier

    function = names.function("train_tree", "trains a decision tree and writes six files")
    data, target = iris()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data.to_csv(folder / "data.csv", index=False)
        target.to_frame("target").to_csv(folder / "target.csv", index=False)
        paths = {file: str(folder / file) for file in FILES}
        _call_alone(function, str(folder / "data.csv"), str(folder / "target.csv"), max_depth=2, **paths)
        for file in FILES:
            if not (folder / file).exists():
                raise NotYet(
                    f"`train_tree` did not write `{file}`.", "write each of the six files, at the path it is given."
                )
        # A pickle, but of the reader's own function, which has just run here.
        model = dill.loads((folder / "model").read_bytes())
        if not isinstance(model, DecisionTreeClassifier):
            raise NotYet(f"the model is a {type(model).__name__}.", "dump a fitted `DecisionTreeClassifier`.")
        if model.get_depth() > 2:
            raise NotYet(
                f"asked for `max_depth=2`, it trained a tree of depth {model.get_depth()}.",
                "pass `max_depth` on to the tree.",
            )
        found = _upload(paths)
    uri = f"runs:/{found.info.run_id}/tree"
    right = int((mlflow.pyfunc.load_model(uri).predict(data) == target).sum())
    if "accuracy" not in found.data.metrics:
        raise NotYet("the uploaded run has no metric `accuracy`.", "write it as JSON into the file `metrics`.")
    if "max_depth" not in found.data.params:
        raise NotYet("the uploaded run has no parameter `max_depth`.", "write it as JSON into the file `params`.")
    if "tree/input_example.json" not in artifacts(found, "tree"):
        raise NotYet("the uploaded model has no example.", "dump one row of the data into `input_example`.")
    return f"the upload took your six files as they are, and the tree that it stored answers {right} of {len(data)} rows right."


def _upload(paths: dict[str, str]):
    """Upload as the pipeline does, and return the run."""
    from helpers.pipelines.mlflow_pipeline import upload_sklearn_model_to_mlflow

    try:
        run_id = upload_sklearn_model_to_mlflow(
            "tree",
            **paths,
            experiment_name=own_name("exercise-03"),
            job_id=str(uuid.uuid4()),
            mlflow_tracking_uri=os.environ["MLFLOW_TRACKING_URI"],
            mlflow_s3_endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL", ""),
            patience=10,
        )
    except Exception as error:  # noqa: BLE001 - it was fed the reader's files
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NotYet(
            f"the upload cannot use your files: {said}",
            "dump model, example, signature and environment with dill; write params and metrics as JSON.",
        ) from None
    return run(run_id, "exercise-03")
