"""Rows about the servers, the whole series, its memory and what a cluster downloads."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import nbformat
import psutil
import requests

from helpers import paths
from helpers.pipelines import lean_pipeline, mlflow_pipeline
from helpers.stack import process
from tools.bench import uploaders
from tools.bench.cgroup import Cgroup
from tools.bench.common import Row, checkout, clean_environment, in_turn, notebooks, run, servers, timed


def resident(pid: int) -> float:
    """Return the megabytes of a process and all that it started, once they stay the same."""

    def now() -> tuple[int, int]:
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(pid)
            tree = [first, *first.children(recursive=True)]
            return len(tree), sum(process.memory_info().rss for process in tree)
        return 0, 0

    before, calm = now(), 0
    for _ in range(120):
        time.sleep(1)
        after = now()
        calm = calm + 1 if after[0] == before[0] and abs(after[1] - before[1]) < 0.01 * after[1] else 0
        before = after
        if calm == 10:
            break
    return before[1] / 1e6


def _answers(port: int) -> bool:
    with contextlib.suppress(requests.RequestException):
        address = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search"
        return requests.get(address, params={"max_results": 1}, timeout=10).ok
    return False


def cold_servers(runs: int) -> list[Row]:
    """Compare the stack of this machine, server and store, with ``mlflow server`` alone as it comes."""
    memory: tuple[list[float], list[float]] = [], []

    def ours() -> float:
        begin = time.perf_counter()
        with servers():
            seconds = time.perf_counter() - begin
            living = process.alive(paths.work_dir(), below=True)
            memory[0].append(sum(resident(one.pid) for one in living))
        return seconds

    def theirs() -> float:
        port = process.free_port()
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            server = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--port", str(port)],
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                process.wait_until(lambda: _answers(port), lambda: server.poll() is None, 300)
                seconds = time.perf_counter() - begin
                memory[1].append(resident(server.pid))
            finally:
                tree = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
                process.end(tree)
        return seconds

    times = in_turn(runs, ours, theirs)
    return [
        Row("MLflow server and object store ready, from nothing", "`mlflow server` as it comes, alone", 0.45, *times),
        Row(
            "resident memory of all processes of both",
            "that of `mlflow server` as it comes, alone",
            0.22,
            *memory,
            unit="MB",
        ),
    ]


def plain_script(notebook: Path, folder: Path) -> Path:
    """Write a notebook's code cells as a script; a cell that is to fail may."""
    parts = ["import contextlib", "import matplotlib", "matplotlib.use('agg')"]
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "code" and "raises-exception" in cell.metadata.get("tags", []):
            parts.append("with contextlib.suppress(BaseException):\n" + textwrap.indent(cell.source, "    "))
        elif cell.cell_type == "code":
            parts.append(cell.source)
    path = folder / f"{notebook.stem}.py"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def papermill(runs: int) -> list[Row]:
    """Compare the project's command with the same cells as plain scripts, servers up."""
    names = [path.stem for path in notebooks()]
    with checkout() as root, tempfile.TemporaryDirectory() as scratch:
        environment = clean_environment() | {"PYTHONPATH": str(root)}
        scripts = [plain_script(path, Path(scratch)) for path in notebooks()]
        begin = {"cwd": root, "env": environment}
        run([sys.executable, "-m", "helpers.stack", "start"], **begin)
        try:
            return [
                Row(
                    "all notebooks but 06 through papermill as `make run` does, two at a time, servers up",
                    "the same cells as plain scripts, one after another",
                    1.25,
                    *in_turn(
                        runs,
                        lambda: timed(lambda: run([sys.executable, "-m", "helpers.series", *names], **begin)),
                        lambda: timed(lambda: [run([sys.executable, script], **begin) for script in scripts]),
                    ),
                )
            ]
        finally:
            run([sys.executable, "-m", "helpers.stack", "stop"], **begin)


def fresh_clone(runs: int) -> list[Row]:
    """Compare ``make run`` in a fresh clone with pip and then the notebooks one by one; packages downloaded before."""
    environment = clean_environment()

    def ours() -> float:
        with checkout() as root:
            try:
                return timed(lambda: run(["make", "run"], cwd=root, env=environment))
            finally:
                run(["make", "stop"], cwd=root, env=environment)

    def theirs() -> float:
        with checkout() as root:
            python = root / ".venv" / "bin" / "python"

            def by_hand() -> None:
                run([Path(sys.base_prefix) / "bin" / "python3", "-m", "venv", root / ".venv"])
                pip = [python, "-m", "pip", "install", "--quiet"]
                run([*pip, "--require-hashes", "-r", "requirements.lock"], cwd=root, env=environment)
                run([*pip, "--no-deps", "--no-build-isolation", "-e", "."], cwd=root, env=environment)
                for path in notebooks():
                    out = root / f"{path.stem}.out.ipynb"
                    run(
                        [python, "-m", "papermill", "--kernel", "python3", root / "notebooks" / path.name, out],
                        cwd=root,
                        env=environment | {"JUPYTER_PREFER_ENV_PATH": "1"},
                    )

            try:
                return timed(by_hand)
            finally:
                run([python, "-m", "helpers.stack", "stop"], cwd=root, env=environment)

    return [
        Row(
            "`make run` from a fresh clone, packages in the cache",
            "`pip install` of the same lock, then the notebooks one by one",
            0.6,
            *in_turn(runs, ours, theirs),
        )
    ]


POD = 2 << 30  # bytes of memory that README tells a reader of a Kubeflow Notebook to ask for, beside one CPU


def memory(runs: int) -> list[Row]:
    """Run each notebook, and the series with JupyterLab open, on one core in a memory cgroup."""
    if not shutil.which("taskset") or os.geteuid() != 0:
        print("  not measured: only root on Linux may limit memory and pin a core")
        return []
    most = {}
    everything = "all of them, JupyterLab open"
    for name, chosen in {
        **{path.stem: [path.stem] for path in notebooks()},
        everything: [path.stem for path in notebooks()],
    }.items():
        with checkout() as root:
            environment = clean_environment() | {"PYTHONPATH": str(root)}
            group = Cgroup(POD)
            limited = [
                "sh",
                "-c",
                f'echo 0 > {group.folder}/cgroup.procs && exec taskset -c 0 "$@"',
                "sh",
                sys.executable,
                "-m",
            ]
            lab = None
            try:
                if name == everything:
                    lab = subprocess.Popen(
                        [*limited, "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.port=0"],
                        cwd=root,
                        env=environment,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                    )
                for _ in range(runs):
                    run([*limited, "helpers.series", *chosen], cwd=root, env=environment)
                if group.killed:
                    raise SystemExit(f"{name}: {group.killed} processes were killed, since memory ran out")
                most[name] = group.held / 2**20
                print(f"  {name}: {most[name]:.0f} MiB", flush=True)
            finally:
                if lab:
                    lab.terminate()
                    lab.wait()
                run([sys.executable, "-m", "helpers.stack", "stop"], cwd=root, env=environment)
                group.close()
    whole, largest = most.pop(everything), max(most, key=most.__getitem__)
    pod = [POD / 2**20]
    return [
        Row(
            f"memory of the largest notebook ({largest}), servers included",
            "a Kubeflow Notebook of 2 GiB and one CPU",
            0.75,
            [most[largest]],
            pod,
            unit="MiB",
        ),
        Row("memory of the whole series, servers included, JupyterLab open", "the same", 1, [whole], pod, unit="MiB"),
    ]


def downloads(runs: int) -> list[Row]:
    """Compare what the tasks of one cluster run install: the lean pipeline's, and the lists of the course's page."""
    page = (
        mlflow_pipeline.load_iris_data,
        mlflow_pipeline.train_from_csv,
        mlflow_pipeline.upload_sklearn_model_to_mlflow,
    )
    lean = (lean_pipeline.load_table, lean_pipeline.train_model, lean_pipeline.upload_model_to_mlflow)
    sizes: list[float] = []
    seconds: tuple[list[float], list[float]] = [], []
    for side, functions in enumerate((lean, page)):
        total = [0.0] * runs
        megabytes = 0.0
        for function in functions:
            with tempfile.TemporaryDirectory() as scratch:
                wheels = uploaders.download(uploaders.ALL[function], Path(scratch))
                megabytes += sum(path.stat().st_size for path in wheels) / 1e6
                for number in range(runs):
                    total[number] += uploaders.install(uploaders.ALL[function], Path(scratch), f"venv-{number}")
            print(f"  {function.__name__}: {megabytes:.0f} MB so far", flush=True)
        sizes.append(megabytes)
        seconds[side].extend(total)
    return [
        Row(
            "downloaded by the tasks of one cluster run without an image, lean pipeline",
            "the page's package lists",
            0.45,
            [sizes[0]],
            [sizes[1]],
            unit="MB",
        ),
        Row("seconds that pip then takes to install it", "the same for the page's lists", 0.45, *seconds),
    ]
