"""Model servers of a notebook: they come up, or say why not, and none is left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest
import requests

from helpers import paths, serving, stack
from helpers.stack import process

# Answers /ping like a model server, from a child process, as MLflow's does.
SERVER = """
import http.server, subprocess, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *arguments): pass
if sys.argv[2:]:
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
subprocess.run([sys.executable, __file__, sys.argv[1], "child"])
"""


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Start a small server in a folder of its own; returns the process and the port."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "server.py").write_text(SERVER)

    def start():
        port = serving.free_port()
        return serving.start([sys.executable, "server.py", str(port)], port), port

    yield start
    serving.stop_all(tmp_path)


def answers(port):
    try:
        return requests.get(f"http://127.0.0.1:{port}/ping", timeout=5).ok
    except requests.ConnectionError:
        return False


def test_it_answers_and_stop_ends_its_children_too(server):
    started, port = server()
    children = psutil.Process(started.pid).children(recursive=True)
    assert answers(port) and children
    serving.stop(started)
    assert not answers(port) and not any(child.is_running() for child in children)
    serving.stop(started)


def test_it_listens_on_a_port_that_nobody_has():
    port = serving.free_port()
    assert process.FIRST_PORT <= port <= process.LAST_PORT and not answers(port)


def test_one_that_ends_says_its_last_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-c", "raise SystemExit('no model at models:/svc@champion')"]
    with pytest.raises(serving.ServingError, match="(?s)ended while it was starting.*no model at models:/svc@champion"):
        serving.start(command, serving.free_port())


def test_one_that_never_answers_is_stopped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(serving, "START_SECONDS", 1)
    with pytest.raises(serving.ServingError, match="did not answer"):
        serving.start(
            [sys.executable, "-c", "print('mine', flush=True); import time; time.sleep(300)"], serving.free_port()
        )
    assert not [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "time.sleep(300)" in child.cmdline()
    ]


@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 9)"])
def test_none_outlives_its_kernel_for_long(server, tmp_path, end):
    port = serving.free_port()
    kernel = textwrap.dedent(f"""
        import os, sys
        from helpers import serving

        print(serving.start([sys.executable, "server.py", "{port}"], {port}).pid, flush=True)
        {end}
    """)
    done = subprocess.run([sys.executable, "-c", kernel], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == (-signal.SIGKILL if end else 0), done.stderr
    if end:  # nobody could end it: the next one that starts there does
        assert answers(port)
        server()
    assert not answers(port)


def test_make_stop_ends_it(other, monkeypatch):
    folder = other.work / "notebooks" / "07"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    (folder / "server.py").write_text(SERVER)
    port = serving.free_port()
    serving.start([sys.executable, "server.py", str(port)], port)
    elsewhere = paths.ROOT.parent
    serving.stop_all(elsewhere / "another checkout")
    assert answers(port), "it belongs to this checkout alone"
    os.chdir(elsewhere)
    stack.stop()
    time.sleep(0.1)
    assert not answers(port)


def test_another_programs_answer_is_not_taken_for_the_models(server, tmp_path, monkeypatch):
    _, port = server()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    command = [sys.executable, "-c", "import time; time.sleep(1); raise SystemExit('port is taken')"]
    with pytest.raises(serving.ServingError, match="(?s)ended while it was starting.*port is taken"):
        serving.start(command, port)
    assert answers(port)
