"""Check that a machine has what the series needs, and say in plain words what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import socket
import sys
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from helpers import paths

PYTHONS = ("3.11", "3.12", "3.13")
# A container may use less than its machine has: where Linux says so, in its newer and its older form.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_CORES = Path("/sys/fs/cgroup/cpu.max")  # microseconds that it may use, of so many


def check(memory: float = 2.0, disk: float = 2.0) -> bool:
    """Print one line for each thing that the series needs: good, or what to do.

    Parameters
    ----------
    memory : float
        That this machine or container must have, in GB.
    disk : float
        That must be free where the series keeps its state, in GB.

    Returns
    -------
    bool
        Whether all is good.
    """
    findings = {
        "Python": _python(),
        "Packages": _packages(),
        "Memory": _memory(memory),
        "Disk": _disk(disk),
        "State": _state(),
        "Ports": _ports(),
    }
    for name, (good, sentence) in findings.items():
        print(f"{name:<10}{'good' if good else 'MISSING'}: {sentence}")
    print(f"{'Network':<10}not needed: everything is installed, and the servers are this machine's own")
    return all(good for good, _ in findings.values())


def _python() -> tuple[bool, str]:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if version in PYTHONS:
        return True, f"{version} is one of {', '.join(PYTHONS)}"
    return (
        False,
        f"this is {version}. Choose the kernel of .venv, or make it anew: make distclean run PYTHON=python3.12",
    )


def _packages() -> tuple[bool, str]:
    lock = paths.ROOT / "requirements.lock"
    if not lock.exists():
        return False, "there is no requirements.lock: this is no whole checkout. Clone the repository anew"
    wrong = []
    for line in re.findall(r"^([\w.\[\]-]+==.+?)(?: \\)?$", lock.read_text(encoding="utf-8"), re.MULTILINE):
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            found = "nothing"
        if found == "nothing" or not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} (is {found}, should be {str(requirement.specifier).lstrip('=')})")
    if not wrong:
        return True, "all are installed, in the versions of requirements.lock"
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return False, f"{', '.join(wrong[:3])}{more}. Install them: make run, or with conda the steps of the README"


def memory() -> int:
    """Return the bytes of memory that this machine has, or that its container may use."""
    limit = psutil.virtual_memory().total
    for path in map(Path, _LIMITS):
        if path.exists() and path.read_text().strip().isdigit():
            limit = min(limit, int(path.read_text()))
    return limit


def cores() -> float:
    """Return how many cores this process may keep busy; a container may have a part of one."""
    # Macs tie no process to cores.
    count = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if _CORES.exists():
        quota, period = _CORES.read_text().split()
        if quota != "max":
            count = min(count, int(quota) / int(period))
    return count


def _memory(needed: float) -> tuple[bool, str]:
    limit = memory()
    if limit >= 0.95e9 * needed:  # 2 GiB less what a machine keeps for itself
        return True, f"there are the {needed:g} GB that are needed"
    return False, (
        f"{limit / 1e9:.1f} GB, and {needed:g} are needed. In a Kubeflow Notebook or on a hub, ask for more; on "
        "a laptop, close what you do not need"
    )


def _disk(needed: float) -> tuple[bool, str]:
    folder = paths.work_dir()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free >= 1e9 * needed:
        return True, f"{needed:g} GB are free"
    return (
        False,
        f"{free / 1e9:.1f} GB are free, and {needed:g} are needed. Delete something; make clean deletes old runs",
    )


def _state() -> tuple[bool, str]:
    try:
        paths.check_work_dir()
    except paths.SeriesError as error:
        return False, str(error)
    return True, "the folder work/ can be written to"


def _ports() -> tuple[bool, str]:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError as error:
        return False, f"no server can listen on 127.0.0.1 ({error.strerror}). Ask who runs this machine to allow it"
    return True, "servers can listen on 127.0.0.1; a port that is taken is passed over"


def installed(name: str) -> str:
    """Return the version of an installed package, or of Python itself.

    Parameters
    ----------
    name : str
        A distribution's name, or ``"python"``.

    Returns
    -------
    str
        Such as ``"3.11.7"``.

    Raises
    ------
    importlib.metadata.PackageNotFoundError
        If no such package is installed.
    """
    return platform.python_version() if name == "python" else importlib.metadata.version(name)
