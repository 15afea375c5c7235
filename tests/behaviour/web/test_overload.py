"""More requests than threads: who is told so, and when; and apps that run for too long."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from behaviour.web.scene import PATIENCE, Caller, Environ, Scene, calling, counts, plain, request, until
from clocks import LeapingClock
from treadle.server import Limits, Server

SOON = Limits(handler_timeout=0.1)


def waits(server: Server, caller: Caller, path: str, count: int) -> None:
    """Send a request that waits for a thread; it is the last of so many."""
    caller.send(request(path))
    until(lambda: server.snapshot().pool.waiting == count)


# -- queue_timeout ----------------------------------------------------------------------------------------------------


def test_who_has_waited_for_so_long_is_told_to_come_again_though_all_threads_block() -> None:
    scene = Scene()
    with scene.served(threads=2, reserve=0, queue_timeout=0.3) as server, calling(server, 6) as callers:
        for caller in callers[:2]:
            caller.send(request("/hold"))
        scene.until_inside(2)
        for caller in callers[2:]:
            caller.send(request("/late", "X-Request-ID: loom-1"))
        for caller in callers[2:]:
            answer = caller.answer()
            assert (answer.status, answer.fields[b"retry-after"]) == (503, b"1")
            assert b"queue_timeout" in answer.body
            assert answer.fields[b"x-request-id"] == b"loom-1"
            assert b"connection" not in answer.fields
        assert server.snapshot().rejected_messages == 4
        scene.gate.set()
        assert [caller.answer().body for caller in callers[:2]] == [b"/hold"] * 2
        for caller in callers:  # and they go on
            assert caller.get("/again").body == b"/again"
    assert "/late" not in scene.began


def test_behind_who_is_told_so_its_next_request_is_handled() -> None:
    scene = Scene()
    with scene.served(threads=1, queue_timeout=0.3) as server, calling(server, 2) as (held, caller):
        held.send(request("/hold"))
        scene.until_inside()
        caller.send(request("/1", method="HEAD"))
        answer = caller.answer("HEAD")
        assert (answer.status, answer.body) == (503, b"")
        scene.gate.set()
        assert held.answer().body == b"/hold"
        assert caller.get("/2").body == b"/2"


def test_a_body_of_who_is_told_so_is_let_go() -> None:
    scene = Scene()
    with scene.served(threads=1, queue_timeout=0.3) as server, calling(server, 2) as (held, caller):
        held.send(request("/hold"))
        scene.until_inside()
        caller.send(request("/1", method="POST", body=bytes(1 << 20)))
        assert caller.answer("POST").status == 503
        scene.gate.set()


def test_the_oldest_is_told_at_once_when_more_wait_than_can_be_begun_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """It took a thirty-second of 900 s from one to the next: so 40 are too many, though none has waited long."""
    clock, scene = LeapingClock(monkeypatch), Scene()
    limits = Limits(idle_timeout=None)
    with scene.served(threads=1, limits=limits, queue_timeout=1000.0) as server, calling(server, 50) as callers:
        slow, first, held, *others = callers
        slow.send(request("/hold"))
        scene.until_inside()
        until(lambda: "GET /hold" in server.snapshot().slow_kinds)
        clock.leap(1)  # it is one of the slowest by now
        scene.gate.set()
        assert slow.answer().body == b"/hold"
        scene.gate.clear()
        slow.send(request("/hold"))
        scene.until_inside()
        waits(server, first, "/hold", 1)
        clock.leap(900)
        scene.gate.set()
        assert [slow.answer().body, first.answer().body] == [b"/hold", b"/hold"]
        scene.inside.acquire()
        scene.gate.clear()
        held.send(request("/hold"))
        scene.until_inside()
        come = iter(others)
        for number in range(1, 36):
            waits(server, next(come), "/hold", number)
        assert server.snapshot().rejected_messages == 0
        while not server.snapshot().rejected_messages:
            seen = counts(server)
            next(come).send(request("/hold"))
            until(lambda seen=seen: counts(server) != seen)  # type: ignore[misc]
        assert others[0].answer().status == 503
        next(come).send(request("/hold"))
        assert others[1].answer().status == 503
        scene.gate.set()
        left = list(come)
        for other in others[2 : len(others) - len(left)]:
            assert other.answer().body == b"/hold"
        assert server.snapshot().rejected_messages == 2


def test_once_a_queue_stands_the_newest_is_handled_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, scene = LeapingClock(monkeypatch), Scene()
    turns: dict[str, threading.Event] = {}

    def turn(environ: Environ, start_response: Any) -> Iterable[bytes]:
        scene.inside.release()
        assert turns.setdefault(environ["QUERY_STRING"], threading.Event()).wait(PATIENCE)
        order.append(environ["QUERY_STRING"])
        return plain(environ, start_response)

    def go(name: str) -> None:
        turns.setdefault(name, threading.Event()).set()

    order: list[str] = []
    scene.others["turn"] = turn
    limits = Limits(idle_timeout=None)
    with (
        scene.served(threads=1, limits=limits, queue_timeout=100.0) as server,
        calling(server, 8) as callers,
    ):
        callers[0].send(request("/turn?0"))
        scene.until_inside()
        until(lambda: server.snapshot().slow_kinds)
        clock.leap(1)
        go("0")
        assert callers[0].answer().status == 200
        callers[0].send(request("/turn?a"))
        scene.until_inside()
        for number, name in enumerate("bcdefg", 1):
            waits(server, callers[number], f"/turn?{name}", number)
        clock.leap(11)  # a tenth of the time that they may wait; from now on the head is late
        go("a")
        assert callers[0].answer().status == 200
        scene.until_inside()  # the oldest, for this was the first look
        clock.leap(11)
        go("b")
        assert callers[1].answer().status == 200
        for name, caller in zip("gfe", reversed(callers[4:7]), strict=True):  # the newest
            scene.until_inside()
            go(name)
            assert caller.answer().status == 200, order
        for name in "dc":
            scene.until_inside()
            go(name)
            assert callers["abcd".index(name)].answer().status == 200
        assert order == ["0", "a", "b", "g", "f", "e", "d", "c"]


def test_without_a_limit_they_wait() -> None:
    scene = Scene()
    with scene.served(threads=1, queue_timeout=None) as server, calling(server, 30) as callers:
        for caller in callers:
            caller.send(request("/hold"))
        scene.until_inside()
        until(lambda: server.snapshot().pool.waiting == 29)
        scene.gate.set()
        assert [caller.answer().body for caller in callers] == [b"/hold"] * 30


def test_with_a_full_queue_whoever_comes_waits_at_its_socket_and_all_are_answered() -> None:
    scene = Scene()
    with scene.served(threads=2) as server, calling(server, 40) as callers:
        for caller in callers:
            caller.send(b"".join(request(f"/hold/{number}") for number in range(5)))
        scene.until_inside()
        scene.gate.set()
        for caller in callers:
            assert [caller.answer().body for _ in range(5)] == [b"/hold/%d" % number for number in range(5)]


# -- handler_timeout --------------------------------------------------------------------------------------------------


def stuck_here(scene: Scene) -> None:
    scene.hold()


def test_an_app_that_runs_for_too_long_is_told_of_and_counted_until_it_returns(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene()

    def stuck(environ: Environ, start_response: Any) -> Iterable[bytes]:
        stuck_here(scene)
        return plain(environ, start_response)

    scene.others["stuck"] = stuck
    with scene.served(threads=2, limits=SOON) as server, calling(server, 2) as (caller, other):
        assert other.get("/quick").body == b"/quick"
        caller.send(request("/stuck", "X-Request-ID: loom-9") + request("/behind"))
        answer = caller.answer()
        assert (answer.status, answer.fields[b"connection"]) == (503, b"close")
        assert b"handler_timeout" in answer.body
        assert answer.fields[b"x-request-id"] == b"loom-9"
        assert int(answer.fields[b"retry-after"]) > 0
        assert caller.ends()
        assert server.snapshot().overdue == 1
        text = "\n".join(record.getMessage() for record in caplog.records)
        assert "(handler_timeout)" in text
        assert "in stuck_here" in text
        assert other.get("/quick").body == b"/quick"
        scene.gate.set()
        until(lambda: server.snapshot().overdue == 0)
    assert scene.began.count("/behind") == 0


def test_all_threads_are_stuck_and_each_client_is_told_on_time() -> None:
    scene = Scene()
    limits = Limits(handler_timeout=0.2)
    with scene.served(threads=2, reserve=0, limits=limits, health="/healthz") as server, calling(server, 3) as callers:
        *stuck, caller = callers
        for each in stuck:
            each.send(request("/hold"))
        for each in stuck:
            assert each.answer().status == 503
        assert server.snapshot().overdue == 2
        assert caller.get("/healthz").status == 200
        scene.gate.set()
        until(lambda: server.snapshot().overdue == 0)
        assert caller.get("/again").body == b"/again"


def test_an_answer_that_has_begun_is_cut_when_its_next_piece_takes_too_long() -> None:
    scene, closed = Scene(), threading.Semaphore(0)

    class Pieces:
        def __iter__(self) -> Iterator[bytes]:
            yield b"first"
            scene.hold()
            yield b"second"

        def close(self) -> None:
            closed.release()

    def pieces(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Pieces()

    scene.others["pieces"] = pieces
    with scene.served(threads=2, limits=SOON) as server, calling(server) as (caller,):
        caller.send(request("/pieces"))
        rest = caller.reader.rest()
        assert b"first" in rest
        assert not rest.endswith(b"0\r\n\r\n")
        assert b"503" not in rest
        scene.gate.set()
        assert closed.acquire(timeout=PATIENCE)
        until(lambda: server.snapshot().overdue == 0)
    assert not closed.acquire(blocking=False)


def test_many_that_run_for_too_long_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    with caplog.at_level(logging.WARNING), scene.served(threads=4, limits=SOON) as server:
        with calling(server, 3) as callers:
            for caller in callers:
                caller.send(request("/hold"))
            for caller in callers:
                assert caller.answer().status == 503
        scene.gate.set()
    assert sum("(handler_timeout)" in record.getMessage() for record in caplog.records) == 1
