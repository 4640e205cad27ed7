"""The pipeline for your own data and any framework: run it to compile it."""

from kfp import compiler, dsl, kubernetes
from kfp.dsl import Input, InputPath, Metrics, Model, Output, OutputPath

from helpers.pipelines.mlflow_pipeline import (
    from_image,
    from_packages,
    give_access,
    reach,
    trust_company_ca,
)


def load_csv(
    source: str,
    target_column: str,
    mlflow_s3_endpoint_url: str,
    data: OutputPath("Dataset"),
    target: OutputPath("Dataset"),
):
    """Read and check a CSV file, from a path or from s3://; write its features and its classes."""
    import io
    import warnings

    import pandas as pd

    trust_company_ca()
    most_bytes, most_columns = 100_000_000, 1_000  # a task has little memory: refuse what fills it
    try:
        if source.startswith("s3://"):
            import boto3

            bucket, _, key = source.removeprefix("s3://").partition("/")
            s3 = boto3.client("s3", endpoint_url=mlflow_s3_endpoint_url or None)
            content = s3.get_object(Bucket=bucket, Key=key)["Body"].read(most_bytes + 1)
        else:
            with open(source, "rb") as file:
                content = file.read(most_bytes + 1)
    except Exception as error:
        raise ValueError(
            f"{source!r} cannot be read: {error}. Name a file that this task can see, or "
            "s3://bucket/key with keys that may read it."
        ) from None
    if len(content) > most_bytes:
        raise ValueError(
            f"{source} has more than {most_bytes // 10**6} MB. Take a part of its rows."
        )
    if content.partition(b"\n")[0].count(b",") >= most_columns:
        raise ValueError(f"{source} has more than {most_columns} columns. Take those that matter.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(io.BytesIO(content), index_col=False)
    except pd.errors.ParserWarning:
        raise ValueError(
            f"{source} has more values in a line than names: name each column."
        ) from None
    except ValueError as error:  # pandas' own errors are of this kind
        raise ValueError(f"{source} is no table: {error}. It should be CSV in UTF-8.") from None

    if any(len(column) > 100 for column in table):
        raise ValueError(f"{source} has a column with a name of over 100 letters. Shorten it.")
    if target_column not in table:
        names = ", ".join(list(table)[:20])
        raise ValueError(f"{source} has no column {target_column!r}. Name one of: {names}.")
    features = table.drop(columns=target_column)
    if table.empty or features.empty:
        raise ValueError(f"{source} needs rows, and a column besides {target_column!r}.")
    for column in table:  # the header is line 1
        missing = table[column].isna()
        if missing.any():
            line = missing.idxmax() + 2
            raise ValueError(f"{source}, line {line}: {column!r} is empty. Fill or drop that row.")
    for column in features:
        try:
            numbers = pd.to_numeric(features[column], errors="coerce")
        except OverflowError:
            raise ValueError(f"{source}: {column!r} holds a number that is too large.") from None
        bad = numbers.isna() | numbers.abs().eq(float("inf"))
        if bad.any():
            line, cell = bad.idxmax() + 2, features[column][bad.idxmax()]
            raise ValueError(
                f"{source}, line {line}: {column!r} is {str(cell)[:40]!r}, not a number. "
                "Encode or drop that column."
            )
        features[column] = numbers.astype("float64")
    classes = table[target_column].value_counts()
    if len(classes) < 2:
        raise ValueError(
            f"{source}: {target_column!r} holds a single class, {str(classes.index[0])[:40]!r}. "
            "There is nothing to tell apart."
        )
    if classes.iloc[-1] < 5:
        raise ValueError(
            f"{source}: class {str(classes.index[-1])[:40]!r} has only {classes.iloc[-1]} of the "
            f"five rows that a split needs. Is {target_column!r} a measurement and no class?"
        )
    features.to_csv(data, index=False)
    table[[target_column]].set_axis(["target"], axis="columns").to_csv(target, index=False)


def train_classifier(
    data: InputPath("Dataset"),
    target: InputPath("Dataset"),
    kernel: str,
    model: Output[Model],
    metrics: Output[Metrics],
    C: float = 1.0,
):
    """Train a scaled SVC on four fifths of the rows and write a finished MLflow model folder."""
    import json
    from importlib.metadata import version

    import mlflow
    import pandas as pd
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    kernels = ("linear", "poly", "rbf", "sigmoid")
    if kernel not in kernels:
        raise ValueError(f"kernel={kernel!r} is unknown to SVC: take one of {', '.join(kernels)}.")
    X, y = pd.read_csv(data), pd.read_csv(target)["target"]
    split = {"test_size": 0.2, "random_state": 7}
    X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, **split)
    classifier = make_pipeline(StandardScaler(), SVC(kernel=kernel, C=C)).fit(X_train, y_train)
    predicted = classifier.predict(X_test)

    needs = ("pandas", "scikit-learn", "skops")
    mlflow.sklearn.save_model(
        classifier,
        model.path,
        serialization_format="skops",  # a list of known types instead of a pickle
        signature=mlflow.models.infer_signature(X_train, predicted),
        input_example=X_train.sample(1, random_state=7),
        pip_requirements=[f"mlflow=={mlflow.__version__}"]
        + [f"{name}=={version(name)}" for name in needs],
    )
    params = {"kernel": kernel, "C": C, "rows": len(X), **split}
    model.metadata["params"] = {name: str(value) for name, value in params.items()}
    metrics.log_metric("accuracy", accuracy_score(y_test, predicted))
    metrics.log_metric("f1_macro", f1_score(y_test, predicted, average="macro"))
    with open(metrics.path, "w") as file:
        json.dump(metrics.metadata, file)  # a cache counts only outputs that have a file


def upload_model_to_mlflow(
    model: Input[Model],
    metrics: Input[Metrics],
    model_name: str,
    experiment_name: str,
    job_id: str,
    mlflow_tracking_uri: str,
    mlflow_s3_endpoint_url: str,
    artifact_location: str = "",
    patience: int = 300,
) -> str:
    """Upload a finished MLflow model folder to a run, unopened; return the run's id."""
    import contextlib
    import os
    import re

    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", model_name) or ".." in model_name:
        raise ValueError(
            f"model_name={model_name!r} is not usable: take letters, digits, '.', '_' and '-'."
        )
    if "'" in job_id:  # it would end the text in the query below
        raise ValueError(f"job_id={job_id!r} is not usable: no id of KFP has a quote.")
    if not os.path.isfile(os.path.join(model.path, "MLmodel")):
        raise ValueError("The model is no MLflow model folder: save it with mlflow's save_model.")
    for parent, folders, files in os.walk(model.path):
        for name in folders + files:
            if os.path.islink(os.path.join(parent, name)):
                raise ValueError(
                    f"{name} is a link, which could lead anywhere: save a copy instead."
                )

    trust_company_ca()
    if mlflow_s3_endpoint_url:  # without one, the store is Amazon's own
        os.environ["MLFLOW_S3_ENDPOINT_URL"] = mlflow_s3_endpoint_url
    client = MlflowClient(mlflow_tracking_uri)
    tags = {"kfp_job_id": job_id, "model_name": model_name}
    query = " and ".join(f"tags.{name} = '{value}'" for name, value in tags.items())
    if os.environ.get("MLFLOW_RUN_ID"):  # Kubeflow's MLflow plugin keeps a run for this task
        tags["mlflow.parentRunId"] = os.environ["MLFLOW_RUN_ID"]

    def upload():
        if client.get_experiment_by_name(experiment_name) is None:
            try:
                client.create_experiment(experiment_name, artifact_location or None)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # by a task beside this one
                    raise
        experiment = client.get_experiment_by_name(experiment_name)
        if experiment.lifecycle_stage != "active":
            raise ValueError(
                f"The experiment {experiment_name!r} was deleted: restore it or take another."
            )
        experiment_id = experiment.experiment_id
        runs = client.search_runs([experiment_id], query)  # what an earlier try has begun
        run = runs[0] if runs else client.create_run(experiment_id, run_name=model_name, tags=tags)
        run_id = run.info.run_id
        try:
            client.update_run(run_id, status="RUNNING")
            if "failure" in run.data.tags:
                client.delete_tag(run_id, "failure")
            for name, value in model.metadata.get("params", {}).items():
                client.log_param(run_id, name, value)
            for name, value in metrics.metadata.items():
                if isinstance(value, (int, float)):  # a cluster adds texts of its own
                    client.log_metric(run_id, name, value)
            client.log_artifacts(run_id, model.path, model_name)
            files = {f"{model_name}/{name}" for name in next(os.walk(model.path))[2]}
            if not files <= {entry.path for entry in client.list_artifacts(run_id, model_name)}:
                raise OSError("the store does not list every file that was sent to it")
        except BaseException as error:
            with contextlib.suppress(Exception):  # the server may be what failed
                client.set_tag(run_id, "failure", f"{type(error).__name__}: {error}")
                client.set_terminated(run_id, "FAILED")
            store = mlflow_s3_endpoint_url or "Amazon S3"
            raise RuntimeError(
                f"Run {run_id} could not be filled and is FAILED: {error}. "
                "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of this task, and that they may "
                f"write to {run.info.artifact_uri} at {store}, which may be full."
            ) from error
        client.set_terminated(run_id)
        return run_id

    return reach(upload, mlflow_tracking_uri, patience)


PACKAGES = {
    load_csv: ["boto3", "pandas"],
    train_classifier: ["mlflow-skinny", "pandas", "scikit-learn", "skops"],
    upload_model_to_mlflow: ["boto3", "mlflow-skinny"],
}


def with_packages(function):
    """Make a component that installs what PACKAGES names for the function."""
    return from_packages(function, PACKAGES)


def make_lean_pipeline(component, train=train_classifier):
    """Wire reading, a training and the lean upload into a pipeline."""

    @dsl.pipeline(name="lean-pipeline")
    def lean_pipeline(
        source: str,
        target_column: str = "target",
        kernel: str = "rbf",
        model_name: str = "classifier",
        experiment_name: str = "own-data",
        mlflow_tracking_uri: str = "http://mlflow-server-service.mlflow-system.svc:5000",
        mlflow_s3_endpoint_url: str = "http://seaweedfs.kubeflow.svc:9000",
        artifact_location: str = "",
        s3_secret_name: str = "mlpipeline-minio-artifact",
        mlflow_secret_name: str = "mlflow-log-in",
        ca_config_map_name: str = "company-ca",
        patience: int = 300,
    ) -> str:
        table = component(load_csv)(
            source=source,
            target_column=target_column,
            mlflow_s3_endpoint_url=mlflow_s3_endpoint_url,
        )
        training = component(train)(
            data=table.outputs["data"], target=table.outputs["target"], kernel=kernel
        )
        upload = component(upload_model_to_mlflow)(
            model=training.outputs["model"],
            metrics=training.outputs["metrics"],
            model_name=model_name,
            experiment_name=experiment_name,
            job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            mlflow_tracking_uri=mlflow_tracking_uri,
            mlflow_s3_endpoint_url=mlflow_s3_endpoint_url,
            artifact_location=artifact_location,
            patience=patience,
        )
        table.set_caching_options(False)  # the file may have changed under its name
        upload.set_caching_options(False)
        upload.set_retry(num_retries=1, backoff_duration="5s")
        for task in (table, upload):
            give_access(task, mlflow_secret_name, ca_config_map_name, s3_secret_name)
        for task in (table, training, upload):
            task.set_cpu_request("250m").set_cpu_limit("1")
            task.set_memory_request("512Mi").set_memory_limit("1Gi")
            kubernetes.set_security_context(task, run_as_user=1000, run_as_non_root=True)
            if component is with_packages:
                task.set_env_variable("HOME", "/tmp")  # where a user without a home can install
        return upload.output

    return lean_pipeline


if __name__ == "__main__":
    compiler.Compiler().compile(make_lean_pipeline(from_image), "lean_pipeline.yaml")
    compiler.Compiler().compile(make_lean_pipeline(with_packages), "lean_pipeline_packages.yaml")
