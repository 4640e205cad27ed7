"""Give a command, or a test, the stand-in of a cluster: ``python -m tests.support.with_cluster COMMAND ...``.

The stand-in plays the KFP API, and the stack of this machine plays the cluster's MLflow server as the
overlay "proxied" sets it up: tasks have no S3 keys, files go through the server.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from unittest import mock

from mlflow import MlflowClient

from helpers import paths, stack

from .clean import clean
from .kfp_server import serve

EXPERIMENT = "iris-on-kubeflow"  # of notebook 06


@contextlib.contextmanager
def cluster(**options) -> Iterator[str]:
    """Set the environment of this process to that of a reader who forwarded the ports of a cluster.

    Parameters
    ----------
    options
        Of `kfp_server.serve`.

    Yields
    ------
    str
        Address of the KFP API.
    """
    servers = stack.start()
    tracking_uri = servers.tracking_uri
    client = MlflowClient(tracking_uri)
    if client.get_experiment_by_name(EXPERIMENT) is None:
        client.create_experiment(EXPERIMENT, artifact_location=f"mlflow-artifacts:/{EXPERIMENT}")
    reader = clean(os.environ, SERIES_WORK=str(paths.work_dir()))
    reader.pop("CI", None)
    overrides = {"mlflow_tracking_uri": tracking_uri, "mlflow_s3_endpoint_url": servers.s3_endpoint_url or ""}
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, reader, clear=True):
        with serve(overrides=overrides, **options) as url:
            os.environ |= {
                "KF_PIPELINES_ENDPOINT": url,
                "MLFLOW_TRACKING_URI": tracking_uri,
                "KF_PIPELINES_SA_TOKEN_PATH": f"{folder}/no-token",
            }
            yield url


if __name__ == "__main__":
    with cluster():
        sys.exit(subprocess.run(sys.argv[1:]).returncode)
