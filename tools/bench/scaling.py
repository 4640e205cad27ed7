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

FOLDER = paths.ROOT / "docs" / "benchmarks"
PAGE = paths.ROOT / "docs" / "scaling.md"
TOLERANCE = 0.15
HEAD = ["what", "cost of n", "fitted to n =", "predicted", "measured", "off by"]
# Of each file: the point that the line has not seen, the lines with their units, and the columns of a second table,
# each with its form. A path leads into the measured figures.
TABLES = {
    "learners": (
        20,
        {
            "seconds until the whole class is done": ("s", "seconds in all"),
            "memory of the MLflow server": ("MB", "server megabytes"),
            "requests to the MLflow server": ("", "requests/all"),
            "of which pass on to the store": ("", "requests/to the store"),
        },
        {
            "learners at once": None,
            "processors that MLflow keeps busy": (".2f", "processors busy/mlflow"),
            "that the store does": (".2f", "processors busy/s3"),
            "slowest learner, s": (".1f", "seconds of the slowest learner"),
        },
    ),
    "fits": (
        32,
        {
            "seconds of the pipeline": ("s", "seconds"),
            "memory of all tasks at once": ("MB", "megabytes of all tasks"),
            "requests to the MLflow server": ("", "requests/mlflow"),
            "requests to the store": ("", "requests/s3"),
        },
        {
            "fits": None,
            "processors that the tasks keep busy": (".2f", "processors busy/tasks"),
            "that MLflow does": (".2f", "processors busy/mlflow"),
            "that the store does": (".2f", "processors busy/s3"),
            "largest task, MB": ("", "megabytes of the largest task"),
        },
    ),
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
    wrong = []
    for name, (unseen, lines, columns) in TABLES.items():
        measured = json.loads((FOLDER / f"{name}.json").read_text())
        points = {int(number): figures for number, figures in measured[name].items()}
        found = [
            predicted(what, unit, {number: _at(figures, path) for number, figures in points.items()}, unseen)
            for what, (unit, path) in lines.items()
        ]
        cells = [
            [f"{_at(figures, form[1]):{form[0]}}" if form else str(number) for form in columns.values()]
            for number, figures in points.items()
        ]
        tables = common.table([HEAD, *(row for row, _ in found)]), common.table([list(columns), *cells])
        common.replace_block(PAGE, name, "\n\n".join([*tables, f"Measured on: {measured['machine']}."]))
        for row, off in found:
            print(" | ".join(row))
            wrong += [row[0]] if abs(off) > TOLERANCE else []
    if wrong:
        print(f"More than {TOLERANCE:.0%} off: {'; '.join(wrong)}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
