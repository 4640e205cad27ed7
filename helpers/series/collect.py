"""Collect the pipelines' files from the cells that carry their tag, and compile what the repository stores."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

from helpers import paths
from helpers.paths import SeriesError
from helpers.series.notebooks import numbered

# A cell's tag is the name of the file in helpers/pipelines/ that collects it; and what that file compiles, if it does.
COLLECTED = {
    "mlflow_pipeline": "The pipeline of the series in one file: run it to compile it.",
    "gate": "The component that decides which registered model is the champion.",
    "sweep_pipeline": "The pipeline that sweeps kernels and penalties: run it to compile it.",
    "lean_pipeline": "The pipeline for your own data and any framework: run it to compile it.",
}
# The sweep's YAML is not stored: KFP packs the notebook in it with its owner and the time of that moment.
COMPILED = {
    "mlflow_pipeline": ("mlflow_pipeline.yaml", "mlflow_pipeline_packages.yaml"),
    "lean_pipeline": ("lean_pipeline.yaml", "lean_pipeline_packages.yaml"),
}
PIPELINES = paths.ROOT / "helpers" / "pipelines"


def collect(tag: str, folder: Path = paths.NOTEBOOKS) -> str:
    """Build a file of the helpers from the cells that carry its tag.

    Parameters
    ----------
    tag : str
        One of `COLLECTED`.
    folder : pathlib.Path
        Where the notebooks lie.

    Returns
    -------
    str
        The file's text; empty if no cell carries the tag.
    """
    cells = []
    for path in numbered(folder):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and tag in cell.metadata.get("tags", []):
                cells.append(cell.source.strip("\n"))
    return f'"""{COLLECTED[tag]}"""\n\n' + "\n\n\n".join(cells) + "\n" if cells else ""


def compile_pipeline(folder: Path, file: Path, names: tuple[str, ...]) -> None:
    """Run a pipeline's file as a reader would, so that it writes its YAML.

    Parameters
    ----------
    folder : pathlib.Path
        Takes the YAML files; made if it does not exist.
    file : pathlib.Path
        What to run.
    names : tuple of str
        The YAML files that it is to write.

    Raises
    ------
    helpers.paths.SeriesError
        If the file fails; the YAML files that were there stay as they are.
    """
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run([sys.executable, str(file)], cwd=scratch, capture_output=True, text=True)
        made = sorted(path.name for path in Path(scratch).iterdir())
        if done.returncode or made != sorted(names):
            reason = (done.stderr.strip().splitlines() or [f"it wrote {', '.join(made) or 'nothing'}"])[-1]
            raise SeriesError(f"{file.name} does not compile: {reason}")
        for name in made:
            replace(folder / name, (Path(scratch) / name).read_text(encoding="utf-8"))


def compile_stored() -> None:
    """Write the YAML files that the repository stores."""
    for tag, names in COMPILED.items():
        compile_pipeline(paths.DEPLOY, PIPELINES / f"{tag}.py", names)


def collect_stored() -> None:
    """Write the files that the repository collects from cells."""
    for tag in COLLECTED:
        text, file = collect(tag), PIPELINES / f"{tag}.py"
        if text and (not file.exists() or text != file.read_text(encoding="utf-8")):
            replace(file, text)
            print(f"{file.name} collected anew")


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Parameters
    ----------
    path : pathlib.Path
        What was there is there until the new one is complete.
    text : str
        Of the new one.
    """
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
