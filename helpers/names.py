"""Names that a reader chooses, and lists of values: usable, or refused in a sentence."""

from __future__ import annotations

import math
import os
import re

from helpers.paths import SeriesError

# Names of the notebooks begin with these words: a learner of that name would own everybody's.
RESERVED = ("iris", "own", "exercise")


def check_model_name(model_name: str, parameter: str = "model_name") -> None:
    """Refuse a model name that is no safe folder name or S3 key.

    Parameters
    ----------
    model_name : str
        Letters, digits, ``.``, ``_`` and ``-``; starts with a letter or a digit.
    parameter : str
        What the message calls it.

    Raises
    ------
    SeriesError
        If the name is empty or holds anything else.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", model_name) or ".." in model_name:
        raise SeriesError(
            f"{parameter}={model_name!r} is not usable: take 1 to 100 letters, digits, '.', '_' or '-', "
            "beginning with a letter or a digit, for example 'svc'."
        )


def check_kernel(kernel: str, parameter: str = "kernel") -> None:
    """Refuse a kernel that ``sklearn.svm.SVC`` cannot train on a table.

    Parameters
    ----------
    kernel : str
        One of ``linear``, ``poly``, ``rbf`` and ``sigmoid``.
    parameter : str
        What the message calls it.

    Raises
    ------
    SeriesError
        If it is none of the four.
    """
    kernels = ("linear", "poly", "rbf", "sigmoid")
    if kernel not in kernels:
        raise SeriesError(f"{parameter}={kernel!r} is unknown to SVC: take one of {', '.join(kernels)}.")


def items(text: str, parameter: str = "kernels") -> list[str]:
    """Split a parameter that holds several values.

    Parameters
    ----------
    text : str
        Values separated by commas; papermill passes no lists from a shell.
    parameter : str
        What the message calls it.

    Returns
    -------
    list of str
        Without spaces around them, each once, in order.

    Raises
    ------
    SeriesError
        If there is none.
    """
    found = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found:
        raise SeriesError(f"{parameter}={text!r} names nothing: write values separated by commas.")
    return found


def numbers(text: str, parameter: str) -> list[float]:
    """Split a parameter that holds several numbers above zero.

    Parameters
    ----------
    text : str
        Numbers separated by commas.
    parameter : str
        What the message calls it.

    Returns
    -------
    list of float
        Each once, in order.

    Raises
    ------
    SeriesError
        If there is none, or one is no number above zero.
    """
    found = []
    for part in items(text, parameter):
        try:
            number = float(part)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise SeriesError(f"{parameter}={text!r}: {part!r} is no number above zero, for example 0.1 or 10.")
        found.append(number)
    return list(dict.fromkeys(found))


def learner() -> str | None:
    """Return who learns here.

    Returns
    -------
    str or None
        What ``WORKSHOP_LEARNER`` says, in small letters; None outside a workshop.

    Raises
    ------
    SeriesError
        If it is no usable name.
    """
    given = os.environ.get("WORKSHOP_LEARNER", "").strip()
    return check_learner(given) if given else None


def check_learner(name: str) -> str:
    """Refuse what cannot tell learners apart.

    Parameters
    ----------
    name : str
        Letters and digits. No dash, which ends the name: ``ann-b`` would own what is ``ann``'s.

    Returns
    -------
    str
        In small letters: who types Anna once and anna once is one learner.

    Raises
    ------
    SeriesError
        If it holds anything else, is too long, or is a word with which the series' own names begin.
    """
    if not re.fullmatch(r"[A-Za-z0-9]{1,30}", name):
        raise SeriesError(
            f"WORKSHOP_LEARNER={name!r} is not usable: take 1 to 30 letters and digits without accents, and no dash, "
            "for example 'anna' or 'anna2'."
        )
    if name.lower() in RESERVED:
        raise SeriesError(
            f"WORKSHOP_LEARNER={name!r} is not usable: names of the series begin with that word. Add a digit."
        )
    return name.lower()


def own_name(name: str) -> str:
    """Return the name that an experiment or a registered model has for this learner.

    Parameters
    ----------
    name : str
        Such as ``"iris"``. One that is the learner's own already stays: a cell may be run twice.

    Returns
    -------
    str
        Such as ``"anna-iris"``; ``name`` itself outside a workshop.

    Raises
    ------
    SeriesError
        If the learner's name, or this one, is not usable.
    """
    who = learner()
    if who is None:
        return name
    name = name.removeprefix(f"{who}-")
    if not re.fullmatch(r"[A-Za-z0-9-]{1,80}", name):
        raise SeriesError(
            f"{name!r} is not usable in a workshop: take 1 to 80 letters, digits and '-', for example 'iris'."
        )
    return f"{who}-{name}"
