"""Read a table and train on it as the lean pipeline does, without the pipeline."""

from kfp.dsl import Metrics, Model

from helpers.pipelines.lean_pipeline import load_table, train_model


def train(folder, table, target_column="target", model_type="classifier", **params):
    """Return the model, the metrics and the four files."""
    table.to_csv(folder / "table.csv", index=False)
    files = {name: str(folder / name) for name in ("data", "target", "test_data", "test_target")}
    load_table(str(folder / "table.csv"), target_column, model_type, "", **files)
    model, metrics = Model(uri=str(folder / "lean")), Metrics(uri=str(folder / "lean_metrics"))
    train_model(**files, model_type=model_type, model=model, metrics=metrics, params=params)
    return model, metrics, files
