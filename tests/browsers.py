"""Clients of a web server under test, which read strictly what comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from conformance.http.wire import Answer, Malformed, Reader
from tcp import client
from treadle.server import WSGI, Server

__all__ = ["Answer", "Browser", "Malformed", "browsing", "browsing_at", "until"]

PATIENCE = 30.0  # seconds after which what does not come to pass never will


class Browser:
    """One connection to a server."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.reader = Reader(sock)

    def send(self, method: str = "GET", path: str = "/", *fields: str, version: str = "1.1", body: bytes = b"") -> Self:
        """Send a request."""
        lines = [f"{method} {path} HTTP/{version}", "Host: loom", *fields]
        self.sock.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1") + body)
        return self

    def answer(self, method: str = "GET") -> Answer:
        """Read the next answer, to a request of this method."""
        answer = self.reader.answer(method)
        assert answer is not None, "the connection has ended"
        return answer

    def ask(
        self, method: str = "GET", path: str = "/", *fields: str, version: str = "1.1", body: bytes = b""
    ) -> Answer:
        """Send a request, and read the answer."""
        return self.send(method, path, *fields, version=version, body=body).answer(method)

    def is_kept(self) -> bool:
        """Whether the connection goes on, which another request finds out."""
        try:
            self.send("GET", "/kept")
            return self.reader.answer("GET") is not None
        except (BrokenPipeError, ConnectionResetError):
            return False


@contextmanager
def browsing_at(server: Server) -> Iterator[Browser]:
    """Connect to a server."""
    with client(server) as sock:
        yield Browser(sock)


@contextmanager
def browsing(app: Any, *, threads: int = 2, limits: Any = None, **options: Any) -> Iterator[Browser]:
    """Serve an app, and connect to it. At the end of the block every request is over, and closed."""
    served = app if isinstance(app, WSGI) else WSGI(app, **options)
    with Server(served, "127.0.0.1:0", max_workers=threads, limits=limits) as server, browsing_at(server) as browser:
        yield browser


def until(condition: Callable[[], object]) -> None:
    """Wait for what tells nobody of itself."""
    tick = threading.Event()
    for _ in range(int(PATIENCE * 1000)):
        if condition():
            return
        tick.wait(0.001)
    raise AssertionError("it does not come to pass")
