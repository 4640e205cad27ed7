"""The exercises: made from their solutions, and checks that tell right from wrong on a real stack."""

import ast
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml
from nbclient import NotebookClient
from nbformat import v4
from series import test_form as form

from helpers import checks, paths
from helpers.checks import compiled
from helpers.series import exercises, notebooks
from helpers.series.kernel import OwnKernel

SOLUTIONS = exercises.solutions()
EXERCISES = notebooks.numbered(exercises.EXERCISES)
WRONG = {
    task: [(one["answer"], one["hint"]) for one in answers]
    for task, answers in yaml.safe_load(Path(__file__).with_name("wrong_answers.yaml").read_text()).items()
}
BOTH = pytest.mark.parametrize("path", [*SOLUTIONS, *EXERCISES], ids=lambda path: f"{path.parent.name}/{path.stem}")
EACH = pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
WITHOUT = ("00", "06")  # the start page, and the one that needs a cluster


def tags(cell):
    return set(cell.metadata.get("tags", []))


def checked(path):
    """Return the tasks that a notebook checks, in order."""
    found = [
        re.fullmatch(r'checks\.check\("(\d\d-\d)", globals\(\)\)', cell.source)
        for cell in form.code(path)
        if "check" in tags(cell)
    ]
    assert all(found), "a check is one line"
    return [match[1] for match in found]


# --- their form ------------------------------------------------------------------------------------


def test_each_notebook_but_the_one_with_a_cluster_has_exercises():
    series = {path.stem for path in form.SERIES if path.stem[:2] not in WITHOUT}
    assert {path.stem for path in SOLUTIONS} == series
    assert {path.stem for path in EXERCISES} == series


def test_stored_exercises_are_those_of_the_solutions():
    for path in SOLUTIONS:
        stored = (exercises.EXERCISES / path.name).read_text(encoding="utf-8")
        assert stored == exercises.written(path), f"{path.stem}: make exercises"


@EACH
def test_no_line_of_a_solution_is_in_the_exercise(path):
    exercise = form.read(exercises.EXERCISES / path.name)
    shown = {line.strip() for cell in exercise.cells for line in cell.source.splitlines()}
    hidden = 0
    for cell in form.code(path):
        if "solution" in tags(cell):
            _, _, rest = cell.source.rpartition(exercises.MARKER)
            lines = {line.strip() for line in rest.splitlines() if re.search(r"\w", line)}
            # Text that stands elsewhere in the exercise anyway, such as an import of its set-up, gives nothing away.
            given = {
                line.strip()
                for other in form.read(path).cells
                if "solution" not in tags(other)
                for line in other.source.splitlines()
            }
            given |= {
                line.strip()
                for other in form.code(path)
                if exercises.MARKER in other.source
                for line in other.source.partition(exercises.MARKER)[0].splitlines()
            }
            assert not (lines - given) & shown
            hidden += len(lines - given)
    assert hidden > 5
    assert sum(exercises.STUB in cell.source for cell in form.code(exercises.EXERCISES / path.name)) >= len(
        checked(path)
    )


def test_every_task_is_checked_once_and_answered_wrongly():
    asked = [task for path in SOLUTIONS for task in checked(path)]
    assert asked == checks.tasks() == sorted(WRONG)
    assert min(Counter(task[:2] for task in asked).values()) >= 2
    assert min(len(answers) for answers in WRONG.values()) >= 3


@BOTH
def test_form(path):
    form.test_no_absolute_path(path)
    form.test_links_and_images_resolve(path)
    form.test_cells_are_small_and_between_prose(path)
    form.test_components_carry_their_own_imports(path)
    form.test_metadata_is_clean(path)
    (title,) = form.headings(path)
    (notebook,) = form.headings(paths.NOTEBOOKS / path.name)
    assert title == f"Exercises: {notebook}" and form.read(path).cells[0].source.startswith(f"# {title}\n")
    assert f"notebooks/{path.name}" in form.read(path).cells[0].source
    for cell in form.code(path):
        assert max(map(len, cell.source.splitlines())) <= 100, cell.id
        ast.parse(cell.source)


@EACH
def test_solutions_have_outputs_and_exercises_have_none(path):
    form.test_executed_in_order_without_gaps(path)
    form.test_no_error_and_no_stderr(path)
    assert [task for task, word, _ in said(form.read(path)) if word == "right"] == checked(path)
    for cell in form.code(exercises.EXERCISES / path.name):
        assert not cell.outputs and cell.execution_count is None


def test_cell_ids_are_unique_in_the_repository():
    paths = [*form.NOTEBOOKS, *SOLUTIONS, *EXERCISES]
    ids = Counter(cell["id"] for path in paths for cell in json.loads(path.read_text(encoding="utf-8"))["cells"])
    assert not [name for name, count in ids.items() if count > 1]
    for path, letter in [*((path, "s") for path in SOLUTIONS), *((path, "e") for path in EXERCISES)]:
        for cell in form.read(path).cells:
            assert re.fullmatch(rf"{letter}{path.stem[:2]}-[0-9a-f]{{8}}", cell.id), cell.id


# --- what makes them -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solution", "exercise"),
    [
        ("x = 1\ny = 2", "# Your code here"),
        ("x = 1\n# --- your code ---\ny = 2", "x = 1\n# Your code here"),
        (
            'def f():\n    """Do."""\n    # --- your code ---\n    return 1',
            'def f():\n    """Do."""\n    # Your code here',
        ),
    ],
)
def test_stub(solution, exercise):
    assert exercises.stub(solution) == exercise


def test_generate_writes_what_changed_and_removes_what_has_no_solution(tmp_path):
    shutil.copytree(exercises.EXERCISES, tmp_path / "exercises")
    folder = tmp_path / "exercises"
    changed, kept, gone = folder / SOLUTIONS[0].name, folder / SOLUTIONS[1].name, folder / "00_gone.ipynb"
    before = changed.read_text(encoding="utf-8")
    changed.write_text(before.replace("# Your code here", "x = 1"), encoding="utf-8")
    gone.write_text(before, encoding="utf-8")
    assert exercises.generate_all(folder) == [changed, gone]
    assert changed.read_text(encoding="utf-8") == before and not gone.exists() and kept.exists()
    assert exercises.generate_all(folder) == []


def test_a_checkout_without_solutions_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(exercises.solutions, "__defaults__", (tmp_path,))
    monkeypatch.setattr(exercises.generate_all, "__defaults__", (tmp_path,))
    assert exercises.main(["generate"]) == 1
    assert "no solutions" in capsys.readouterr().err


# --- the checks themselves -------------------------------------------------------------------------


def inputs_of(folder):
    """Read a signature out of the file, without MLflow."""
    return json.loads(yaml.safe_load(Path(folder, "MLmodel").read_text())["signature"]["inputs"])


def test_an_unknown_task_is_named():
    with pytest.raises(paths.SeriesError, match="no task '99-1'. There are 01-1, 01-2"):
        checks.check("99-1", {})


def test_only_a_right_answer_is_recorded(monkeypatch, capsys):
    recorded = []
    monkeypatch.setattr(checks.progress, "record", recorded.append)
    checks.check("08-1", {})
    checks.check("08-1", {"pick": lambda candidates, scores: candidates[0]})
    assert not recorded
    checks.check(
        "08-1",
        {
            "pick": lambda candidates, scores: max(
                zip(scores, candidates, strict=True), key=lambda pair: (pair[0], -pair[1]["C"])
            )[1]
        },
    )
    assert recorded == ["08-1"]
    assert [line[:9] for line in capsys.readouterr().out.splitlines()] == ["08-1 not ", "08-1 not ", "08-1 righ"]


@pytest.mark.parametrize("answer", [SystemExit(3), KeyError("x"), RecursionError()], ids=repr)
def test_a_check_never_raises(monkeypatch, capsys, answer):
    from helpers.checks import sweep

    def look(names):
        raise answer

    monkeypatch.setattr(sweep, "check_08_1", look)
    checks.check("08-1", {})
    assert re.match(rf"08-1 not yet: .*{type(answer).__name__}.* Hint: .+", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("04-3", {"wires": lambda path: {tuple(wire) for wire in compiled.wires_of(path)}}),
        ("04-3", {"wires": lambda path: [list(wire) for wire in compiled.wires_of(path)]}),
        (
            "08-1",
            {
                "pick": lambda candidates, scores: dict(
                    sorted(zip(candidates, scores, strict=True), key=lambda pair: (-pair[1], pair[0]["C"]))[0][0]
                )
            },
        ),
        ("09-2", {"may_be_empty": lambda folder: [one["name"] for one in inputs_of(folder) if not one["required"]]}),
    ],
    ids=["set", "lists", "sorted", "file"],
)
def test_another_right_answer_is_right(capsys, task, names):
    checks.check(task, names)
    assert capsys.readouterr().out.startswith(f"{task} right: ")


# --- in a kernel, on a stack -----------------------------------------------------------------------


def said(notebook):
    """Return (task, right or not yet, the rest) of each check's line."""
    text = "".join(
        output.text
        for cell in notebook.cells
        if cell.cell_type == "code" and "check" in tags(cell)
        for output in cell.outputs
        if output.output_type == "stream"
    )
    return re.findall(r"^(\d\d-\d) (right|not yet): (.+)$", text, re.MULTILINE)


@pytest.fixture
def execute(servers):
    """Execute cells as a notebook of the exercises, with a state folder of the tests."""

    def run(cells):
        notebook = v4.new_notebook(cells=cells)
        client = NotebookClient(
            notebook,
            kernel_manager_class=OwnKernel,
            record_timing=False,
            timeout=300,
            allow_errors=True,
            resources={"metadata": {"path": str(exercises.EXERCISES)}},
        )
        client.execute()
        for cell in notebook.cells:
            assert not [output.get("evalue") for output in cell.get("outputs", []) if output.output_type == "error"], (
                cell.source
            )
        return notebook

    return run


def wrong_cells(tasks):
    """Return cells that give each wrong answer, with the solutions' variables, and check it."""
    cells = [v4.new_code_cell("_solved = dict(globals())")]
    for task in tasks:
        for answer, _ in WRONG[task]:
            cells.append(v4.new_code_cell(f"globals().update(_solved)\n{answer}"))
            cells.append(v4.new_code_cell(f'checks.check("{task}", globals())', metadata={"tags": ["check"]}))
    return cells


@pytest.mark.slow
@EACH
def test_checks_tell_right_from_wrong(path, execute):
    asked = checked(path)
    untouched = said(execute(form.read(exercises.EXERCISES / path.name).cells))
    assert [task for task, _, _ in untouched] == asked
    for task, word, rest in untouched:
        assert word == "not yet" and re.search(r" Hint: \S+", rest), (task, word, rest)

    answers = said(execute(form.read(path).cells + wrong_cells(asked)))
    assert [(task, word) for task, word, _ in answers[: len(asked)]] == [(task, "right") for task in asked], answers
    expected = [(task, answer, phrase) for task in asked for answer, phrase in WRONG[task]]
    for (task, word, rest), (wanted, answer, phrase) in zip(answers[len(asked) :], expected, strict=True):
        assert (task, word) == (wanted, "not yet"), (answer, rest)
        assert phrase in rest.partition(" Hint: ")[2], (answer, rest)
