"""Keep a service's port open on this machine while the process that started this one lives; run by `ports`."""

import subprocess
import sys
import threading


def main(kubectl: str, namespace: str, service: str, port: str, local: str) -> None:
    """Run ``kubectl port-forward`` and, whenever it ends, again; end when standard input does.

    Parameters
    ----------
    kubectl : str
        The program.
    namespace, service, port : str
        Where to.
    local : str
        The port on the loopback interface.
    """
    gone = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), gone.set()), daemon=True).start()
    way = [f"svc/{service}", f"{local}:{port}"]
    while not gone.is_set():
        with subprocess.Popen(
            [kubectl, "port-forward", "--address", "127.0.0.1", "-n", namespace, *way],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        ) as child:
            while child.poll() is None and not gone.wait(0.2):
                pass
            child.terminate()
        gone.wait(0.5)


if __name__ == "__main__":
    main(*sys.argv[1:])
