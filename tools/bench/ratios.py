"""Compare the series with what people would use instead.

Every row takes both sides in one run, in turn, and prints the median of their ratios with the spread. Writes
docs/benchmarks/ratios.json and, made from it, docs/benchmarks.md; fails if a ratio misses its target.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable

from helpers import paths
from tools.bench import local, series, tables
from tools.bench.common import Row, replace_block, table, where

RESULT = paths.ROOT / "docs" / "benchmarks" / "ratios.json"
PAGE = paths.ROOT / "docs" / "benchmarks.md"
ROWS: dict[str, tuple[Callable[[int], list[Row]], int]] = {
    "pipeline": (local.pipeline, 5),
    "quickstart": (local.quickstart, 5),
    "servers": (series.cold_servers, 5),
    "papermill": (series.papermill, 5),
    "clone": (series.fresh_clone, 5),
    "sweep": (local.sweep, 5),
    "tables": (tables.tables, 3),
    "memory": (series.memory, 1),
    "downloads": (series.downloads, 5),
}

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


def measure(chosen: list[str], times: int | None = None) -> int:
    """Measure rows and write the page.

    Parameters
    ----------
    chosen : list of str
        Of `ROWS`.
    times : int, optional
        How often each side is measured; what the row says if not given.

    Returns
    -------
    int
        1 if a target was missed.
    """
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    missed = []
    for name in chosen:
        function, runs = ROWS[name]
        print(f"{name} ...", flush=True)
        rows = function(times or runs)
        for row in rows:
            print("  " + " | ".join(row.cells()), flush=True)
        missed += [row.what for row in rows if not row.met]
        results[name] = {"machine": where(), "rows": [dataclasses.asdict(row) for row in rows]}
        RESULT.write_text(json.dumps(results, indent=1) + "\n")
        write_page(results)
    if missed:
        print("Missed: " + "; ".join(missed), file=sys.stderr)
    return int(bool(missed))
