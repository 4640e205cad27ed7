"""Make ``.venv`` and install what the locks name: each make target runs this first.

Standard library alone, in words that an old Python reads too, so that the wrong one can say which is needed.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

LOWEST, HIGHEST = (3, 11), (3, 13)
READERS, MAINTAINERS = "requirements.lock", "maintainers.lock"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# pip's settings that say how packages are reached, and what uv calls them; no other setting of pip's gets in.
_REACH = {
    "PIP_INDEX_URL": ["UV_DEFAULT_INDEX"],
    "PIP_EXTRA_INDEX_URL": ["UV_INDEX"],
    "PIP_FIND_LINKS": ["UV_FIND_LINKS"],
    "PIP_NO_INDEX": [],
    "PIP_TRUSTED_HOST": ["UV_INSECURE_HOST"],
    "PIP_CERT": ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"],  # which an older pip puts before its own
    "PIP_CLIENT_CERT": ["SSL_CLIENT_CERT"],
    "PIP_PROXY": ["HTTP_PROXY", "HTTPS_PROXY"],
    "PIP_CONFIG_FILE": [],
    "PIP_CACHE_DIR": [],
    "PIP_DEFAULT_TIMEOUT": ["UV_HTTP_TIMEOUT"],
    "PIP_RETRIES": ["UV_HTTP_RETRIES"],
    "PIP_KEYRING_PROVIDER": [],
    "PIP_DISABLE_PIP_VERSION_CHECK": [],
}
_REACH_UV = re.compile(
    "UV_(.*INDEX.*|FIND_LINKS|INSECURE_HOST|.*CERTS?|NATIVE_TLS|HTTP_.*|.*CACHE.*|OFFLINE|LINK_MODE|KEYRING_.*)"
)
_ASK = "import sys; print(sys.version_info[0], sys.version_info[1], sys.base_prefix)"


def said(python: str, code: str) -> str | None:
    """Return what a Python prints when it runs a line of code; None if it cannot."""
    try:
        done = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def usable(python: str) -> bool:
    """Tell whether a command is a Python that the series runs on."""
    answer = said(python, _ASK)
    return answer is not None and LOWEST <= tuple(map(int, answer.split()[:2])) <= HIGHEST


def choose(wanted: str) -> str:
    """Return the Python to make ``.venv`` with.

    Parameters
    ----------
    wanted : str
        What ``PYTHON=`` names, taken or refused and never replaced; "" leaves the choice.

    Returns
    -------
    str
        A command.

    Raises
    ------
    SystemExit
        With the remedy, if there is none.
    """
    needed = "Python 3.11, 3.12 or 3.13 is needed"
    if wanted and not usable(wanted):
        sys.exit(f"PYTHON={wanted} is none of these: {needed}.")
    offered = [wanted] if wanted else [sys.executable, "python3", "python3.13", "python3.12", "python3.11"]
    found = list(filter(usable, offered))
    for python in found:
        if said(python, "import ensurepip, venv") is not None:
            return python
    if found:
        sys.exit(f"{found[0]} lacks its venv module. On Debian or Ubuntu: sudo apt-get install python3-venv")
    sys.exit(f"{needed}. Install one, or name it: make PYTHON=/path/to/python3.12")


def run(command: list[str], log: Path, environment: dict[str, str]) -> bool:
    """Run a command, its output in a log; tell whether it did what it should."""
    with log.open("ab") as file:
        return subprocess.run(command, stdout=file, stderr=file, env=environment).returncode == 0


def installers(python: str) -> dict[str, str]:
    """Return the environment for pip and uv: of their settings only how packages are reached, the same for both.

    Parameters
    ----------
    python : str
        Whose pip is asked what it was told, by variables and by its files.

    Returns
    -------
    dict of str to str
        The reader's other variables are as they were.
    """
    given = dict(os.environ)
    named = {name: value for name, value in given.items() if name in _REACH or _REACH_UV.fullmatch(name)}
    left = {name: value for name, value in given.items() if not name.startswith(("PIP_", "PYTHON", "UV_"))}
    listed = subprocess.run(
        [python, "-m", "pip", "config", "list"], stdout=subprocess.PIPE, text=True, env={**left, **named}
    ).stdout
    told = {}
    for place in ("global", "install", ":env:"):  # the last one wins
        for name, value in re.findall(rf"^{place}\.([\w-]+)=(.*)$", listed, re.MULTILINE):
            told["PIP_" + name.upper().replace("-", "_")] = " ".join(ast.literal_eval(value).split())
    told = {name: value for name, value in told.items() if name in _REACH}
    for name, twins in _REACH.items():
        for twin in twins:
            if name in told and not (twin in given and twin.startswith("UV_")):
                # Of several links uv wants commas between them.
                named[twin] = told[name].replace(" ", ",") if "LINKS" in name else told[name]
    return {**left, **named, **told, "PIP_CONFIG_FILE": os.devnull}


def install(python: str, lock: str, wheels: str) -> None:
    """Install a lock, each package checked against its hash: with uv, or with pip where uv cannot.

    Parameters
    ----------
    python : str
        Of the environment.
    lock : str
        Path of the lock.
    wheels : str
        Folder to install from without asking anybody; "" for the index that pip is set to.

    Raises
    ------
    SystemExit
        If a hash does not match, a package is missing, or both tools fail.
    """
    source = ["--no-index", "--find-links", wheels] if wheels else []
    environment = installers(python)
    log = Path(".venv", "install.log")
    log.write_bytes(b"")
    pin = Path(".venv", "uv.txt")
    pin.write_text("".join(re.findall(r"^uv==(?:.*\\\n)*.*\n", Path(READERS).read_text(), re.MULTILINE)))
    pip = [python, "-m", "pip", "install", "--quiet", *source, "--require-hashes", "-r"]
    uv = [python, "-m", "uv", "pip", "install", "--python", python, *source, "--require-hashes", "-r"]
    if run([*pip, str(pin)], log, environment) and run([*uv, lock], log, environment):
        return
    text = log.read_text(errors="replace")
    if re.search(r"hash(es)? mismatch|do not match the hashes", text, re.IGNORECASE):
        sys.exit(
            f"{text}\nA package is not the one that {lock} names, so nothing more is installed. "
            "Try another network or mirror; if it goes on, report it."
        )
    if wheels:
        sys.exit(
            f"{text}\nThe folder WHEELS={wheels} lacks a package: run make wheels on a machine of this kind, "
            f"with the same Python ({said(python, _ASK)}), and bring its folder here."
        )
    print(f"uv could not do it ({log} says why): pip does, which takes some minutes ...", flush=True)
    if subprocess.run([*pip, lock], env=environment).returncode:
        sys.exit(1)


def browser() -> None:
    """Install the system's Chromium, which the browser tests drive, if there is none and this user may.

    Raises
    ------
    SystemExit
        With the command to run, if it cannot be installed.
    """
    if any(map(shutil.which, BROWSERS)):
        return
    remedy = "install the package chromium of your system"
    if sys.platform == "darwin":
        remedy = "brew install --cask chromium"
    elif shutil.which("apt-get"):
        remedy = "sudo apt-get install chromium"
        sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
        if not sudo or (shutil.which("sudo") and subprocess.run([*sudo, "true"]).returncode == 0):
            print("Installing Chromium for the browser tests ...", flush=True)
            steps = (["update", "-qq"], ["install", "-y", "-qq", "chromium"])
            if all(subprocess.run([*sudo, "apt-get", *step], stdout=sys.stderr).returncode == 0 for step in steps):
                return
    sys.exit(f"The browser tests need Chromium, which is not on PATH. To install it: {remedy}")


def main(arguments: list[str] | None = None) -> None:
    """Bring ``.venv`` in the current folder up to date; quick where nothing changed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--maintainer", action="store_true", help=f"install {MAINTAINERS} too")
    parser.add_argument("--browser", action="store_true", help="install Chromium if there is none")
    options = parser.parse_args(arguments)
    wheels, wanted = os.environ.get("WHEELS", ""), os.environ.get("PYTHON", "")
    for name in [name for name in os.environ if re.match("PYTHON.", name)]:
        del os.environ[name]  # another project's modules and options
    if wheels and not Path(wheels).is_dir():
        sys.exit(f"WHEELS={wheels} is no folder. make wheels FOLDER=... makes one, where there is internet.")
    python, stamp = os.path.join(".venv", "bin", "python"), Path(".venv", "stamp")
    state = json.loads(stamp.read_text()) if stamp.is_file() else {}
    here = str(Path.cwd())
    same = state.get("folder") == here and usable(python) and said(python, "import pip") is not None
    if wanted and same:  # PYTHON= is obeyed, whatever .venv was made with
        same = said(choose(wanted), _ASK) == said(python, _ASK)
    if not same:
        chosen = choose(wanted)
        print(f"Making .venv with Python {'.'.join((said(chosen, _ASK) or '').split()[:2])} ...", flush=True)
        subprocess.run([chosen, "-m", "venv", "--clear", ".venv"], check=True)
        state = {"folder": here}
    locks = [READERS, MAINTAINERS] if options.maintainer else [READERS]
    for name in [*locks, "pyproject.toml"]:
        digest = hashlib.sha256(Path(name).read_bytes()).hexdigest()
        if state.get(name) == digest:
            continue
        stamp.unlink(missing_ok=True)
        if name in (READERS, MAINTAINERS):
            print(f"Installing the packages of {name} ...", flush=True)
            install(python, name, wheels)
        else:
            print("Installing the helpers of the series ...", flush=True)
            helpers = ["--quiet", "--no-deps", "--no-build-isolation", "-e", "."]
            subprocess.run([python, "-m", "pip", "install", *helpers], check=True, env=installers(python))
        state[name] = digest
    stamp.write_text(json.dumps(state, indent=1))
    if options.browser:
        browser()


if __name__ == "__main__":
    main()
