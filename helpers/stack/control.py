"""An MLflow tracking server and an S3 store on this machine.

``python -m helpers.stack start | stop | status``
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import dataclasses
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import filelock
import psutil
import requests

from helpers import paths, serving
from helpers.paths import SeriesError
from helpers.stack import database, link, lost_runs

BUCKET = "mlflow"
USUAL_PORTS = {"mlflow": 5000, "s3": 9000}
START_SECONDS = 120
LOG_LINES = 15
_TAKEN = ("address already in use", "port allocation failed")  # what the servers say of a port that somebody has


class StackError(SeriesError):
    """A server of the stack did not start, does not answer or cannot be reached."""


@dataclasses.dataclass(frozen=True)
class Stack:
    """Where the servers are.

    Attributes
    ----------
    tracking_uri : str
        Address of the MLflow tracking server.
    s3_endpoint_url : str or None
        Address of the S3 store; None where artifacts lie elsewhere.
    """

    tracking_uri: str
    s3_endpoint_url: str | None

    def link(self, page: str = "", text: str = "MLflow UI"):
        """Return a link to a page of the MLflow UI that the reader's browser can open.

        Parameters
        ----------
        page : str
            What follows ``#/`` in the address bar, such as ``"experiments/1/runs"``.
        text : str
            What the link says.

        Returns
        -------
        IPython.display.HTML
            A link for a browser on this machine and, inside Jupyter, a second
            one through Jupyter's own address, for a browser elsewhere. Behind a
            gateway every browser is elsewhere: then the second one alone.
        """
        from IPython.display import HTML

        page += "?workflowType=machine_learning"  # or the UI opens in its mode for generative AI
        server, base = urlsplit(self.tracking_uri), link.jupyter_base_url()
        addresses = {text: f"{self.tracking_uri}/#/{page}"}
        if base is not None and server.port is not None and server.hostname in ("127.0.0.1", "localhost"):
            through = f"{base}proxy/{server.port}/#/{page}"
            addresses = {text: through} if link.gateway_prefix() else addresses | {"the same through Jupyter": through}
        links = [f'<a href="{address}" target="_blank">{words}</a>' for words, address in addresses.items()]
        return HTML(" · ".join(links))


def connect() -> Stack:
    """Make the servers ready and set the standard variables for them in this process.

    If ``MLFLOW_TRACKING_URI`` names a server of the reader's own, that one is
    used and none is started. Sets ``MLFLOW_TRACKING_URI`` and, for the stack of
    this machine, ``MLFLOW_S3_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID`` and
    ``AWS_SECRET_ACCESS_KEY``.

    Returns
    -------
    Stack
        Where the servers are.

    Raises
    ------
    StackError
        If a server does not answer or does not start.
    """
    os.environ.update(_direct())
    given = os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    if given and given != os.environ.get("_SERIES_TRACKING_URI"):
        check_server(given)
        return Stack(given, os.environ.get("MLFLOW_S3_ENDPOINT_URL"))
    stack = start()
    os.environ.update(environment())
    for foreign in ("AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_PROFILE"):
        os.environ.pop(foreign, None)  # parts of another set of keys, which ours must not be mixed with
    os.environ["_SERIES_TRACKING_URI"] = stack.tracking_uri
    with contextlib.suppress(OSError):
        lost_runs.process_mark()
    atexit.unregister(_keep_copy)
    atexit.register(_keep_copy)
    return stack


def check_server(tracking_uri: str) -> None:
    """Find out in seconds whether an MLflow server answers.

    Parameters
    ----------
    tracking_uri : str
        Its address.

    Raises
    ------
    StackError
        If it does not.
    """
    if not tracking_uri.startswith(("http://", "https://")):
        raise StackError(
            f"MLFLOW_TRACKING_URI is {tracking_uri!r}, which is no server: the series needs one. "
            "Unset the variable to let the series start its own."
        )
    try:
        requests.get(f"{tracking_uri}/health", timeout=5).raise_for_status()
    except requests.RequestException as error:
        raise StackError(
            f"No MLflow server answers at {tracking_uri} ({type(error).__name__}). Start it, or mend or unset "
            "MLFLOW_TRACKING_URI: without that variable the series starts a server of its own."
        ) from None


def environment() -> dict[str, str]:
    """Return the standard variables that lead to the stack of this machine.

    Returns
    -------
    dict of str to str
        To be merged into ``os.environ`` of a process that talks to the stack.

    Raises
    ------
    StackError
        If no stack was ever started here.
    """
    state = _read_state()
    if "mlflow" not in state["servers"]:
        raise StackError("The stack of this machine is not up. Start it: python -m helpers.stack start")
    variables = {"MLFLOW_TRACKING_URI": _url(state, "mlflow"), **_direct()}
    if "s3" in state["servers"]:
        variables |= {
            "MLFLOW_S3_ENDPOINT_URL": _url(state, "s3"),
            "AWS_ACCESS_KEY_ID": state["access_key"],
            "AWS_SECRET_ACCESS_KEY": state["secret_key"],
            "AWS_DEFAULT_REGION": "us-east-1",  # any: the client wants one, the store ignores it
        }
    return variables


def start(*, learners: int | None = None, port: int | None = None) -> Stack:
    """Start what is not running, wait until both servers answer, and say so.

    Safe to call again, and from several kernels at once. A server that has died
    is started again with its data; runs whose process has died are ended, and a
    damaged database is replaced by its copy.

    Parameters
    ----------
    learners : int, optional
        For how many learners of a workshop: MLflow then passes on the files of
        all new experiments, and is started again if it runs otherwise. It stays
        so, also when it is started again without this, until `stop`.
    port : int, optional
        Of the MLflow server; a usual or a free one if not given.

    Returns
    -------
    Stack
        Where the servers are.

    Raises
    ------
    StackError
        If a server does not come up, and the message carries its last log lines;
        or if the port is another program's.
    """
    names = ("s3", "mlflow") if _weed() else ("mlflow",)
    spawned: set[str] = set()
    refused = False
    full = f"The S3 store takes no files. Free some space on the disk of {paths.work_dir()}, then run this again."
    paths.check_work_dir()
    with _locked(progress=True):
        state = _read_state()
        _prepare(state, learners, port)
        try:
            for attempt in range(3):
                begin = time.monotonic()
                for name in names:
                    if not _alive(state, name):
                        store = _store(state)
                        spawned.add(name)
                        _spawn(state, name, usual_port=attempt == 0 or refused or name == "mlflow" and port is not None)
                        if _store(state) != store:
                            _end(state, "mlflow")  # it was told the store's old address: goes next
                try:
                    for name in names:
                        _wait_until_ready(state, name, begin, name in spawned)
                    if not _weed() or _takes_files(state):
                        break
                    if refused:
                        raise StackError(full)
                    refused, name = True, "s3"
                    raise _Again
                except _Again:
                    _end(state, name)
                except StackError:
                    if refused and name == "s3":  # it can write nothing when it starts either, and says so in Go
                        raise StackError(full) from None
                    raise
            else:
                raise StackError(f"Three times a server ended while it was starting. Look into {_log(name)}.")
        except (SeriesError, OSError):
            _say("The servers did not start. What went wrong:", done=True)
            for name in spawned:
                _end(state, name)
            raise
        if not state["learners"]:  # whose processes are on other machines
            lost_runs.end_lost_runs(_url(state, "mlflow"))
        _keep_copy()
    _say(
        "The MLflow tracking server and the S3 store are ready."
        if _weed()
        else "The MLflow tracking server is ready. SeaweedFS has no build for this machine: artifacts go to a local folder.",
        done=True,
    )
    return Stack(_url(state, "mlflow"), _url(state, "s3") if _weed() else None)


def stop() -> list[str]:
    """End exactly the processes that `start` and `serving.start` started; the data stay.

    Returns
    -------
    list of str
        Names of the servers that were running.
    """
    if not paths.work_dir().exists():
        return []
    with _locked():
        state = _read_state()
        serving.stop_all(paths.work_dir())
        running = [name for name in ("mlflow", "s3") if _alive(state, name) or _strays(state, name)]
        for name in running:
            _end(state, name)
        _keep_copy()
        if state["learners"]:
            state["learners"] = None
            with contextlib.suppress(OSError):  # a full disk
                _write_state(state)
    return running


def status() -> dict[str, dict]:
    """Return what is running.

    Returns
    -------
    dict of str to dict
        For ``"mlflow"`` and ``"s3"`` the keys ``running`` (bool), ``url`` (str
        or None), ``memory`` (resident bytes of all its processes) and ``log``
        (pathlib.Path).
    """
    state = _read_state()
    answer = {}
    for name in ("mlflow", "s3"):
        tree = _tree(state, name)
        answer[name] = {
            "running": bool(tree),
            "url": _url(state, name) if tree else None,
            "memory": sum(_resident(process) for process in tree),
            "log": _log(name),
        }
    return answer


# --- the two servers -----------------------------------------------------------------------------


def _prepare(state: dict, learners: int | None, port: int | None) -> None:
    """End an MLflow server that is not the one asked for, and note what is asked for."""
    ports = state["servers"].get("mlflow", {}).get("ports")
    if port is not None and ports != [port]:
        if not _is_free(port, 0):
            raise StackError(f"Port {port} is taken by another program. Take another one, or let a free one be found.")
        _end(state, "mlflow")
        state["servers"]["mlflow"] = {"ports": [port], "pid": None, "created": None}
    if learners is not None and learners != state["learners"]:
        _end(state, "mlflow")
        state["learners"] = learners


def _command(state: dict, name: str) -> list[str]:
    ports, data = state["servers"][name]["ports"], paths.work_dir() / name
    if name == "s3":
        # Each HTTP port of SeaweedFS has a twin for gRPC at +10000.
        flags = {
            "dir": data,
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
        return [_weed(), "-logtostderr=true", "mini", *(f"-{flag}={value}" for flag, value in flags.items())]
    bucket = f"s3://{BUCKET}" if _weed() else (data / "artifacts").as_uri()
    # Clients with keys write to the bucket themselves; an experiment whose location begins with
    # mlflow-artifacts: goes through the server instead. In a workshop all do, and no learner has keys.
    direct = _weed() and not state["learners"]
    return [
        # Not by "-m", which needs the helpers to be installed; and without this folder's names in the way (-P).
        sys.executable,
        "-P",
        str(Path(__file__).with_name("mlflow_server.py")),
        "--host",
        "127.0.0.1",
        "--port",
        str(ports[0]),
        "--workers",
        "1",
        "--backend-store-uri",
        f"sqlite:///{_database()}",
        "--default-artifact-root",
        bucket if direct else "mlflow-artifacts:/",
        "--serve-artifacts",
        "--artifacts-destination",
        bucket,
    ]


def _environment(state: dict, name: str) -> dict[str, str]:
    keys = {"AWS_ACCESS_KEY_ID": state["access_key"], "AWS_SECRET_ACCESS_KEY": state["secret_key"]}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "MLFLOW_"))}
    inherited["_SERIES_SERVER"] = _mark(name)
    if name == "s3":
        return inherited | keys
    # The default pool of five connections fails half of thirty simultaneous clients. Each learner has a kernel and a
    # browser; the series itself runs a few tasks at once.
    pool = str(max(40, 2 * (state["learners"] or 0)))
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
    if _weed():
        lean |= keys | {"MLFLOW_S3_ENDPOINT_URL": _url(state, "s3"), "AWS_DEFAULT_REGION": "us-east-1"}
    return inherited | lean | _direct()


def _answers(state: dict, name: str) -> bool:
    try:
        if name == "mlflow":
            answer = requests.get(
                f"{_url(state, name)}/api/2.0/mlflow/experiments/search",
                params={"max_results": 1},
                timeout=10,
                proxies={"http": ""},
            )
            return answer.ok
        _s3(state).list_objects_v2(Bucket=BUCKET, MaxKeys=1)
        return True
    except Exception:  # noqa: BLE001 - whatever it is, the server is not ready
        return False


def _takes_files(state: dict) -> bool:
    """Tell whether the store can write, and could since it began.

    After a full disk it refuses for a minute, though there is room again. The part of its database that could not be
    written refuses until the end: files then go into folders that no listing shows.
    """
    for attempt in range(3):
        with contextlib.suppress(Exception):  # whatever it is, it did not write
            client = _s3(state)
            client.put_object(Bucket=BUCKET, Key=".probe", Body=b"probe")
            client.delete_object(Bucket=BUCKET, Key=".probe")
            return not (_log("s3").exists() and b"no space left on device" in _log("s3").read_bytes())
        time.sleep(attempt / 2)
    return False


def _s3(state: dict):
    from botocore.config import Config
    from botocore.session import Session

    # Without a profile: the reader's AWS_PROFILE has nothing to do with this store.
    return Session({"profile": (None, None, None, None)}).create_client(
        "s3",
        endpoint_url=_url(state, "s3"),
        region_name="us-east-1",
        aws_access_key_id=state["access_key"],
        aws_secret_access_key=state["secret_key"],
        config=Config(connect_timeout=5, read_timeout=10, retries={"max_attempts": 0}, proxies={}),
    )


def _wait_until_ready(state: dict, name: str, begin: float, spawned: bool) -> None:
    title = {"mlflow": "MLflow tracking server", "s3": "S3 store"}[name]
    said = 0
    while not (_listens(state, name) and _answers(state, name)):
        seconds = time.monotonic() - begin
        if not _alive(state, name):
            lines = _last_lines(name)
            # It was just dying when we looked, or somebody was faster at its port.
            if not spawned or any(words in lines.lower() for words in _TAKEN):
                raise _Again
            paths.check_work_dir()  # on a full disk the log says little
            raise StackError(f"The {title} ended while it was starting. The last lines of {_log(name)}:\n{lines}")
        if seconds > START_SECONDS:
            raise StackError(
                f"The {title} did not answer within {START_SECONDS} s and was stopped. Look into {_log(name)}, "
                f"then run this again. Its last lines:\n{_last_lines(name)}"
            )
        if seconds >= said + 1:
            said = int(seconds)
            _say(f"Starting the {title}: {said} s")
        time.sleep(0.2)


class _Again(Exception):
    """A server is to be started once more, on other ports."""


# --- processes and ports -------------------------------------------------------------------------


def _spawn(state: dict, name: str, *, usual_port: bool) -> None:
    _end(state, name)  # what a killed server or a lost stack.json left behind has the data open
    (paths.work_dir() / name).mkdir(exist_ok=True)
    if name == "mlflow" and (mended := database.mend(_database())):
        _say(mended, done=True)
    log = _log(name)
    log.parent.mkdir(exist_ok=True)
    if log.exists():
        log.replace(log.with_suffix(".previous.log"))
    before = state["servers"].get(name, {}).get("ports", [])
    state["servers"][name] = {"ports": _choose_ports(name, before, usual_port), "pid": None, "created": None}
    with open(log, "wb") as stream:
        # A session of its own: an interrupted kernel must not take the servers with it.
        process = subprocess.Popen(
            _command(state, name),
            env=_environment(state, name),
            cwd=paths.work_dir() / name,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    state["servers"][name] |= {"pid": process.pid, "created": psutil.Process(process.pid).create_time()}
    _write_state(state)


def _choose_ports(name: str, before: list[int], usual_port: bool) -> list[int]:
    count, twin = (5, 10000) if name == "s3" else (1, 0)
    if usual_port and before and all(_is_free(port, twin) for port in before):
        return before
    ports = [USUAL_PORTS[name]] if usual_port and _is_free(USUAL_PORTS[name], twin) else []
    while len(ports) < count:
        # Below the range from which systems give client ports, and no port is another one's twin.
        port = 20000 + secrets.randbelow(10000)
        if port not in ports and _is_free(port, twin):
            ports.append(port)
    return ports


def _is_free(port: int, twin: int) -> bool:
    for number in {port, port + twin}:
        # SeaweedFS has sockets in /tmp that bear the number. One that another user's killed store left there can
        # only be removed by that user; and one that was put there is not to be talked to.
        for left in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
            with contextlib.suppress(OSError):
                if left.lstat().st_uid != os.getuid():
                    return False
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # A Mac lets us bind beside a server that listens on every address (AirPlay): ask it.
            with socket.socket() as client:
                client.settimeout(1)
                if client.connect_ex(("127.0.0.1", number)) == 0:
                    return False
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                return False
    return True


def _tree(state: dict, name: str) -> list[psutil.Process]:
    """Return the server's process and its children, none if it is gone or its number is another's now."""
    server = state["servers"].get(name, {})
    with contextlib.suppress(psutil.Error, TypeError, ValueError):
        process = psutil.Process(server.get("pid") or -1)
        if abs(process.create_time() - server["created"]) < 2 and process.status() != psutil.STATUS_ZOMBIE:
            return [process, *process.children(recursive=True)]
    return []


def _strays(state: dict, name: str) -> list[psutil.Process]:
    """Return this server's processes, known by their mark, that `_tree` does not lead to.

    A worker outlives its killed parent, and a lost stack.json names nobody.
    """
    tree, strays = _tree(state, name), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("_SERIES_SERVER") == _mark(name) and process not in tree:
                strays.append(process)
    return strays


def _mark(name: str) -> str:
    return str(paths.work_dir() / name)


def _alive(state: dict, name: str) -> bool:
    return bool(_tree(state, name))


def _listens(state: dict, name: str) -> bool:
    """Tell whether it is our server, and no other program, that has the port."""
    port = state["servers"][name]["ports"][0]
    for process in _tree(state, name):
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return True
    return False


def _resident(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return process.memory_info().rss
    return 0


def _end(state: dict, name: str) -> None:
    tree = _tree(state, name) + _strays(state, name)
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(tree, timeout=10)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5)
    if state["servers"].get(name, {}).get("pid") is not None:
        state["servers"][name] |= {"pid": None, "created": None}
        with contextlib.suppress(OSError):  # a full disk; that the process is gone will be seen
            _write_state(state)


def _database() -> Path:
    return paths.work_dir() / "mlflow" / "mlflow.db"


def _keep_copy() -> None:
    database.keep_copy(_database())


def _weed() -> str | None:
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


def _direct() -> dict[str, str]:
    """Keep a company's HTTP proxy out of the way to this machine's own servers."""
    hosts = [os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or "", "127.0.0.1", "localhost"]
    value = ",".join(dict.fromkeys(part for host in hosts for part in host.split(",") if part))
    return {"NO_PROXY": value, "no_proxy": value}


# --- state ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(*, progress: bool = False) -> Iterator[None]:
    try:
        lock = filelock.FileLock(paths.work_dir() / "stack.lock")
        for second in range(3 * START_SECONDS):
            try:
                lock.acquire(timeout=1)
                break
            except filelock.Timeout:
                if progress:
                    _say(f"Waiting while another program starts it: {second + 1} s")
        else:
            raise StackError("Another process has been starting the stack for minutes. End it, then run this again.")
        try:
            yield
        finally:
            lock.release()
    except OSError as error:
        raise StackError(
            f"The state folder {paths.work_dir()} or a program cannot be used: {error}. Free some space or "
            "make the folder writable, then run this again."
        ) from None


def _read_state() -> dict:
    path = paths.work_dir() / "stack.json"
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        try:
            state = json.loads(path.read_text())
        except PermissionError:
            raise StackError(
                f"{path} belongs to another user: the series was started as that user before. "
                "Be that user again, or take a copy of the series of your own."
            ) from None
        # A damaged file is as good as none: the servers are found by their mark and get new keys.
        servers = {
            name: {"ports": [int(port) for port in server["ports"]], "pid": server["pid"], "created": server["created"]}
            for name, server in state["servers"].items()
        }
        learners = state.get("learners")
        return {
            "servers": servers,
            "access_key": str(state["access_key"]),
            "secret_key": str(state["secret_key"]),
            "learners": learners if isinstance(learners, int) else None,
        }
    return {"servers": {}, "access_key": secrets.token_hex(10), "secret_key": secrets.token_hex(20), "learners": None}


def _write_state(state: dict) -> None:
    path = paths.work_dir() / "stack.json"
    new = path.with_name(f"stack.{os.getpid()}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            json.dump(state, stream, indent=2)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _store(state: dict) -> int | None:
    """Return the port at which MLflow was told to find the store."""
    return state["servers"]["s3"]["ports"][0] if "s3" in state["servers"] else None


def _url(state: dict, name: str) -> str:
    return f"http://127.0.0.1:{state['servers'][name]['ports'][0]}"


def _log(name: str) -> Path:
    return paths.work_dir() / "logs" / f"{name}.log"


def _last_lines(name: str) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(_log(name).read_text(errors="replace").splitlines()[-LOG_LINES:])
    return "(no log)"


def _say(text: str, *, done: bool = False) -> None:
    # Each text overwrites the one before: a finished notebook keeps the last one alone.
    print(f"\r{text}", end="\n" if done else "", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m helpers.stack", description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["start", "stop", "status"])
    action = parser.parse_args(arguments).action
    try:
        if action == "start":
            print(f"MLflow UI: {start().tracking_uri}")
        elif action == "stop":
            print("Stopped: " + (", ".join(stop()) or "nothing was running") + ".")
        else:
            for name, server in status().items():
                print(
                    f"{name:7}"
                    + (f"{server['url']}  {server['memory'] / 1e6:.0f} MB" if server["running"] else "not running")
                    + f"  log: {server['log']}"
                )
    except SeriesError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
