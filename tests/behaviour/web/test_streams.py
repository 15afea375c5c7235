"""Streams: answers without an end may hold some of the threads, and never all."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from behaviour.web.scene import PATIENCE, Environ, Scene, calling, request, until
from clocks import LeapingClock
from tcp import driver_of

pytestmark = pytest.mark.usefixtures("one_loop")


class Events:
    """Server-sent events: one when it begins, and one whenever a test says so."""

    def __init__(self, kind: str = "text/event-stream") -> None:
        self.kind = kind
        self.more = threading.Semaphore(0)
        self.over = False
        self.closed = threading.Semaphore(0)

    def app(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", self.kind)])
        return self.given()

    def given(self) -> Iterator[bytes]:
        try:
            yield b"data: first\n\n"
            while self.more.acquire(timeout=PATIENCE) and not self.over:
                yield b"data: next\n\n"
        finally:
            self.closed.release()

    def end(self, count: int) -> None:
        """Have so many end."""
        self.over = True
        self.more.release(count)


@pytest.mark.parametrize(("threads", "reserve", "most"), [(2, 0, 1), (4, 1, 2), (5, 1, 2), (8, 1, 4)])
def test_event_streams_hold_half_of_the_threads_and_others_are_told_to_come_again(
    threads: int, reserve: int, most: int
) -> None:
    events = Events()
    scene = Scene(events=events.app)
    with scene.served(threads=threads, reserve=reserve) as server, calling(server, most + 3) as callers:
        *streams, refused, again, quick = callers
        assert quick.get("/quick").status == 200
        for stream in streams:
            stream.send(request("/events"))
            assert b"first" in stream.sock.recv(65536)
        for each in (refused, again):
            answer = each.get("/events")
            assert (answer.status, b"max_streams" in answer.body) == (503, True)
            assert int(answer.fields[b"retry-after"]) > 0
            assert b"connection" not in answer.fields
        for number in range(20):
            assert quick.get(f"/{number}").body == b"/%d" % number
        events.end(most)
        for _ in range(most):
            assert events.closed.acquire(timeout=PATIENCE)
        events.more.release(100)  # each ends at once
        until(lambda: refused.get("/events").status == 200)


def test_as_many_as_max_streams_says() -> None:
    events = Events()
    scene = Scene(events=events.app)
    with scene.served(threads=4, max_streams=1) as server, calling(server, 2) as (stream, refused):
        stream.send(request("/events"))
        assert b"first" in stream.sock.recv(65536)
        assert refused.get("/events").status == 503
        assert refused.get("/other").status == 200
        events.end(1)


def test_a_stream_whose_client_has_left_is_closed_and_makes_room() -> None:
    events = Events()
    scene = Scene(events=events.app)
    with scene.served(threads=4, max_streams=1) as server, calling(server, 2) as (stream, other):
        stream.send(request("/events"))
        assert b"first" in stream.sock.recv(65536)
        assert other.get("/events").status == 503
        stream.sock.close()
        closed = False
        for _ in range(1000):  # it is told by the next event, or the one after
            events.more.release()
            closed = events.closed.acquire(timeout=0.01)
            if closed:
                break
        assert closed
        events.over = True  # those that come now end at once
        events.more.release(100)
        until(lambda: other.get("/events").status == 200)


def test_head_and_answers_of_known_length_are_no_streams() -> None:
    events = Events()

    def known(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream"), ("Content-Length", "4")])
        yield b"ab"
        scene.hold()
        yield b"cd"

    scene = Scene(events=events.app, known=known)
    with scene.served(threads=4, max_streams=1) as server, calling(server, 3) as (stream, head, sized):
        stream.send(request("/events"))
        assert b"first" in stream.sock.recv(65536)
        assert head.send(request("/events", method="HEAD")).answer("HEAD").status == 200
        sized.send(request("/known"))
        scene.until_inside()
        scene.gate.set()
        assert sized.answer().body == b"abcd"
        events.end(1)


def test_an_answer_that_takes_long_has_the_next_of_its_route_count_as_a_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever its type; one that is short again is none."""
    clock, events = LeapingClock(monkeypatch), Events("text/plain")
    scene = Scene(long=events.app)
    with scene.served(threads=4, max_streams=1) as server, calling(server, 2) as (first, other):
        first.send(request("/long"))
        assert b"first" in first.sock.recv(65536)
        clock.leap(2)
        for _ in range(2):  # it is looked at behind the first
            events.more.release()
            assert b"next" in first.sock.recv(65536)
        assert other.get("/long").status == 503
        assert other.get("/other").status == 200
        events.end(1)
        assert events.closed.acquire(timeout=PATIENCE)
        events.more.release(100)  # those that come now end at once
        until(lambda: other.get("/long").status == 200)
        assert other.get("/long").status == 200


def test_a_stream_ends_when_the_server_stops() -> None:
    """It sees that its client is gone, at its next piece; the stop is over by then, or by its time."""
    events = Events()
    scene = Scene(events=events.app)
    with scene.served(threads=2) as server, calling(server) as (stream,):
        stream.send(request("/events"))
        assert b"first" in stream.sock.recv(65536)
        stopping = threading.Thread(target=server.stop, args=(0.1,))
        stopping.start()
        until(lambda: server.snapshot().closed_by.get("drain_timeout") or not stopping.is_alive())
        events.more.release(1000)
        rest = stream.reader.rest()
        assert not rest.endswith(b"0\r\n\r\n")
        assert events.closed.acquire(timeout=PATIENCE)
        stopping.join(PATIENCE)
        assert not stopping.is_alive()


@pytest.mark.parametrize(("kind", "seconds"), [("text/event-stream", 0), ("text/plain", 0), ("text/csv", 2)])
def test_a_stop_ends_a_stream_in_order_and_no_other_answer(
    kind: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its next piece; another answer is taken to its end, however long it takes: who reads it cannot tell a part."""
    clock, events = LeapingClock(monkeypatch), Events(kind)
    scene = Scene(events=events.app)
    with scene.served(threads=4) as server, calling(server, 1) as (caller,), ThreadPoolExecutor(1) as threads:
        caller.send(request("/events"))
        assert b"first" in caller.sock.recv(65536)
        clock.leap(seconds)
        stopped = threads.submit(server.stop, PATIENCE)
        until(lambda: driver_of(server).loop.draining)
        events.more.release()
        rest = caller.sock.recv(65536)
        assert b"next" in rest
        if kind != "text/event-stream":
            events.more.release()
            assert b"next" in caller.sock.recv(65536)
            events.end(1)
        while data := caller.sock.recv(65536):
            rest += data
        assert rest.endswith(b"\r\n0\r\n\r\n")
        assert events.closed.acquire(timeout=PATIENCE)
        assert stopped.result(PATIENCE) == 0
