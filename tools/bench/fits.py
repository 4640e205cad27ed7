"""Measure what a sweep costs as its fits grow: ``python benchmarks/fits.py``.

Runs the pipeline of notebook 08 with 4, 16, 32 and 64 candidates on a stack of its own. Prints a table and writes
docs/benchmarks/fits.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import threading
from pathlib import Path

import psutil
from kfp import compiler, components

from helpers import paths, stack
from helpers.pipelines import sweep_pipeline
from helpers.stack import process
from tools.bench import common, learners
from tools.bench.proxy import Proxy  # noqa: E402

SWEEPS = (4, 16, 32, 64)
RESULT = paths.ROOT / "docs" / "benchmarks" / "fits.json"
METHODS = (b"GET ", b"HEAD ", b"PUT ", b"POST ", b"DELETE ")


class _Tasks:
    """Watch the memory of all tasks, which are this process's children but for the servers."""

    peak, single = 0, 0

    def __enter__(self) -> _Tasks:
        servers = {one.pid for one in process.alive(paths.work_dir(), below=True)}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(servers,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self, servers: set[int]) -> None:
        while not self._end.wait(0.1):
            held = [0]
            for task in psutil.Process().children():
                with contextlib.suppress(psutil.Error):
                    if task.pid not in servers:
                        held.append(sum(one.memory_info().rss for one in [task, *task.children(recursive=True)]))
            self.peak, self.single = max(self.peak, sum(held)), max(self.single, max(held))


def measure(pipeline, found: stack.Stack, store: Proxy, count: int, folder: Path) -> dict:
    """Run one sweep.

    Parameters
    ----------
    pipeline : callable
        As loaded from its file.
    found : helpers.stack.Stack
        The servers.
    store : Proxy
        Before the store; counts its requests.
    count : int
        How many candidates.
    folder : pathlib.Path
        Takes what the tasks write.

    Returns
    -------
    dict
        Seconds, megabytes of all tasks at once and of the largest, requests to MLflow and to the store, and of each
        server and of the tasks the seconds of processor for each second of the sweep.
    """
    candidates = [{"C": 0.1 * (number + 1), "kernel": "rbf"} for number in range(count)]
    servers, own = learners._processor(), os.times()
    answered, passed = learners._answered()["all"], store.count
    with _Tasks() as tasks:
        seconds = common.execute(
            lambda: pipeline(
                candidates=candidates,
                experiment_name=f"sweep-of-{count}",
                mlflow_tracking_uri=found.tracking_uri,
                mlflow_s3_endpoint_url=store.url,
            ),
            folder,
        )
    busy = {name: round((after - servers[name]) / seconds, 2) for name, after in learners._processor().items()}
    busy["tasks"] = round((sum(os.times()[:4]) - sum(own[:4])) / seconds, 2)
    return {
        "seconds": round(seconds, 1),
        "megabytes of all tasks": round(tasks.peak / 1e6),
        "megabytes of the largest task": round(tasks.single / 1e6),
        "requests": {"mlflow": learners._answered()["all"] - answered, "s3": store.count - passed},
        "processors busy": busy,
    }


def main() -> int:
    """Measure each sweep; return the exit code."""
    table = {}
    with tempfile.TemporaryDirectory() as scratch, common.servers() as found:
        if not found.s3_endpoint_url:
            raise SystemExit("There is no object store on this machine, so its requests cannot be counted.")
        file = Path(scratch) / "sweep_pipeline.yaml"
        compiler.Compiler().compile(sweep_pipeline.sweep_pipeline, str(file))
        pipeline = components.load_component_from_file(str(file))
        with Proxy(int(found.s3_endpoint_url.rpartition(":")[2]), marker=METHODS) as store:
            measure(pipeline, found, store, 1, Path(scratch))  # what was never imported is compiled first
            for count in SWEEPS:
                table[count] = measure(pipeline, found, store, count, Path(scratch))
                print(count, table[count], flush=True)
    RESULT.write_text(json.dumps({"machine": common.where(), "fits": table}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
