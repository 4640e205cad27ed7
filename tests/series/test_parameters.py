"""Parameters as shells, papermill and hands deliver them: each notebook gets what fits, or says what does not."""

import subprocess
import sys

import nbformat
import pytest

from helpers import parameters, paths
from helpers.series import notebooks
from helpers.series.notebooks import Refused

NAMED = {path.stem[:2]: path for path in notebooks.numbered()}


@pytest.mark.parametrize(
    ("notebook", "name", "given", "wanted"),
    [
        ("05", "model_name", 2024, "2024"),
        ("05", "experiment_name", 2024, "2024"),
        ("08", "penalties", 10, "10"),
        ("08", "penalties", 0.5, "0.5"),
        ("08", "penalties", [0.5, 10], "0.5,10"),
        ("08", "kernels", ["linear", "poly"], "linear,poly"),
        ("09", "params", '{"max_iter": 5}', {"max_iter": 5}),
        ("09", "columns", "", {}),
        ("09", "target_column", 7, "7"),
        ("06", "with_image", "false", False),
        ("06", "with_image", 1, True),
        ("00", "memory", 3, 3.0),
        ("00", "disk", "0.5", 0.5),
    ],
)
def test_what_fits_is_taken(notebook, name, given, wanted):
    values = {name: given, "other": 3}
    parameters.settle(NAMED[notebook], values)
    assert values == {name: wanted, "other": 3} and type(values[name]) is type(wanted)


@pytest.mark.parametrize(
    ("notebook", "name", "given", "says"),
    [
        ("05", "model_name", 1.1, "model_name=1.1 is no text: write it in quotes, or .*papermill's option -r"),
        ("05", "model_name", None, "model_name=None is no text"),
        ("05", "experiment_name", True, "experiment_name=True is no text"),
        ("05", "experiment_name", ["a"], "is no text"),
        ("05", "model_name", "a b", "model_name='a b' is not usable"),
        ("05", "other_kernel", "cubic", "other_kernel='cubic' is unknown to SVC"),
        ("05", "kernel", 3, "kernel='3' is unknown to SVC"),
        ("07", "registered_model_name", "ü", "registered_model_name='ü' is not usable"),
        ("09", "params", "max_iter=5", "params='max_iter=5' is no JSON object"),
        ("09", "columns", ["a"], "is no JSON object"),
        ("06", "with_image", "maybe", "neither true nor false"),
        ("00", "memory", "much", "memory='much' is not a number, for example 2.0"),
    ],
)
def test_what_does_not_is_refused_by_name(notebook, name, given, says):
    with pytest.raises(Refused, match=says):
        parameters.settle(NAMED[notebook], {name: given})


@pytest.mark.parametrize("path", NAMED.values(), ids=NAMED)
def test_every_notebook_settles_its_parameters_first(path):
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    (place,) = [n for n, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    assert f'("{path.stem}", globals())' in cells[place + 1].source


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["-p", "model_name", "2024", "-p", "kernel", "poly"], 0, ""),
        (["-p", "model_name", "1.10"], 1, "model_name=1.1 is no text"),
        (["-r", "model_name", "1.10"], 0, ""),
        (["-y", "{model_name: [a, b]}"], 1, r"model_name=['a', 'b'] is no text"),
        (["-p", "kernel", "7"], 1, "kernel='7' is unknown to SVC"),
    ],
)
def test_papermill_itself(tmp_path, options, code, says):
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", NAMED["01"], tmp_path / "out.ipynb", *options]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)
    assert bool(done.returncode) == bool(code) and says in done.stderr, done.stderr[-2000:]
