"""What opens a pickle says so, and what SECURITY.md promises has a test."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
import yaml

from helpers import paths
from helpers.series.collect import COLLECTED

ROOT = paths.ROOT


OPENS = re.compile(
    r"\b(?:dill|pickle|cloudpickle|joblib)\.loads?\(|\.load_model\(|\bread_pickle\(|allow_pickle=True"
    r"|[\"' ]models[\"', ]+serve\b"
)

SAID = re.compile(r"\bpickles?\b(?!\.\w|\()", re.IGNORECASE)  # the word, in prose or in a comment


def sections(path: Path) -> list[tuple[str, str]]:
    """Return the code, and the words about it, of each section of a notebook or function of a file."""
    if path.suffix == ".py":
        text = path.read_text(encoding="utf-8")
        functions = [
            ast.get_source_segment(text, node) for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)
        ]
        return [(part, re.sub(r"^\s*(import|from) .*$", "", part, flags=re.MULTILINE)) for part in functions]
    parts = [("", "")]
    for cell in nbformat.read(path, as_version=4).cells:
        is_code = cell.cell_type == "code"
        if not is_code and re.match(r"##? ", cell.source):
            parts.append(("", ""))
        words = "\n".join(re.findall(r"#.*", cell.source)) if is_code else cell.source
        parts[-1] = (parts[-1][0] + is_code * cell.source, f"{parts[-1][1]}\n{words}".strip())
    return parts


def unsaid(path: Path) -> list[str]:
    """Return the first lines of what opens a pickle and does not say so."""
    return [words.splitlines()[0] for code, words in sections(path) if OPENS.search(code) and not SAID.search(words)]


SAYS = [
    *ROOT.glob("notebooks/*.ipynb"),
    *ROOT.glob("notebooks/tasks/*.ipynb"),
    *ROOT.glob("exercises/**/*.ipynb"),
    *(path for path in ROOT.glob("helpers/**/*.py") if path.stem not in COLLECTED),
    *ROOT.glob("tools/bench/*.py"),
]


@pytest.mark.parametrize("path", sorted(SAYS), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_opens_a_pickle_says_so(path):
    assert unsaid(path) == []


def test_recommended_pipeline_has_no_word_that_opens_a_pickle():
    texts = [(ROOT / "helpers" / "pipelines" / "lean_pipeline.py").read_text()]
    for path in ROOT.glob("deploy/lean_pipeline*.yaml"):
        executors = yaml.safe_load(path.read_text().partition("\n---\n")[0])["deploymentSpec"]["executors"]
        executors.pop("exec-promote-if-better")  # which has to load the model, and says so in notebook 07
        texts.append(str(executors))
    for text in texts:
        assert not OPENS.search(text) and "import pickle" not in text and "dill" not in text


def test_every_test_that_security_names_exists():
    named = re.findall(r"`(test_\w+)\.py::(test_\w+)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) >= 12
    for file, test in named:
        (path,) = ROOT.glob(f"tests/*/{file}.py")
        assert re.search(rf"^def {test}\(", path.read_text(), re.MULTILINE), f"{file}.py has no {test}"
