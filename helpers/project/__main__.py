"""``python -m helpers.project FOLDER``."""

import argparse
import shlex
import sys

from helpers import paths, project


def main() -> int:
    """Write a project and say what comes next."""
    parser = argparse.ArgumentParser(prog="python -m helpers.project", description=project.__doc__)
    parser.add_argument("folder", help="where; it must not exist, or be empty")
    parser.add_argument("--name", default="", help="of pipeline, image and registered model; by default the folder's")
    options = parser.parse_args()
    try:
        folder = project.make(options.folder, options.name)
    except paths.SeriesError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"A project is in {paths.short(folder)}. Next:\n  cd {shlex.quote(paths.short(folder))} && make test")
    return 0


if __name__ == "__main__":
    sys.exit(main())
