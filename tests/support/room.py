"""A learner's checkout and kernel, and a look from outside at what the servers keep: for the faults."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import boto3
import psutil
from jupyter_client import KernelManager
from mlflow import MlflowClient

from helpers.stack import process

from .clean import clean
from .place import Place

BUCKET = "mlflow"
TASK = 240  # seconds after which something hangs; nothing here is measured

# The cells of a learner's notebook: those of 05_run_the_pipeline, in two.
SET_UP = """
import mlflow
from kfp import components, local
from helpers import begin, local_pipeline, paths, stack
from helpers.pipelines import mlflow_pipeline

folder = begin.notebook("faults")
pipeline = components.load_component_from_file(paths.ROOT / "deploy" / "mlflow_pipeline.yaml")
local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root="pipeline_root", workspace_root="workspace",
           enable_caching=True, cache_root=CACHE)
"""
WORK = """
servers = stack.connect()
with local_pipeline.task_states("pipeline.log"):
    done = pipeline(kernel=KERNEL, model_name="svc", experiment_name="faults",
                    mlflow_tracking_uri=MLFLOW or servers.tracking_uri,
                    mlflow_s3_endpoint_url=S3 or servers.s3_endpoint_url, patience=10)
print("run", done.output)
"""


@dataclasses.dataclass
class Seen:
    """What a learner saw of a piece of work: the id of its run if it succeeded, the sentence if it did not."""

    run_id: str | None
    sentence: str


class Room:
    """A learner's place, with a kernel, and a look from outside at what the servers keep.

    Its folder has a space and letters of Korea in its name.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self.place = Place(folder / "노트북 series")
        self.cache = cache
        self._manager: KernelManager | None = None

    # --- what a learner does ---------------------------------------------------------------------

    def kernel(self) -> KernelManager:
        """Return the notebook's kernel, a new one if it died."""
        if self._manager is None or not self._manager.is_alive():
            self.end_kernel()
            self._manager = KernelManager(kernel_name="python3", transport_encryption="auto")
            self._manager.start_kernel(cwd=str(self.place.folder), env=self._environment())
            self._client = self._manager.blocking_client()
            self._client.start_channels()
            self._client.wait_for_ready(timeout=TASK)
            self.cell(self._values() + SET_UP)
        return self._manager

    def end_kernel(self) -> None:
        """End the kernel and what it started; the servers stay."""
        if self._manager is not None:
            self._client.stop_channels()
            self._manager.shutdown_kernel(now=True)
            self._manager = None

    def cell(self, code: str) -> Seen:
        """Run a cell in the kernel."""
        said, failed = [], []

        def hook(message: dict) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                said.append(content["text"])
            elif message["msg_type"] == "error":
                failed.append(f"{content['ename']}: {content['evalue']}")

        self._client.execute_interactive(code, timeout=TASK, output_hook=hook)
        return _seen("".join(said), "".join(failed))

    def work(self, *, kernel: str = "rbf", mlflow: str = "", s3: str = "") -> Seen:
        """Run the notebook's pipeline; addresses of a proxy take the place of the servers'."""
        values = self._values(KERNEL=kernel, MLFLOW=mlflow, S3=s3)
        self.kernel()
        return self.cell(values + WORK)

    def work_until_death(self, *, s3: str) -> None:
        """Run the pipeline until somebody kills the kernel."""
        self._client.execute(self._values(KERNEL="rbf", MLFLOW="", S3=s3) + WORK)
        end = time.monotonic() + TASK
        while self._manager.is_alive():
            assert time.monotonic() < end, "nobody killed the kernel"
            time.sleep(0.2)

    def begin(self, kernel: str, *, prefix: tuple[str, ...] = (), check: str = "") -> subprocess.Popen:
        """Start the same work in a process of its own."""
        code = self._values(KERNEL=kernel, MLFLOW="", S3="") + check + SET_UP + WORK
        return subprocess.Popen(
            [*prefix, sys.executable, "-c", code],
            cwd=self.place.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, started: subprocess.Popen) -> Seen:
        """Wait for what `begin` started."""
        try:
            out, err = started.communicate(timeout=TASK)
        finally:
            started.kill()
        return _seen(out, "" if started.returncode == 0 else "\n".join(_last_exception(err)))

    def close(self) -> None:
        """End what this room started."""
        self.end_kernel()
        self.stop()
        assert not self.place.processes(), "servers outlived stop()"

    def stop(self) -> None:
        """Stop the servers, as ``make stop`` does."""
        done = subprocess.run(
            [sys.executable, "-m", "helpers.stack", "stop"],
            cwd=self.place.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=TASK,
        )
        assert done.returncode == 0, done.stderr

    def _environment(self) -> dict[str, str]:
        own = {"SERIES_WORK": str(self.place.work), "PYTHONIOENCODING": "utf-8", "JUPYTER_PREFER_ENV_PATH": "1"}
        return clean(os.environ, **own)

    def _values(self, **values: str) -> str:
        return "".join(f"{name} = {value!r}\n" for name, value in ({"CACHE": str(self.cache)} | values).items())

    # --- what is there ---------------------------------------------------------------------------

    def port(self, name: str) -> int:
        """Return the port of a server."""
        return self.place.stored()["ports"][name][0]

    def kill(self, name: str) -> None:
        """Kill a server and its workers with -9."""
        gone = process.alive(self.place.work / name)
        assert gone, f"{name} does not run"
        for one in gone:
            one.kill()
        psutil.wait_procs(gone, timeout=30)

    def stored(self) -> dict[str, object]:
        """Return everything that the servers keep: experiments, runs, and objects by their checksums."""
        runs = self.runs()
        found: dict[str, object] = {f"experiment {run.info.experiment_id}": True for run in runs}
        for run in runs:
            data, ended = run.data, run.info.status == "FINISHED"
            found[f"run {run.info.run_id}"] = (
                run.info.run_name,
                data.params,
                data.metrics,
                data.tags if ended else None,
                ended,
            )
        for entry in self.bucket().objects.all():
            found[f"object {entry.key}"] = hashlib.sha256(entry.get()["Body"].read()).hexdigest()
        return found

    def bucket(self):
        """Return the bucket, with the keys of this stack and no proxy or profile of the reader's."""
        state = self.place.stored()
        session = boto3.Session(state["access_key"], state["secret_key"], region_name="us-east-1")
        return session.resource("s3", endpoint_url=f"http://127.0.0.1:{self.port('s3')}").Bucket(BUCKET)

    def client(self) -> MlflowClient:
        """Return a client of this stack's server."""
        return MlflowClient(f"http://127.0.0.1:{self.port('mlflow')}")

    def runs(self, query: str = "") -> list:
        """Return runs of all experiments."""
        experiments = [experiment.experiment_id for experiment in self.client().search_experiments()]
        return self.client().search_runs(experiments, query, max_results=5000)

    def running(self) -> list[str]:
        """Return the ids of the runs that are RUNNING."""
        return [run.info.run_id for run in self.runs("attributes.status = 'RUNNING'")]

    def check_run(self, run_id: str, kernel: str) -> None:
        """Check that a run is FINISHED, is the one of that kernel, and has all its files."""
        run = self.client().get_run(run_id)
        found = run.info.status, run.data.params.get("kernel"), run.data.tags.get("failure")
        assert found == ("FINISHED", kernel, None), f"run {run_id} is {found}"
        prefix = run.info.artifact_uri.removeprefix(f"s3://{BUCKET}/")
        names = {entry.key.rsplit("/", 1)[1] for entry in self.bucket().objects.filter(Prefix=f"{prefix}/svc/")}
        missing = {"MLmodel", "model.pkl", "conda.yaml", "requirements.txt", "input_example.json"} - names
        assert not missing, f"run {run_id} is FINISHED, but the bucket lacks {missing}"


def _seen(said: str, failed: str) -> Seen:
    found = re.search(r"^run (\w{32})$", said, re.MULTILINE)
    told = [line.split("\r")[-1] for line in said.splitlines() if "was damaged" in line]
    return Seen(found[1] if found and not failed else None, failed or " ".join(told) or "nothing: the work went on")


def _last_exception(err: str) -> list[str]:
    lines = [line for line in err.splitlines() if line]
    starts = [number for number, line in enumerate(lines) if re.match(r"(\w+\.)*\w*(Error|Interrupt)\b", line)]
    return lines[starts[-1] :] if starts else lines[-1:]
