"""The checks of the exercises to notebook 04: compiled pipelines, read as YAML."""

from __future__ import annotations

from pathlib import Path

import yaml

from helpers import paths
from helpers.checks.common import Names, NotYet, call, file


def specification(path: str | Path) -> dict:
    """Read the first document of a compiled pipeline.

    Parameters
    ----------
    path : str or pathlib.Path
        The YAML file.

    Returns
    -------
    dict
        The pipeline's specification.

    Raises
    ------
    NotYet
        If the file is no compiled pipeline.
    """
    try:
        first = next(iter(yaml.safe_load_all(Path(path).read_text(encoding="utf-8"))), None)
    except yaml.YAMLError:
        first = None
    if not isinstance(first, dict) or "root" not in first or "components" not in first:
        raise NotYet(f"`{path}` is no compiled pipeline.", "write it with `compiler.Compiler().compile(...)`.")
    return first


def wires_of(path: str | Path) -> set[tuple[str, str, str, str]]:
    """Return which output goes into which input.

    Parameters
    ----------
    path : str or pathlib.Path
        A compiled pipeline.

    Returns
    -------
    set of tuple of str
        Each the task that puts out, its output, the task that takes, its input.
    """
    found = set()
    for task, entry in specification(path)["root"]["dag"]["tasks"].items():
        for name, wire in entry.get("inputs", {}).get("artifacts", {}).items():
            if source := wire.get("taskOutputArtifact"):
                found.add((source["producerTask"], source["outputArtifactKey"], task, name))
    return found


def _task(pipeline: dict, name: str, path: str) -> dict:
    tasks = pipeline["root"]["dag"]["tasks"]
    if name not in tasks:
        raise NotYet(
            f"`{path}` has the tasks {', '.join(tasks)}, and no {name}.",
            f"call that component in the pipeline of `{path}`.",
        )
    return tasks[name]


def check_04_1(names: Names) -> str:
    """Follow the parameter C from the head of the compiled pipeline to the training."""
    path = "penalty.yaml"
    pipeline = specification(file(path, f"compile your pipeline to `{path}`"))
    parameters = pipeline["root"].get("inputDefinitions", {}).get("parameters", {})
    training = _task(pipeline, "train-from-csv", path)
    if "C" not in parameters:
        raise NotYet(
            f"the pipeline takes {', '.join(parameters) or 'nothing'}, and no C.",
            "give the pipeline function a parameter `C: float = 1.0`.",
        )
    if parameters["C"].get("defaultValue") != 1.0:
        raise NotYet(
            f"the default of C is {parameters['C'].get('defaultValue', 'missing')}.", "write `C: float = 1.0`."
        )
    wire = training.get("inputs", {}).get("parameters", {}).get("C")
    if wire is None:
        raise NotYet("C ends at the pipeline: the training is not given it.", "pass `C=C` to the training.")
    if wire.get("componentInputParameter") != "C":
        raise NotYet(
            "the training gets a fixed C, whatever the pipeline is told.", "pass the pipeline's parameter: `C=C`."
        )
    return "the pipeline takes C, 1.0 unless told otherwise, and hands it to train-from-csv."


def check_04_2(names: Names) -> str:
    """Look for the crossed wires in the compiled file, and for the reader's word on the compiler."""
    path = "crossed.yaml"
    wires = wires_of(file(path, f"compile the pipeline with the crossed wires to `{path}`"))
    upload = "upload-sklearn-model-to-mlflow"
    into = {name: output for _, output, task, name in wires if task == upload}
    if "conda_env" not in into:
        raise NotYet(f"nothing goes into conda_env of {upload}.", "keep the upload, and change one wire of it.")
    if into["conda_env"] != "signature":
        raise NotYet(f"conda_env is fed by {into['conda_env']}.", 'pass `conda_env=training.outputs["signature"]`.')
    if names.get("noticed", bool, "True or False: whether the compiler noticed"):
        raise NotYet(
            "`noticed` says that the compiler refused, but the file with the crossed wires is there.",
            "look at the types of both: what does the compiler compare?",
        )
    return (
        "signature goes into conda_env, and the compiler let it: both are of the type Artifact, "
        "and it compares types alone."
    )


def check_04_3(names: Names) -> str:
    """Call the reader's function with compiled pipelines and compare its wires with the files'."""
    function = names.function("wires", "returns the wires of a compiled pipeline")
    count = 0
    for path in sorted((paths.ROOT / "deploy").glob("*_pipeline.yaml")):
        answer, expected = call(function, str(path)), wires_of(path)
        try:
            given = {tuple(wire) for wire in answer}
        except TypeError:
            raise NotYet(
                f"`wires` returned {type(answer).__name__}, and no list of four words each.",
                "return a list of tuples: producer, output, consumer, input.",
            ) from None
        if lost := expected - given:
            raise NotYet(
                f"of {path.name} it returned {len(expected & given)} of {len(expected)} wires; "
                f"{' '.join(sorted(lost)[0])} is missing.",
                "go through the tasks of `root`, `dag`; their `inputs`, `artifacts` name a `taskOutputArtifact`.",
            )
        if extra := given - expected:
            raise NotYet(
                f"of {path.name} it returned a wire that is none: {sorted(extra, key=str)[0]}.",
                "take the artifacts that come from a task, and no parameters.",
            )
        count += len(expected)
    return f"`wires` read {count} wires out of the two pipelines in `deploy/`, and made up none."
