"""Parameters of notebooks: what a cell declares, and values from a shell, papermill or a reader's hand that fit it."""

from __future__ import annotations

import ast
import json
import re
from functools import partial
from pathlib import Path

import nbformat

from helpers import names
from helpers.series.notebooks import Refused

_CHECKS = {
    "kernel": names.check_kernel,
    "other_kernel": names.check_kernel,
    "model_name": names.check_model_name,
    "registered_model_name": partial(names.check_model_name, parameter="registered_model_name"),
}
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def declared(path: Path) -> dict[str, object]:
    """Return the parameters that a notebook declares, with their defaults.

    Parameters
    ----------
    path : pathlib.Path
        Of the notebook; its cell tagged ``parameters`` assigns constants.

    Returns
    -------
    dict
        In the order of the cell; empty if there is none.
    """
    for cell in nbformat.read(path, as_version=4).cells:
        if "parameters" in cell.metadata.get("tags", []):
            statements = [one for one in ast.parse(cell.source).body if isinstance(one, ast.Assign)]
            return {one.targets[0].id: ast.literal_eval(one.value) for one in statements}
    return {}


def fitting(name: str, value: object, default: object) -> object:
    """Return a value as its notebook wants it, whoever has made a number or a list of it on the way.

    Parameters
    ----------
    name : str
        Of the parameter, for the message.
    value : object
        Text from a shell; what papermill made of it; what stands in a cell.
    default : object
        What the notebook declares; its type is wanted.

    Returns
    -------
    object
        Of that type.

    Raises
    ------
    Refused
        If it cannot be one, or is not usable.
    """
    kind, said = type(default), f"{name}={value!r}"
    if kind is bool:
        if str(value).lower() not in _WORDS:
            raise Refused(f"{said} is neither true nor false.")
        value = _WORDS[str(value).lower()]
    elif kind in (int, float):
        try:
            if isinstance(value, bool) or kind is int and float(value) != int(value):
                raise ValueError
            value = kind(value)
        except (TypeError, ValueError):
            what = "a whole number" if kind is int else "a number"
            raise Refused(f"{said} is not {what}, for example {default}.") from None
    elif kind is dict:
        try:
            value = json.loads(value or "{}") if isinstance(value, str) else value
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise Refused(f'{said} is no JSON object, for example {{"a": 1}}.')
    elif not isinstance(value, str):
        value = _text(said, value, default)
    if name in _CHECKS:
        try:
            _CHECKS[name](value, **({"parameter": name} if name == "other_kernel" else {}))
        except names.SeriesError as error:
            raise Refused(str(error)) from None
    return value


def _text(said: str, value: object, default: str) -> str:
    of_numbers = re.fullmatch(r"[\d., ]+", default)
    if isinstance(value, (list, tuple)) and "," in default:
        return ",".join(str(part) for part in value)
    if isinstance(value, int) and not isinstance(value, bool) or isinstance(value, float) and of_numbers:
        return str(value)
    raise Refused(f"{said} is no text: write it in quotes, or hand it over with papermill's option -r in place of -p.")


def settle(path: Path, values: dict[str, object]) -> None:
    """Make the parameters among a notebook's variables fit what it declares.

    Parameters
    ----------
    path : pathlib.Path
        Of the notebook.
    values : dict
        Its ``globals()``; changed in place.

    Raises
    ------
    Refused
        Names the parameter and the remedy.
    """
    for name, default in declared(path).items():
        if name in values:
            values[name] = fitting(name, values[name], default)
