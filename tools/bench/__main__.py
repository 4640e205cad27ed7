"""Measure all, or what is named: ``python -m tools.bench [ROW ...]``."""

from __future__ import annotations

import argparse
import sys

from tools.bench import learners, ratios, scaling, uploaders

PROGRAMS = {"uploaders": uploaders.main, "learners": learners.main, "scaling": scaling.main}


def main(arguments: list[str] | None = None) -> int:
    """Run the programs and rows that are named, or all; return 1 if one missed its target or failed."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join([*PROGRAMS, *ratios.ROWS])}; none: all")
    parser.add_argument("--runs", type=int, help="how often each side of a row is measured")
    asked = parser.parse_args(arguments)
    chosen = asked.rows or [*PROGRAMS, *ratios.ROWS]
    if unknown := [name for name in chosen if name not in PROGRAMS and name not in ratios.ROWS]:
        parser.error(f"there is no row {unknown[0]!r}: take of {', '.join([*PROGRAMS, *ratios.ROWS])}")
    codes = [PROGRAMS[name]() for name in chosen if name in PROGRAMS]
    if rows := [name for name in chosen if name in ratios.ROWS]:
        codes.append(ratios.measure(rows, asked.runs))
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
