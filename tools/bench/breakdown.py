"""Say where each second goes before a learner's own code runs: ``python benchmarks/breakdown.py``.

Writes the table into docs/benchmarks.md. These are seconds of one machine, for orientation; what is held is a ratio, in
benchmarks/ratios.py.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kfp import dsl

from helpers import machine, paths, stack
from helpers.series.run import OwnKernel
from helpers.stack import control
from tools.bench import ratios

RUNS = 5


def median(action) -> str:
    """Return the median of what an action returns, or of the seconds that it takes, without its first run."""
    values = []
    for _ in range(RUNS + 1):
        begin = time.perf_counter()
        value = action()
        values.append(time.perf_counter() - begin if value is None else value)
    return f"{statistics.median(values[1:]):.2f}"


def python(code: str, *options: str) -> subprocess.CompletedProcess:
    """Run a line of Python in a process of its own."""
    return ratios.run([sys.executable, *options, "-c", code])


def imports(module: str, *inner: str) -> tuple[str, str]:
    """Return the seconds of importing a module, and the share of the costliest that it brings along."""
    seconds = median(
        lambda: float(
            python(
                f"import time; begin = time.perf_counter(); import {module}; print(time.perf_counter() - begin)"
            ).stdout
        )
    )
    profile = ratios.run([sys.executable, "-X", "importtime", "-c", f"import {module}"]).stderr
    found = {name: int(total) for total, name in re.findall(r"\|\s+(\d+) \|\s+(\S+)$", profile, re.MULTILINE)}
    shares = [f"{name} {100 * found[name] / found[module]:.0f} %" for name in inner if name in found]
    return seconds, ", ".join(shares)


def kernel() -> None:
    """Start a kernel, wait for its first answer, end it."""
    from jupyter_client.utils import run_sync

    manager = OwnKernel()

    async def once() -> None:
        await manager.start_kernel()
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready()
        client.stop_channels()
        await manager.shutdown_kernel(now=True)

    run_sync(once)()


def servers() -> dict[str, tuple[str, str]]:
    """Return seconds until each server answers, both spawned at once, and what each holds."""
    ready, held = {"s3": [], "mlflow": []}, {}
    for _ in range(RUNS):
        answers = control._answers
        begin = time.perf_counter()

        def noted(state, name, answers=answers, begin=begin):
            found = answers(state, name)
            if found:
                ready[name].append(time.perf_counter() - begin)
            return found

        control._answers = noted
        try:
            with ratios.servers():
                held = {name: f"{server['memory'] / 1e6:.0f} MB" for name, server in stack.status().items()}
        finally:
            control._answers = answers
    return {name: (f"{statistics.median(values):.2f}", held[name]) for name, values in ready.items()}


def task() -> str:
    """Return the seconds of a task that does nothing, in a pipeline on this machine."""

    @dsl.component(base_image="registry.example/python:1", install_kfp_package=False)
    def nothing():
        pass

    with tempfile.TemporaryDirectory() as scratch:
        return median(lambda: ratios.execute(nothing, Path(scratch)))


def main() -> int:
    """Measure, print and write the table."""
    found = servers()
    packages = [f"{name}=={machine.installed(name)}" for name in ("dill", "pandas", "scikit-learn", "mlflow")]
    rows = [
        ["Python starts", median(lambda: python("pass") and None), ""],
        ["`import mlflow.sklearn`", *imports("mlflow.sklearn", "pandas", "mlflow.genai", "mlflow.entities")],
        ["`import kfp`", *imports("kfp", "kubernetes")],
        ["`import pandas`", *imports("pandas", "numpy")],
        ["`import sklearn.svm`", *imports("sklearn.svm", "scipy.stats", "scipy.sparse", "pandas")],
        ["a kernel starts, answers and ends", median(kernel), "once for each notebook"],
        ["the S3 store answers a listing", *found["s3"]],
        ["the MLflow server answers a search", *found["mlflow"]],
        ["a task that does nothing", task(), "KFP leaves most of itself out there"],
        [
            "pip looks at four packages that are there",
            median(
                lambda: (
                    ratios.run(
                        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
                    )
                    and None
                )
            ),
            "what a task pays if it declares its packages",
        ],
        ["a virtual environment is made", median(_venv), "what a task pays with KFP's default runner"],
        [
            "pytest collects the tests",
            median(
                lambda: (
                    ratios.run([sys.executable, "-m", "pytest", "--collect-only", "-q", "tests"], cwd=paths.ROOT)
                    and None
                )
            ),
            "",
        ],
    ]
    text = ratios.table([["what", "seconds", "of it, or for it"], *rows])
    print(text)
    ratios.replace_block(ratios.PAGE, "breakdown", f"{text}\n\nMeasured on: {ratios.machine()}.")
    return 0


def _venv() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        ratios.run([sys.executable, "-m", "venv", Path(scratch) / "venv"])


if __name__ == "__main__":
    sys.exit(main())
