"""Clients that are slow: however many there are, in whatever they are slow, they hold no thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from behaviour.web.scene import PATIENCE, Caller, Environ, Scene, calling, request, until
from integration.web.served import content_of
from treadle.server import Limits, Server

MANY = 300
SIZE = 2_000_000  # bytes of an answer: more than the kernel takes of one that is not read, with the buffers below
HALVES = {
    "a byte": b"G",
    "a line": b"GET /never HTTP/1.1\r\n",
    "a head": request("/never")[:-2],
    "a body": request("/never", method="POST", body=b"0123456789")[:-1],
    "a chunk": request("/never", "Transfer-Encoding: chunked", method="POST") + b"a\r\n01234",
    "a large body": request("/never", method="POST", body=bytes(5000))[:-1],
}


@contextmanager
def stalled(server: Server, count: int) -> Iterator[list[Caller]]:
    """Give so many clients whose kernel takes as little as it may."""
    with ExitStack() as stack:
        callers = []
        for _ in range(count):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            sock.settimeout(PATIENCE)
            sock.connect(server.address)
            callers.append(Caller(sock))
        yield callers


def whole(environ: Environ, start_response: Any) -> Iterable[bytes]:
    """Answer with a lot, at once."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [content_of(1, SIZE)]


def in_pieces(environ: Environ, start_response: Any) -> Iterator[bytes]:
    """Answer with as much, piece by piece."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    for at in range(0, SIZE, 50_000):
        yield content_of(1, SIZE)[at : at + 50_000]


def written(environ: Environ, start_response: Any) -> Iterable[bytes]:
    """Answer with as much, by what old programs call."""
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    for at in range(0, SIZE, 50_000):
        write(content_of(1, SIZE)[at : at + 50_000])
    return []


def of_a_file(environ: Environ, start_response: Any) -> Iterable[bytes]:
    """Answer with a file."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(SIZE))])
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](open(environ["QUERY_STRING"], "rb"))  # noqa: SIM115
    return wrapped


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("half", HALVES)
def test_hundreds_of_halves_hold_no_thread(half: str, threads: int) -> None:
    scene = Scene()
    with scene.served(threads=threads) as server, ExitStack() as stack:
        for number in range(MANY):
            slow = stack.enter_context(socket.create_connection(server.address, PATIENCE))
            slow.sendall(HALVES[half])
            if number % 100 == 0:
                caller = stack.enter_context(calling(server))[0]
                assert caller.get(f"/{number}").body == b"/%d" % number
        until(lambda: server.snapshot().connections == MANY + 3)
        for number in range(20):
            assert caller.get(f"/{number}").body == b"/%d" % number
        assert "/never" not in scene.began


@pytest.mark.parametrize("app", [whole, in_pieces, written, of_a_file])
def test_answers_that_nobody_reads_hold_no_thread(app: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "content").write_bytes(content_of(1, SIZE))
    ended = threading.Semaphore(0)

    def large(environ: Environ, start_response: Any) -> Iterator[bytes]:
        try:
            yield from app(environ, start_response)
        finally:
            ended.release()

    def at_once(environ: Environ, start_response: Any) -> Iterable[bytes]:
        ended.release()
        answer: Iterable[bytes] = app(environ, start_response)
        return answer

    scene, limits = Scene(large=large if app is in_pieces else at_once), Limits(spool_folder=tmp_path)
    with scene.served(threads=2, limits=limits) as server, stalled(server, 12) as slow:
        for caller in slow:
            caller.send(request(f"/large?{tmp_path / 'content'}"))
        for _ in slow:
            assert ended.acquire(timeout=PATIENCE), "an answer holds its thread"
        with calling(server) as (quick,):
            for number in range(20):
                assert quick.get(f"/{number}").body == b"/%d" % number
        for caller in slow[::4]:  # and what they come for is there
            assert caller.answer().body == content_of(1, SIZE)


@pytest.mark.parametrize("memory", [0, 100_000])
def test_an_answer_holds_its_thread_once_the_spool_is_full_and_no_longer(memory: int, tmp_path: Path) -> None:
    """As much as memory, file and kernel take is made before the client reads; the rest as it does."""
    made, ended = [0], threading.Event()

    def large(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            for at in range(0, 4 * SIZE, 50_000):
                yield content_of(1, 4 * SIZE)[at : at + 50_000]
                made[0] += 1
        finally:
            ended.set()

    scene = Scene(large=large)
    limits = Limits(spool_memory=memory, spool_file=200_000, spool_folder=tmp_path)
    with scene.served(threads=2, limits=limits) as server, stalled(server, 1) as (slow,), calling(server) as (quick,):
        assert quick.get("/1").body == b"/1"  # which is known to be quick by then
        slow.send(request("/large"))
        until(lambda: made[0] * 50_000 >= memory + 200_000 - 50_000)
        for number in range(20):  # by the other thread
            assert quick.get(f"/{number}").body == b"/%d" % number
        assert not ended.is_set()
        assert slow.answer().body == content_of(1, 4 * SIZE)
        assert ended.wait(PATIENCE)
        assert made[0] == 4 * SIZE // 50_000


def test_an_answer_whose_client_leaves_is_closed_and_its_thread_goes_on(tmp_path: Path) -> None:
    closed = threading.Semaphore(0)

    class Endless:
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield bytes(50_000)

        def close(self) -> None:
            closed.release()

    def endless(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return Endless()

    scene, limits = Scene(endless=endless), Limits(spool_file=200_000, spool_folder=tmp_path)
    with scene.served(threads=4, limits=limits) as server:
        with stalled(server, 2) as slow:
            for caller in slow:
                caller.send(request("/endless"))
            for caller in slow:
                assert caller.sock.recv(10)
        for _ in slow:
            assert closed.acquire(timeout=PATIENCE), "who made the answer is not told"
        until(lambda: not server.snapshot().connections)
    assert not closed.acquire(blocking=False), "it was closed twice"


def test_clients_that_come_and_go_without_a_word_are_no_requests() -> None:
    scene = Scene()
    with scene.served() as server:
        for _ in range(50):
            with socket.create_connection(server.address, PATIENCE):
                pass
        until(lambda: server.snapshot().closed_connections == 50)
        with calling(server) as (caller,):
            assert caller.get("/last").status == 200
    assert scene.began == ["/last"]
