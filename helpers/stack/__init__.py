"""An MLflow tracking server and an S3 store on this machine: ``python -m helpers.stack start | stop | status``."""

from helpers.stack.access import check_server, check_store
from helpers.stack.control import Stack, connect, environment, start, status, stop
from helpers.stack.servers import BUCKET
from helpers.stack.state import StackError

__all__ = [
    "BUCKET",
    "Stack",
    "StackError",
    "check_server",
    "check_store",
    "connect",
    "environment",
    "start",
    "status",
    "stop",
]
