"""The one place that decides which of the reader's variables a kernel, a task, a server and a check see.

Of the names that Python, MLflow, Amazon's libraries, uvicorn and Jupyter read, only listed ones pass: the rest were set
for another project. All other variables are the reader's own, whose training may need them.
"""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping

from helpers import paths

# What would change how any program of the series runs, whoever's the server is.
_ANYWHERE = re.compile(r"PYTHON.+|UVICORN_.+|GUNICORN_.+|WEB_CONCURRENCY|FORWARDED_ALLOW_IPS|JUPYTER(LAB)?_.+")
_ANYWHERE_PASS = re.compile(
    r"PYTHON(HASHSEED|IOENCODING|UNBUFFERED|DONTWRITEBYTECODE|PYCACHEPREFIX|NOUSERSITE|TZPATH|FAULTHANDLER|BREAKPOINT)"
    r"|JUPYTER_(CONFIG_DIR|CONFIG_PATH|DATA_DIR|RUNTIME_DIR|PATH|PREFER_ENV_PATH|PLATFORM_DIRS|NO_CONFIG|TOKEN|IP|PORT)"
    r"|JUPYTER_(ALLOW_INSECURE_WRITES|SERVER_ROOT|SERVER_URL)"
)
# These name one run or experiment of the reader's: notebooks make their own.
_ONE_RUN = {"MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"}
# What leads to a server or store: with the series' own, no such setting of the reader's may.
_LEADS = re.compile(r"_?MLFLOW_.+|AWS_.+|BOTO_CONFIG")
_LEADS_PASS = re.compile(
    r"MLFLOW_(LOGGING_LEVEL|CONFIGURE_LOGGING|DISABLE_TELEMETRY|ENABLE_ARTIFACTS_PROGRESS_BAR"
    r"|SUPPRESS_PRINTING_URL_TO_STDOUT|HTTP_REQUEST_MAX_RETRIES|HTTP_REQUEST_TIMEOUT|ALLOW_PICKLE_DESERIALIZATION)"
)
# Files that boto3 would read, whatever lies in them, and the machine that it would ask for keys.
_NO_FILES = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
_NO_FILES["AWS_EC2_METADATA_DISABLED"] = "true"


def tidy(environment: MutableMapping[str, str]) -> None:
    """Take out what was set for another project, or by Kubernetes for a Service that happens to be called so.

    Parameters
    ----------
    environment : mutable mapping of str to str
        Such as ``os.environ``; changed in place.
    """
    ours = str(paths.ROOT) in environment.get("PYTHONPATH", "").split(os.pathsep)
    for name, value in list(environment.items()):
        foreign = _ANYWHERE.fullmatch(name) and not _ANYWHERE_PASS.fullmatch(name)
        of_service = name.startswith(("JUPYTER_", "MLFLOW_")) and re.match("(tcp|udp)://", value)
        if foreign or of_service or name in _ONE_RUN:
            del environment[name]
    environment["PYTHONUTF8"] = "1"  # in a locale without it MLflow's server cannot read its own files
    if not os.access(environment.get("HOME", "/"), os.W_OK):  # as of a user without one, in a container
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
            environment.setdefault(name, str(paths.work_dir() / "home" / name.lower()))
    if ours:  # what leads to this very checkout stays
        environment["PYTHONPATH"] = str(paths.ROOT)


def lead_home(environment: MutableMapping[str, str], variables: dict[str, str]) -> None:
    """Let nothing but these variables lead to a server and a store.

    Parameters
    ----------
    environment : mutable mapping of str to str
        Such as ``os.environ``; changed in place.
    variables : dict of str to str
        Of the series' own servers.
    """
    tidy(environment)
    for name in list(environment):
        if _LEADS.fullmatch(name) and not _LEADS_PASS.fullmatch(name):
            del environment[name]
    environment.update(_NO_FILES | direct(environment) | variables)


def direct(environment: MutableMapping[str, str]) -> dict[str, str]:
    """Return variables that keep a company's HTTP proxy out of the way to this machine's own servers."""
    given = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    hosts = [part.strip() for part in given.split(",") if part.strip()]
    value = "*" if "*" in hosts else ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))
    return {"NO_PROXY": value, "no_proxy": value}
