"""A bad line between a client and a server: it delays, drops, or does something when a request passes."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

CHUNK = 65536


class Proxy:
    """A TCP proxy on loopback, to be used as a context.

    Parameters
    ----------
    port : int
        Of the server.
    marker : bytes or tuple of bytes, optional
        How the requests begin that are counted.
    number : int
        At which of them to do the action, once; the request is passed on after it.
    action : callable, optional
        What to do then.
    drop : float
        The chance of each piece of data to end its connection instead of passing.
    delay : float
        The most seconds that a piece waits.
    seed : int
        Of the dice.
    pem : pathlib.Path, optional
        A certificate with its key: the line speaks TLS, and the server behind it need not.
    asks : bool
        Whether it wants a certificate of the client too, of the CA in that file.
    """

    def __init__(
        self,
        port: int,
        *,
        marker: bytes | tuple[bytes, ...] = b"",
        number: int = 0,
        action: Callable[[], None] | None = None,
        drop: float = 0,
        delay: float = 0,
        seed: int = 0,
        pem: Path | None = None,
        asks: bool = False,
    ) -> None:
        self._port, self._marker, self._number, self._action = port, marker, number, action
        self._drop, self._delay, self._dice = drop, delay, random.Random(seed)
        self._lock, self.count, self.dropped = threading.Lock(), 0, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http{'s' * bool(pem)}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if pem else None
        if pem:
            self._tls.load_cert_chain(pem)
        if asks:
            self._tls.load_verify_locations(pem)
            self._tls.verify_mode = ssl.CERT_REQUIRED

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                try:
                    if self._tls:
                        client = self._tls.wrap_socket(client, server_side=True)
                    server = socket.create_connection(("127.0.0.1", self._port))
                except OSError:
                    client.close()
                    continue
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(source, target, source is client), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, requests: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(CHUNK):
                if requests and self._marker and piece.startswith(self._marker):
                    with self._lock:
                        self.count += 1
                        if self.count == self._number:
                            self._action()
                with self._lock:
                    wait, lost = self._dice.uniform(0, self._delay), self._dice.random() < self._drop
                    self.dropped += lost
                time.sleep(wait)
                if lost:  # as when a router forgets a connection: no farewell
                    for end in (source, target):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
                target.sendall(piece)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
