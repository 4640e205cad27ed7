"""The checks of the exercises to notebook 09: a mended table, a signature and another training."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

from helpers.checks.common import Names, NotYet, artifacts, by_pipeline, call, file, finished, iris, run


def _read(path: Path) -> dict:
    """Hand a table to the component that reads tables; return what it wrote."""
    import pandas as pd

    from helpers.pipelines.lean_pipeline import load_table

    with tempfile.TemporaryDirectory() as folder:
        files = {name: f"{folder}/{name}" for name in ("data", "target", "test_data", "test_target")}
        with contextlib.redirect_stdout(io.StringIO()):
            load_table(str(path), "target", "classifier", "", **files)
        return {name: pd.read_parquet(path) for name, path in files.items()}


def check_09_1(names: Names) -> str:
    """Hand the mended table to the component that reads tables."""
    import pandas as pd

    path = file("clean.csv", "write the mended table to `clean.csv`, without the index")
    try:
        _read(path)
    except ValueError as error:
        said = str(error).splitlines()[0]
        raise NotYet(
            f"load_table refuses it: {said}", "mend what the message names, and write the file again."
        ) from None
    clean, messy = pd.read_csv(path, dtype=str), pd.read_csv("messy.csv", dtype=str, index_col=0)
    if list(clean) != list(messy):
        raise NotYet(
            f"the columns are {', '.join(clean)}.", "keep height, width, colour and target, and write no index."
        )
    usable = messy[pd.to_numeric(messy["height"], errors="coerce").notna() & messy["target"].notna()]
    kept = usable[usable.groupby("target")["target"].transform("size") >= 5].reset_index(drop=True)
    if len(clean) != len(kept):
        raise NotYet(
            f"{len(clean)} rows are left, and {len(kept)} of messy.csv are usable.",
            "drop the row without a height, the row without a target and the class with too few rows, and no others.",
        )
    for column in ("height", "width"):
        clean[column], kept[column] = clean[column].astype(float), kept[column].astype(float)
    if not clean.equals(kept):
        wrong = next(column for column in kept if not clean[column].equals(kept[column]))
        raise NotYet(
            f"the column {wrong!r} differs from that of messy.csv.", "change nothing in the rows that you keep."
        )
    return f"load_table takes your table: {len(clean)} rows, with its words and its gap."


def check_09_2(names: Names) -> str:
    """Call the reader's function with models that nobody has seen."""
    import mlflow
    import pandas as pd
    from sklearn.dummy import DummyClassifier

    function = names.function("may_be_empty", "returns the names of the columns that may be empty")
    table = pd.DataFrame({"shop": ["a", None], "size": [1.5, 2.5], "price": [None, 3.5], "open": [True, False]})
    for columns, expected in (
        (["shop", "size", "price"], ["shop", "price"]),
        (["size", "open"], []),
        (["price"], ["price"]),
    ):
        with tempfile.TemporaryDirectory() as scratch:
            model, rows = DummyClassifier().fit(table[columns], [0, 1]), table[columns]
            signature = mlflow.models.infer_signature(rows)
            mlflow.sklearn.save_model(model, f"{scratch}/model", signature=signature, pip_requirements=["mlflow"])
            answer = call(function, f"{scratch}/model")
        if not isinstance(answer, list) or not all(isinstance(name, str) for name in answer):
            raise NotYet(f"`may_be_empty` returned {answer!r:.60}.", "return a list of the columns' names.")
        if answer != expected:
            raise NotYet(
                f"of the columns {', '.join(columns)}, {', '.join(expected) or 'none'} may be empty, and you say {', '.join(answer) or 'none'}.",
                "take each column of `signature.inputs` whose `required` is False.",
            )
    return "`may_be_empty` told three models' columns apart."


def check_09_3(names: Names) -> str:
    """Ask the server for what the lean pipeline made of the reader's training."""
    import mlflow

    found = run(names.get("run_id", str, "the id that the pipeline put out"), "exercise-09")
    by_pipeline(found)
    finished(found)
    name = found.data.tags.get("model_name", "model")
    files = artifacts(found, name)
    if not any(path.endswith("/MLmodel") for path in files):
        raise NotYet("the run has no model.", "save the model with `mlflow.sklearn.save_model` at `model.path`.")
    if any(path.endswith((".pkl", ".pickle")) for path in files):
        raise NotYet(
            "the run has a pickle in it, which runs code when it is loaded.",
            'save with `serialization_format="skops"`.',
        )
    if "accuracy" not in found.data.metrics:
        raise NotYet("the run has no metric `accuracy`.", 'call `metrics.log_metric("accuracy", ...)` in the training.')
    address = f"runs:/{found.info.run_id}/{name}"
    kind = "Python model"
    if "sklearn" in mlflow.models.get_model_info(address).flavors:
        model = mlflow.sklearn.load_model(address)
        kind = type(getattr(model, "steps", [("", model)])[-1][1]).__name__
    if kind.startswith("HistGradientBoosting"):
        raise NotYet(
            "the model is gradient boosting still.",
            "hand your own training to `make_lean_pipeline(from_image, train=...)`.",
        )
    data, target = iris()
    held_out = _read(file("iris.csv", "run the cell that writes it"))
    loaded = mlflow.pyfunc.load_model(address)
    share = float((loaded.predict(held_out["test_data"]) == held_out["test_target"]["target"]).mean())
    if abs(share - found.data.metrics["accuracy"]) > 1e-6:
        raise NotYet(
            f"`accuracy` is {found.data.metrics['accuracy']:.4f}, and of the rows held out {share:.4f} are answered right.",
            "count it on `test_data` and `test_target`.",
        )
    right = int((loaded.predict(data) == target).sum())
    return f"the lean pipeline stored a {kind} without a pickle, and it answers {right} of {len(data)} rows right."
