"""The checks of the exercises to notebook 07: the registry, the gate and a served model."""

from __future__ import annotations

import json

from helpers.checks.common import Names, NotYet, iris
from helpers.names import own_name


def _model() -> str:
    """Return the name of the registered model of this exercise."""
    return own_name("exercise-07")


def _by_alias(alias: str):
    """Return the version that an alias means, or None."""
    import mlflow

    client = mlflow.MlflowClient()
    try:
        aliases = client.get_registered_model(_model()).aliases
    except mlflow.MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise NotYet(
            f"the server has no registered model {_model()!r}.", "run this notebook from its top, which makes it."
        ) from None
    return client.get_model_version(_model(), aliases[alias]) if alias in aliases else None


def _kernel(version) -> str:
    import mlflow

    return mlflow.get_run(version.run_id).data.params.get("kernel", "none")


def check_07_1(names: Names) -> str:
    """Ask the registry for the version with the alias baseline."""
    version = _by_alias("baseline")
    if version is None:
        raise NotYet(
            f"{_model()} has no alias `baseline`.",
            "create a version of the first run, then call `set_registered_model_alias`.",
        )
    if version.run_id != names.get("first", str, "the id of the first run, as the set-up did,"):
        raise NotYet(
            f"`baseline` means the model with the kernel {_kernel(version)}, of another run.",
            "create the version with `first` as its run, and give the alias to that version.",
        )
    if not version.source.rstrip("/").endswith("/svc"):
        raise NotYet(
            "the version points to the run and not to the model in it.",
            "its source is `runs:/`, the id, and the folder: `svc`.",
        )
    return f"models:/{_model()}@baseline is a version of your first run, with the kernel {_kernel(version)}."


def check_07_2(names: Names) -> str:
    """Score the champion on the held-out rows again, and look for the gate's mark."""
    import mlflow
    import pandas as pd
    from sklearn.metrics import accuracy_score

    champion = _by_alias("champion")
    if champion is None:
        raise NotYet(f"{_model()} has no champion.", "offer both runs to `promote_if_better`.")
    versions = mlflow.MlflowClient().search_model_versions(f"name = '{_model()}'")
    judged = {version.run_id for version in versions if "held_out_accuracy" in version.tags}
    for name in ("first", "second"):
        if names.get(name, str, "the id of a run, as the set-up did,") not in judged:
            raise NotYet(
                f"the gate has not judged the run `{name}`.", f"call `promote_if_better` with `run_id={name}`."
            )
    rows, truth = pd.read_csv("test_data.csv"), pd.read_csv("test_target.csv")["target"]
    # It loads pickles of the reader's own runs, here and below.
    scores = {
        run_id: accuracy_score(truth, mlflow.pyfunc.load_model(f"runs:/{run_id}/svc").predict(rows))
        for run_id in judged
    }
    if scores[champion.run_id] < max(scores.values()):
        raise NotYet(
            f"the champion reaches {scores[champion.run_id]:.4f}, and another {max(scores.values()):.4f}.",
            "leave the alias to the gate: offer the better run once more.",
        )
    decision = names.get("decision", str, "what the gate said of the second run")
    if not decision.startswith(("promoted", "kept", "is the champion")):
        raise NotYet("`decision` is not what the gate said.", "keep what `promote_if_better` returns.")
    best = scores[champion.run_id]
    return (
        f"the gate judged both runs, and the champion, kernel {_kernel(champion)}, has the best accuracy: {best:.4f}."
    )


def _ask(port: int, body: dict):
    import requests

    try:
        return requests.post(
            f"http://127.0.0.1:{port}/invocations",
            data=json.dumps(body),
            timeout=60,
            headers={"Content-Type": "application/json"},
            proxies={"http": ""},
        )
    except requests.RequestException:
        raise NotYet(
            f"nobody answers at port {port}.",
            "start the server with `serving.start`, and leave the port that you gave it in `port`.",
        ) from None


def check_07_3(names: Names) -> str:
    """Ask the reader's server for every row, and compare with the champion loaded here."""
    import mlflow

    port = names.get("port", int, "the port of your model server")
    data, _ = iris()
    answer = _ask(port, {"dataframe_split": data.to_dict(orient="split", index=False)})
    predictions = None
    if answer.ok:
        try:
            predictions = answer.json().get("predictions")
        except (ValueError, AttributeError):
            predictions = None
    if not isinstance(predictions, list) or len(predictions) != len(data):
        raise NotYet(
            f"what listens at port {port} answered {answer.status_code} and no {len(data)} predictions.",
            "serve the model with `mlflow models serve`; the port is its own and no other server's.",
        )
    # The pickle that the server has loaded already.
    champion = mlflow.pyfunc.load_model(f"models:/{_model()}@champion").predict(data)
    same = sum(a == b for a, b in zip(predictions, champion, strict=True))
    if same != len(data):
        raise NotYet(
            f"the served model agrees with the champion on {same} of {len(data)} rows only.",
            f"serve `models:/{_model()}@champion`.",
        )
    return f"your server answers all {len(data)} rows as the champion does."
