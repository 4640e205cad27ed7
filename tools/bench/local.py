"""Rows about a pipeline and a sweep on this machine."""

from __future__ import annotations

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from helpers import paths
from helpers.pipelines import mlflow_pipeline, sweep_pipeline
from tools.bench.common import Row, addresses, execute, in_turn, run, script_of, servers, timed


def pipeline(runs: int) -> list[Row]:
    """Compare the pipeline with three bare processes."""
    from kfp import components

    loaded = components.load_component_from_file(str(paths.ROOT / "deploy" / "mlflow_pipeline.yaml"))
    with servers() as found, tempfile.TemporaryDirectory() as scratch:

        def ours() -> float:
            return execute(lambda: loaded(**addresses(found)), Path(scratch))

        def bare() -> float:
            here = Path(tempfile.mkdtemp(dir=scratch))
            made = {
                name: str(here / name)
                for name in ("model", "input_example", "signature", "conda_env", "params", "metrics")
            }
            data, target = str(here / "data"), str(here / "target")
            tasks = [
                script_of(mlflow_pipeline.load_iris_data, here / "1.py", data=data, target=target),
                script_of(
                    mlflow_pipeline.train_from_csv,
                    here / "2.py",
                    train_data=data,
                    train_target=target,
                    kernel="rbf",
                    **made,
                ),
                script_of(
                    mlflow_pipeline.upload_sklearn_model_to_mlflow,
                    here / "3.py",
                    model_name="svc",
                    experiment_name="iris",
                    job_id=here.name,
                    **addresses(found),
                    **made,
                ),
            ]
            return timed(lambda: [run(task) for task in tasks])

        for warm in (ours, bare):  # what was never imported is compiled first
            warm()
        return [
            Row(
                "the pipeline, executed on this machine",
                "three bare Python processes that do the same",
                1.10,
                *in_turn(runs, ours, bare),
            )
        ]


def quickstart(runs: int) -> list[Row]:
    """Compare the pipeline with itself in KFP's runner as it comes, whose tasks make environments and install."""
    from kfp import components, local

    loaded = components.load_component_from_file(str(paths.ROOT / "deploy" / "mlflow_pipeline.yaml"))
    # As a beginner writes it: components that declare their packages, and no word on how to run them.
    declared = mlflow_pipeline.make_pipeline(lambda function: mlflow_pipeline.from_packages(function))
    with servers() as found, tempfile.TemporaryDirectory() as scratch:
        return [
            Row(
                "the same",
                "`kfp.local.SubprocessRunner()` as KFP's quickstart has it",
                7,
                *in_turn(
                    runs,
                    lambda: execute(lambda: loaded(**addresses(found)), Path(scratch)),
                    lambda: execute(lambda: declared(**addresses(found)), Path(scratch), local.SubprocessRunner()),
                ),
                faster=True,
            )
        ]


FITS = (1, 4, 16, 64)


def sweep(runs: int) -> list[Row]:
    """Compare a loop of a pipeline with as many plain processes, two at a time, and its cost per fit with itself."""
    from kfp import dsl

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        mlflow_pipeline.load_iris_data(str(folder / "data"), str(folder / "target"))

        def loop_of(count: int):
            candidates = [{"C": 0.1 * (number + 1), "kernel": "rbf"} for number in range(count)]

            @dsl.pipeline(name="fits")
            def fits():
                iris = mlflow_pipeline.from_image(mlflow_pipeline.load_iris_data)()
                with dsl.ParallelFor(candidates, parallelism=2) as candidate:
                    mlflow_pipeline.from_image(sweep_pipeline.score_candidate)(
                        train_data=iris.outputs["data"], train_target=iris.outputs["target"], candidate=candidate
                    ).set_caching_options(False)

            return fits

        def run_loop(loop) -> float:
            return execute(loop, folder, enable_caching=True, cache_root=str(folder / "cache"))

        script = folder / "fit.py"

        def plain(count: int) -> float:
            script_of(
                sweep_pipeline.score_candidate,
                script,
                train_data=str(folder / "data"),
                train_target=str(folder / "target"),
                candidate={"C": 1.0, "kernel": "rbf"},
            )
            with ThreadPoolExecutor(2) as pool:
                return timed(lambda: list(pool.map(lambda _: run([sys.executable, script]), range(count))))

        run_loop(loop_of(1))  # from now on the table of iris comes out of the cache
        rows, cost, busy = [], {}, []
        for count in FITS:
            loop, before = loop_of(count), os.times()
            ours, theirs = in_turn(runs, lambda loop=loop: run_loop(loop), lambda count=count: plain(count))
            after = os.times()
            busy.append((sum(after[:4]) - sum(before[:4])) / (after.elapsed - before.elapsed))
            cost[count] = [seconds / count for seconds in ours]
            # No target of its own: what is asked for is that the cost of a fit does not grow.
            rows.append(
                Row(
                    f"a sweep of {count} fit{'s' * (count > 1)}, two at a time",
                    "as many plain processes",
                    1.25,
                    ours,
                    theirs,
                )
            )
        print(f"  cores busy, of 2: {', '.join(f'{value:.2f}' for value in busy)} for {', '.join(map(str, FITS))} fits")
        for count in FITS[2:]:
            rows.append(
                Row(f"cost of a fit in a sweep of {count}", "cost of a fit in a sweep of 4", 1.10, cost[count], cost[4])
            )
    return rows
