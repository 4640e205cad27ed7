"""The checks of the exercises to notebook 01: saved model folders."""

from __future__ import annotations

import re
from pathlib import Path

from helpers.checks.common import Names, NotYet, call, file, iris


def _packages(folder: Path) -> set[str]:
    """Return the names, without versions, of the packages that a saved model asks for."""
    lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return {re.split(r"[<>=!\[; ]", line.strip())[0] for line in lines if line.strip()}


def _signature(folder: Path):
    import mlflow

    return mlflow.models.get_model_info(str(folder)).signature


def check_01_1(names: Names) -> str:
    """Look into the folder that was saved with one more package."""
    save = 'call `mlflow.sklearn.save_model` with `path="svc-extra"`'
    folder = file("svc-extra", save)
    file("svc-extra/MLmodel", f"{save}; it fills the folder itself")
    packages = _packages(folder)
    if "dill" not in packages:
        raise NotYet(
            "`svc-extra/requirements.txt` does not ask for dill.",
            'remove the folder and save with `extra_pip_requirements=["dill"]`.',
        )
    if "scikit-learn" not in packages:
        raise NotYet(
            "`svc-extra/requirements.txt` has lost scikit-learn, without which nobody can load the model.",
            "`pip_requirements` replaces the list; take the parameter that adds to it.",
        )
    return "`svc-extra` asks for dill and still for scikit-learn: your package was added, and none was replaced."


def check_01_2(names: Names) -> str:
    """Look for the signature that MLflow made of an example, and for the reader's word on it."""
    folder = file("svc-example", 'call `mlflow.sklearn.save_model` with `path="svc-example"`')
    if not (folder / "input_example.json").exists():
        raise NotYet("`svc-example` has no example in it.", "pass one row of `data` as `input_example`.")
    columns = names.get("columns", list, "the names of the inputs that you found in the signature, as a list,")
    signature = _signature(folder)
    if signature is None:
        raise NotYet("`svc-example` has no signature.", "give `input_example` a table with named columns.")
    inputs = signature.inputs.input_names()
    if inputs != list(iris()[0]):
        raise NotYet("the example in `svc-example` has other columns than iris.", "take the row from `data`.")
    if columns != inputs:
        raise NotYet(
            "`columns` differs from the names in the signature.",
            '`mlflow.models.get_model_info("svc-example").signature.inputs` knows `input_names()`.',
        )
    return f"MLflow made a signature with {len(inputs)} inputs out of your example, and you read their names."


def check_01_3(names: Names) -> str:
    """Call the reader's function with tables that fit and tables that do not."""
    missing = names.function("missing_columns", "returns the names that a saved model asks for and a table lacks")
    data, _ = iris()
    first, last = data.columns[0], data.columns[-1]
    cases = {
        "a table with every column": (data, []),
        "the columns in another order": (data[list(reversed(data.columns))], []),
        "a table without its last column": (data.drop(columns=last), [last]),
        "a column too many": (data.assign(colour="blue"), []),
        "a column with another name": (data.rename(columns={first: "length"}), [first]),
    }
    folder = file("svc", "run this notebook from its top, which saves the model in `svc`")
    for case, (table, expected) in cases.items():
        answer = call(missing, str(folder), table)
        if not isinstance(answer, list):
            raise NotYet(f"`missing_columns` returned a {type(answer).__name__}.", "return a list of names.")
        if sorted(map(str, answer)) != expected:
            raise NotYet(
                f"for {case} it returned {answer} instead of {expected}.",
                "compare names, not positions: keep those of the signature that are not in the table.",
            )
    return f"`missing_columns` gave the right names for {len(cases)} tables, whatever the order of their columns."
