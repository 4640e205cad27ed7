"""A limit on memory that the kernel keeps, and what was used below it: Linux's memory cgroups, version 1 or 2."""

import contextlib
import os
import threading
import time
from pathlib import Path


class Cgroup:
    """A group of processes with a limit on their memory.

    Parameters
    ----------
    limit : int
        Bytes, swap included.

    Raises
    ------
    OSError
        If this user may make no group: only root may, on Linux.
    """

    KINDS = {  # controller: files of limit, limit of swap and peak; events; what processes hold, in memory.stat
        "/sys/fs/cgroup/memory": ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes",
                                  "memory.max_usage_in_bytes", "memory.oom_control", "total_rss"),
        "/sys/fs/cgroup": ("memory.max", "memory.swap.max", "memory.peak", "memory.events", "anon"),
    }  # fmt: skip

    def __init__(self, limit: int) -> None:
        for root, (memory, swap, *self._files) in self.KINDS.items():  # noqa: B020
            self.folder = Path(root) / f"series-{os.getpid()}"
            with contextlib.suppress(OSError):
                self.folder.mkdir()
                if (self.folder / memory).exists():
                    (self.folder / memory).write_text(str(limit))
                    if (self.folder / swap).exists():  # of version 1 it counts memory as well
                        (self.folder / swap).write_text("0" if swap == "memory.swap.max" else str(limit))
                    break
            with contextlib.suppress(OSError):
                self.folder.rmdir()
        else:
            raise OSError("no memory cgroup can be made")
        self.held, self._ended = 0, threading.Event()
        self._watch = threading.Thread(target=self._sample)
        self._watch.start()

    def _sample(self) -> None:
        while not self._ended.wait(0.5):
            stat = dict(line.split() for line in (self.folder / "memory.stat").read_text().splitlines())
            self.held = max(self.held, int(stat[self._files[2]]))

    @property
    def peak(self) -> int:
        """The most that was ever used, in bytes, with the cache of files, which the kernel takes back when it must."""
        return int((self.folder / self._files[0]).read_text())

    @property
    def killed(self) -> int:
        """How many processes were killed because memory ran out."""
        return int(dict(line.split() for line in (self.folder / self._files[1]).read_text().splitlines())["oom_kill"])

    def close(self) -> None:
        """Remove the group; its processes have ended, or are just ending."""
        self._ended.set()
        self._watch.join()
        for _ in range(100):
            with contextlib.suppress(OSError):
                return self.folder.rmdir()
            time.sleep(0.1)
        raise AssertionError(f"processes outlived the pod: {(self.folder / 'cgroup.procs').read_text()}")
