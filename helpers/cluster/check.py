"""``make cluster-check``: send every compiled pipeline to a cluster, run notebook 06 there, and say what came of it."""

import argparse
import contextlib
import datetime
import os
import re
import runpy
import secrets
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from helpers import environment, names, paths, stack
from helpers.cluster import api, pipeline, ports, runs
from helpers.series import run as series
from helpers.series.notebooks import NEEDS_CLUSTER, Refused, find

README = paths.ROOT / "README.md"


def write_table(bucket: str, key: str, endpoint: str):
    """Put a small table into the store: a task, as the keys are the namespace's."""
    import boto3

    rows = [f"{number % 50 / 10},{number % 7},{'small' if number % 50 < 25 else 'large'}" for number in range(200)]
    text = "\n".join(["length,width,target", *rows])
    boto3.client("s3", endpoint_url=endpoint).put_object(Bucket=bucket, Key=key, Body=text.encode())


class Check:
    """What is sent to a cluster, what came of it, and what has to be deleted afterwards.

    Parameters
    ----------
    pairs : list of (str, str)
        Parameters of notebook 06; its `namespace` and `keys` count for all pipelines.
    packages : bool
        Whether tasks install their packages, in place of an image that has them.

    Raises
    ------
    helpers.paths.SeriesError
        If KFP or MLflow do not answer, refuse, or are too old.
    """

    def __init__(self, pairs: list[tuple[str, str]], packages: bool) -> None:
        import kfp
        import mlflow

        self.name = names.own_name(f"cluster-check-{secrets.token_hex(3)}")
        own = [("experiment_name", self.name), ("pipeline_name", self.name), ("with_image", str(not packages))]
        self.notebook = find([NEEDS_CLUSTER])[0]
        self.parameters = series.parameters_for([self.notebook], [*own, *pairs])[self.notebook]
        self.packages, self.direct = packages, self.parameters.get("keys") == "direct"
        self.namespace = self.parameters.get("namespace") or api.namespace()
        ports.open_ports()
        self.host, self.token = api.endpoint(), api.token()
        self.backend, self.multi_user = api.check_api(self.host, self.token, self.namespace)
        self.owner = self.namespace if self.multi_user else None
        pipeline.check_versions(kfp.__version__, self.backend)
        os.environ.setdefault("MLFLOW_TRACKING_URI", ports.mlflow_uri(self.host))
        stack.connect()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it announces KFP 2
            self.kfp = kfp.Client(host=self.host, existing_token=self.token, namespace=self.namespace)
        self.mlflow = mlflow.MlflowClient()
        self.rows: list[tuple[str, str, float]] = []
        self.failed, self.sent = 0, []
        self.scratch = tempfile.TemporaryDirectory()
        self.folder = Path(self.scratch.name)

    def attempt(self, what: str, work: Callable[[], tuple[str, float]]) -> None:
        """Do a part of the check and keep what came of it, also when that is an error."""
        print(f"\n{what}", flush=True)
        begin = time.monotonic()
        try:
            said, seconds = work()
        except Exception as error:  # noqa: BLE001 - whatever it is, the rest is still to be tried
            self.failed += 1
            said, seconds = f"**failed**: {type(error).__name__}: {' '.join(str(error).split())}", 0.0
        self.rows.append((what, said, seconds or time.monotonic() - begin))
        print(said)

    def all(self) -> None:
        """Try everything, one after the other."""
        kind = "_packages" if self.packages else ""
        table = f"s3://mlpipeline/private/{self.namespace}/{self.name}/table.csv"
        lean = {"source": table, "registered_model_name": f"{self.name}-lean"}
        self.attempt("a task that writes a table to the store", lambda: self.write(table))
        for file, values in {f"mlflow_pipeline{kind}.yaml": {}, f"lean_pipeline{kind}.yaml": lean}.items():
            self.attempt(f"`deploy/{file}`", lambda f=file, v=values: self.send(paths.DEPLOY / f, v))
        if not self.packages:  # there is no other sweep
            self.attempt("the sweep of notebook 08", self.sweep)
        self.attempt("notebook 06", self.run_notebook)

    def write(self, table: str) -> tuple[str, float]:
        """Have a task write the table that the lean pipeline is to read, with the keys of its namespace."""
        from kfp import compiler, dsl, kubernetes

        from helpers.pipelines.mlflow_pipeline import from_image, from_packages, give_access

        component = from_packages(write_table, {write_table: ["boto3"]}) if self.packages else from_image(write_table)
        bucket, _, key = table.removeprefix("s3://").partition("/")

        @dsl.pipeline(name="table-for-the-store")
        def write(mlflow_s3_endpoint_url: str = "http://seaweedfs.kubeflow.svc:8333"):
            task = component(bucket=bucket, key=key, endpoint=mlflow_s3_endpoint_url).set_caching_options(False)
            give_access(task, "mlflow-log-in", "company-ca", "mlpipeline-minio-artifact")
            kubernetes.set_security_context(task, run_as_user=1000, run_as_non_root=True)
            task.set_env_variable("HOME", "/tmp")

        compiler.Compiler().compile(write, str(self.folder / "write_table.yaml"))
        return "SUCCEEDED", self.run(self.folder / "write_table.yaml", {})[1]

    def sweep(self) -> tuple[str, float]:
        """Compile and send the pipeline that has a loop."""
        with contextlib.chdir(self.folder):
            runpy.run_module("helpers.pipelines.sweep_pipeline", run_name="__main__")
        return self.send(self.folder / "sweep_pipeline.yaml", {"registered_model_name": f"{self.name}-sweep"})

    def send(self, file: Path, values: dict) -> tuple[str, float]:
        """Run a pipeline, and look at the MLflow server for what it made."""
        values = {"experiment_name": self.name} | values
        if self.direct:
            values["artifact_location"] = f"s3://mlpipeline/private/{self.namespace}/mlflow"
        elif "source" not in values:  # a table is read with keys, whoever holds those for the files
            values["s3_secret_name"] = "none"
        run_id, seconds = self.run(file, values)
        experiment = self.mlflow.get_experiment_by_name(self.name)
        made = self.mlflow.search_runs([experiment.experiment_id], f"tags.kfp_job_id = '{run_id}'")
        models = [(one.info.run_id, one.data.tags["model_name"]) for one in made if "model_name" in one.data.tags]
        files = [file for model in models for file in self.mlflow.list_artifacts(*model)]
        if not files or {one.info.status for one in made} != {"FINISHED"}:
            raise api.ClusterError(
                f"SUCCEEDED, and left {len(made)} runs with {len(files)} files on the MLflow server."
            )
        said = f"SUCCEEDED, {len(files)} files of its model on the MLflow server"
        if name := values.get("registered_model_name"):
            said += f", champion is version {self.mlflow.get_model_version_by_alias(name, 'champion').version}"
        return said, seconds

    def run(self, file: Path, values: dict) -> tuple[str, float]:
        """Run a pipeline to its end; return the run's id and its seconds."""
        (older := self.folder / "older").mkdir(exist_ok=True)
        file = pipeline.for_backend(file, self.backend, older)
        about = {"run_name": f"{file.stem} {self.name}", "experiment_name": self.name, "namespace": self.owner}
        given = pipeline.arguments(file, values, "")
        with contextlib.redirect_stdout(None):  # links to a UI that is not forwarded
            run_id = self.kfp.create_run_from_pipeline_package(str(file), given, **about).run_id
        self.sent.append(run_id)
        ended = runs.follow(self.kfp, run_id, file)
        if ended.state != "SUCCEEDED":
            logs = [runs.read_log(self.host, self.token, run_id, node) for node in runs.failed_nodes(ended)]
            raise api.ClusterError(f"{ended.state}. {' '.join(map(runs.said_last, logs))}")
        return run_id, (ended.finished_at - ended.created_at).total_seconds()

    def run_notebook(self) -> tuple[str, float]:
        """Execute notebook 06 as ``make run`` does, and see that it read a log and made a schedule."""
        folder, begin = series.new_folder(), time.monotonic()
        series.run([(self.notebook, self.parameters)], folder)
        text = (folder / self.notebook.name).read_text(encoding="utf-8")
        parts = {"run": "The run succeeded", "log of a task that fails": "is unknown to SVC", "schedule": "ENABLED"}
        seen = [part for part, sign in parts.items() if sign in text]
        return f"green: {', '.join(seen)}", time.monotonic() - begin

    def clean_up(self) -> None:
        """Delete what was made in KFP and on the MLflow server; go on where something is not there."""
        import kfp_server_api
        import mlflow

        here = (kfp_server_api.ApiException, mlflow.MlflowException, ValueError, paths.SeriesError)
        for run_id in self.sent:
            with contextlib.suppress(*here):
                self.kfp.terminate_run(run_id)
            with contextlib.suppress(*here):
                self.kfp.delete_run(run_id)
        with contextlib.suppress(*here):
            if found := pipeline.find_pipeline(self.kfp, self.name, self.owner):
                for version in self.kfp.list_pipeline_versions(found, page_size=100).pipeline_versions or []:
                    self.kfp.delete_pipeline_version(found, version.pipeline_version_id)
                self.kfp.delete_pipeline(found)
        with contextlib.suppress(*here):
            experiment = self.kfp.get_experiment(experiment_name=self.name, namespace=self.owner)
            self.kfp.delete_experiment(experiment.experiment_id)
        for registered in ("lean", "sweep"):
            with contextlib.suppress(*here):
                self.mlflow.delete_registered_model(f"{self.name}-{registered}")
        with contextlib.suppress(*here):
            self.mlflow.delete_experiment(self.mlflow.get_experiment_by_name(self.name).experiment_id)
        self.scratch.cleanup()

    def table(self) -> str:
        """Return what came of it as Markdown."""
        users = "several users" if self.multi_user else "one user"
        where = f"On {datetime.date.today():%d %B %Y}, KFP {self.backend} for {users}{ports.kubernetes()}, "
        where += f"tasks {'with packages' if self.packages else 'from an image'}, "
        where += "keys of the store in the tasks" if self.direct else "files through the MLflow server"
        rows = [f"| {what} | {said} | {seconds:.0f} s |" for what, said, seconds in self.rows]
        return "\n".join([f"{where}:", "", "| what | result | time |", "| --- | --- | --- |", *rows])


def record(table: str, kind: str, readme: Path = README) -> None:
    """Put a table between the marks of its kind in the README.

    Raises
    ------
    ClusterError
        If the marks are not there.
    """
    begin, end = f"<!-- cluster-check {kind} -->", "<!-- end of it -->"
    text, found = re.subn(
        f"{begin}.*?{end}", lambda _: f"{begin}\n\n{table}\n\n{end}", readme.read_text("utf-8"), flags=re.S
    )
    if found != 1:
        raise api.ClusterError(f"{readme.name} has no place for the table: {begin} and {end}.")
    readme.write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Check a cluster; return 0 only if everything went well."""
    parser = argparse.ArgumentParser("python -m helpers.cluster.check", description=__doc__.partition(": ")[2])
    parser.add_argument("--params", default="", metavar="'NAME=VALUE ...'", help="of notebook 06, such as keys=direct")
    parser.add_argument("--packages", action="store_true", help="tasks install their packages: no image is needed")
    parser.add_argument("--record", action="store_true", help="put the table into the README")
    asked = parser.parse_args(arguments)
    environment.tidy(os.environ)
    os.environ.update(environment.direct(os.environ))
    try:
        check = Check(series.parse(asked.params), asked.packages)
        try:
            check.all()
        finally:
            check.clean_up()
        print(f"\n{check.table()}")
        if asked.record and not check.failed:
            record(check.table(), "packages" if asked.packages else "image")
    except (Refused, paths.SeriesError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; what was sent is deleted.", file=sys.stderr)
        return 130
    finally:
        ports.close_ports()
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
