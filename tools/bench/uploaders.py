"""Compare the first upload with the lean one: packages, megabytes, seconds, memory.

Each gets an empty environment with its own packages at the versions of the lock, and uploads the same model to the
stack of this machine. Prints a table, writes docs/benchmarks/uploaders.json, and fails if the lean upload is not the
leaner one. Needs the package index.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

from kfp.dsl import Metrics, Model
from sklearn.datasets import load_iris

from helpers import begin, paths, stack
from helpers.pipelines import mlflow_pipeline
from helpers.pipelines.lean_pipeline import PACKAGES, load_table, train_model, upload_model_to_mlflow
from helpers.pipelines.mlflow_pipeline import load_iris_data, train_from_csv, upload_sklearn_model_to_mlflow
from tools.bench import common

RUNS = 5
PIP = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
ALL = {**mlflow_pipeline.PACKAGES, **PACKAGES}
RESULT = paths.ROOT / "docs" / "benchmarks" / "uploaders.json"
UPLOADERS = {"first": upload_sklearn_model_to_mlflow, "lean": upload_model_to_mlflow}


def download(packages: list[str], folder: Path) -> list[Path]:
    """Fetch the wheels that packages need, at the versions of the lock.

    Parameters
    ----------
    packages : list of str
        Their names.
    folder : pathlib.Path
        The wheels go to ``wheels/`` in it.

    Returns
    -------
    list of pathlib.Path
        The wheels, those of what the packages need included.
    """
    constraints = folder / "constraints.txt"  # the versions of the lock, as they are installed here
    constraints.write_text(
        "\n".join(
            f"{found.name}=={found.version}"
            for found in importlib.metadata.distributions()
            if found.name != "mlflow-kubeflow-notebooks"
        )
    )
    wanted = ["--dest", folder / "wheels", "--constraint", constraints, *packages]
    subprocess.run([sys.executable, *PIP, "download", *wanted], check=True)
    return list((folder / "wheels").iterdir())


def install(packages: list[str], folder: Path, venv: str) -> float:
    """Install packages from `download` into an empty environment.

    Parameters
    ----------
    packages : list of str
        Their names.
    folder : pathlib.Path
        That of `download`.
    venv : str
        Name of the environment, made in the folder.

    Returns
    -------
    float
        Seconds that pip took, without those of making the environment.
    """
    subprocess.run([sys.executable, "-m", "venv", folder / venv], check=True)
    begin = time.perf_counter()
    wanted = ["--no-index", "--find-links", folder / "wheels", *packages]
    subprocess.run([folder / venv / "bin" / "python", *PIP, "install", *wanted], check=True)
    return time.perf_counter() - begin


def measure(name: str, folder: Path, files: dict, metadata: dict, servers: stack.Stack) -> dict[str, float]:
    """Install one upload's packages in an environment of its own, and run it there.

    Parameters
    ----------
    name : str
        Of `UPLOADERS`.
    folder : pathlib.Path
        Empty; takes wheels, environment and script.
    files : dict of str to str
        Paths of the upload's input artifacts.
    metadata : dict of str to dict
        The metadata of those artifacts that have some.
    servers : helpers.stack.Stack
        Where to upload to.

    Returns
    -------
    dict of str to float
        One value for each row of the table; times are medians of `RUNS` runs, but of one installation.
    """
    function = UPLOADERS[name]
    downloaded = download(ALL[function], folder)
    seconds_to_install = install(ALL[function], folder, "venv")
    python = folder / "venv" / "bin" / "python"

    script = folder / "upload.py"
    script.write_text(
        common.source_of(function)
        + textwrap.dedent("""
        import json, pathlib, re, resource, sys, types
        arguments = json.load(open(sys.argv[1]))
        for name, path in arguments["files"].items():
            data = arguments["metadata"].get(name)
            arguments["values"][name] = path if data is None else types.SimpleNamespace(path=path, metadata=data)
        FUNCTION(**arguments["values"])
        status = pathlib.Path("/proc/self/status")
        if status.exists():  # Linux counts the memory of the parent, before exec, into ru_maxrss
            print(1024 * int(re.search("VmHWM:[^0-9]*([0-9]+)", status.read_text())[1]))
        else:
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """).replace("FUNCTION", function.__name__)
    )
    variables = os.environ | stack.environment() | begin.QUIET
    seconds, memory = [], []
    for number in range(RUNS + 1):
        values = {
            "model_name": "model",
            "experiment_name": "benchmark-uploaders",
            "job_id": f"{name}-{os.getpid()}-{number}",
            "mlflow_tracking_uri": servers.tracking_uri,
            "mlflow_s3_endpoint_url": servers.s3_endpoint_url or "",
        }
        arguments = folder / "arguments.json"
        arguments.write_text(json.dumps({"values": values, "files": files, "metadata": metadata}))
        begun = time.perf_counter()
        done = subprocess.run([python, script, arguments], env=variables, check=True, capture_output=True, text=True)
        if number:  # the first compiles what was installed
            seconds.append(time.perf_counter() - begun)
            memory.append(int(done.stdout.split()[-1]) / 1e6)
    return {
        "packages, with what they need": len(downloaded),
        "megabytes to download": round(sum(path.stat().st_size for path in downloaded) / 1e6, 1),
        "seconds to install, downloaded": round(seconds_to_install, 1),
        "seconds to upload": round(statistics.median(seconds), 2),
        "resident megabytes": round(statistics.median(memory)),
    }


def main() -> int:
    """Run the comparison; return the exit code."""
    servers = stack.connect()
    os.environ.update(begin.QUIET)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        load_iris_data(str(folder / "data"), str(folder / "target"))
        first = {
            name: str(folder / name)
            for name in ("model", "input_example", "signature", "conda_env", "params", "metrics")
        }
        train_from_csv(str(folder / "data"), str(folder / "target"), "rbf", **first)
        model, metrics = Model(uri=str(folder / "lean_model")), Metrics(uri=str(folder / "lean_metrics"))
        load_iris(as_frame=True).frame.to_csv(folder / "iris.csv", index=False)
        files = {name: str(folder / name) for name in ("data", "target", "test_data", "test_target")}
        load_table(str(folder / "iris.csv"), "target", "classifier", "", **files)
        train_model(**files, model_type="classifier", model=model, metrics=metrics)
        given = {
            "first": (first, {}),
            "lean": (
                {"model": model.path, "metrics": metrics.path},
                {"model": dict(model.metadata), "metrics": dict(metrics.metadata)},
            ),
        }
        table = {}
        for name, (files, metadata) in given.items():
            print(f"{name}: downloading, installing, and uploading {RUNS + 1} times ...", flush=True)
            (folder / name).mkdir()
            table[name] = measure(name, folder / name, files, metadata, servers)
    print(f"\n{'':34}{'first':>10}{'lean':>10}{'lean / first':>14}")
    worse = []
    for row, value in table["first"].items():
        ratio = table["lean"][row] / value
        print(f"{row:<34}{value:>10}{table['lean'][row]:>10}{ratio:>13.2f}x")
        if ratio >= 1:
            worse.append(row)
    where = common.where()
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"machine": where, "uploaders": table}, indent=1) + "\n")
    print(f"\n{where}")
    if worse:
        print("The lean upload is not leaner in: " + "; ".join(worse), file=sys.stderr)
    return bool(worse)


if __name__ == "__main__":
    sys.exit(main())
