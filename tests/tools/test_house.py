"""The house keeps its size and its shape."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter

import pytest

from helpers.paths import ROOT

CODE = re.compile(r"\.(py|sh|mjs|j2|jinja)$|^Makefile$|^\.ci/run$|/start-notebook$")
HOUSE = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["house"]


def tracked() -> list[str]:
    """Return the files of the repository; where Git is missing this test has nothing to count."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this copy is no Git checkout")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def lines() -> dict[str, int]:
    """Count the lines of all code outside notebooks, without what is collected from cells."""
    code = [name for name in tracked() if CODE.search(name) and not re.match(r"helpers/pipelines/(?!__init__)", name)]
    return {name: (ROOT / name).read_bytes().count(b"\n") for name in code}


def test_code_outside_notebooks_stays_below_the_ceiling():
    found = lines()
    assert found["tests/tools/test_house.py"] > 10 and "Makefile" in found and ".ci/run" in found
    assert sum(found.values()) <= HOUSE["ceiling"], "delete something, or say why the ceiling has to rise"


def test_no_file_is_longer_than_400_lines():
    assert {name: count for name, count in lines().items() if count > 400} == {}


def test_no_import_goes_in_a_circle():
    modules = {
        re.sub(r"(/__init__)?\.py$", "", name).replace("/", "."): name for name in tracked() if name.endswith(".py")
    }
    short = {name.removeprefix("tests."): name for name in modules if name.startswith("tests.")}  # as pytest finds them

    def known(name: str) -> set[str]:
        name = short.get(name, name)
        return {name} & modules.keys()

    graph = {}
    for module, path in modules.items():
        package = module if path.endswith("__init__.py") else module.rpartition(".")[0]
        found = graph[module] = set()
        for node in ast.parse((ROOT / path).read_text()).body:
            if isinstance(node, ast.Import):
                found |= {name for alias in node.names for name in known(alias.name)}
            elif isinstance(node, ast.ImportFrom):
                base = ".".join(filter(None, [package if node.level else "", node.module]))
                inside = {name for alias in node.names for name in known(f"{base}.{alias.name}")}
                found |= inside if len(inside) == len(node.names) else inside | known(base)
        found.discard(module)
    assert graph["helpers.stack.control"] and graph["tests.support.faults"]
    list(TopologicalSorter(graph).static_order())  # raises CycleError, with the circle
    assert not [
        m for m, found in graph.items() if m.startswith(("helpers", "tools")) for f in found if f.startswith("tests")
    ]


def test_code_and_cells_are_formatted_and_without_what_the_linter_finds():
    for check in (["format", "--check"], ["check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *check, "."], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"make lint\n{done.stdout}{done.stderr}"


def test_the_hooks_of_git_are_the_same_programs():
    if not (ROOT / ".venv").exists() or not tracked():
        pytest.skip("the hooks run in .venv, which this checkout has not")
    run = [sys.executable, "-m", "pre_commit", "run", "--files", "tools/set_up.py", "notebooks/00_start_here.ipynb"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("Passed") == 2, done.stdout + done.stderr
