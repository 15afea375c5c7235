"""Web apps under test on a server, the clients that come all at once, and a watch on what becomes of the app."""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from hashlib import sha256
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, Self, TypeVar
from wsgiref.validate import validator

import pytest

from treadle import Pool
from treadle.server import WSGI, Limits, Server

__all__ = [
    "CLIENTS",
    "DESCRIPTORS",
    "DRESSES",
    "PATIENCE",
    "WAYS",
    "WORKERS",
    "Address",
    "Answer",
    "Client",
    "Life",
    "Watched",
    "bare",
    "content_of",
    "count_open",
    "crowd",
    "cut",
    "digest",
    "form",
    "serve",
    "until",
    "validated",
]

PATIENCE = 60.0  # seconds after which a test that waits for the other side has failed
WORKERS = 4
CLIENTS = 32  # at once
PIECE = 64 << 10  # bytes of a chunk

DESCRIPTORS = Path("/proc/self/fd")  # where a system tells which files are open

App = Callable[[dict[str, Any], Any], Iterable[bytes]]
Address = tuple[str, int]
T = TypeVar("T")


@contextmanager
def serve(
    app: Any, *, script_name: str = "", pool: Pool | None = None, limits: Limits | None = None
) -> Iterator[Address]:
    """Serve an app, and give the address. At the end of the block every request is over, and closed."""
    workers = WORKERS if pool is None else None
    served = WSGI(app, script_name=script_name)
    with Server(served, "127.0.0.1:0", pool=pool, max_workers=workers, limits=limits) as server:
        yield server.address


def until(condition: Callable[[], object]) -> None:
    """Wait for what tells nobody of itself."""
    done = threading.Event()
    for _ in range(int(PATIENCE * 1000)):
        if condition():
            return
        done.wait(0.001)
    raise AssertionError("it did not come to pass")


def count_open(path: Path) -> int:
    """Return how often this process has a file open, or files in a folder."""
    found = 0
    for name in os.listdir(DESCRIPTORS):
        try:
            found += os.readlink(DESCRIPTORS / name).startswith(str(path))
        except OSError:
            pass  # the descriptor of this very listing
    return found


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    kept: bool  # the connection, for the next request

    @property
    def text(self) -> str:
        return self.body.decode()


class Client:
    """A client that keeps its connection, and cookies as a browser does."""

    def __init__(self, address: Address) -> None:
        self.connection = http.client.HTTPConnection(*address, timeout=PATIENCE)
        self.cookies: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.request("GET", path, headers=headers)

    def post(self, path: str, body: bytes | Iterable[bytes], kind: str = "application/octet-stream") -> Answer:
        """Send a body: bytes with their length, an iterable in chunks."""
        return self.request("POST", path, body, {"Content-Type": kind})

    def request(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        cookies = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        chunked = body is not None and not isinstance(body, bytes)
        sent = {**(cookies if self.cookies else {}), **(headers or {})}
        if chunked:
            sent["Transfer-Encoding"] = "chunked"
        self.connection.request(method, path, body, sent, encode_chunked=chunked)
        response = self.connection.getresponse()
        content = response.read()
        for cookie in response.headers.get_all("Set-Cookie", []):
            self.cookies.update({name: morsel.coded_value for name, morsel in SimpleCookie(cookie).items()})
        return Answer(response.status, response.headers, content, self.connection.sock is not None)


def crowd(address: Address, visit: Callable[[Client, int], T], clients: int = CLIENTS) -> list[T]:
    """Have as many clients visit at once, each told its number; return what each visit came to."""
    together = threading.Barrier(clients)

    def come(number: int) -> T:
        with Client(address) as client:
            together.wait(PATIENCE)
            return visit(client, number)

    with ThreadPoolExecutor(clients) as threads:
        return [visited.result() for visited in [threads.submit(come, number) for number in range(clients)]]


def content_of(number: int, size: int) -> bytes:
    """Return so many bytes that are a client's own."""
    seed = sha256(b"%d" % number).digest()
    return (seed * (size // len(seed) + 1))[:size]


def digest(content: bytes) -> str:
    """Return what tells one content from another."""
    return sha256(content).hexdigest()


def cut(body: bytes, pieces: int | None) -> bytes | list[bytes]:
    """Return a body as it is to be sent: in pieces, which go as chunks, or whole."""
    return body if pieces is None else [body[at : at + pieces] for at in range(0, len(body), pieces)]


def form(fields: Mapping[str, str], files: Mapping[str, bytes]) -> tuple[bytes, str]:
    """Return a form of several parts as browsers send it, and its content type."""
    line = "----loom7MA4YWxkTrZu0gW"
    parts = [
        f'--{line}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    for name, content in files.items():
        disposition = f'Content-Disposition: form-data; name="{name}"; filename="{name}.bin"'
        head = f"--{line}\r\n{disposition}\r\nContent-Type: application/octet-stream\r\n\r\n"
        parts.append(head.encode() + content + b"\r\n")
    return b"".join(parts) + f"--{line}--\r\n".encode(), f"multipart/form-data; boundary={line}"


# -- what the server does with an app --------------------------------------------------------------------------------

_life: ContextVar[Life | None] = ContextVar("life", default=None)


@dataclass(eq=False)
class Life:
    """A request, from the call of the app until its answer is closed."""

    path: str
    threads: list[threading.Thread] = field(default_factory=list)  # of the call, of each step, and of the end
    closed: int = 0
    faults: list[str] = field(default_factory=list)

    def step(self, name: str) -> None:
        """Note that the server does something with the app."""
        self.threads.append(threading.current_thread())
        if name == "call" and _life.get() is not None:
            self.faults.append(f"called in the context of another: {_life.get()}")
        if name != "call" and _life.get() is not self:
            self.faults.append(f"{name} in another context than the call")
        if name != "call" and self.closed:
            self.faults.append(f"{name} after close")


class Watched:
    """An app whose every life is looked at."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.lives: list[Life] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        life = Life(environ.get("PATH_INFO", ""))
        self.lives.append(life)
        life.step("call")
        _life.set(life)
        return _Steps(life, self.app(environ, start_response))

    def check(self) -> None:
        """All lives are over, and each was led in one thread and one context, and closed once."""
        for life in self.lives:
            assert not life.faults, (life.path, life.faults)
            assert len(set(life.threads)) == 1, (life.path, life.threads)
            assert life.closed == 1, (life.path, life.closed)


class _Steps:
    def __init__(self, life: Life, answer: Iterable[bytes]) -> None:
        self.life = life
        self.answer = answer
        self.pieces = iter(answer)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.life.step("next")
        return next(self.pieces)

    def close(self) -> None:
        self.life.step("close")
        self.life.closed += 1
        if hasattr(self.answer, "close"):
            self.answer.close()


def bare(app: Any) -> Any:
    """Return the app as it is."""
    return app


def validated(app: Any) -> Any:
    """Return the app with the judge of wsgiref around it, who finds faults of both the server and the app.

    He wants every `read` to have a size, which frameworks give where nobody tells them that the body has an end.
    """

    def told_less(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ.pop("wsgi.input_terminated", None)
        answer: Iterable[bytes] = app(environ, start_response)
        return answer

    return validator(told_less)


# How a body is sent: whole, or in pieces of so many bytes; and to whom.
WAYS = pytest.mark.parametrize(
    ("dressed", "pieces"),
    [(bare, None), (bare, PIECE), (validated, PIECE)],
    ids=["length", "chunked", "chunked-validated"],
)
DRESSES = pytest.mark.parametrize("dressed", [bare, validated])
