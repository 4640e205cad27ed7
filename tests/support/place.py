"""A state folder of a test's own, and what runs in it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil


class Place:
    """A state folder away from the learner's; ``SERIES_WORK`` leads to it.

    Parameters
    ----------
    folder : pathlib.Path
        Of the test; ``work`` in it is the state folder, made when something starts there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, folder / "work"
        folder.mkdir(parents=True, exist_ok=True)

    def popen(self, code: str, *more: str, python: str | Path = sys.executable, **variables: str) -> subprocess.Popen:
        """Start Python here; code that starts with "-" is a command line, more its arguments. Its output is bytes."""
        arguments = [*code.split(), *more] if code.startswith("-") else ["-c", textwrap.dedent(code)]
        own = {"SERIES_WORK": str(self.work), "PYTHONIOENCODING": "utf-8"}
        return subprocess.Popen(
            [python, *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | own | variables,
        )

    def run(self, code: str, *more: str, timeout: float = 180, **options) -> subprocess.CompletedProcess:
        """Run Python here to its end; return exit code, stdout and stderr."""
        process = self.popen(code, *more, **options)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess([code, *more], process.returncode, out.decode(), err.decode())

    def processes(self) -> list[psutil.Process]:
        """Return every process of this place's servers, whoever its parent is."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("_SERIES_SERVER", "").startswith(f"{self.work}{os.sep}"):
                    found.append(process)
            except (psutil.Error, OSError):
                pass
        return found
