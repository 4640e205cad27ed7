"""The files by which others take the series up: they say the same as the rest of the repository."""

import json
import re
import tomllib

import yaml

from helpers import paths
from helpers.stack import servers

ROOT = paths.ROOT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_devcontainer_is_set_up_by_make_from_the_lock():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    command, target = container["postCreateCommand"].split()
    makefile = (ROOT / "Makefile").read_text()
    assert command == "make" and f"\n{target}:\n" in makefile
    assert container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"] == ".venv/bin/python"
    assert servers.USUAL_PORTS["mlflow"] in container["forwardPorts"]
    assert "features" not in container, "a feature would install what the lock does not name"


def test_devcontainer_has_what_the_readme_asks_for():
    dockerfile = (ROOT / ".devcontainer" / container_file()).read_text()
    of_image = (ROOT / "deploy" / "image" / "Dockerfile").read_text()
    base = re.search(r"^FROM (\S+)$", dockerfile, re.MULTILINE)[1]
    assert base == re.search(r"^FROM (\S+)$", of_image, re.MULTILINE)[1]
    (python,) = [
        line
        for line in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
        if isinstance(line, str) and line.startswith("python=")
    ]
    assert base.startswith("python:" + python.removeprefix("python="))
    assert {"git", "make"} <= set(dockerfile.split()) and "pip install" not in dockerfile
    assert not re.search(r"^USER root", dockerfile, re.MULTILINE)


def container_file():
    return json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())["build"]["dockerfile"]


def test_citation_names_this_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation), "what the format asks for"
    assert citation["cff-version"] == "1.2.0" and all("name" in author for author in citation["authors"])
    assert str(citation["version"]) == PROJECT["version"] and citation["license"] == PROJECT["license"]
