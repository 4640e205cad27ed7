"""``mlflow server`` in one process: run this file with the options of that command.

MLflow's own command looks after the database and then starts uvicorn as a second process, which imports everything
once more while the first one waits. Here uvicorn runs in the first, with what it has imported already. Should MLflow
start its server otherwise one day, this does what ``mlflow server`` does.
"""

from __future__ import annotations

import os
import sys

import uvicorn  # before MLflow, which guards Host and Origin only where it sees that it is served
from mlflow import server
from mlflow.cli import cli


def _serve(command: list[str], *, extra_env: dict[str, str], **_: object) -> None:
    """Do in this process what the command ``python -m uvicorn ...`` would do in another one."""
    os.environ.update(extra_env)
    uvicorn.main(command[command.index("uvicorn") + 1 :])


if __name__ == "__main__":
    (store,) = [option.partition("=")[2] for option in sys.argv if option.startswith("--backend-store-uri=")]
    if os.path.exists(store.removeprefix("sqlite:///")):
        # An MLflow of before may have made it, and the server refuses another one's tables.
        cli(["db", "upgrade", store], standalone_mode=False)
    server._exec_cmd = _serve
    cli(["server", *sys.argv[1:]])
