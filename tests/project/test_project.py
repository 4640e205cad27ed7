"""The project that a reader takes home: made of the same cells, and green where nothing of this repository is."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import psutil
import pytest
import yaml

from helpers import paths, project
from helpers.series.notebooks import numbered

FILES = {
    *(".dockerignore", ".gitattributes", ".gitignore", ".github/workflows/test.yml", "Dockerfile", "Makefile"),
    *("README.md", "example.csv", "pipeline.py", "pyproject.toml", "requirements.lock", "servers.py"),
    "test_pipeline.py",
}


@pytest.fixture
def made(tmp_path):
    return project.make(tmp_path / "고객 이탈 churn")


def without_network(*command: str) -> list[str]:
    """Return the command in a network of its own, without a way out, where this machine allows it."""
    alone = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$0" "$@"']
    allowed = shutil.which("unshare") and not subprocess.run([*alone, "true"], capture_output=True).returncode
    return [*(alone if allowed else []), *command]


def make(folder, *arguments, **environment):
    return subprocess.run(
        without_network("make", *arguments),
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def with_this_environment(folder):
    """Let the project use the packages that are here: its lock is a part of theirs."""
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    os.utime(folder / "requirements.lock", (0, 0))
    (folder / "Makefile").write_text((folder / "Makefile").read_text().replace(".venv/ready", ".venv/bin/python"))


def test_functions_are_those_of_the_cells(made):
    cells = [cell.source for path in numbered() for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    text = (made / "pipeline.py").read_text()
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    assert len(functions) > 15
    for node in functions:
        source = ast.get_source_segment(text, node)
        assert node.name == "make" or any(source in cell for cell in cells), node.name


def test_both_files_are_those_of_the_series_but_for_their_names(made):
    done = subprocess.run([sys.executable, "pipeline.py"], cwd=made, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("", "_packages"):
        ours = (paths.DEPLOY / f"lean_pipeline{name}.yaml").read_text()
        theirs = (made / f"churn{name}.yaml").read_text()
        ours, theirs = (list(yaml.safe_load_all(text)) for text in (ours, theirs))
        image = "localhost/churn:0.1.0" if not name else "python:3.11.14-slim"
        for mine, other in zip(
            ours[0]["deploymentSpec"]["executors"].values(),
            theirs[0]["deploymentSpec"]["executors"].values(),
            strict=True,
        ):
            assert other["container"].pop("image") == image and mine["container"].pop("image")
            assert mine == other
        assert ours[0]["root"]["dag"] == theirs[0]["root"]["dag"] and ours[1] == theirs[1]
        inputs = theirs[0]["root"]["inputDefinitions"]["parameters"]
        assert theirs[0]["pipelineInfo"]["name"] == "churn"
        assert {inputs[one]["defaultValue"] for one in ("experiment_name", "registered_model_name")} == {"churn"}


def test_it_needs_nothing_of_this_repository(made):
    files = {str(path.relative_to(made)): path for path in made.rglob("*") if path.is_file()}
    assert set(files) == FILES and not list(made.parent.glob("*/project"))
    for name, path in files.items():
        text = path.read_text()
        for word in ("helpers", str(paths.ROOT), str(made)):
            assert word not in text, f"{name}: {word}"
        assert "\r" not in text and text.endswith("\n") and not text.endswith("\n\n"), name
    assert (made / "servers.py").read_text().count("\n") <= 60


def test_lock_is_the_part_of_ours_that_it_needs(made):
    def entries(path):
        return re.split(r"\n(?=\S)", path.read_text().rstrip("\n"))

    theirs, ours = entries(made / "requirements.lock"), entries(paths.ROOT / "requirements.lock")
    assert set(theirs) < set(ours) and all("--hash=sha256:" in entry for entry in theirs)
    names = {re.match(r"[\w.-]+", entry)[0] for entry in theirs}
    assert {"kfp-server-api", "mlflow-skinny", "numpy", "tzdata", "uvicorn", "waitress"} < names
    assert not {"jupyterlab", "papermill", "dill"} & names


def test_workflow_fits_the_schema_and_passes_the_audit(made):
    workflow, tools = made / ".github/workflows/test.yml", Path(sys.executable).parent
    for command in (
        ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", workflow],
        ["zizmor", "--offline", "--no-progress", workflow],
    ):
        done = subprocess.run([tools / command[0], *command[1:]], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    for target in re.findall(r"make (\w+)", workflow.read_text() + (made / "README.md").read_text()):
        assert f"\n{target}:" in (made / "Makefile").read_text() or target == "and", target


def test_it_is_green_there_without_a_network_whatever_else_is_set(made):
    with_this_environment(made)
    scratch = made.parent / "tmp"
    scratch.mkdir()
    elsewhere = {
        "TMPDIR": str(scratch),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "AWS_PROFILE": "work",
        "MLFLOW_RUN_ID": "0",
    }
    done = make(made, "test", HTTP_PROXY="http://127.0.0.1:9", **elsewhere)
    assert done.returncode == 0 and "Ran 2 tests" in done.stderr, done.stdout[-3000:] + done.stderr[-3000:]
    assert {path.name for path in made.iterdir()} - {"__pycache__"} == {name.split("/")[0] for name in FILES} | {
        ".venv"
    }
    cwds = [process.info["cwd"] or "" for process in psutil.process_iter(["cwd"])]
    assert not list(scratch.iterdir()) and not [cwd for cwd in cwds if cwd.startswith(str(scratch))]


def test_a_bad_table_is_told_in_the_words_of_the_reading(made):
    with_this_environment(made)
    table = made / "example.csv"
    table.write_text(table.read_text().replace("38,", "wide,", 1))
    done = make(made, "test")
    assert done.returncode and "line 4: 'months' is 'wide', which is no number" in done.stdout + done.stderr


@pytest.mark.slow
def test_its_own_environment_is_enough(made):
    command = [".venv/ready", f"PYTHON={sys.executable}"]
    done = subprocess.run(["make", *command], cwd=made, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = make(made, "test", *command[1:])
    assert done.returncode == 0 and "OK" in done.stderr, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize(
    ("there", "name", "words"),
    [
        ("churn/mine.txt", "", "churn exists and is not empty: name another folder"),
        ("churn", "", "churn exists and is not empty"),
        ("other", "Churn", "'Churn' is no name for an image: take small letters"),
        ("other", "1st", "a letter first"),
        ("other", "a" * 60, "is no name for an image"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(tmp_path, there, name, words):
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_text("mine")
    command = [sys.executable, "-m", "helpers.project", str(tmp_path / "churn"), "--name", name]
    done = subprocess.run(command, capture_output=True, text=True, cwd=paths.ROOT)
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / there]


@pytest.mark.parametrize(
    ("folder", "name"), [("churn", "churn"), ("My Team/Churn_2026", "churn-2026"), ("이탈", "my-pipeline")]
)
def test_the_folder_gives_the_name(tmp_path, folder, name):
    (tmp_path / folder).mkdir(parents=True)
    assert f'NAME = "{name}"\n' in (project.make(tmp_path / folder) / "pipeline.py").read_text()


def test_make_names_the_folder_that_is_missing():
    done = subprocess.run(["make", "project"], cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode and "No folder is named: make project FOLDER=/path/to/churn" in done.stderr
