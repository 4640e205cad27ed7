"""The pipeline that sweeps kernels and penalties: run it to compile it."""

from typing import Dict, List, NamedTuple

from kfp import compiler, dsl, kubernetes
from kfp.dsl import HTML, ClassificationMetrics, InputPath, Markdown, Metrics, Output, OutputPath

from helpers import paths
from helpers.pipelines.gate import promote_if_better
from helpers.pipelines.mlflow_pipeline import (
    IMAGE,
    from_image,
    give_access,
    load_iris_data,
    open_experiment,
    reach,
    train_from_csv,
    trust_company_ca,
    upload_sklearn_model_to_mlflow,
)


def hold_out(
    data: InputPath("Dataset"),
    target: InputPath("Dataset"),
    train_data: OutputPath("Dataset"),
    train_target: OutputPath("Dataset"),
    test_data: OutputPath("Dataset"),
    test_target: OutputPath("Dataset"),
):
    """Split off the fifth of the rows that train_from_csv keeps back."""
    import pandas as pd
    from sklearn.model_selection import train_test_split

    X, y = pd.read_csv(data), pd.read_csv(target)
    parts = train_test_split(X, y, stratify=y["target"], test_size=0.2, random_state=7)
    for part, path in zip(parts, (train_data, test_data, train_target, test_target), strict=True):
        part.to_csv(path, index=False)


def score_candidate(
    train_data: InputPath("Dataset"), train_target: InputPath("Dataset"), candidate: dict
) -> float:
    """Return the mean accuracy of an SVC in a cross-validation of five folds."""
    import pandas as pd
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.svm import SVC

    X, y = pd.read_csv(train_data), pd.read_csv(train_target)["target"]
    folds = StratifiedKFold(n_splits=5, shuffle=True, random_state=7)
    return float(cross_val_score(SVC(**candidate), X, y, cv=folds).mean())


def pick_best(
    candidates: List[Dict], scores: List[float], metrics: Output[Metrics], report: Output[HTML]
) -> NamedTuple("Best", [("kernel", str), ("C", float)]):
    """Return the candidate with the highest score, the first of several."""
    import json
    from collections import namedtuple

    import pandas as pd

    best = max(range(len(scores)), key=scores.__getitem__)
    table = pd.DataFrame(candidates, columns=["kernel", "C"]).assign(cv_accuracy=scores)
    table["best"] = ["yes" if row == best else "" for row in range(len(scores))]
    with open(report.path, "w") as file:
        file.write(table.round(4).to_html(index=False, border=0))
    metrics.log_metric("cv_accuracy", scores[best])
    metrics.log_metric("candidates", len(scores))
    with open(metrics.path, "w") as file:
        json.dump(metrics.metadata, file)  # a cache counts only outputs that have a file
    winner = candidates[best]
    return namedtuple("Best", ["kernel", "C"])(winner["kernel"], float(winner["C"]))


def log_sweep(
    candidates: List[Dict],
    scores: List[float],
    experiment_name: str,
    job_id: str,
    mlflow_tracking_uri: str,
    artifact_location: str = "",
    patience: int = 300,
) -> str:
    """Log a parent run, and a child run for each candidate; return the parent's id."""
    import contextlib

    import mlflow
    from mlflow.entities import Metric, Param

    if "'" in job_id:  # it would end the text in the query below
        raise ValueError(f"job_id={job_id!r} is not usable: no id of KFP has a quote.")
    trust_company_ca()
    mlflow.set_tracking_uri(mlflow_tracking_uri)
    client = mlflow.MlflowClient()

    def log():
        experiment_id = open_experiment(client, experiment_name, artifact_location)

        def find_or_create(run_name, tags):  # a second try finds what the first has made
            query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
            runs = client.search_runs([experiment_id], query, max_results=1)
            run = (
                runs[0] if runs else client.create_run(experiment_id, tags=tags, run_name=run_name)
            )
            unfinished.append(run.info.run_id)
            return run.info.run_id

        unfinished = []
        try:
            parent = find_or_create("sweep", {"kfp_job_id": job_id, "sweep": "parent"})
            for number, (candidate, score) in enumerate(zip(candidates, scores, strict=True)):
                tags = {
                    "kfp_job_id": job_id,
                    "candidate": str(number),
                    "mlflow.parentRunId": parent,
                }
                name = " ".join(f"{key}={value}" for key, value in sorted(candidate.items()))
                child = find_or_create(name, tags)
                params = [Param(key, str(value)) for key, value in candidate.items()]
                client.log_batch(child, metrics=[Metric("cv_accuracy", score, 0, 0)], params=params)
                client.set_terminated(child)
                unfinished.remove(child)
            client.log_batch(parent, metrics=[Metric("best_cv_accuracy", max(scores), 0, 0)])
        except BaseException:
            for run_id in unfinished:  # or they would be RUNNING for ever
                with contextlib.suppress(Exception):  # the server may be what failed
                    client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(parent)
        return parent

    return reach(log, mlflow_tracking_uri, patience)


def evaluate(
    test_data: InputPath("Dataset"),
    test_target: InputPath("Dataset"),
    run_id: str,
    model_name: str,
    mlflow_tracking_uri: str,
    mlflow_s3_endpoint_url: str,
    confusion: Output[ClassificationMetrics],
    patience: int = 300,
):
    """Count what a run's model answers to held-out rows of each class."""
    import os

    import mlflow
    import pandas as pd
    from sklearn.metrics import confusion_matrix

    trust_company_ca()
    if mlflow_s3_endpoint_url:  # without one, the store is Amazon's own
        os.environ["MLFLOW_S3_ENDPOINT_URL"] = mlflow_s3_endpoint_url
    mlflow.set_tracking_uri(mlflow_tracking_uri)
    rows, truth = pd.read_csv(test_data), pd.read_csv(test_target)["target"]
    address = f"runs:/{run_id}/{model_name}"
    model = reach(lambda: mlflow.pyfunc.load_model(address), mlflow_tracking_uri, patience)
    answers = model.predict(rows)
    labels = sorted(set(truth) | set(answers))
    matrix = confusion_matrix(truth, answers, labels=labels)
    confusion.log_confusion_matrix([str(label) for label in labels], matrix.tolist())


def describe_data(
    data: InputPath("Dataset"), target: InputPath("Dataset"), summary: Output[Markdown]
):
    """Run the notebook describe_data as a task."""
    dsl.run_notebook(data=data, target=target, summary=summary.path)


def notebook_from_image(function):
    """Make a component of a notebook; nothing is installed when it starts."""
    return dsl.notebook_component(
        function,
        notebook_path=str(paths.NOTEBOOKS / "tasks" / f"{function.__name__}.ipynb"),
        base_image=IMAGE,
        install_kfp_package=False,
        packages_to_install=[],
    )


CANDIDATES = [{"C": C, "kernel": kernel} for C in (0.1, 1.0, 10.0) for kernel in ("linear", "rbf")]
Outputs = NamedTuple(
    "Outputs",
    [
        ("sweep_run_id", str),
        ("run_id", str),
        ("decision", str),
        ("metrics", Metrics),
        ("report", HTML),
        ("confusion", ClassificationMetrics),
        ("summary", Markdown),
    ],
)


@dsl.pipeline(name="sweep-pipeline")
def sweep_pipeline(
    candidates: List[Dict] = CANDIDATES,
    model_name: str = "svc",
    experiment_name: str = "iris-sweep",
    registered_model_name: str = "iris-swept",
    mlflow_tracking_uri: str = "http://mlflow-server-service.mlflow-system.svc:5000",
    mlflow_s3_endpoint_url: str = "http://seaweedfs.kubeflow.svc:8333",
    artifact_location: str = "",
    s3_secret_name: str = "mlpipeline-minio-artifact",
    mlflow_secret_name: str = "mlflow-log-in",
    ca_config_map_name: str = "company-ca",
    patience: int = 300,
) -> Outputs:
    server = {"mlflow_tracking_uri": mlflow_tracking_uri, "patience": patience}
    server_and_store = {**server, "mlflow_s3_endpoint_url": mlflow_s3_endpoint_url}
    job = {
        "experiment_name": experiment_name,
        "job_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        "artifact_location": artifact_location,
    }

    iris = from_image(load_iris_data)()
    files = {"data": iris.outputs["data"], "target": iris.outputs["target"]}
    description = notebook_from_image(describe_data)(**files)
    parts = from_image(hold_out)(**files).after(description)
    train = {name: parts.outputs[name] for name in ("train_data", "train_target")}
    test = {name: parts.outputs[name] for name in ("test_data", "test_target")}

    with dsl.ParallelFor(candidates, parallelism=2) as candidate:
        scoring = from_image(score_candidate)(**train, candidate=candidate)
    log = from_image(log_sweep)(
        candidates=candidates, scores=dsl.Collected(scoring.output), **job, **server
    )
    best = from_image(pick_best)(candidates=candidates, scores=dsl.Collected(scoring.output))
    best.after(log)

    training = from_image(train_from_csv)(
        train_data=iris.outputs["data"],
        train_target=iris.outputs["target"],
        kernel=best.outputs["kernel"],
        C=best.outputs["C"],
    )
    upload = from_image(upload_sklearn_model_to_mlflow)(
        **training.outputs, model_name=model_name, **job, **server_and_store
    )
    winner = {"run_id": upload.output, "model_name": model_name}
    evaluation = from_image(evaluate)(**test, **winner, **server_and_store)
    gate = from_image(promote_if_better)(
        **test, **winner, registered_model_name=registered_model_name, **server_and_store
    )
    gate.after(evaluation)

    for task in (log, upload, evaluation, gate):
        task.set_caching_options(False)  # what they do happens on the server
        task.set_retry(num_retries=1, backoff_duration="5s")  # each finds what its first try made
        keys = None if task is log else s3_secret_name  # it sends no files
        give_access(task, mlflow_secret_name, ca_config_map_name, keys)
    for task in (iris, description, parts, scoring, best, log, training, upload, evaluation, gate):
        task.set_cpu_request("250m").set_cpu_limit("1")
        task.set_memory_request("512Mi").set_memory_limit("1Gi")
        kubernetes.set_security_context(task, run_as_user=1000, run_as_non_root=True)
    return Outputs(
        log.output,
        upload.output,
        gate.output,
        best.outputs["metrics"],
        best.outputs["report"],
        evaluation.outputs["confusion"],
        description.outputs["summary"],
    )


if __name__ == "__main__":
    compiler.Compiler().compile(sweep_pipeline, "sweep_pipeline.yaml")
