"""The checks of the exercises to notebook 09: a mended table and another training."""

from __future__ import annotations

import tempfile
from pathlib import Path

from helpers.checks.common import Names, NotYet, artifacts, by_pipeline, call, file, finished, iris, run


def check_09_1(names: Names) -> str:
    """Hand the mended table to the component that reads tables."""
    import pandas as pd

    from helpers.pipelines.lean_pipeline import load_csv

    path = file("clean.csv", "write the mended table to `clean.csv`, without the index")
    with tempfile.TemporaryDirectory() as folder:
        data, target = Path(folder) / "data.csv", Path(folder) / "target.csv"
        try:
            load_csv(str(path), "target", "", data=str(data), target=str(target))
        except ValueError as error:
            said = str(error).splitlines()[0]
            raise NotYet(
                f"load_csv refuses it: {said}", "mend what the message names, and write the file again."
            ) from None
        features, classes = pd.read_csv(data), pd.read_csv(target)["target"]
    messy = pd.read_csv("messy.csv")
    if list(features) != ["height", "width", "colour"]:
        raise NotYet(f"the features are {', '.join(features)}.", "keep height, width and colour, and write no index.")
    usable = messy.dropna()
    kept = usable[usable.groupby("target")["target"].transform("size") >= 5]
    if len(features) != len(kept):
        raise NotYet(
            f"{len(features)} rows are left, and {len(kept)} of messy.csv are usable.",
            "drop the row with the gap and the class with too few rows, and no others.",
        )
    same = (
        features[["height", "width"]]
        .reset_index(drop=True)
        .equals(kept[["height", "width"]].astype(float).reset_index(drop=True))
    )
    codes = pd.DataFrame({"name": kept["colour"].to_list(), "code": features["colour"]}).drop_duplicates()
    if not same or list(classes) != list(kept["target"]):
        raise NotYet(
            "the measurements or classes differ from those of messy.csv.", "change nothing in the rows that you keep."
        )
    if not (codes["name"].is_unique and codes["code"].is_unique):
        raise NotYet("two colours have one number, or one colour has two.", "map each colour to a number of its own.")
    return f"load_csv takes your table: {len(features)} rows, and {len(codes)} colours with a number each."


def check_09_2(names: Names) -> str:
    """Call the reader's function with columns of text."""
    import pandas as pd

    function = names.function("encode", "returns a table whose text columns are numbers, and the encoding")
    table = pd.DataFrame({"size": [1.5, 2.5, 3.5], "colour": ["red", "blue", "red"], "shop": ["b", "a", "c"]})
    before = table.copy()
    answer = call(function, table)
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise NotYet(
            f"`encode` returned a {type(answer).__name__}.", "return two things: the new table and the encoding."
        )
    encoded, encoding = answer
    if not table.equals(before):
        raise NotYet("`encode` changed the table that it was given.", "work on `table.copy()`.")
    if not isinstance(encoding, dict) or set(encoding) != {"colour", "shop"}:
        raise NotYet(
            "the encoding does not name exactly the columns of text.",
            "return a dictionary: each column of text to a dictionary of its values.",
        )
    if not isinstance(encoded, pd.DataFrame) or list(encoded) != list(before):
        raise NotYet("the table has other columns than before.", "keep the columns, and replace their values.")
    for column, codes in encoding.items():
        if len(set(codes.values())) != before[column].nunique():
            raise NotYet(f"two values of {column!r} share a number.", "give each value a number of its own.")
        if list(encoded[column]) != [codes.get(value) for value in before[column]]:
            raise NotYet(
                f"the column {column!r} does not hold the numbers of its encoding.",
                "map the column with the dictionary that you return.",
            )
    if list(encoded["size"]) != list(before["size"]):
        raise NotYet("a column of numbers was changed.", "encode the columns of text alone.")
    return "`encode` turned two columns of text into numbers, told them apart from the rest, and returned what serving needs."


def check_09_3(names: Names) -> str:
    """Ask the server for what the lean pipeline made of the reader's training."""
    import mlflow

    found = run(names.get("run_id", str, "the id that the pipeline put out"), "exercise-09")
    by_pipeline(found)
    finished(found)
    name = found.data.tags.get("model_name", "classifier")
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
    if kind == "SVC":
        raise NotYet(
            "the model is an SVC still.", "hand your own training to `make_lean_pipeline(from_image, train=...)`."
        )
    data, target = iris()
    right = int((mlflow.pyfunc.load_model(address).predict(data) == target).sum())
    return f"the lean pipeline stored a {kind} without a pickle, and it answers {right} of {len(data)} rows right."
