"""No key and no path of a machine in any file or in the history: a scanner looks, and is looked at."""

import json
import random
import shutil
import string
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import paths
from tools import versions

ROOT = paths.ROOT
BIN = Path(sys.executable).parent


def scan(folder: Path, history: str = "none") -> list[tuple[str, str]]:
    """Let kingfisher look for secrets, and ask nobody whether they are real; return rules and files."""
    alone = ["--no-validate", "--no-update-check", "--quiet", "--no-dedup", "--confidence=low", "--format=json"]
    command = [BIN / "kingfisher", "scan", *alone, f"--git-history={history}", folder]
    done = subprocess.run(command, capture_output=True, text=True)
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


@pytest.mark.slow
def test_no_secret_in_any_file_of_the_checkout(tmp_path):
    shutil.copytree(ROOT, tmp_path / "checkout", ignore=versions.LEFT_OUT)
    assert scan(tmp_path / "checkout") == []


@pytest.mark.slow
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
