"""The lean pipeline's training: mixed tables, from the reading to an answer of a served model."""

import json
import re

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
from kfp import compiler
from kfp.dsl import InputPath, Metrics, Model, Output, OutputPath
from support.lean import train as train_lean

from helpers import paths, serving
from helpers.pipelines import lean_pipeline, mlflow_pipeline
from helpers.pipelines.lean_pipeline import load_table, make_lean_pipeline, train_model, upload_model_to_mlflow
from helpers.pipelines.mlflow_pipeline import from_image

ROWS = 300
RANDOM = np.random.default_rng(7)


def with_gaps(values, share=0.1):
    return pd.Series(values, dtype=object).mask(RANDOM.random(ROWS) < share)


@pytest.fixture(scope="module")
def mixed():
    """A table with every kind of column, all of them with gaps but the first; 007 where the number is above zero."""
    number = RANDOM.normal(size=ROWS).round(3)
    return pd.DataFrame(
        {
            "number": number,
            "gappy": with_gaps(RANDOM.normal(size=ROWS).round(3)),
            "word": with_gaps(RANDOM.choice(["red", "blue", "dark, green"], ROWS)),
            "code": RANDOM.choice(["00123", "10115"], ROWS),
            "flag": with_gaps(RANDOM.random(ROWS) < 0.5),
            "day": with_gaps([f"2026-{1 + n % 12:02}-{1 + n % 28:02}" for n in range(ROWS)]),
            "class": np.where(number > 0, "007", "042"),
        }
    )


def test_words_dates_booleans_and_gaps_are_learnt(mixed, tmp_path):
    (tmp_path / "a").mkdir()
    for place, (column, rule) in enumerate(
        {
            "word": mixed["word"] == "red",
            "flag": mixed["flag"].eq(True),
            "day": mixed["day"].fillna("").astype(str) > "2026-06-30",
            "gap": mixed["gappy"].isna() | (mixed["number"] > 1),
        }.items()
    ):
        folder = tmp_path / f"{place}"
        folder.mkdir()
        table = mixed.assign(**{"class": np.where(rule, "yes", "no")})
        _, metrics, _ = train_lean(folder, table, "class")
        assert metrics.metadata["accuracy"] > 0.95, column


def test_served_model_takes_gaps_and_keeps_the_classes(mixed, tmp_path):
    model, metrics, files = train_lean(tmp_path, mixed, "class")
    assert metrics.metadata["accuracy"] > 0.95
    loaded = mlflow.pyfunc.load_model(model.path)
    optional = [column.name for column in loaded.metadata.get_input_schema() if not column.required]
    assert optional == ["gappy", "word", "flag", "day"]
    assert loaded.input_example.iloc[0].notna().all() and loaded.input_example.iloc[1].isna().any()
    port = serving.free_port()
    command = ["mlflow", "models", "serve", "--host", "127.0.0.1", "--port", str(port)]
    server = serving.start(
        [*command, "--model-uri", model.path, "--env-manager", "local"], port, log=str(tmp_path / "log")
    )

    def ask(body):
        kind = {"Content-Type": "application/json"}
        return requests.post(f"http://127.0.0.1:{port}/invocations", data=json.dumps(body), headers=kind, timeout=60)

    try:
        stored = json.loads((tmp_path / "lean" / "serving_input_example.json").read_text())
        assert set(ask(stored).json()["predictions"]) <= {"007", "042"}
        columns = list(mixed)[:-1]
        rows = [[1.5, None, None, "00123", None, None], [-1.5, 0.5, "never seen", "never seen", True, "2031-01-01"]]
        assert ask({"dataframe_split": {"columns": columns, "data": rows}}).json() == {"predictions": ["007", "042"]}
        data = pd.read_parquet(files["test_data"])
        everything = json.loads(data.to_json(orient="split", index=False, date_format="iso"))
        here = loaded.predict(data).tolist()
        assert ask({"dataframe_split": everything}).json()["predictions"] == here
        rows[0][columns.index("day")] = "soon"
        refused = ask({"dataframe_split": {"columns": columns, "data": rows}})
        assert refused.status_code == 400 and "Failed to convert column day" in refused.text
    finally:
        serving.stop(server)


@pytest.mark.parametrize("named", [(1, 2), (True, False), ("a", "b"), ("0.5", "1.5"), (2**53 + 1, 2**53)])
def test_classes_keep_their_meaning(tmp_path, named):
    n = np.arange(40)
    table = pd.DataFrame({"n": n, "target": [named[one % 2] for one in n]}).sort_values("target")
    table["n"] = range(40)
    model, _, _ = train_lean(tmp_path, table, min_samples_leaf=2)
    answers = mlflow.pyfunc.load_model(model.path).predict(pd.DataFrame({"n": [0.0, 39.0]})).tolist()
    assert set(map(repr, answers)) == set(map(repr, named))


def test_regressor(mixed, tmp_path):
    table = mixed.drop(columns="class").assign(price=mixed["number"] * 100 + mixed["word"].eq("red") * 50)
    model, metrics, _ = train_lean(tmp_path, table, "price", "regressor")
    assert metrics.metadata["r2"] > 0.9 and metrics.metadata["root_mean_squared_error"] < 40
    assert model.metadata["params"] == {"model_type": "regressor", "rows": "240"}


def test_the_model_lists_the_types_that_it_needs_and_no_others(mixed, tmp_path):
    import skops.io

    model, _, _ = train_lean(tmp_path, mixed, "class", max_iter=2)
    listed = mlflow.models.get_model_info(model.path).flavors["sklearn"]["skops_trusted_types"]
    assert sorted(listed) == sorted(skops.io.get_untrusted_types(file=f"{model.path}/model.skops"))


def test_parameters_of_the_training(tmp_path):
    table = pd.DataFrame({"n": range(40), "target": ["a", "b"] * 20})
    model, _, files = train_lean(tmp_path, table, max_iter=3.0, learning_rate=0.5)
    assert model.metadata["params"] == {
        "model_type": "classifier",
        "rows": "32",
        "max_iter": "3",
        "learning_rate": "0.5",
    }
    other = {"model": Model(uri=str(tmp_path / "m")), "metrics": Metrics(uri=str(tmp_path / "n"))}
    for params, message in (
        ({"kernel": "rbf"}, "'kernel' is unknown to HistGradientBoostingClassifier: take .*max_iter"),
        ({"max_iter": 0}, "'max_iter' parameter of HistGradientBoostingClassifier must be an int"),
    ):
        with pytest.raises(ValueError, match=message):
            train_model(**files, model_type="classifier", params=params, **other)
    assert not (tmp_path / "m").exists() and not (tmp_path / "n").exists()


# --- what a pipeline of one's own exchanges ------------------------------------------------------


def my_reader(
    source: str, data: OutputPath(), target: OutputPath(), test_data: OutputPath(), test_target: OutputPath()
):
    pass


def my_training(data: InputPath("Dataset"), epochs: int, model: Output[Model], metrics: Output[Metrics]):
    pass


def compiled(folder, pipeline):
    compiler.Compiler().compile(pipeline, str(folder / "p.yaml"))
    return (folder / "p.yaml").read_text()


def test_a_reader_of_your_own_gets_what_it_names(tmp_path):
    assert "my-reader" in compiled(tmp_path, make_lean_pipeline(from_image, read=my_reader))


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="my_training wants 'epochs', which the pipeline does not hand it.*params"):
        make_lean_pipeline(from_image, train=my_training)

    def no_target(source: str, data: OutputPath("Dataset")):
        pass

    def no_metrics(data: InputPath("Dataset"), model: Output[Model]):
        pass

    with pytest.raises(ValueError, match="no_target has no output 'target'"):
        make_lean_pipeline(from_image, read=no_target)
    with pytest.raises(ValueError, match="no_metrics has no output 'metrics'"):
        make_lean_pipeline(from_image, train=no_metrics)
    with pytest.raises(ValueError, match="no task of this pipeline runs my_reader"):
        make_lean_pipeline(from_image, settings={my_reader: lambda task: None})


def test_packages_are_named_with_a_version_or_have_one_here(monkeypatch):
    assert load_table not in mlflow_pipeline.PACKAGES and upload_model_to_mlflow not in mlflow_pipeline.PACKAGES
    with pytest.raises(ValueError, match=r"PACKAGES has no entry for my_reader: PACKAGES\[my_reader\] = "):
        lean_pipeline.with_packages(my_reader)
    with pytest.raises(ValueError, match="PACKAGES has no entry for load_table"):
        make_lean_pipeline(mlflow_pipeline.from_packages)
    monkeypatch.setitem(lean_pipeline.PACKAGES, my_reader, ["no-such-package"])
    with pytest.raises(
        ValueError, match="no-such-package is not installed here: name a version, no-such-package==1.2.3"
    ):
        lean_pipeline.with_packages(my_reader)
    monkeypatch.setitem(lean_pipeline.PACKAGES, my_reader, ["no-such-package==1.0", "pandas"])
    installs = str(lean_pipeline.with_packages(my_reader).component_spec.implementation.container.command)
    assert "no-such-package==1.0" in installs and f"pandas=={pd.__version__}" in installs


def test_the_lines_of_the_companys_page_compile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lean_pipeline, "PACKAGES", {name: [*value] for name, value in lean_pipeline.PACKAGES.items()})
    (block,) = re.findall(r"```python\n(.*?)```", (paths.ROOT / "docs" / "your-company.md").read_text(), re.S)
    names = {}
    exec(block, names)
    on_image, on_packages = (tmp_path / "churn.yaml").read_text(), (tmp_path / "churn_packages.yaml").read_text()
    assert on_image.count("image: example.com/ml/churn:1.0") == 4 and "resourceMemoryLimit: 8Gi" in on_image
    assert "xgboost==3.1.1" in on_packages and "nvidia.com/gpu" in on_packages
    named = compiled(tmp_path, make_lean_pipeline(from_image, registered_model_name="churn", metric="r2"))
    assert "defaultValue: churn" in named and "defaultValue: r2" in named
    for setting, wanted in (("secret", "WAREHOUSE"), ("setting", "COLOUR")):
        assert wanted in compiled(tmp_path, make_lean_pipeline(from_image, settings={train_model: names[setting]}))
