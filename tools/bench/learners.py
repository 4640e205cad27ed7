"""Measure one MLflow server that one, ten, twenty and thirty learners use at once.

Each learner logs what notebooks 02 and 05 log, through a server that takes all files, started as for a status. Prints a
table, writes docs/benchmarks/learners.json, and fails if a run is lost or a file is another learner's.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from sklearn.datasets import load_iris
from sklearn.svm import SVC

from helpers import begin, paths, stack
from helpers.stack import process, state
from helpers.workshop import status
from tools.bench import common

CLASSES = (1, 10, 20, 30)
PROCESSES = 4  # learners share processes, of which each takes 300 MB; each is a thread
NAMED = "learner.txt"  # the file that says whose it is
RUNS = 6  # of each learner: two by hand and one through the server in notebook 02, three jobs in notebook 05
RESULT = paths.ROOT / "docs" / "benchmarks" / "learners.json"


@dataclasses.dataclass
class Figures:
    """What one class did.

    Attributes
    ----------
    seconds : float
        From the first learner's beginning to the last one's end.
    slowest : float
        Seconds of the learner who waited longest.
    memory : float
        Highest resident memory of the MLflow server, in megabytes.
    busy : dict of str to float
        Of each server: seconds of processor for each second while the class worked.
    requests : dict of str to int
        That the MLflow server answered meanwhile: all, and those that pass a file or a list of files on to the store.
    runs : int
        How many FINISHED runs the server has.
    wrong : list of str
        What was lost, mixed up or refused; empty if all is well.
    """

    seconds: float
    slowest: float
    memory: float
    busy: dict[str, float]
    requests: dict[str, int]
    runs: int
    wrong: list[str]


# --- a learner -----------------------------------------------------------------------------------


def learn(client: MlflowClient, name: str, model: Path, scratch: Path) -> None:
    """Do what notebooks 02 and 05 do to the server, as one learner.

    Parameters
    ----------
    client : mlflow.MlflowClient
        Of the shared server. The functions of `mlflow` themselves keep one experiment for all threads.
    name : str
        The learner's.
    model : pathlib.Path
        Folder of a saved model.
    scratch : pathlib.Path
        Empty; of this learner alone.

    Raises
    ------
    AssertionError
        If the server answers with something else than what this learner logged.
    """
    by_hand = _experiment(client, f"{name}-iris-by-hand")
    _log(client, by_hand, name, model, scratch)
    run_id = _log(client, by_hand, name, model, scratch, {"kernel": "rbf"}, {"training_accuracy": 0.97})
    found = client.search_runs([by_hand], "params.kernel = 'rbf' and metrics.training_accuracy > 0.05")
    assert [run.info.run_id for run in found] == [run_id], f"{name} found {len(found)} runs"
    assert len(client.list_artifacts(run_id, "svc")) == len(list(model.iterdir())) + 1, f"{name} misses files"
    proxied = _experiment(client, f"{name}-iris-by-hand-proxied", "mlflow-artifacts:/proxied")
    _log(client, proxied, name, model, scratch)

    iris = _experiment(client, f"{name}-iris")
    split = {"C": 1.0, "gamma": "scale", "test_size": 0.2, "random_state": 7}
    for number, kernel in enumerate(("rbf", "linear", "linear")):
        assert not client.search_runs([iris], f"tags.kfp_job_id = '{number}' and tags.model_name = 'svc'")
        run_id = _log(
            client,
            iris,
            name,
            model,
            scratch,
            {"kernel": kernel, **split},
            {"accuracy": 0.97, "f1_macro": 0.97},
            {"kfp_job_id": str(number), "model_name": "svc"},
        )
        assert client.get_run(run_id).data.params["kernel"] == kernel, f"{name} reads another run"
    # It loads a pickle that this program made.
    answers = mlflow.pyfunc.load_model(f"runs:/{run_id}/svc").predict(load_iris(as_frame=True).data)
    assert len(answers) == 150, f"{name} loaded another model"
    assert not client.search_runs([iris], "params.kernel = 'cubic'")


def _experiment(client: MlflowClient, name: str, location: str | None = None) -> str:
    found = client.get_experiment_by_name(name)
    return found.experiment_id if found else client.create_experiment(name, location)


def _log(
    client: MlflowClient,
    experiment_id: str,
    name: str,
    model: Path,
    scratch: Path,
    params: dict | None = None,
    metrics: dict | None = None,
    tags: dict | None = None,
) -> str:
    run_id = client.create_run(experiment_id, run_name="svc", tags=tags).info.run_id
    for key, value in (params or {}).items():
        client.log_param(run_id, key, value)
    for key, value in (metrics or {}).items():
        client.log_metric(run_id, key, value)
    folder = scratch / run_id / "svc"
    shutil.copytree(model, folder)
    (folder / NAMED).write_text(f"{name} {run_id}")
    client.log_artifact(run_id, str(folder))
    client.set_terminated(run_id)
    return run_id


def worker(uri: str, model: str, names: list[str]) -> None:
    """Be several learners at once; say what each took, or what stopped them."""
    os.environ.update(begin.QUIET)
    mlflow.set_tracking_uri(uri)
    # It loads a pickle that this program made.
    load_model = mlflow.pyfunc.load_model(model)  # imports what it needs, before the clock runs
    assert load_model is not None
    print("ready", flush=True)
    sys.stdin.readline()

    def one(name: str) -> dict:
        begin, wrong = time.monotonic(), ""
        with tempfile.TemporaryDirectory() as scratch:
            try:
                learn(MlflowClient(uri), name, Path(model), Path(scratch))
            except Exception as error:  # noqa: BLE001 - each is a finding
                wrong = f"{name}: {type(error).__name__}: {str(error)[:300]}"
        return {"seconds": time.monotonic() - begin, "wrong": wrong}

    with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
        print(json.dumps(list(pool.map(one, names))), flush=True)


# --- a class -------------------------------------------------------------------------------------


def measure(uri: str, learners: int) -> Figures:
    """Let a class work at once against a server, then read back all that it logged.

    Parameters
    ----------
    uri : str
        Of the MLflow server of `helpers.stack`.
    learners : int
        How many.

    Returns
    -------
    Figures
        Times, memory, and what went wrong.
    """
    names = [f"class{learners}learner{number}" for number in range(learners)]
    # No keys: a learner of a workshop has none.
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_"))}
    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it warns of pickles
    variables["PYTHONPATH"] = os.pathsep.join([str(RESULT.parents[2]), variables.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as scratch, _Memory() as memory:
        model = Path(scratch) / "svc"
        data = load_iris(as_frame=True)
        mlflow.sklearn.save_model(
            SVC().fit(data.data, data.target),
            model,
            pip_requirements=["scikit-learn"],
            serialization_format="cloudpickle",
        )
        workers = [
            subprocess.Popen(
                [sys.executable, __file__, uri, str(model), *group],
                env=variables,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for group in _groups(names)
        ]
        try:
            for process in workers:
                assert process.stdout.readline() == "ready\n", "a process of learners did not begin"
            processor, answered = _processor(), _answered()
            begin = time.monotonic()
            for process in workers:
                process.stdin.write("go\n")
                process.stdin.flush()
            results = [result for process in workers for result in json.loads(process.stdout.readline() or "[]")]
            seconds = time.monotonic() - begin
            busy = {name: round((after - processor[name]) / seconds, 2) for name, after in _processor().items()}
            requests = {name: after - answered[name] for name, after in _answered().items()}
        finally:
            for process in workers:
                process.kill()
                process.communicate()
    wrong = [result["wrong"] for result in results if result["wrong"]]
    if len(results) < learners:
        wrong.append(f"{learners - len(results)} learners never came to an end")
    runs, mixed = read_back(uri, names)
    return Figures(
        round(seconds, 1),
        round(max((result["seconds"] for result in results), default=0), 1),
        round(memory.peak / 1e6),
        busy,
        requests,
        runs,
        wrong + mixed,
    )


def _processor() -> dict[str, float]:
    """Return the seconds of processor that each server has used."""
    return {name: sum(sum(one.cpu_times()[:2]) for one in process.alive(state.mark(name))) for name in ("s3", "mlflow")}


def _answered() -> dict[str, int]:
    """Count the requests in the MLflow server's log."""
    log = state.log("mlflow").read_text(errors="replace")
    return {"all": log.count(' HTTP/1.1" '), "to the store": log.count("/mlflow-artifacts/")}


def _groups(names: list[str]) -> list[list[str]]:
    return [names[start::PROCESSES] for start in range(min(PROCESSES, len(names)))]


def read_back(uri: str, names: list[str]) -> tuple[int, list[str]]:
    """Fetch each run's named file, and tell what is lost or another's.

    Parameters
    ----------
    uri : str
        Of the server.
    names : list of str
        The learners.

    Returns
    -------
    tuple
        How many runs are FINISHED, and sentences about what is not as it should be.
    """
    os.environ.update(begin.QUIET)
    client = MlflowClient(uri)

    def one(name: str) -> tuple[int, list[str]]:
        wrong, finished = [], 0
        experiments = [
            client.get_experiment_by_name(f"{name}-{end}") for end in ("iris-by-hand", "iris-by-hand-proxied", "iris")
        ]
        runs = client.search_runs([found.experiment_id for found in experiments if found])
        for run in runs:
            run_id = run.info.run_id
            finished += run.info.status == "FINISHED"
            try:
                with tempfile.TemporaryDirectory() as scratch:
                    text = Path(client.download_artifacts(run_id, f"svc/{NAMED}", scratch)).read_text()
            except Exception as error:  # noqa: BLE001 - a file that is not there
                text = type(error).__name__
            if text != f"{name} {run_id}":
                wrong.append(f"{name}: the file of a run says {text!r}")
        if (len(runs), finished) != (RUNS, RUNS):
            wrong.append(f"{name}: {len(runs)} runs, {finished} FINISHED, of {RUNS}")
        return finished, wrong

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(one, names))
    return sum(finished for finished, _ in answers), [sentence for _, wrong in answers for sentence in wrong]


class _Memory:
    """Watch the server's memory while a class works."""

    peak = 0

    def __enter__(self) -> _Memory:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.5):
            self.peak = max(self.peak, stack.status()["mlflow"]["memory"])


def main() -> int:
    """Measure each class on a server of its own; return the exit code."""
    os.environ.update(begin.QUIET)
    table, wrong = {}, []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["SERIES_WORK"] = scratch  # the reader's runs and servers are none of this one's business
        try:
            uri = status.start(max(CLASSES)).tracking_uri
            print(
                f"\n{'learners':>8}{'seconds':>9}{'slowest learner':>17}{'server MB':>11}{'requests':>10}{'FINISHED':>10}"
            )
            for learners in CLASSES:
                found = measure(uri, learners)
                wrong += found.wrong
                table[learners] = {
                    "seconds in all": found.seconds,
                    "seconds of the slowest learner": found.slowest,
                    "seconds per learner": round(found.seconds / learners, 2),
                    "server megabytes": found.memory,
                    "requests": found.requests,
                    "processors busy": found.busy,
                    "runs FINISHED": found.runs,
                }
                print(
                    f"{learners:>8}{found.seconds:>9}{found.slowest:>17}{found.memory:>11}{found.requests['all']:>10}"
                    f"{found.runs:>10}",
                    flush=True,
                )
        finally:
            stack.stop()
    where = common.where()
    print(f"\n{where}")
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"machine": where, "learners": table}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        worker(sys.argv[1], sys.argv[2], sys.argv[3:])
    else:
        sys.exit(main())
