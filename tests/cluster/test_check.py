"""`make cluster-check` against the stand-in: what it sends, says, counts as failed and leaves behind."""

import os

import boto3
import pytest
import requests
from mlflow import MlflowClient
from support.with_cluster import cluster

from helpers import stack
from helpers.cluster import check
from helpers.cluster.api import ClusterError


def as_a_namespace_with_keys(servers):
    """Give this process, and so the stand-in's tasks, keys of a store that has Kubeflow's bucket."""
    os.environ |= {name: value for name, value in stack.environment().items() if name.startswith("AWS_")}
    os.environ["MLFLOW_S3_ENDPOINT_URL"] = servers.s3_endpoint_url
    boto3.client("s3", endpoint_url=servers.s3_endpoint_url, region_name="us-east-1").create_bucket(Bucket="mlpipeline")


def left_over(host, server):
    """What a cluster and an MLflow server have that was made by a check."""
    kinds = ("runs", "pipelines", "experiments", "recurringruns")
    found = [requests.get(f"{host}/apis/v2beta1/{kind}", timeout=5).json() for kind in kinds]
    client = MlflowClient(server)
    models = [model.name for model in client.search_registered_models()]
    return found, [one.name for one in client.search_experiments() if "check" in one.name], models


@pytest.mark.slow
def test_each_part_is_tried_and_what_fails_is_said_counted_and_cleaned_up(place, servers, capsys, monkeypatch):
    def fails(_):
        raise ValueError("no such\nluck")

    monkeypatch.setattr(check.Check, "sweep", fails)
    monkeypatch.setattr(check.Check, "run_notebook", lambda _: ("green", 61.6))
    with cluster() as host:
        as_a_namespace_with_keys(servers)
        assert check.main(["--params", "keys=direct"]) == 1
        assert left_over(host, servers.tracking_uri) == ([{}] * 4, [], [])
    said = capsys.readouterr().out
    assert "train-from-csv                  succeeded" in said and "details" not in said
    table = said[said.index("| what |") :]
    for row in (
        r"| `deploy/mlflow_pipeline.yaml` | SUCCEEDED, 7 files of its model on the MLflow server | ",
        r"| `deploy/lean_pipeline.yaml` | SUCCEEDED, 7 files of its model on the MLflow server, champion is version 1 | ",
        "| the sweep of notebook 08 | **failed**: ValueError: no such luck | 0 s |",
        "| notebook 06 | green | 62 s |",
    ):
        assert row in table, table


@pytest.mark.nightly
def test_a_whole_check_is_green(place, servers, capsys):
    with cluster() as host:
        as_a_namespace_with_keys(servers)
        assert check.main(["--params", "keys=direct"]) == 0, capsys.readouterr()
        assert left_over(host, servers.tracking_uri) == ([{}] * 4, [], [])
    assert "green: run, log of a task that fails, schedule" in capsys.readouterr().out


def test_a_cluster_that_does_not_answer_is_a_sentence(place, capsys):
    with cluster(down=True):
        assert check.main([]) == 1
    assert "No KFP API answers" in capsys.readouterr().err


def test_a_table_is_put_in_its_place_in_the_readme_and_nowhere_else(tmp_path):
    readme = tmp_path / "README.md"
    marks = "before\n<!-- cluster-check image -->\nold\n<!-- end of it -->\nafter <!-- end of it -->\n"
    readme.write_text(marks)
    check.record("| new |", "image", readme)
    assert readme.read_text() == marks.replace("\nold\n", "\n\n| new |\n\n")
    with pytest.raises(ClusterError, match="README.md has no place for the table: <!-- cluster-check packages -->"):
        check.record("| new |", "packages", readme)
