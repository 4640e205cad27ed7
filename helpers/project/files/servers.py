"""A real MLflow server and a real S3 store for the tests, on this machine's loopback alone."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import unittest
from pathlib import Path
from unittest import mock


def free_ports(count):
    """Return ports that are free, and whose twin is, which the store takes as well."""
    ports = set()
    while len(ports) < count:
        with contextlib.suppress(OSError, OverflowError), socket.socket() as one, socket.socket() as twin:
            one.bind(("127.0.0.1", 0))
            twin.bind(("127.0.0.1", one.getsockname()[1] + 10_000))
            ports.add(one.getsockname()[1])
    return ports


@contextlib.contextmanager
def running(folder):
    """Run both with their data in a folder; the environment leads to them and to nothing else."""
    weed = shutil.which("weed", path=Path(sys.executable).parent)
    if weed is None:
        raise unittest.SkipTest("there is no build of SeaweedFS for this machine")
    s3, master, volume, filer, admin, mlflow = free_ports(6)
    own = {"AWS_ACCESS_KEY_ID": secrets.token_hex(8), "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16)}
    own |= {"AWS_DEFAULT_REGION": "us-east-1", "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{s3}"}
    own |= {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{mlflow}", "MLFLOW_DISABLE_TELEMETRY": "true"}
    own |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_"))}
    flags = f"-dir=. -ip=127.0.0.1 -ip.bind=127.0.0.1 -bucket=mlflow -s3.port={s3} -master.port={master} "
    flags += f"-volume.port={volume} -filer.port={filer} -admin.port={admin} -s3.port.iceberg=0 "
    flags += "-s3.port.lance=0 -webdav=false -admin.ui=false -master.telemetry=false"
    options = f"--host 127.0.0.1 --port {mlflow} --workers 1 --backend-store-uri sqlite:///mlflow.db "
    options += "--default-artifact-root s3://mlflow --artifacts-destination s3://mlflow"
    serve = [sys.executable, "-m", "mlflow", "server", *options.split()]
    commands = {s3: [weed, "-logtostderr=true", "mini", *flags.split()], mlflow: serve}
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, kept | own, clear=True))
        for port, command in commands.items():
            log = stack.enter_context(open(Path(folder, f"{port}.log"), "w+b"))
            begin = {"cwd": folder, "stdout": log, "stderr": log, "start_new_session": True}
            server = stack.enter_context(subprocess.Popen(command, **begin))
            stack.callback(os.killpg, server.pid, signal.SIGTERM)
            while socket.socket().connect_ex(("127.0.0.1", port)):
                if server.poll() is not None:
                    raise RuntimeError(Path(log.name).read_text()[-2000:])
                time.sleep(0.2)
        yield own
