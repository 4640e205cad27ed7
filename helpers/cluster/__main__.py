"""``python -m helpers.cluster FILE``: write a copy of a compiled pipeline for KFP 2.15 to this folder."""

import argparse
import sys

from helpers.cluster import ClusterError, for_backend
from helpers.cluster.pipeline import LOWEST_BACKEND


def main(arguments: list[str] | None = None) -> int:
    """Write the copy; return 1, after a sentence, if it cannot be made."""
    parser = argparse.ArgumentParser("python -m helpers.cluster", description=__doc__.partition(": ")[2])
    parser.add_argument("file", help="the compiled pipeline, such as deploy/mlflow_pipeline.yaml")
    try:
        print("Written:", for_backend(parser.parse_args(arguments).file, LOWEST_BACKEND))
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
