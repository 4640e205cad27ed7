"""The series where Kubeflow would run it: under a base URL, behind a host name, with little memory and few rights."""

import contextlib
import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import requests
from playwright.sync_api import expect
from support import lab
from support.place import wait_for

from helpers import paths
from helpers.stack.process import free_port
from tools import browser
from tools.bench.cgroup import Cgroup

ROOT = paths.ROOT

pytestmark = pytest.mark.slow

NAME, TITLE = "02_track_on_a_server.ipynb", "Track a model on a server"
HOST, PREFIX = "kubeflow.example.test", "/notebook/team-a/iris"
LIMIT = 2 << 30  # bytes
USER, GROUP = 1000, 0  # those of the image
NAMESPACES = ["--mount", "--pid", "--fork", "--mount-proc"]
LINK = "Open the files of this run in the MLflow UI"


@dataclasses.dataclass
class Pod:
    """A running notebook server: its address for a browser, its folders, its processes."""

    address: str
    root: Path
    process: subprocess.Popen
    isolated: bool
    cgroup: Cgroup | None
    ui: str = ""  # where the first test found the MLflow UI

    def mlflow_log(self) -> str:
        """Return what the MLflow server of the pod wrote."""
        (log,) = self.root.rglob("logs/mlflow.log")
        return log.read_text()


def reachable(paths: list[Path], stage: Path) -> str:
    """Return commands that make folders reachable for everybody, in a mount namespace of one's own.

    A Python below a closed home folder is the usual case. The closed folder is covered with an empty
    one, and what is needed is mounted into it again; outside of the namespace nothing changes.
    """
    closed = {}
    for path in paths:
        for parent in reversed(path.parents):
            if parent.stat().st_mode & 0o011 != 0o011:
                closed[path] = parent
                break
    places = {path: stage / str(number) for number, path in enumerate(closed)}
    commands = [["mkdir", "-p", stage, *places.values()]]
    commands += [["mount", "--bind", path, place] for path, place in places.items()]
    commands += [["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", parent] for parent in set(closed.values())]
    for path, place in places.items():
        commands += [["mkdir", "-p", path], ["mount", "--bind", place, path]]
    return "\n".join(shlex.join(map(str, command)) for command in commands)


def can_isolate() -> bool:
    """Tell whether this is root with the right to make namespaces."""
    if os.getuid() != 0 or not shutil.which("unshare") or not shutil.which("setpriv"):
        return False
    with tempfile.TemporaryDirectory() as folder:
        probe = ["unshare", *NAMESPACES, "mount", "-t", "tmpfs", "tmpfs", folder]
        return subprocess.run(probe, capture_output=True).returncode == 0


def end_namespace(unshare: subprocess.Popen) -> None:
    """End the first process of a namespace, and with it all others there."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for first in psutil.Process(unshare.pid).children():
            first.kill()


@pytest.fixture(scope="module")
def pod():
    """JupyterLab as the image starts it, by the image's own script, in what Kubeflow gives a notebook."""
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root.chmod(0o755)
        series, home, port = root / "opt" / "series", root / "home", free_port()
        for folder in ("deploy", "docs", "exercises", "helpers", "notebooks"):
            shutil.copytree(
                ROOT / folder, series / folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints", "__pyc*")
            )
        series.chmod(0o555)
        home.mkdir()
        (home / "tmp").mkdir()
        own = {
            "HOME": str(home), "NB_PREFIX": PREFIX, "TMPDIR": str(home / "tmp"),
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "SHELL": "/bin/sh", "LANG": "C.UTF-8",
            "PYTHONPATH": str(series),  # of this environment, helpers is the checkout that is tested
            "JUPYTER_IP": "127.0.0.1", "JUPYTER_PORT": str(port), "JUPYTER_RUNTIME_DIR": str(home / "tmp" / "jupyter"),
            "JUPYTER_CONFIG_DIR": str(root),
        }  # fmt: skip
        commands = ["set -e", f"cd {home}"]
        group = None
        with contextlib.suppress(OSError):
            group = Cgroup(LIMIT)
            stack.callback(group.close)
            commands.append(f"echo 0 > {group.folder}/cgroup.procs")
        isolated = can_isolate()
        if isolated:
            for path in (home, home / "tmp"):
                os.chown(path, USER, GROUP)
            commands.append(reachable([Path(sys.base_prefix), Path(sys.prefix), ROOT / "deploy"], root / "stage"))
            rights = ["--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
            rights = shlex.join(["setpriv", f"--reuid={USER}", f"--regid={GROUP}", *rights])
        else:
            (root / "jupyter_server_config.py").write_text("c.ServerApp.allow_root = True\n")
            rights = ""
        commands.append(f"exec {rights} sh {shlex.quote(str(ROOT / 'deploy' / 'image' / 'start-notebook'))}")
        log = root / "log"
        with open(log, "wb") as stream:
            process = subprocess.Popen(
                [*(["unshare", *NAMESPACES] if isolated else []), "sh", "-c", "\n".join(commands)],
                env=own,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        stack.callback(process.wait, 30)
        if isolated:
            stack.callback(end_namespace, process)
        else:
            stack.callback(process.terminate)
            stack.callback(subprocess.run, [sys.executable, "-m", "helpers.stack", "stop"], cwd=series, env=own)
        wait_for(f"http://127.0.0.1:{port}{PREFIX}/api", process, log)
        yield Pod(f"http://{HOST}:{port}{PREFIX}/", root, process, isolated, group)


def test_notebook_02_runs_there_and_its_link_leads_through_the_proxy(pod):
    with browser.chromium(f"--host-resolver-rules=MAP {HOST} 127.0.0.1") as chromium:
        page = chromium.new_page(viewport={"width": 1400, "height": 900})
        page.goto(pod.address)
        panel = lab.open_notebook(page, NAME, TITLE)
        lab.run_all(page, panel, pod.root / "home" / "notebooks" / NAME)
        expect(panel.get_by_role("link", name="the same through Jupyter")).to_have_count(0)
        ui = lab.follow(panel, LINK)
        assert urlsplit(ui.url).netloc == urlsplit(pod.address).netloc
        assert urlsplit(ui.url).path.startswith(f"{PREFIX}/proxy/")
        lab.show_mlmodel(ui, "svc")
        lab.show_runs(ui, ["svc", "files only"])
    assert "403 Forbidden" not in pod.mlflow_log()
    pod.ui = urlsplit(ui.url)._replace(query="", fragment="").geturl()


def test_a_foreign_page_gets_nothing_from_the_mlflow_server(pod):
    if not pod.ui:
        pytest.skip("asks the server that the test before it started: run the whole file")
    api = pod.ui.replace(HOST, "127.0.0.1") + "ajax-api/2.0/mlflow"

    def ask(method, path, data=None, **headers):
        headers |= {"Host": urlsplit(pod.address).netloc, "Origin": "http://evil.example.test"}
        return requests.request(method, f"{api}/{path}", headers=headers, data=data, timeout=30)

    answers = [
        ask("GET", "experiments/search?max_results=1"),
        ask("OPTIONS", "experiments/create", **{
            "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}),
    ]  # fmt: skip
    for answer in answers:  # so a browser shows the page nothing that it got with cookies, and sends no JSON with them
        assert answer.ok and "Access-Control-Allow-Credentials" not in answer.headers
    forged = ask("POST", "experiments/create", '{"name": "theirs"}', **{"Content-Type": "text/plain"})
    assert forged.status_code == 400, "what a page may send without asking must not be taken"
    assert "theirs" not in requests.get(f"{api}/experiments/search?max_results=100", timeout=30).text


def test_all_of_it_fits_into_the_memory_of_the_pod(pod):
    if not pod.ui:
        pytest.skip("measures what the first test did: run the whole file")
    if pod.cgroup is None:
        pytest.skip("no memory cgroup can be made: run this on Linux as root (sudo .venv/bin/python -m pytest ...)")
    print(
        f"held by processes {pod.cgroup.held / 2**20:.0f} MiB, peak with the cache of files {pod.cgroup.peak / 2**20:.0f} MiB"
    )
    assert pod.cgroup.killed == 0
    assert 400 * 2**20 < pod.cgroup.held <= pod.cgroup.peak <= LIMIT, (
        "JupyterLab, kernel and servers are not all in there"
    )


def test_nobody_had_rights_and_the_checkout_was_left_alone(pod):
    if not pod.ui:
        pytest.skip("looks at what the first test left behind: run the whole file")
    if os.getuid() == 0 and not pod.isolated:
        pytest.skip("root may not make namespaces here: run this as another user, or in a privileged container")
    assert list(pod.root.glob("home/.local/state/*/series-*/stack.json")), "the state belongs into the home"
    assert not (pod.root / "opt" / "series" / "work").exists()
    first = psutil.Process(pod.process.pid)
    processes = first.children(recursive=True) + ([] if pod.isolated else [first])
    assert any(part.endswith("mlflow_server.py") for process in processes for part in process.cmdline())
    assert {process.uids().real for process in processes} == {USER if pod.isolated else os.getuid()} != {0}
    if not pod.isolated:
        return
    assert {path.stat().st_uid for path in (pod.root / "opt").rglob("*")} == {0}
    status = Path(f"/proc/{processes[0].pid}/status").read_text()
    assert re.search(r"^CapBnd:\s*0+$", status, re.M) and re.search(r"^NoNewPrivs:\s*1$", status, re.M)
