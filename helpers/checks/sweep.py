"""The checks of the exercises to notebook 08: a choice, a loop, and a notebook that runs alone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from helpers.checks.common import Names, NotYet, call, file
from helpers.checks.compiled import specification


def check_08_1(names: Names) -> str:
    """Call the reader's function with scores that tie and scores that do not."""
    function = names.function("pick", "returns the best candidate, on a tie the one with the smaller C")

    def candidates(*penalties):
        return [{"C": penalty, "kernel": "rbf"} for penalty in penalties]

    cases = [
        ("one winner", candidates(0.1, 1.0, 10.0), [0.9, 0.95, 0.99], 10.0),
        ("a tie whose smaller C comes last", candidates(10.0, 1.0, 0.1), [0.97, 0.9, 0.97], 0.1),
        ("a tie whose smaller C comes first", candidates(0.5, 5.0), [0.8, 0.8], 0.5),
        ("a smaller C that is worse", candidates(0.01, 1.0), [0.5, 0.6], 1.0),
    ]
    for case, given, scores, expected in cases:
        answer = call(function, given, scores)
        if not isinstance(answer, dict) or "C" not in answer:
            raise NotYet(f"`pick` returned {answer!r}, and no candidate.", "return one item of `candidates`.")
        if answer["C"] != expected:
            raise NotYet(
                f"for {case} it picked C={answer['C']} instead of C={expected}.",
                "compare scores first; only where they are equal let the smaller C decide.",
            )
    return f"`pick` chose right in {len(cases)} cases, two of them ties."


def check_08_2(names: Names) -> str:
    """Read the loop in the compiled pipeline, and what its run put out."""
    path = "loop.yaml"
    pipeline = specification(file(path, f"compile your pipeline to `{path}`"))
    loops = [task for task in pipeline["root"]["dag"]["tasks"].values() if "parameterIterator" in task]
    if not loops:
        raise NotYet(
            f"`{path}` has no loop.", "call the component within `with dsl.ParallelFor(penalties, ...) as C:`."
        )
    if loops[0].get("iteratorPolicy", {}).get("parallelismLimit") != 2:
        raise NotYet("the loop sets no limit of two.", "pass `parallelism=2` to `dsl.ParallelFor`.")
    best = names.get("best", (int, float), "what the pipeline put out")
    # The component doubles: the largest of three doubled penalties is known.
    if best != 20.0:
        raise NotYet(
            f"the pipeline put out {best}.", "gather with `dsl.Collected(scoring.output)` and let `largest` pick."
        )
    return "the compiled pipeline has a loop, two tasks at a time, and its run put out 20.0, the largest score."


def _papermill(notebook: Path, classes: list[str]) -> subprocess.CompletedProcess:
    """Run a notebook on a table with the given classes, as a shell would."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = "".join(f"{number}.0,{number / 2}\n" for number in range(len(classes)))
        (folder / "data.csv").write_text(f"height,width\n{rows}")
        (folder / "target.csv").write_text("species\n" + "".join(f"{label}\n" for label in classes))
        command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(notebook), str(folder / "out.ipynb")]
        for parameter in ("data", "target"):
            command += ["-p", parameter, str(folder / f"{parameter}.csv")]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def check_08_3(names: Names) -> str:
    """Run the reader's notebook with papermill, on a table that it has to refuse and on one that fits."""
    notebook = file("strict.ipynb", "write your copy of describe_data with one more cell to `strict.ipynb`")
    refused = _papermill(notebook, ["a"] * 6 + ["b"] * 4)
    if refused.returncode == 0:
        raise NotYet(
            "it ran to its end on a class of four rows.",
            "append a cell that raises an exception if `y.value_counts().min()` is below five.",
        )
    accepted = _papermill(notebook, ["a"] * 6 + ["b"] * 5)
    if accepted.returncode != 0:
        said = (accepted.stderr.strip().splitlines() or ["no message"])[-1]
        raise NotYet(
            f"it failed on classes of five and six rows: {said}", "five rows are enough: refuse fewer than five."
        )
    return "papermill ended with an error on a class of four rows and without one on five and six."
