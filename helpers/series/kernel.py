"""The kernel that runs notebooks from the command line: this very interpreter."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import weakref

from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

_LAUNCH = (
    "import logging, runpy; logging.getLogger('tornado.general').setLevel(50); "
    "runpy.run_module('ipykernel_launcher', run_name='__main__')"
)


class OwnKernel(AsyncKernelManager):
    """Start this very interpreter, whichever kernels named ``python3`` the reader has installed.

    What it and the series say to each other is encrypted: others may be on this machine, and a
    kernel warns of it otherwise.
    """

    _all: weakref.WeakSet[OwnKernel] = weakref.WeakSet()

    def __init__(self, **kwargs: object) -> None:
        super().__init__(transport_encryption="auto", **kwargs)
        self._all.add(self)
        # A message may come in while the connection to a kernel that has ended is being closed.
        logging.getLogger("tornado.general").setLevel(logging.CRITICAL)

    @classmethod
    def kill_all(cls) -> None:
        """End all kernels of this process, and what they run, at once."""
        for manager in list(cls._all):
            if manager.has_kernel:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(manager.provisioner.pgid, signal.SIGKILL)

    @property
    def kernel_spec(self) -> KernelSpec:
        """The kernel of this interpreter."""
        spec = KernelSpec(**get_kernel_dict())
        # It is interrupted before it ends, and if it is idle by then it may report that as an error of its own; and a
        # message may come in while it closes its sockets.
        launcher = spec.argv.index("-m")
        spec.argv[launcher : launcher + 2] = ["-c", _LAUNCH]
        spec.argv += ["--log-level=CRITICAL"]
        return spec
