"""An MLflow tracking server and an S3 store on this machine: ``python -m helpers.stack start | stop | status``."""

from helpers.stack.control import BUCKET, Stack, StackError, check_server, connect, environment, start, status, stop

__all__ = ["BUCKET", "Stack", "StackError", "check_server", "connect", "environment", "start", "status", "stop"]
