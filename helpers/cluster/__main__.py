"""``python -m helpers.cluster FILE``: write a compiled pipeline without what KFP 2.15 does not know to this folder."""

import sys

from helpers.cluster.pipeline import LOWEST_BACKEND, for_backend

if __name__ == "__main__":
    for_backend(sys.argv[1], LOWEST_BACKEND)
