"""Servers as companies have them: MLflow with its own log-in, a gateway that wants a token, TLS with a private CA."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from helpers.stack.process import free_port

from .clean import clean
from .place import end, wait_for

ADMIN, PASSWORD = "admin", "a-password-of-tests"  # of the log-in


def certificate(folder: Path, days: int = 1) -> Path:
    """Make a certificate for this machine, its key and that of the private CA that signed it, in one file for both sides."""
    now = datetime.datetime.now(datetime.UTC)
    authority, here = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("company", "localhost"))
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in (authority, here)}
    addresses = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    pem = b""
    for name in (here, authority):
        made = x509.CertificateBuilder(authority, name, keys[name].public_key(), x509.random_serial_number())
        end = now + datetime.timedelta(days=days if name == here else 9)
        made = made.not_valid_before(now - datetime.timedelta(days=9)).not_valid_after(end)
        made = made.add_extension(x509.BasicConstraints(ca=name == authority, path_length=None), True)
        if name == here:
            made = made.add_extension(x509.SubjectAlternativeName(addresses), False)
        pem += made.sign(keys[authority], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem += keys[here].private_bytes(serialization.Encoding.PEM, *form)
    (folder / f"ca{days}.pem").write_bytes(pem)
    return folder / f"ca{days}.pem"


@contextlib.contextmanager
def mlflow_server(folder: Path, *options: str, port: int = 0, python=sys.executable, **variables: str) -> Iterator[str]:
    """Run ``mlflow server`` with options; yield its address."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = port or free_port(), folder / "log"
    command = [python, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1", *options]
    own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with open(log, "wb") as stream:
        environment = clean(os.environ, **own, **variables)
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=stream, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)


@contextlib.contextmanager
def gateway(behind: str, *, authorization: str = "", prefix: str = "", away: int = 0) -> Iterator[str]:
    """Pass requests on to a server, if they show what is asked for on every path; yield the gateway's address.

    Parameters
    ----------
    behind : str
        Address of the server.
    authorization : str
        The value of the header that it wants; empty for none.
    prefix : str
        Path below which the server is reached.
    away : int
        How many requests it answers with 503, as if the server behind it were just being started.
    """
    answered = itertools.count()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if next(answered) < away:
                return self._answer(503, {}, b"nobody is there")
            if authorization and self.headers.get("Authorization") != authorization:
                return self._answer(401, {}, b"a log-in is needed")
            if not self.path.startswith(prefix):
                return self._answer(404, {}, b"nothing here")
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            if authorization:
                del headers["Authorization"]
            path = self.path.removeprefix(prefix)
            with requests.Session() as session:
                session.trust_env = False
                answer = session.request(
                    self.command,
                    behind + path,
                    headers=headers,
                    data=content,
                    timeout=60,
                    allow_redirects=False,
                    stream=True,
                )
                self._answer(answer.status_code, answer.headers, answer.raw.read())

        do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = do_GET

        def _answer(self, status: int, headers, body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                    self.send_header(name, value)
            length = headers.get("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{prefix}"
    finally:
        server.shutdown()
        server.server_close()
