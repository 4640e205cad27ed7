"""Say how cost grows, out of what the other benchmarks measured: ``python benchmarks/scaling.py``.

Fits a line through some measured points and tries it on one that it has not seen. Writes the tables of docs/scaling.md;
fails if a prediction is further off than `TOLERANCE`.
"""

from __future__ import annotations

import json
import statistics
import sys

from helpers import paths
from tools.bench import common

FOLDER = paths.ROOT / "docs" / "benchmarks"
PAGE = paths.ROOT / "docs" / "scaling.md"
TOLERANCE = 0.15


def line(points: dict[int, float]) -> tuple[float, float]:
    """Return the fixed part and the part for each one more, by least squares.

    Parameters
    ----------
    points : dict of int to float
        Numbers of learners, or of fits, to what they cost.

    Returns
    -------
    tuple of float
        What none would cost, and what one more costs.
    """
    slope, fixed = statistics.linear_regression(list(points), list(points.values()))
    return fixed, slope


def predicted(what: str, unit: str, points: dict[int, float], unseen: int) -> tuple[list[str], float]:
    """Return a row that tries a line on a point that was kept from it, and how far off it is."""
    seen = {number: value for number, value in points.items() if number != unseen}
    fixed, slope = line(seen)
    guess, truth = fixed + slope * unseen, points[unseen]
    off = guess / truth - 1
    unit = unit and f" {unit}"
    return [
        what,
        f"{fixed:.3g} + {slope:.3g} n{unit}",
        ", ".join(map(str, seen)),
        f"{guess:.3g}{unit} at {unseen}",
        f"{truth:.3g}{unit}",
        f"{off:+.0%}",
    ], off


HEAD = ["what", "cost of n", "fitted to n =", "predicted", "measured", "off by"]


def main() -> int:
    """Write the tables; return 1 if a prediction is too far off."""
    learners = json.loads((FOLDER / "learners.json").read_text())
    classes = {int(number): row for number, row in learners["learners"].items()}
    found = [
        predicted(
            "seconds until the whole class is done", "s", {n: row["seconds in all"] for n, row in classes.items()}, 20
        ),
        predicted("memory of the MLflow server", "MB", {n: row["server megabytes"] for n, row in classes.items()}, 20),
        predicted("requests to the MLflow server", "", {n: row["requests"]["all"] for n, row in classes.items()}, 20),
        predicted(
            "of which pass on to the store", "", {n: row["requests"]["to the store"] for n, row in classes.items()}, 20
        ),
    ]
    busy = [
        [
            str(n),
            *(f"{row['processors busy'][name]:.2f}" for name in ("mlflow", "s3")),
            f"{row['seconds of the slowest learner']:.1f}",
        ]
        for n, row in classes.items()
    ]
    common.replace_block(
        PAGE,
        "learners",
        "\n\n".join(
            [
                common.table([HEAD, *(row for row, _ in found)]),
                common.table(
                    [
                        [
                            "learners at once",
                            "processors that MLflow keeps busy",
                            "that the store does",
                            "slowest learner, s",
                        ],
                        *busy,
                    ]
                ),
                f"Measured on: {learners['machine']}.",
            ]
        ),
    )

    measured = json.loads((FOLDER / "fits.json").read_text())
    sweeps = {int(number): row for number, row in measured["fits"].items()}
    unseen = 32
    of_fits = [
        predicted("seconds of the pipeline", "s", {n: row["seconds"] for n, row in sweeps.items()}, unseen),
        predicted(
            "memory of all tasks at once", "MB", {n: row["megabytes of all tasks"] for n, row in sweeps.items()}, unseen
        ),
        predicted(
            "requests to the MLflow server", "", {n: row["requests"]["mlflow"] for n, row in sweeps.items()}, unseen
        ),
        predicted("requests to the store", "", {n: row["requests"]["s3"] for n, row in sweeps.items()}, unseen),
    ]
    busy = [
        [
            str(n),
            *(f"{row['processors busy'][name]:.2f}" for name in ("tasks", "mlflow", "s3")),
            str(row["megabytes of the largest task"]),
        ]
        for n, row in sweeps.items()
    ]
    common.replace_block(
        PAGE,
        "fits",
        "\n\n".join(
            [
                common.table([HEAD, *(row for row, _ in of_fits)]),
                common.table(
                    [
                        [
                            "fits",
                            "processors that the tasks keep busy",
                            "that MLflow does",
                            "that the store does",
                            "largest task, MB",
                        ],
                        *busy,
                    ]
                ),
                f"Measured on: {measured['machine']}.",
            ]
        ),
    )
    found += of_fits

    wrong = [row[0] for row, off in found if abs(off) > TOLERANCE]
    for row, _ in found:
        print(" | ".join(row))
    if wrong:
        print(f"More than {TOLERANCE:.0%} off: {'; '.join(wrong)}", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
