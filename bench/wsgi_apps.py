"""The apps that web servers are measured with; each is a WSGI callable that every server is given alike."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.util import FileWrapper

try:
    from flask import Flask, jsonify, request
except ImportError:
    Flask = None  # type: ignore[assignment,misc]  # only the page needs it

Environ = dict[str, Any]
Start = Callable[[str, list[tuple[str, str]]], Any]

FILE = "BENCH_FILE"  # the variable that names the file which is sent
SLEEP = 0.1  # seconds that the slow route takes
ANSWER = b"x" * (1 << 20)
BLOCK = 1 << 16  # bytes that are read at a time
HELLO = b"Hello, world!\n"
TEXT, BYTES = ("Content-Type", "text/plain"), ("Content-Type", "application/octet-stream")


def hello(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """The shortest there is."""
    start_response("200 OK", [TEXT, ("Content-Length", "14")])
    return [HELLO]


def upload(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """Read the body, and say how many bytes it had."""
    body, size = environ["wsgi.input"], 0
    left = int(environ["CONTENT_LENGTH"])
    while size < left and (data := body.read(min(BLOCK, left - size))):
        size += len(data)
    answer = str(size).encode()
    start_response("200 OK", [TEXT, ("Content-Length", str(len(answer)))])
    return [answer]


def download(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """Answer with 1 MiB in one object."""
    start_response("200 OK", [BYTES, ("Content-Length", str(len(ANSWER)))])
    return [ANSWER]


def file(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """Answer with a file, by the server's own wrapper where it has one."""
    opened = open(os.environ[FILE], "rb")  # noqa: SIM115  # the server closes what it is given
    size = os.fstat(opened.fileno()).st_size
    start_response("200 OK", [BYTES, ("Content-Length", str(size))])
    wrapper: Callable[..., Iterable[bytes]] = environ.get("wsgi.file_wrapper", FileWrapper)
    return wrapper(opened, BLOCK)


def routes(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """Sleep on one route, return at once on others; answer with the query, by which clients know their request."""
    if environ["PATH_INFO"] == "/slow":
        time.sleep(SLEEP)
    answer = environ["QUERY_STRING"].encode("latin-1")
    start_response("200 OK", [TEXT, ("Content-Length", str(len(answer)))])
    return [answer]


if Flask is not None:
    page = Flask(__name__)

    @page.get("/shops/<int:number>/items")
    def items(number: int) -> Any:
        """Twenty records, as JSON."""
        first = request.args.get("first", 0, type=int)
        return jsonify(
            shop=number,
            items=[
                {"id": first + i, "name": f"item {first + i}", "price": 9.99, "tags": ["a", "b"]} for i in range(20)
            ],
        )
