"""Servers of the standard library's making, on PoolMixIn, and their clients."""

from __future__ import annotations

import http.client
import http.server
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from certificates import Authority
from treadle import Pool
from treadle.server._loop.event_loop import EventLoop
from treadle.server._socketserver.mixin import PoolMixIn
from treadle.server._socketserver.request import Request
from treadle.server._socketserver.requests import RequestManager

__all__ = [
    "ANYWHERE",
    "HTTP",
    "PATIENCE",
    "TCP",
    "UDP",
    "Echo",
    "Hello",
    "One",
    "OneHTTP",
    "connect",
    "loop_of",
    "manager_of",
    "pool_of",
    "secretly",
    "secure",
    "secure_context",
    "serving",
    "until",
    "waiting_of",
    "web",
]

PATIENCE = 30.0  # seconds after which a test that waits for the other side has failed
ANYWHERE = ("127.0.0.1", 0)


class TCP(PoolMixIn, socketserver.TCPServer):
    """The plain server."""


class UDP(PoolMixIn, socketserver.UDPServer):
    """The plain server of datagrams."""


class HTTP(PoolMixIn, http.server.HTTPServer):
    """The plain web server."""


class One(TCP):
    """With a thread."""

    max_workers = 1


class OneHTTP(HTTP):
    """With a thread."""

    max_workers = 1


class Echo(socketserver.StreamRequestHandler):
    """Answers lines until the client leaves."""

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


class Hello(http.server.BaseHTTPRequestHandler):
    """Answers with the number of the request in its conversation, and the path; keeps the connection."""

    protocol_version = "HTTP/1.1"
    count = 0

    def do_GET(self) -> None:
        self.count += 1
        body = b"%d %s" % (self.count, self.path.encode()[:80])
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(server: Any, poll_interval: float = 3600.0) -> Iterator[Any]:
    """Serve in a thread, and close. With such an interval nothing happens by polling."""
    thread = threading.Thread(target=server.serve_forever, args=(poll_interval,), name="serving")
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(PATIENCE)
        server.server_close()
        assert not thread.is_alive()


@contextmanager
def connect(server: Any) -> Iterator[socket.socket]:
    """Connect to a server."""
    with socket.create_connection(server.server_address[:2], PATIENCE) as sock:
        yield sock


@contextmanager
def web(server: Any) -> Iterator[http.client.HTTPConnection]:
    """Connect to a web server."""
    host, port = server.server_address
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    try:
        yield connection
    finally:
        connection.close()


def secure_context(authority: Authority) -> ssl.SSLContext:
    """Return what a server needs to speak TLS."""
    files = authority.issue("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certfile, files.keyfile)
    return context


def secure(server: Any, context: ssl.SSLContext) -> Any:
    """Have a server speak TLS in the way that everybody uses."""
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server


@contextmanager
def secretly(server: Any, authority: Authority) -> Iterator[ssl.SSLSocket]:
    """Connect to a server, and shake hands."""
    with connect(server) as sock:
        with authority.client_context().wrap_socket(sock, server_hostname="127.0.0.1") as wrapped:
            yield wrapped


def until(condition: Callable[[], object]) -> None:
    """Wait for what tells nobody of itself."""
    deadline = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < deadline
        threading.Event().wait(0.001)


def manager_of(server: Any) -> RequestManager:
    """Return what keeps a server's requests."""
    manager: RequestManager = server._PoolMixIn__manager
    return manager


def pool_of(server: Any) -> Pool:
    """Return the pool that a server uses."""
    pool = manager_of(server).pool
    assert pool is not None
    return pool


def loop_of(server: Any) -> EventLoop:
    """Return what a server's clients wait in."""
    loop = manager_of(server).loop
    assert loop is not None
    return loop


def waiting_of(server: Any) -> list[Request]:
    """Return the requests that wait for their client without a thread."""
    return [source for source in list(loop_of(server).sources.values()) if isinstance(source, Request)]
