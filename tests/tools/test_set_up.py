"""What the first command of a reader does on a machine that is not ready, and on one that is."""

import base64
import contextlib
import hashlib
import http.server
import importlib.util
import os
import re
import ssl
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from support import company

from helpers.paths import ROOT
from tools import set_up


def program(folder: Path, name: str, text: str) -> str:
    """Write a small program that stands in for a Python."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def pythons(tmp_path):
    """One too old, one too new, and one of the right age without its venv module."""
    asked = 'case "$2" in *version_info*) echo "{}" ;; *) {} ;; esac'
    return {
        "old": program(tmp_path, "old", asked.format("3 9 /usr", "exit 0")),
        "new": program(tmp_path, "new", asked.format("3 99 /usr", "exit 0")),
        "bare": program(tmp_path, "bare", asked.format("3 12 /usr", "exit 1")),
    }


@pytest.mark.parametrize("name", ["old", "new", "missing"])
def test_a_python_that_is_named_is_taken_or_refused_and_never_replaced(pythons, name):
    wanted = pythons.get(name, "/nowhere/python3")
    with pytest.raises(SystemExit, match=f"PYTHON={wanted} .*Python 3.11, 3.12 or 3.13 is needed"):
        set_up.choose(wanted)
    assert set_up.choose(sys.executable) == sys.executable


def test_a_python_without_its_venv_module_is_said_with_the_remedy(pythons):
    with pytest.raises(SystemExit, match="lacks its venv module.*sudo apt-get install python3-venv"):
        set_up.choose(pythons["bare"])


def test_no_python_at_all_is_said(monkeypatch):
    monkeypatch.setattr(set_up, "usable", lambda python: False)
    with pytest.raises(SystemExit, match=r"is needed\. Install one, or name it: make PYTHON="):
        set_up.choose("")


def test_a_folder_of_wheels_that_is_none_is_refused_even_when_all_is_installed(tmp_path):
    done = subprocess.run(["make", "set-up", "WHEELS=/nowhere"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and "WHEELS=/nowhere is no folder. make wheels" in done.stderr


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with a space in which everything is installed but nothing was yet; what was done is noted."""
    folder = tmp_path / "check out"
    folder.mkdir()
    for name in (set_up.READERS, set_up.MAINTAINERS, "pyproject.toml"):
        (folder / name).write_text(f"{name}\n")
    monkeypatch.chdir(folder)
    for name in ("PYTHON", "WHEELS"):
        monkeypatch.delenv(name, raising=False)
    done = []
    monkeypatch.setattr(set_up, "install", lambda python, lock, wheels: done.append(lock))
    real = subprocess.run

    def run(command, **options):
        if "venv" in command:
            done.append("venv")
            Path(".venv/bin").mkdir(parents=True, exist_ok=True)
            Path(".venv/bin/python").unlink(missing_ok=True)
            Path(".venv/bin/python").symlink_to(sys.executable)
            return None
        if "-e" in command:
            done.append("helpers")
            return None
        return real(command, **options)

    monkeypatch.setattr(set_up.subprocess, "run", run)
    return done


def test_each_thing_is_installed_once_and_again_when_it_changed(checkout):
    set_up.main([])
    assert checkout == ["venv", set_up.READERS, "helpers"]
    set_up.main([])
    assert len(checkout) == 3, "nothing had changed"
    set_up.main(["--maintainer"])
    assert checkout[3:] == [set_up.MAINTAINERS]
    Path(set_up.READERS).write_text("a newer lock\n")
    set_up.main([])
    assert checkout[4:] == [set_up.READERS]


@pytest.mark.parametrize("what", ["moved", "of a wrong Python", "another is named"])
def test_an_environment_that_does_not_fit_is_made_anew(checkout, monkeypatch, what, tmp_path):
    set_up.main([])
    if what == "moved":
        monkeypatch.chdir((Path.cwd()).rename(tmp_path / "moved"))
    elif what == "of a wrong Python":
        Path(".venv/bin/python").unlink()
        program(Path(".venv/bin"), "python", 'echo "3 9 /usr"')
    else:
        named = program(
            tmp_path,
            "python3.12",
            f'case "$2" in *version_info*) echo "3 12 /opt" ;; *) exec "{sys.executable}" "$@" ;; esac',
        )
        monkeypatch.setenv("PYTHON", named)
    del checkout[:]
    set_up.main([])
    assert checkout == ["venv", set_up.READERS, "helpers"]


@pytest.mark.parametrize(("user", "remedy"), [(1000, "sudo apt-get install chromium"), (0, None)])
def test_a_browser_is_installed_when_one_may_and_else_asked_for(monkeypatch, user, remedy):
    ran = []
    monkeypatch.setattr(set_up.shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr(set_up.os, "geteuid", lambda: user)
    monkeypatch.setattr(set_up.sys, "platform", "linux")
    monkeypatch.setattr(
        set_up.subprocess, "run", lambda command, **_: ran.append(command) or subprocess.CompletedProcess(command, 0)
    )
    if remedy:
        with pytest.raises(SystemExit, match=f"needs? Chromium.*{remedy}"):
            set_up.browser()
        assert not ran
    else:
        set_up.browser()
        assert [command[1] for command in ran] == ["update", "install"]


def test_the_words_are_ones_that_an_old_python_reads():
    """Or it ends in a SyntaxError instead of saying which Python is needed."""
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--target-version=py37", "--select=E9"]
    done = subprocess.run([*ruff, "tools/set_up.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_target_that_the_pages_name_exists():
    makefile = (ROOT / "Makefile").read_text()
    for page in ("README.md", "CONTRIBUTING.md", "SECURITY.md"):
        for target in re.findall(r"`(?:\.\./)?make ([a-z-]+)", (ROOT / page).read_text()):
            assert f"\n{target}:" in makefile, f"{page}: make {target}"


# --- how packages are reached, and nothing else of what pip and uv are told ----------------------------


@pytest.fixture
def environment_of_its_own(tmp_path, monkeypatch):
    """A checkout with an empty environment that has this one's uv, and a lock with one small package."""
    folder = tmp_path / "check out"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_", "SSL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    subprocess.run([sys.executable, "-m", "venv", ".venv"], check=True)
    (site,) = Path(".venv/lib").glob("*/site-packages")
    uv = Path(importlib.util.find_spec("uv").origin).parent
    (site / "uv").symlink_to(uv)
    Path(".venv/bin/uv").symlink_to(Path(sys.executable).parent / "uv")
    wheel = tmp_path / "index" / "tiny" / "tiny-1.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny.py", "")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (wheel.parent / "index.html").write_text(f'<a href="{wheel.name}#sha256={digest}">{wheel.name}</a>')
    Path(set_up.READERS).write_text(f"tiny==1.0 \\\n    --hash=sha256:{digest}\n")
    return site


@contextlib.contextmanager
def mirror(folder, pem):
    """Serve the packages of a folder as a company does: with a certificate of its own CA, to who has the password."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=folder)

        def do_GET(self):
            if self.headers.get("Authorization") == "Basic " + base64.b64encode(b"kim:secret").decode():
                return super().do_GET()
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    yield f"https://kim:secret@localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("told", ["by variables", "by pip's file", "by another file"])
def test_a_mirror_behind_a_private_ca_serves_pip_and_uv(environment_of_its_own, tmp_path, monkeypatch, capfd, told):
    pem = company.certificate(tmp_path)
    with mirror(tmp_path / "index", pem) as index:
        if told == "by variables":
            monkeypatch.setenv("PIP_INDEX_URL", index)
            monkeypatch.setenv("PIP_CERT", str(pem))
        else:
            file = tmp_path / ("pip.conf" if "another" in told else ".config/pip/pip.conf")
            file.parent.mkdir(exist_ok=True, parents=True)
            file.write_text(f"[global]\nindex-url = {index}\n[install]\ncert = {pem}\nuser = true\n")
            if "another" in told:
                monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
        set_up.install(os.path.join(".venv", "bin", "python"), set_up.READERS, "")
        assert (environment_of_its_own / "tiny.py").exists()
        assert "uv could not do it" not in capfd.readouterr().out and (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "variables",
    [
        {"PIP_USER": "1"},
        {"PIP_TARGET": "elsewhere"},
        {"PIP_PREFIX": "elsewhere"},
        {"PIP_NO_DEPS": "1", "PIP_CONSTRAINT": "/nowhere.txt", "PIP_REQUIREMENT": "/nowhere.txt"},
        {"PIP_ONLY_BINARY": ":none:", "PIP_NO_BINARY": ":all:"},
        {"UV_SYSTEM_PYTHON": "1", "UV_PYTHON": "3.99", "UV_CONSTRAINT": "/nowhere.txt"},
        {"PYTHONPATH": "broken", "PYTHONWARNINGS": "error", "PYTHONOPTIMIZE": "2"},
    ],
    ids=lambda variables: "+".join(variables),
)
def test_other_settings_do_not_get_in(environment_of_its_own, tmp_path, monkeypatch, capfd, variables):
    for name in ("pip", "uv"):
        broken = Path("broken") / name / "__init__.py"
        broken.parent.mkdir(parents=True)
        broken.write_text("raise RuntimeError('another pip')")
    for name, value in variables.items():
        monkeypatch.setenv(name, str(Path(value).absolute()) if value in ("broken", "elsewhere") else value)
    set_up.install(os.path.join(".venv", "bin", "python"), set_up.READERS, str(tmp_path / "index" / "tiny"))
    assert (environment_of_its_own / "tiny.py").exists() and not Path("elsewhere").exists()
    assert "uv could not do it" not in capfd.readouterr().out
