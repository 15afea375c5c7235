"""An app whose paths say what it does, at gates in place of sleeps; and clients of it, over real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

from conformance.http.wire import Answer, Reader
from tcp import PATIENCE, client
from treadle.server import WSGI, Limits, Server

__all__ = ["PATIENCE", "Caller", "Environ", "Scene", "calling", "counts", "plain", "request", "until"]

Environ = dict[str, Any]


class Scene:
    """An app that answers with its path, once the gate is open if that begins with /hold, and notes what it is told.

    Attributes:
        others: what else it does, by how a path begins.
        began: the paths of requests, in the order in which the app was called with them.
    """

    def __init__(self, **others: Callable[[Environ, Any], Iterable[bytes]]) -> None:
        self.gate, self.inside = threading.Event(), threading.Semaphore(0)
        self.others = others
        self.began: list[str] = []
        self.server: Any = None

    def app(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        path: str = environ["PATH_INFO"]
        self.began.append(path)
        for name, other in self.others.items():
            if path.startswith(f"/{name}"):
                return other(environ, start_response)
        if path.startswith("/hold"):
            self.hold()
        return plain(environ, start_response)

    def hold(self) -> None:
        """Say that somebody is here, and wait until the gate is open."""
        self.inside.release()
        assert self.gate.wait(PATIENCE)

    def until_inside(self, count: int = 1) -> None:
        """Return when so many have come to the gate since the last call."""
        for _ in range(count):
            assert self.inside.acquire(timeout=PATIENCE), "nobody comes to the gate"

    def nobody_else_is_inside(self) -> bool:
        return not self.inside.acquire(blocking=False)

    @contextmanager
    def served(
        self, *, threads: int = 2, limits: Limits | None = None, reserve: int | None = None, **options: Any
    ) -> Iterator[Server]:
        """Serve it; at the end of the block the gate is open."""
        protocol = WSGI(self.app, **options)
        with Server(protocol, "127.0.0.1:0", max_workers=threads, limits=limits, reserve=reserve) as self.server:
            try:
                yield self.server
            finally:
                self.gate.set()


def plain(environ: Environ, start_response: Any) -> Iterable[bytes]:
    """Answer with the path."""
    text = environ["PATH_INFO"].encode("latin-1")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
    return [text]


def request(target: str, *fields: str, method: str = "GET", body: bytes | None = None, version: str = "1.1") -> bytes:
    """Return a request as it is sent."""
    lines = [f"{method} {target} HTTP/{version}", "Host: loom.example", *fields]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1") + (body or b"")


class Caller:
    """One client."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.reader = Reader(sock)

    def send(self, data: bytes) -> Self:
        self.sock.sendall(data)
        return self

    def answer(self, method: str = "GET") -> Answer:
        """Return the next answer."""
        answer = self.reader.answer(method)
        assert answer is not None, "the connection ends, without an answer"
        return answer

    def get(self, target: str, *fields: str) -> Answer:
        return self.send(request(target, *fields)).answer()

    def is_asked(self) -> bool:
        """Wait for a word that is no answer yet, and return whether that asks for the body."""
        return self.reader._head() == (100, {})

    def ends(self) -> bool:
        """Wait for the end, and return whether nothing came before it."""
        return not self.reader.rest()


@contextmanager
def calling(server: Server, count: int = 1) -> Iterator[list[Caller]]:
    """Give so many clients."""
    with ExitStack() as stack:
        yield [Caller(stack.enter_context(client(server))) for _ in range(count)]


def counts(server: Server) -> tuple[int, int]:
    """Return how many requests wait for a thread, and how many were told that they would for too long."""
    snapshot = server.snapshot()
    return snapshot.pool.waiting, snapshot.rejected_messages


def until(condition: Callable[[], object]) -> None:
    """Wait for what tells nobody of itself."""
    tick = threading.Event()
    for _ in range(int(PATIENCE * 200)):
        if condition():
            return
        tick.wait(0.005)
    raise AssertionError("it did not come to pass")
