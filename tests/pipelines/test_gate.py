"""The gate of notebook 07 against a real server: who becomes champion, and what a refusal leaves behind."""

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sklearn.datasets import load_iris
from sklearn.dummy import DummyClassifier
from sklearn.svm import SVC

from helpers import begin, paths
from helpers.pipelines.gate import promote_if_better

X, y = load_iris(return_X_y=True, as_frame=True)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Five rows of each species."""
    folder = tmp_path_factory.mktemp("rows")
    chosen = y.groupby(y).head(5).index
    X.loc[chosen].to_csv(folder / "data.csv", index=False)
    y.loc[chosen].to_frame("target").to_csv(folder / "target.csv", index=False)
    return {"test_data": str(folder / "data.csv"), "test_target": str(folder / "target.csv")}


@pytest.fixture
def offer(servers, rows, tmp_path, request):
    """Log a model to a run of its own and let the gate judge it; returns the gate's word."""
    name = f"gate-{request.node.name.translate(str.maketrans('[]', '--'))}"
    mlflow.set_tracking_uri(servers.tracking_uri)
    client = MlflowClient(servers.tracking_uri)
    experiment = client.get_experiment_by_name("gate")
    experiment_id = experiment.experiment_id if experiment else client.create_experiment("gate")

    def log(model):
        run_id = client.create_run(experiment_id).info.run_id
        folder = tmp_path / run_id
        mlflow.sklearn.save_model(model, folder, pip_requirements=["scikit-learn"])
        client.log_artifacts(run_id, str(folder), "svc")
        client.set_terminated(run_id)
        return run_id

    def judge(run_id, registered_model_name=name, **other):
        return promote_if_better(
            **rows | other,
            run_id=run_id,
            model_name="svc",
            registered_model_name=registered_model_name,
            mlflow_tracking_uri=servers.tracking_uri,
            mlflow_s3_endpoint_url=servers.s3_endpoint_url,
        )

    judge.log, judge.client, judge.name = log, client, name
    judge.champion = lambda: client.get_model_version_by_alias(name, "champion").run_id
    judge.versions = lambda: client.search_model_versions(f"name = '{name}'")
    return judge


def always(species):
    return DummyClassifier(strategy="constant", constant=species).fit(X, y)


def test_the_first_is_champion_and_a_better_one_takes_its_place(offer):
    poor, good = offer.log(always(0)), offer.log(SVC().fit(X, y))
    assert offer(poor) == "promoted: 0.3333" and offer.champion() == poor
    assert offer(good) == "promoted: 1.0000 beats 0.3333" and offer.champion() == good


def test_a_worse_one_is_registered_with_its_score_and_changes_nothing(offer):
    good, poor = offer.log(SVC().fit(X, y)), offer.log(always(1))
    offer(good)
    assert offer(poor) == "kept the champion: 0.3333 does not beat 1.0000" and offer.champion() == good
    scores = {version.run_id: float(version.tags["held_out_accuracy"]) for version in offer.versions()}
    assert scores == {good: 1.0, poor: pytest.approx(1 / 3)}


def test_a_tie_keeps_the_champion(offer):
    first, second = offer.log(always(0)), offer.log(always(1))
    offer(first)
    assert offer(second) == "kept the champion: 0.3333 does not beat 0.3333" and offer.champion() == first


def test_a_retry_makes_no_second_version(offer):
    run_id = offer.log(always(0))
    offer(run_id)
    assert offer(run_id) == "is the champion already"
    assert len(offer.versions()) == 1


def test_a_model_that_does_not_load_gets_no_version(offer):
    offer(offer.log(always(0)))
    with pytest.raises(MlflowException):
        offer(offer.client.create_run("0").info.run_id)
    assert len(offer.versions()) == 1


@pytest.mark.parametrize(
    ("metric", "worse", "better"),
    [("balanced_accuracy", 0.3333, 1), ("f1_macro", 0.1667, 1), ("r2", -1.5, 1), ("accuracy", 0.3333, 1)],
)
def test_the_metric_decides(offer, metric, worse, better):
    poor, good = offer.log(always(0)), offer.log(SVC().fit(X, y))
    assert offer(poor, metric=metric) == f"promoted: {worse:.4f}"
    assert offer(good, metric=metric) == f"promoted: {better:.4f} beats {worse:.4f}"
    assert offer(poor, metric=metric) == f"kept the champion: {worse:.4f} does not beat {better:.4f}"
    assert all(f"held_out_{metric}" in version.tags for version in offer.versions())


def test_without_a_metric_no_gate_decides(offer):
    good, poor = offer.log(SVC().fit(X, y)), offer.log(always(1))
    offer(good)
    assert offer(poor, metric="") == "promoted: no gate decides" and offer.champion() == poor


def test_an_unknown_metric_is_refused_with_the_known_ones(offer):
    with pytest.raises(
        ValueError, match="metric='auc' is unknown: take one of accuracy, .*neg_mean_absolute_error or ''"
    ):
        offer("0" * 32, metric="auc")


def test_rows_may_be_parquet(offer, rows, tmp_path):
    parquet = {}
    for name, path in rows.items():
        parquet[name] = str(tmp_path / name)
        pd.read_csv(path).to_parquet(parquet[name])
    assert offer(offer.log(always(0)), **parquet) == "promoted: 0.3333"


@pytest.mark.parametrize("name", ["", "../svc", "a/b", "it's", "models:/x", "x' or name != '"])
def test_a_bad_name_is_refused_before_anything_is_registered(offer, name):
    before = len(offer.client.search_registered_models())
    with pytest.raises(ValueError, match="registered_model_name"):
        offer("0" * 32, registered_model_name=name)
    assert len(offer.client.search_registered_models()) == before


def test_only_a_notebooks_own_registered_model_is_emptied(offer):
    begin.registered_model("mine", "07_test")
    offer.client.create_model_version("mine", f"runs:/{(run_id := offer.log(always(0)))}/svc", run_id)
    begin.registered_model("mine", "07_test")
    assert not offer.client.search_model_versions("name = 'mine'")
    with pytest.raises(paths.SeriesError, match="Take another registered_model_name"):
        begin.registered_model("mine", "08_test")
    offer(run_id)
    with pytest.raises(paths.SeriesError, match="did not make"):
        begin.registered_model(offer.name, "07_test")
    assert len(offer.versions()) == 1
    with pytest.raises(paths.SeriesError, match="registered_model_name='a/b'"):
        begin.registered_model("a/b", "07_test")
