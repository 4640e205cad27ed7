"""The ports that `helpers.cluster` forwards: with a stand-in for kubectl, which passes on what a real one would."""

import json
import os
import stat
import subprocess
import sys
import textwrap
import time

import psutil
import pytest
import requests
from support.kfp_server import serve

from helpers import cluster
from helpers.cluster import ports

KUBECTL = """
    #!/bin/sh
    ''''exec "{python}" "$0" "$@" # '''  # a Python whose path has a space
    # A stand-in for kubectl: shows a kubeconfig, and passes a port on to 127.0.0.1:TARGET; "lost pod" ends it once.
    import json, os, pathlib, socket, sys, threading

    here = pathlib.Path(__file__).parent
    with open(here / "calls", "a") as calls:
        print(*sys.argv[1:], file=calls)
    if sys.argv[1] == "config":
        sys.stdout.write((here / "view.json").read_text())
        sys.exit()
    if sys.argv[1] == "version":
        print('{{"serverVersion": {{"gitVersion": "v1.34.9"}}}}')
        sys.exit()
    service, (local, _) = sys.argv[-2], sys.argv[-1].split(":")
    targets = json.loads((here / "targets.json").read_text())
    if service not in targets:
        sys.exit(f'Error from server (NotFound): services "{{service}}" not found')
    server = socket.create_server(("127.0.0.1", int(local)))

    def copy(source, target):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

    while True:
        one, _ = server.accept()
        if (here / "lost pod").exists():
            (here / "lost pod").unlink()
            sys.exit("error: lost connection to pod")
        other = socket.create_connection(("127.0.0.1", targets[service]))
        for pair in ((one, other), (other, one)):
            threading.Thread(target=copy, args=pair, daemon=True).start()
"""
VIEW = {"current-context": "kind-test", "clusters": [{"cluster": {"server": "https://127.0.0.1:6443"}}]}


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    """A folder with the stand-in first on the path, and a reader on a laptop who has set nothing."""
    program = tmp_path / "kubectl"
    program.write_text(textwrap.dedent(KUBECTL).lstrip().format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "view.json").write_text(json.dumps(VIEW))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SERIES_WORK", str(tmp_path / "work"))
    for name in (*ports.SERVICES, "NB_PREFIX", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cluster.ports, "endpoint", lambda: "http://127.0.0.1:9")  # nobody has forwarded by hand
    yield tmp_path
    ports.close_ports()


@pytest.fixture
def services(kubectl, servers, monkeypatch):
    """KFP's stand-in and a real MLflow server, as services of that cluster."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # set with the servers
    with serve() as url:
        addresses = {"svc/ml-pipeline": url, "svc/mlflow-server-service": servers.tracking_uri}
        targets = {name: int(address.rpartition(":")[2]) for name, address in addresses.items()}
        (kubectl / "targets.json").write_text(json.dumps(targets))
        yield url


def forwards(of=None):
    """The programs that forward, of this process or of another."""
    everything = psutil.Process(of).children(recursive=True)
    return {one for one in everything if "port-forward" in one.cmdline()}


def test_ports_are_opened_said_reopened_and_ended(kubectl, services, capsys, monkeypatch):
    cluster.open_ports()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "Forwarding ports of the kubectl context kind-test, server https://127.0.0.1:6443:"
    host, server = os.environ["KF_PIPELINES_ENDPOINT"], os.environ["MLFLOW_TRACKING_URI"]
    assert said[1:] == [
        f"  {host} is ml-pipeline.kubeflow:8888",
        f"  {server} is mlflow-server-service.mlflow-system:5000",
    ]
    assert host != services and cluster.check_api(host, None, "kubeflow") == ("2.17.0", False)
    assert ports.kubernetes() == ", Kubernetes v1.34.9"
    calls = (kubectl / "calls").read_text()
    assert "port-forward --address 127.0.0.1 -n mlflow-system svc/mlflow-server-service" in calls

    cluster.open_ports()  # the cell a second time
    assert (kubectl / "calls").read_text() == calls.replace("version -o json\n", "") + "version -o json\n"
    assert not capsys.readouterr().out

    (kubectl / "lost pod").touch()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{host}/apis/v2beta1/healthz", timeout=5)
    begin = time.monotonic()
    while time.monotonic() < begin + 30:
        try:
            assert cluster.check_api(host, None, "kubeflow") == ("2.17.0", False)
            break
        except cluster.ClusterError:
            time.sleep(0.2)
    assert (kubectl / "calls").read_text().count("svc/ml-pipeline") == 2

    running = forwards()
    assert len(running) >= 2
    cluster.close_ports()
    psutil.wait_procs(running, timeout=10)
    assert not any(one.is_running() for one in running)
    assert not {"KF_PIPELINES_ENDPOINT", "MLFLOW_TRACKING_URI"} & os.environ.keys()


def test_a_kernel_that_is_killed_leaves_no_forward(kubectl, services):
    code = "from helpers import cluster; cluster.ports.endpoint = lambda: 'http://127.0.0.1:9'; cluster.open_ports(); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as kernel:
        assert "kind-test" in kernel.stdout.readline() and kernel.stdout.readline() and kernel.stdout.readline()
        running = forwards(kernel.pid)
        assert len(running) >= 2
        kernel.kill()
    _, left = psutil.wait_procs(running, timeout=20)
    assert not left


def test_what_the_reader_set_or_forwarded_is_taken_and_nothing_is_asked(kubectl, services, monkeypatch, capsys):
    monkeypatch.setattr(cluster.ports, "endpoint", lambda: services)
    cluster.open_ports()
    monkeypatch.setattr(cluster.ports, "endpoint", lambda: "http://127.0.0.1:9")
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://elsewhere:8888")
    cluster.open_ports()
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    cluster.open_ports()
    assert not (kubectl / "calls").exists() and not capsys.readouterr().out
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mine:5000")
    cluster.open_ports()
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://mine:5000"
    assert "mlflow-server-service" not in (kubectl / "calls").read_text()


def test_no_kubeconfig_is_no_error_here(kubectl, monkeypatch):
    (kubectl / "view.json").write_text("error: current-context must exist in order to minify")
    cluster.open_ports()
    monkeypatch.setenv("PATH", "/nowhere")
    cluster.open_ports()
    assert "KF_PIPELINES_ENDPOINT" not in os.environ


def test_a_service_that_is_not_there_is_named_with_what_kubectl_said(kubectl, services):
    targets = json.loads((kubectl / "targets.json").read_text())
    (kubectl / "targets.json").write_text(json.dumps({"svc/ml-pipeline": targets["svc/ml-pipeline"]}))
    says = r"mlflow-server-service in the namespace mlflow-system: Error from server \(NotFound\).*use-context"
    with pytest.raises(cluster.ClusterError, match=says):
        ports.open_ports(patience=2)
    assert not forwards() and "KF_PIPELINES_ENDPOINT" not in os.environ
