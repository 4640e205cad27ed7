"""Reach Kubeflow Pipelines on a cluster, and follow what runs there."""

from helpers.cluster.api import ClusterError, check_api, endpoint, namespace, place, token
from helpers.cluster.pipeline import arguments, check_versions, find_pipeline, for_backend, parameters
from helpers.cluster.ports import close_ports, mlflow_uri, open_ports
from helpers.cluster.runs import failed_nodes, follow, read_log, said_last, state_of, task_details

__all__ = [
    "ClusterError",
    "arguments",
    "check_api",
    "check_versions",
    "close_ports",
    "endpoint",
    "failed_nodes",
    "find_pipeline",
    "follow",
    "for_backend",
    "mlflow_uri",
    "namespace",
    "open_ports",
    "parameters",
    "place",
    "read_log",
    "said_last",
    "state_of",
    "task_details",
    "token",
]
