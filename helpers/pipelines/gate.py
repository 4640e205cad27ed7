"""The component that decides which registered model is the champion."""

from kfp.dsl import InputPath

from helpers.pipelines.mlflow_pipeline import reach, trust_company_ca


def promote_if_better(
    test_data: InputPath("Dataset"),
    test_target: InputPath("Dataset"),
    run_id: str,
    model_name: str,
    registered_model_name: str,
    mlflow_tracking_uri: str,
    mlflow_s3_endpoint_url: str,
    metric: str = "accuracy",
    patience: int = 300,
) -> str:
    """Register a run's model; move the alias champion to it if it is better on held-out rows."""
    import os
    import re

    import mlflow
    import pandas as pd
    from mlflow.exceptions import MlflowException
    from sklearn import metrics

    measures = {  # of each, more is better
        "accuracy": metrics.accuracy_score,
        "balanced_accuracy": metrics.balanced_accuracy_score,
        "f1_macro": lambda truth, answers: metrics.f1_score(truth, answers, average="macro"),
        "r2": metrics.r2_score,
        "neg_root_mean_squared_error": lambda *two: -metrics.root_mean_squared_error(*two),
        "neg_mean_absolute_error": lambda *two: -metrics.mean_absolute_error(*two),
        "": None,  # no gate: the newest is the champion
    }
    if metric not in measures:
        raise ValueError(
            f"metric={metric!r} is unknown: take one of {', '.join(measures)[:-2]} or ''."
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", registered_model_name):
        raise ValueError(
            f"registered_model_name={registered_model_name!r} is not usable: "
            "take letters, digits, '.', '_' and '-'."
        )
    trust_company_ca()
    if mlflow_s3_endpoint_url:  # without one, the store is Amazon's own
        os.environ["MLFLOW_S3_ENDPOINT_URL"] = mlflow_s3_endpoint_url
    mlflow.set_tracking_uri(mlflow_tracking_uri)
    client = mlflow.MlflowClient()

    def read(path):
        with open(path, "rb") as file:
            return (pd.read_parquet if file.read(4) == b"PAR1" else pd.read_csv)(path)

    rows, truth = read(test_data), read(test_target)["target"]

    def score_of(model_uri):
        answers = mlflow.pyfunc.load_model(model_uri).predict(rows)
        return float(measures[metric](truth, answers)) if metric else None

    def promote():
        score = score_of(f"runs:/{run_id}/{model_name}")

        try:
            aliases = client.get_registered_model(registered_model_name).aliases
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            client.create_registered_model(registered_model_name)
            aliases = {}
        champion = aliases.get("champion")
        contest = champion and metric
        best = score_of(f"models:/{registered_model_name}@champion") if contest else None

        # Done once more, it finds the version that its first try made.
        query = f"name = '{registered_model_name}' and run_id = '{run_id}'"
        versions = client.search_model_versions(query)
        source = f"runs:/{run_id}/{model_name}"
        if not versions:
            versions = [client.create_model_version(registered_model_name, source, run_id)]
        number = versions[0].version
        if metric:
            client.set_model_version_tag(registered_model_name, number, f"held_out_{metric}", score)
        if str(champion) == str(number):
            return "is the champion already"
        if best is not None and score <= best:
            return f"kept the champion: {score:.4f} does not beat {best:.4f}"
        client.set_registered_model_alias(registered_model_name, "champion", number)
        if not metric:
            return "promoted: no gate decides"
        return f"promoted: {score:.4f}" + ("" if best is None else f" beats {best:.4f}")

    return reach(promote, mlflow_tracking_uri, patience)
