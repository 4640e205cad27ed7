"""The two servers: what they are started with, and whether they do their work."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import requests

from helpers import environment, paths
from helpers.stack import database, link, process
from helpers.stack.state import StackError, State, log, mark

BUCKET = "mlflow"
USUAL_PORTS = {"mlflow": 5000, "s3": 9000}
TITLES = {"mlflow": "MLflow tracking server", "s3": "S3 store"}
# The store needs a port each for S3, master, volumes, filer and administration, and a twin of each for gRPC.
_PORTS = {"mlflow": 1, "s3": 5}
_TWIN = {"mlflow": 0, "s3": process.TWIN}


def weed() -> str | None:
    """Return the program of SeaweedFS; None where there is no build for this machine."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


def names() -> tuple[str, ...]:
    """Return the servers that this machine can run, in the order in which they start."""
    return ("s3", "mlflow") if weed() else ("mlflow",)


def database_file() -> Path:
    """Return where the MLflow server keeps runs and registered models."""
    return mark("mlflow") / "mlflow.db"


def choose_ports(name: str, before: list[int], usual: bool) -> list[int]:
    """Choose the ports of a server.

    Parameters
    ----------
    name : str
        ``"mlflow"`` or ``"s3"``.
    before : list of int
        Those that it had.
    usual : bool
        Whether it may have these, or the usual one, if they are free.

    Returns
    -------
    list of int
        Free ones; no port is another one's twin.
    """
    twin = _TWIN[name]
    if usual and before and all(process.is_free(port, twin) for port in before):
        return before
    ports = [USUAL_PORTS[name]] if usual and process.is_free(USUAL_PORTS[name], twin) else []
    while len(ports) < _PORTS[name]:
        ports = list(dict.fromkeys([*ports, process.free_port(twin)]))
    return ports


def spawn(state: State, name: str, *, usual_port: bool) -> str | None:
    """Start a server's process; whether it comes up is not waited for.

    Parameters
    ----------
    state : State
        Gets the ports, and is stored.
    name : str
        ``"mlflow"`` or ``"s3"``.
    usual_port : bool
        As for `choose_ports`.

    Returns
    -------
    str or None
        What happened to a damaged database, in words for the learner.
    """
    process.end(process.alive(mark(name)))  # what a killed server or a lost state left behind has the data open
    mark(name).mkdir(exist_ok=True)
    with os.fdopen(_hold(name)) as held:
        mended = database.mend(database_file()) if name == "mlflow" else None
        file = log(name)
        file.parent.mkdir(exist_ok=True)
        if file.exists():
            file.replace(file.with_suffix(".previous.log"))
        state.ports[name] = choose_ports(name, state.ports.get(name, []), usual_port)
        state.write()
        with open(file, "wb") as stream:
            # A session of its own: an interrupted kernel must not take the servers with it.
            subprocess.Popen(
                _command(state, name),
                env=_environment(state, name),
                cwd=mark(name),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[held.fileno()],
            )
    return mended


def _hold(name: str) -> int:
    """Lock a server's data, for the server to keep as long as it lives: others may not see its process.

    Raises
    ------
    StackError
        If it runs where this process sees nothing, such as in another container.
    """
    held = os.open(paths.work_dir() / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise StackError(
            f"The {TITLES[name]} of {paths.work_dir()} runs elsewhere already, as in another container, and nothing "
            "was touched. Stop it there, or name a state folder of your own in SERIES_WORK."
        ) from None
    except OSError:  # a file system without locks
        pass
    return held


def answers(state: State, name: str) -> bool:
    """Tell whether it is our server that listens at its port, and whether it answers."""
    if name not in state.ports or not process.listens(process.alive(mark(name)), state.ports[name][0]):
        return False
    try:
        if name == "s3":
            _s3(state).list_objects_v2(Bucket=BUCKET, MaxKeys=1)
            return True
        return requests.get(
            f"{state.url(name)}/api/2.0/mlflow/experiments/search",
            params={"max_results": 1},
            timeout=10,
            proxies={"http": ""},
        ).ok
    except Exception:  # noqa: BLE001 - whatever it is, the server is not ready
        return False


def takes_files(state: State) -> bool:
    """Tell whether the store can write, and could since it began.

    After a full disk it refuses for a minute, though there is room again. The part of its database that could not be
    written refuses until the end: files then go into folders that no listing shows.
    """
    for attempt in range(3):
        with contextlib.suppress(Exception):  # whatever it is, it did not write
            client = _s3(state)
            client.put_object(Bucket=BUCKET, Key=".probe", Body=b"probe")
            client.delete_object(Bucket=BUCKET, Key=".probe")
            return not (log("s3").exists() and b"no space left on device" in log("s3").read_bytes())
        time.sleep(attempt / 2)
    return False


def _command(state: State, name: str) -> list[str]:
    ports, data = state.ports[name], mark(name)
    if name == "s3":
        flags = {
            "dir": ".",  # the server runs in its folder, whose name may hold what an address may not
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "bucket": BUCKET,
            "s3.port": ports[0],
            "master.port": ports[1],
            "volume.port": ports[2],
            "filer.port": ports[3],
            "admin.port": ports[4],
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "webdav": "false",
            "admin.ui": "false",
            "master.telemetry": "false",
        }
        return [weed(), "-logtostderr=true", "mini", *(f"-{flag}={value}" for flag, value in flags.items())]
    bucket = f"s3://{BUCKET}" if weed() else (data / "artifacts").as_uri()
    # Clients with keys write to the bucket themselves; an experiment whose location begins with
    # mlflow-artifacts: goes through the server instead. In a workshop all do, and no learner has keys.
    with_keys = weed() and not state.learners
    options = {
        "host": "127.0.0.1",
        "port": ports[0],
        "workers": 1,
        "backend-store-uri": f"sqlite:///{database_file().name}",
        "default-artifact-root": bucket if with_keys else "mlflow-artifacts:/",
        "artifacts-destination": bucket,
    }
    return [
        # Not by "-m", which needs the helpers to be installed; and without this folder's names in the way (-P).
        sys.executable,
        "-P",
        str(Path(__file__).with_name("mlflow_server.py")),
        *(f"--{option}={value}" for option, value in options.items()),
        "--serve-artifacts",
    ]


def _environment(state: State, name: str) -> dict[str, str]:
    keys = {"AWS_ACCESS_KEY_ID": state.access_key, "AWS_SECRET_ACCESS_KEY": state.secret_key}
    inherited = dict(os.environ)
    environment.lead_home(inherited, {process.MARK: str(mark(name))})
    if name == "s3":
        return inherited | keys
    # The default pool of five connections fails half of thirty simultaneous clients. Each learner has a kernel and a
    # browser; the series itself runs a few tasks at once.
    pool = str(max(40, 2 * (state.learners or 0)))
    lean = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # nine processes that the series has no use for
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": pool,
        "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": pool,
    }
    if link.gateway_prefix():
        # MLflow refuses names that are not this machine's, lest a page in a browser here reach it through a
        # rebound DNS name. Jupyter's proxy passes on the gateway's name, which nobody in the pod knows: let
        # any name come. No browser runs here, the server listens on loopback alone, and the way in leads
        # past the gateway's log-in. With "*" MLflow takes no credentials from pages of other origins, so
        # such a page in the reader's browser reads nothing, and the JSON that it sends is not let through.
        lean |= {"MLFLOW_SERVER_ALLOWED_HOSTS": "*", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "*"}
    if weed():
        lean |= keys | {"MLFLOW_S3_ENDPOINT_URL": state.url("s3"), "AWS_DEFAULT_REGION": "us-east-1"}
    return inherited | lean


def _s3(state: State):
    from botocore.config import Config
    from botocore.session import Session

    # The reader's profile and files have nothing to do with this store.
    none = dict.fromkeys(("config_file", "credentials_file"), (None, None, os.devnull, None))
    return Session({"profile": (None, None, None, None), **none}).create_client(
        "s3",
        endpoint_url=state.url("s3"),
        region_name="us-east-1",
        aws_access_key_id=state.access_key,
        aws_secret_access_key=state.secret_key,
        config=Config(connect_timeout=5, read_timeout=10, retries={"max_attempts": 0}, proxies={}),
    )
