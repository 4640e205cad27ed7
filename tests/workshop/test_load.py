"""Thirty learners at once on the one server of a workshop: nothing lost, nothing mixed up."""

import os

import pytest

from helpers.workshop import status
from tools.bench import learners

CLASS = 30


@pytest.mark.nightly
def test_thirty_learners_at_once_lose_and_mix_up_nothing(place):
    servers = status.start(CLASS)
    found = learners.measure(servers.tracking_uri, CLASS)
    print(f"{CLASS} learners: {found}")
    assert not found.wrong, found.wrong
    assert found.runs == CLASS * learners.RUNS
    assert found.memory > 0
    assert "AWS_ACCESS_KEY_ID" not in os.environ, "learners had keys"


@pytest.mark.slow
def test_a_file_of_another_learner_is_seen(place, tmp_path):
    """The load test itself can fail: exchange one file and lose one run."""
    from mlflow import MlflowClient

    uri = status.start(CLASS).tracking_uri
    client = MlflowClient(uri)
    model = tmp_path / "model"
    model.mkdir()
    experiment = client.create_experiment("ann-iris")
    runs = [learners._log(client, experiment, "ann", model, tmp_path / "scratch") for _ in range(learners.RUNS)]
    assert learners.read_back(uri, ["ann"]) == (learners.RUNS, [])
    (tmp_path / learners.NAMED).write_text("bob's")
    client.log_artifact(runs[0], str(tmp_path / learners.NAMED), "svc")
    client.set_terminated(runs[1], "FAILED")
    client.delete_run(runs[2])
    finished, wrong = learners.read_back(uri, ["ann"])
    assert finished == learners.RUNS - 2
    assert wrong == ['ann: the file of a run says "bob\'s"', "ann: 5 runs, 4 FINISHED, of 6"]
