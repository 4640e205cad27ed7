"""Serve the stand-in for the KFP API on loopback."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .kfp_rules import Refusal
from .kfp_stand_in import StandIn


@contextlib.contextmanager
def serve(port: int = 0, *, down: bool = False, **options) -> Iterator[str]:
    """Serve on a loopback port and yield the address.

    Parameters
    ----------
    port : int
        0 for any free one.
    down : bool
        Yield an address at which nothing listens.
    options
        `version` that it claims and whose fields it knows; `token` to be shown; `unknown_issuer`: another token gets
        "Jwt issuer is not configured"; `namespaces` that the token may use (multi-user mode); `overrides`: values of
        pipeline parameters, used instead of addresses of cluster services; `slow`: seconds that each task takes
        longer.
    """
    if down:
        with socket.create_server(("127.0.0.1", port)) as unused:
            port = unused.getsockname()[1]
        yield f"http://127.0.0.1:{port}"
        return
    stand_in = StandIn(**options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                status, body = 200, stand_in.answer(self.command, self.path, self.headers, content)
            except Refusal as error:
                status, body = error.status, error.body
            except ValueError as error:
                status, body = 400, {"code": 3, "message": f"proto: syntax error: {error}", "details": []}
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
            data = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_DELETE = do_GET

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        stand_in.close()
