"""The pipeline of the series in one file: run it to compile it."""

import builtins
import dis
from importlib.metadata import PackageNotFoundError, version

from kfp import compiler, dsl, kubernetes
from kfp.dsl import InputPath, OutputPath


def load_iris_data(data: OutputPath("Dataset"), target: OutputPath("Dataset")):
    """Write the iris measurements and their species as two CSV files."""
    import pandas as pd
    from sklearn.datasets import load_iris

    iris = load_iris()
    pd.DataFrame(iris.data, columns=iris.feature_names).to_csv(data, index=False)
    pd.DataFrame(iris.target, columns=["target"]).to_csv(target, index=False)


IMAGE = "localhost/mlflow-kubeflow-notebooks/python:0.1.0"


def travelling(function):
    """Return the functions that a component calls by name, whose text has to go with it."""
    codes, names = [function.__code__], set()
    for code in codes:
        codes += [part for part in code.co_consts if hasattr(part, "co_code")]  # functions inside
        steps = dis.get_instructions(code)
        names |= {step.argval for step in steps if step.opname == "LOAD_GLOBAL"}
    found = [function.__globals__.get(name) for name in sorted(names - set(dir(builtins)))]
    return [one for one in found if hasattr(one, "__code__")]


def from_image(function, image=IMAGE):
    """Make a component of an image that has every package already: its tasks install nothing."""
    shared = travelling(function)
    return dsl.component(
        function, base_image=image, install_kfp_package=False, additional_funcs=shared
    )


def train_from_csv(
    train_data: InputPath("Dataset"),
    train_target: InputPath("Dataset"),
    kernel: str,
    model: OutputPath("Model"),
    input_example: OutputPath("Artifact"),
    signature: OutputPath("Artifact"),
    conda_env: OutputPath("Artifact"),
    params: OutputPath("Artifact"),
    metrics: OutputPath("Artifact"),
    C: float = 1.0,
):
    """Train an SVC on four fifths of the rows, score it on the rest, write what MLflow needs."""
    import json
    import platform
    from importlib.metadata import version

    import dill
    import pandas as pd
    from mlflow.models import infer_signature
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.model_selection import train_test_split
    from sklearn.svm import SVC

    kernels = ("linear", "poly", "rbf", "sigmoid")
    if kernel not in kernels:
        raise ValueError(f"kernel={kernel!r} is unknown to SVC: take one of {', '.join(kernels)}.")
    if not 0 < C < float("inf"):
        raise ValueError(f"C={C} is no penalty of an SVC: take a number above zero.")
    X, y = pd.read_csv(train_data), pd.read_csv(train_target)["target"]
    split = {"test_size": 0.2, "random_state": 7}
    X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, **split)
    classifier = SVC(kernel=kernel, C=C).fit(X_train, y_train)
    predicted = classifier.predict(X_test)

    pip = [f"{name}=={version(name)}" for name in ("mlflow", "dill", "pandas", "scikit-learn")]
    needs = [f"python={platform.python_version()}", "pip", {"pip": pip}]
    for_serving = {
        model: classifier,
        input_example: X_train.sample(1, random_state=7),
        signature: infer_signature(X_train, predicted),
        conda_env: {"name": "mlflow-env", "channels": ["conda-forge"], "dependencies": needs},
    }
    for path, value in for_serving.items():
        with open(path, "wb") as file:
            dill.dump(value, file)
    about_the_run = {
        params: {"kernel": kernel, "C": classifier.C, "gamma": classifier.gamma, **split},
        metrics: {
            "accuracy": accuracy_score(y_test, predicted),
            "f1_macro": f1_score(y_test, predicted, average="macro"),
        },
    }
    for path, value in about_the_run.items():
        with open(path, "w") as file:
            json.dump(value, file)


def reach(work, mlflow_tracking_uri: str, patience: float):
    """Do work on an MLflow server, and again while it is away, for ``patience`` seconds."""
    import os
    import re
    import time

    if re.search(r"//[^/]*@", mlflow_tracking_uri):
        raise ValueError(
            "The MLflow server's address holds a password, which logs would show. Set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead."
        )
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"  # this loop knows what may heal
    away = "Connection (refused|reset|aborted)|reset by peer|No route|(too many|[Cc]ode) 50[234]"
    reasons = {
        "no-serve-artifacts|mlflow-artifacts/.*too many 503": "{} passes no files on: leave "
        "artifact_location empty, or let it serve artifacts.",
        "alert (unknown ca|decrypt|(bad )?certificate)|SSL certificate |'EOF occurred": "{} wants "
        "a certificate, or refuses yours: name its file in MLFLOW_TRACKING_CLIENT_CERT_PATH.",
        "Invalid Host header": "{} does not know that name: add it to its --allowed-hosts.",
        "[Cc]ode 401|401 Client": "{} wants a log-in, or refuses yours: set MLFLOW_TRACKING_TOKEN, "
        "or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
        "[Cc]ode 403|403 Client": "{} lets you in, but not do this, as if the experiment or "
        "registered model were somebody else's: take another name, or ask for the right to it.",
        "(?i)<!doctype html|<html|code 30[1-8]": "What answers at {} is a web page, as for a log-in: set "
        "MLFLOW_TRACKING_TOKEN, or mend the address.",
        "[Cc]ode (404|405|501)|BadStatusLine|valid JSON": "What answers at {} is no MLflow server: "
        "mend the address.",
        "NameResolution|not known": "There is no host of the name in {}: mend the address.",
        "certificate has expired": "The certificate of {} has expired: let it be renewed.",
        "CERTIFICATE_VERIFY": "The certificate of {} is from a CA that is unknown here: name the "
        "CA's file in MLFLOW_TRACKING_SERVER_CERT_PATH.",
        "SSLError": "{} speaks no TLS, or another one: is it http:// instead of https://?",
        away: "No MLflow server answers at {}: start it, or mend the address.",
        "timed out": "{} does not answer in time: is it the right address, and the way open?",
        "[Cc]ode 5|too many 5": "{} has trouble of its own: ask who runs it what its log says.",
    }
    begin, pause = time.monotonic(), 1
    while True:
        try:
            return work()
        except Exception as error:
            said, cause, failed = "", error, error
            while cause is not None:
                said += f"{type(cause).__name__}: {cause}\n"
                cause = cause.__cause__ or cause.__context__
        reason = next((words for pattern, words in reasons.items() if re.search(pattern, said)), "")
        if reason != reasons[away] or time.monotonic() - begin + pause > patience:
            if reason and "API request to" in said:  # the words of MLflow's client
                raise ConnectionError(reason.format(mlflow_tracking_uri)) from None
            raise failed from None
        time.sleep(pause)
        pause = min(2 * pause, 30)


def trust_company_ca():
    """Let MLflow's and Amazon's clients trust the CA whose file the cluster has mounted, if any."""
    import os

    file = "/etc/company-ca/ca.crt"
    if os.path.isfile(file):
        os.environ.setdefault("MLFLOW_TRACKING_SERVER_CERT_PATH", file)
        os.environ.setdefault("AWS_CA_BUNDLE", file)


def open_experiment(client, experiment_name: str, artifact_location: str = "") -> str:
    """Return the id of an experiment, made if need be; refuse one whose files nobody else would see."""
    import re

    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(experiment_name)
    if experiment is None:
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
    if not re.match(r"(?!file:)[a-z][a-z0-9+.-]+:", experiment.artifact_location):
        raise ValueError(
            f"The files of the experiment {experiment_name!r} belong into "
            f"{experiment.artifact_location}, a folder of the server's machine, where this task "
            "cannot write. Take another experiment_name with artifact_location=s3://..., or let "
            "the server pass files on: --serve-artifacts."
        )
    return experiment.experiment_id


def upload_sklearn_model_to_mlflow(
    model_name: str,
    model: InputPath("Model"),
    input_example: InputPath("Artifact"),
    signature: InputPath("Artifact"),
    conda_env: InputPath("Artifact"),
    params: InputPath("Artifact"),
    metrics: InputPath("Artifact"),
    experiment_name: str,
    job_id: str,
    mlflow_tracking_uri: str,
    mlflow_s3_endpoint_url: str,
    artifact_location: str = "",
    patience: int = 300,
) -> str:
    """Save the model in MLflow's format, upload it to a run, return the run's id."""
    import contextlib
    import json
    import os
    import re
    import tempfile

    import dill
    import mlflow

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", model_name) or ".." in model_name:
        raise ValueError(
            f"model_name={model_name!r} is not usable: take letters, digits, '.', '_' and '-'."
        )
    if "'" in job_id:  # it would end the text in the query below
        raise ValueError(f"job_id={job_id!r} is not usable: no id of KFP has a quote.")

    scratch = tempfile.TemporaryDirectory()
    folder = os.path.join(scratch.name, model_name)
    mlflow.sklearn.save_model(
        path=folder,
        serialization_format="cloudpickle",
        sk_model=dill.load(open(model, "rb")),
        input_example=dill.load(open(input_example, "rb")),
        signature=dill.load(open(signature, "rb")),
        conda_env=dill.load(open(conda_env, "rb")),
    )

    trust_company_ca()
    if mlflow_s3_endpoint_url:  # without one, the store is Amazon's own
        os.environ["MLFLOW_S3_ENDPOINT_URL"] = mlflow_s3_endpoint_url
    mlflow.set_tracking_uri(mlflow_tracking_uri)
    client = mlflow.MlflowClient()
    tags = {"kfp_job_id": job_id, "model_name": model_name}
    query = " and ".join(f"tags.{name} = '{value}'" for name, value in tags.items())
    if os.environ.get("MLFLOW_RUN_ID"):  # Kubeflow's MLflow plugin keeps a run for this task
        tags["mlflow.parentRunId"] = os.environ["MLFLOW_RUN_ID"]

    def upload():
        experiment_id = open_experiment(client, experiment_name, artifact_location)
        runs = client.search_runs([experiment_id], query)  # what an earlier try has begun
        run = runs[0] if runs else client.create_run(experiment_id, run_name=model_name, tags=tags)
        run_id = run.info.run_id
        try:
            client.update_run(run_id, status="RUNNING")
            if "failure" in run.data.tags:
                client.delete_tag(run_id, "failure")
            for name, value in json.load(open(params)).items():
                client.log_param(run_id, name, value)
            for name, value in json.load(open(metrics)).items():
                client.log_metric(run_id, name, value)
            client.log_artifact(run_id, folder)
            files = {f"{model_name}/{name}" for name in next(os.walk(folder))[2]}
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

    run_id = reach(upload, mlflow_tracking_uri, patience)
    scratch.cleanup()
    return run_id


STOCK_IMAGE = "python:3.11.14-slim"
PACKAGES = {
    load_iris_data: ["pandas", "scikit-learn"],
    train_from_csv: ["dill", "pandas", "scikit-learn", "mlflow"],
    upload_sklearn_model_to_mlflow: ["dill", "pandas", "scikit-learn", "mlflow", "boto3"],
}


def from_packages(function, packages=PACKAGES):
    """Make a component of a stock Python image: each task installs its packages when it starts."""
    if function not in packages:
        name = function.__name__
        raise ValueError(f"PACKAGES has no entry for {name}: PACKAGES[{name}] = ['pandas', ...]")
    pinned = []
    for name in packages[function]:
        try:
            pinned.append(name if "==" in name else f"{name}=={version(name)}")
        except PackageNotFoundError:
            raise ValueError(
                f"{name} is not installed here: name a version, {name}==1.2.3"
            ) from None
    shared = travelling(function)
    return dsl.component(
        function, base_image=STOCK_IMAGE, packages_to_install=pinned, additional_funcs=shared
    )


def give_access(task, log_in, ca, keys=None):
    """Let a task reach the server, and with keys the store; what the cluster lacks is left out."""
    server = {name: f"MLFLOW_TRACKING_{name.upper()}" for name in ("token", "username", "password")}
    kubernetes.use_secret_as_env(task, log_in, server, optional=True)
    kubernetes.use_config_map_as_volume(task, ca, "/etc/company-ca", optional=True)
    if keys is not None:
        store = {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"}
        store["region"] = "AWS_DEFAULT_REGION"
        kubernetes.use_secret_as_env(task, keys, store, optional=True)


def make_pipeline(component):
    """Wire the three functions, each made a component by ``component``, into the pipeline."""

    @dsl.pipeline(name="mlflow-pipeline")
    def mlflow_pipeline(
        kernel: str = "rbf",
        model_name: str = "svc",
        experiment_name: str = "iris",
        mlflow_tracking_uri: str = "http://mlflow-server-service.mlflow-system.svc:5000",
        mlflow_s3_endpoint_url: str = "http://seaweedfs.kubeflow.svc:8333",
        artifact_location: str = "",
        s3_secret_name: str = "mlpipeline-minio-artifact",
        mlflow_secret_name: str = "mlflow-log-in",
        ca_config_map_name: str = "company-ca",
        patience: int = 300,
    ) -> str:
        iris = component(load_iris_data)()
        training = component(train_from_csv)(
            train_data=iris.outputs["data"], train_target=iris.outputs["target"], kernel=kernel
        )
        upload = component(upload_sklearn_model_to_mlflow)(
            model_name=model_name,
            model=training.outputs["model"],
            input_example=training.outputs["input_example"],
            signature=training.outputs["signature"],
            conda_env=training.outputs["conda_env"],
            params=training.outputs["params"],
            metrics=training.outputs["metrics"],
            experiment_name=experiment_name,
            job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            mlflow_tracking_uri=mlflow_tracking_uri,
            mlflow_s3_endpoint_url=mlflow_s3_endpoint_url,
            artifact_location=artifact_location,
            patience=patience,
        )
        upload.set_caching_options(False)  # an upload out of a cache would upload nothing
        upload.set_retry(num_retries=1, backoff_duration="5s")
        give_access(upload, mlflow_secret_name, ca_config_map_name, s3_secret_name)
        for task in (iris, training, upload):
            task.set_cpu_request("250m").set_cpu_limit("1")
            task.set_memory_request("512Mi").set_memory_limit("1Gi")
            kubernetes.set_security_context(task, run_as_user=1000, run_as_non_root=True)
            if component is from_packages:
                task.set_env_variable("HOME", "/tmp")  # where a user without a home can install
        return upload.output

    return mlflow_pipeline


if __name__ == "__main__":
    compiler.Compiler().compile(make_pipeline(from_image), "mlflow_pipeline.yaml")
    compiler.Compiler().compile(make_pipeline(from_packages), "mlflow_pipeline_packages.yaml")
