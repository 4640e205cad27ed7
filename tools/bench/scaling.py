"""Fit a line through what was measured with few and many, and try it on a point that it has not seen.

Writes the tables of docs/scaling.md out of docs/benchmarks, and fails if a prediction is more than `TOLERANCE` off.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys

from helpers import paths
from tools.bench import common

PAGE = paths.ROOT / "docs" / "scaling.md"
TOLERANCE = 0.15
HEAD = ["what", "cost of n", "fitted to n =", "predicted", "measured", "off by"]
UNSEEN = 20  # the point that the line has not seen
# A path leads into the measured figures.
LINES = {
    "seconds until the whole class is done": ("s", "seconds in all"),
    "memory of the MLflow server": ("MB", "server megabytes"),
    "requests to the MLflow server": ("", "requests/all"),
    "of which pass on to the store": ("", "requests/to the store"),
}
COLUMNS = {
    "learners at once": None,
    "processors that MLflow keeps busy": (".2f", "processors busy/mlflow"),
    "that the store does": (".2f", "processors busy/s3"),
    "slowest learner, s": (".1f", "seconds of the slowest learner"),
}


def predicted(what: str, unit: str, points: dict[int, float], unseen: int) -> tuple[list[str], float]:
    """Return a row that tries a line on a point that was kept from it, and how far off it is."""
    seen = {number: value for number, value in points.items() if number != unseen}
    slope, fixed = statistics.linear_regression(list(seen), list(seen.values()))
    guess, truth = fixed + slope * unseen, points[unseen]
    off = guess / truth - 1
    unit = unit and f" {unit}"
    cost = f"{fixed:.3g} + {slope:.3g} n{unit}"
    return [
        what,
        cost,
        ", ".join(map(str, seen)),
        f"{guess:.3g}{unit} at {unseen}",
        f"{truth:.3g}{unit}",
        f"{off:+.0%}",
    ], off


def _at(figures: dict, path: str) -> float:
    return functools.reduce(lambda inner, key: inner[key], path.split("/"), figures)


def main() -> int:
    """Write the tables; return 1 if a prediction is too far off."""
    measured = json.loads((paths.ROOT / "docs" / "benchmarks" / "learners.json").read_text())
    points = {int(number): figures for number, figures in measured["learners"].items()}
    found = [
        predicted(what, unit, {number: _at(figures, path) for number, figures in points.items()}, UNSEEN)
        for what, (unit, path) in LINES.items()
    ]
    cells = [
        [f"{_at(figures, form[1]):{form[0]}}" if form else str(number) for form in COLUMNS.values()]
        for number, figures in points.items()
    ]
    tables = common.table([HEAD, *(row for row, _ in found)]), common.table([list(COLUMNS), *cells])
    common.replace_block(PAGE, "learners", "\n\n".join([*tables, f"Measured on: {measured['machine']}."]))
    for row, _ in found:
        print(" | ".join(row))
    wrong = [row[0] for row, off in found if abs(off) > TOLERANCE]
    if wrong:
        print(f"More than {TOLERANCE:.0%} off: {'; '.join(wrong)}", file=sys.stderr)
    return int(bool(wrong))
