"""The comparison of stored outputs, as `make test` does it: beside a reader at work, and nothing is left behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from helpers import begin, paths
from helpers.stack import process

NOTEBOOK = "02_track_on_a_server"


@pytest.mark.slow
def test_an_open_notebook_does_not_disturb_it_and_no_server_outlives_it(other):
    begin.notebook(NOTEBOOK)  # as the kernel of a reader who has it open in JupyterLab
    makefile = (paths.ROOT / "Makefile").read_text()
    (options,) = [line.partition("=")[2].split() for line in makefile.splitlines() if line.startswith("NBVAL =")]
    before = {one.pid for one in process.alive(Path("/"), below=True)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, f"notebooks/{NOTEBOOK}.ipynb"],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    left = [one for one in process.alive(Path("/"), below=True) if one.pid not in before]
    assert not [one.cmdline() for one in left if any("series-tests-" in part for part in one.cmdline())]
