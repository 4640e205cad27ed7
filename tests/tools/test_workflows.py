"""The GitHub workflows: they fit the schema, pass an audit, and their commands run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from helpers import paths

FOLDER = paths.ROOT / ".github" / "workflows"
BIN = Path(sys.executable).parent
WORKFLOWS = sorted(FOLDER.glob("*.yml"))


def check(*paths):
    """Compare with the schema that check-jsonschema carries; nothing is fetched."""
    return subprocess.run(
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *paths],
        capture_output=True,
        text=True,
    )


def audit(*paths):
    return subprocess.run([BIN / "zizmor", "--offline", "--no-progress", *paths], capture_output=True, text=True)


def test_they_fit_the_schema():
    assert WORKFLOWS
    done = check(*WORKFLOWS)
    assert done.returncode == 0, done.stdout


def test_they_pass_the_audit():
    done = audit(*WORKFLOWS)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_papermill_step_runs_as_written(tmp_path):
    steps = yaml.safe_load((FOLDER / "notebooks.yml").read_text())["jobs"]["notebooks"]["steps"]
    (script,) = [step["run"] for step in steps if "papermill" in step.get("run", "")]
    root = tmp_path / "check out"
    shutil.copytree(paths.NOTEBOOKS / "tasks", root / "notebooks" / "tasks")
    (root / ".venv").symlink_to(BIN.parent)
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=root,
        capture_output=True,
        text=True,
        env=os.environ | {"GITHUB_STEP_SUMMARY": str(tmp_path / "page.md"), "PYTHONPATH": str(paths.ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.md").read_text().startswith("150 rows, 4 columns. Classes: 0 (50 rows)")


def test_commands_are_those_of_the_makefile():
    makefile = (paths.ROOT / "Makefile").read_text()
    for path in WORKFLOWS:
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            for step in job["steps"]:
                for line in step.get("run", "").splitlines():
                    if line.startswith("make "):
                        assert f"\n{line.split()[1]}:" in makefile, line
                    if line.startswith("."):
                        assert line.startswith(".venv/") or (paths.ROOT / line.split()[0]).exists(), line
