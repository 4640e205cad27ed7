"""The form of the stored notebooks, read without a kernel."""

import ast
import io
import json
import re
import tokenize
from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

from helpers import paths
from helpers.series import notebooks
from helpers.series.collect import COLLECTED
from helpers.series.refresh import ABSOLUTE_PATH

SERIES = notebooks.numbered()
NOTEBOOKS = [*SERIES, *notebooks.tasks()]
PAGES = [*NOTEBOOKS, *sorted(paths.ROOT.glob("*.md")), *sorted(paths.ROOT.glob("*/*.md"))]
LONG_CELL = 12
COMPONENTS = {*COLLECTED, "component"}
NOT_COMPARED = {"nbval-ignore-output", "nbval-skip"}
EVERY_NOTEBOOK = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

_CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|!?\[[^\]]*\]\([^)]*\))*)\]\(([^)\s]+)[^)]*\)")
_TAG = re.compile(r"<(img|a)\b[^>]*>", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"""\b(src|href|alt)\s*=\s*(["'])(.*?)\2""", re.IGNORECASE)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def code(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def tags(cell: nbformat.NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def headings(path: Path) -> list[str]:
    """Return the texts of all H1, wherever they stand."""
    text = "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    return re.findall(r"^# +(.+?)\s*$", _CODE.sub("", text), re.MULTILINE)


def links(text: str) -> list[tuple[str, bool, str]]:
    """Return (target, is an image, text or alternative text) of each link, in Markdown and in HTML."""
    text = _CODE.sub("", text)
    found = [(target, bool(image), words) for image, words, target in _LINK.findall(text)]
    found += [link for _, words, _ in _LINK.findall(text) for link in links(words)]  # a linked image
    for tag in _TAG.finditer(text):
        attributes = {name.lower(): value for name, _, value in _ATTRIBUTE.findall(tag[0])}
        image = tag[1].lower() == "img"
        found.append((attributes.get("src" if image else "href", ""), image, attributes.get("alt", "")))
    return found


def prose(path: Path) -> str:
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


def test_every_notebook_is_on_the_one_list(tmp_path):
    assert SERIES == sorted(paths.NOTEBOOKS.glob("*.ipynb"))
    for name in ("10_later", "09_sooner", "not_numbered"):
        (tmp_path / f"{name}.ipynb").write_text("")
    assert [path.stem for path in notebooks.numbered(tmp_path)] == ["09_sooner", "10_later"]


@EVERY_NOTEBOOK
def test_name_and_title(path):
    number = r"\d\d_" if path in SERIES else ""
    assert re.fullmatch(number + r"[a-z][a-z0-9_]*", path.stem), "notebooks of the series are named NN_verb"
    first = read(path).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# "), "the first cell begins with the title"
    assert len(headings(path)) == 1, headings(path)


def test_numbers_are_those_of_the_order():
    assert [path.stem[:2] for path in SERIES] == [f"{number:02}" for number in range(len(SERIES))]


def test_readme_maps_the_series():
    rows = [line for line in prose(paths.ROOT / "README.md").splitlines() if line.lstrip().startswith("|")]
    mapped = [(target, title) for line in rows for target, _, title in links(line) if target.endswith(".ipynb")]
    assert mapped == [(f"notebooks/{path.name}", headings(path)[0]) for path in SERIES]


@EVERY_NOTEBOOK
def test_parameters_are_constants_with_a_comment(path):
    cells = [cell for cell in code(path) if "parameters" in tags(cell)]
    assert len(cells) == 1, f"{len(cells)} cells are tagged parameters"
    source = cells[0].source
    commented = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    for statement in ast.parse(source).body:
        assert isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name), ast.unparse(statement)
        ast.literal_eval(statement.value)
        assert statement.end_lineno in commented, f"no comment beside: {ast.unparse(statement)}"


@EVERY_NOTEBOOK
def test_executed_in_order_without_gaps(path):
    counts = [cell.execution_count for cell in code(path)]
    assert counts == list(range(1, len(counts) + 1))


@EVERY_NOTEBOOK
def test_no_error_and_no_stderr(path):
    for cell in code(path):
        for output in cell.outputs:
            assert output.output_type != "error" or "raises-exception" in tags(cell), (cell.id, output.get("evalue"))
            assert output.get("name") != "stderr", (cell.id, output.get("text"))


@EVERY_NOTEBOOK
def test_no_absolute_path(path):
    for cell in read(path).cells:
        for text in (cell.source, *map(str, cell.get("outputs", []))):
            assert not ABSOLUTE_PATH.search(text), (cell.id, text)
            assert str(paths.ROOT) not in text, (cell.id, text)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_and_images_resolve(path):
    for target, image, words in links(prose(path)):
        assert not image or words.strip(), f"{target} has no alternative text"
        address = urlsplit(target)
        if not address.scheme and not address.netloc and address.path:
            assert (path.parent / unquote(address.path)).exists(), f"{target} does not exist"


@EVERY_NOTEBOOK
def test_cells_are_small_and_between_prose(path):
    in_a_row = 0
    for cell in read(path).cells:
        assert cell.source.strip(), f"{cell.id} is empty"
        in_a_row = in_a_row + 1 if cell.cell_type == "code" else 0
        assert in_a_row <= 2, f"{cell.id} is the third code cell in a row"
        if cell.cell_type == "code" and not tags(cell) & COMPONENTS:
            lines = len(cell.source.splitlines())
            assert lines <= LONG_CELL, f"{cell.id} has {lines} lines"


@EVERY_NOTEBOOK
def test_components_carry_their_own_imports(path):
    for cell in code(path):
        functions = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.FunctionDef)]
        for function in functions if tags(cell) & COMPONENTS else []:
            for node in ast.walk(function):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert "helpers" not in {name.partition(".")[0] for name in names}, cell.id


@EVERY_NOTEBOOK
def test_metadata_is_clean(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags", "reason"}, (cell.id, cell.metadata)
    assert path.read_text(encoding="utf-8").endswith("}\n")


def test_cell_ids_are_unique():
    # As they are in the file: nbformat gives a repeated id a new value.
    ids = Counter(cell["id"] for path in NOTEBOOKS for cell in json.loads(path.read_text(encoding="utf-8"))["cells"])
    assert not [name for name, count in ids.items() if count > 1]


@EVERY_NOTEBOOK
def test_outputs_are_compared(path):
    cells = code(path)
    exceptions = [cell for cell in cells if tags(cell) & NOT_COMPARED]
    assert len(exceptions) <= 0.1 * len(cells)
    for cell in exceptions:
        assert cell.metadata.get("reason", "").strip(), f"{cell.id} does not say why it is not compared"
    for cell in cells:
        assert "NBVAL_" not in cell.source, f"{cell.id}: an exception is a tag, so that it is counted here"
