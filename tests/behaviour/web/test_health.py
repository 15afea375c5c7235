"""Health: whether it lives, and takes more; answered though all threads are busy, and never by the app."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from behaviour.web.scene import PATIENCE, Scene, calling, counts, request, until
from clocks import LeapingClock
from tcp import driver_of
from treadle.server import Limits

PATHS: dict[str, Any] = {"health": "/healthz", "ready": "/readyz"}


def test_both_are_answered_while_all_threads_block_and_many_wait() -> None:
    scene = Scene()
    with scene.served(threads=2, reserve=0, **PATHS) as server, calling(server, 7) as (caller, *others):
        for other in others:
            other.send(request("/hold"))
        scene.until_inside(2)
        until(lambda: server.snapshot().pool.waiting == 4)
        for _ in range(20):
            answer = caller.get("/healthz")
            assert (answer.status, answer.body) == (200, b"alive\n")
            answer = caller.get("/readyz?x=1")
            assert (answer.status, answer.body) == (200, b"ready: 2/2 threads busy, 4 waiting\n")
        assert scene.nobody_else_is_inside()
        scene.gate.set()
        assert [other.answer().body for other in others] == [b"/hold"] * 6
    assert scene.began == ["/hold"] * 6


def test_they_are_answered_to_get_and_head_alone_and_are_not_kept_by_caches() -> None:
    scene = Scene()
    with scene.served(**PATHS) as server, calling(server) as (caller,):
        for path in PATHS.values():
            got = caller.get(path)
            head = caller.send(request(path, method="HEAD")).answer("HEAD")
            assert (got.status, head.status, head.body) == (200, 200, b"")
            assert got.fields[b"cache-control"] == b"no-store"
            assert caller.send(request(path, method="POST", body=b"x")).answer("POST").body == path.encode()
            assert caller.get(f"{path}/more").body == f"{path}/more".encode()
        assert scene.began == ["/healthz", "/healthz/more", "/readyz", "/readyz/more"]
        answer = caller.send(request("/healthz", "Connection: close")).answer()
        assert (answer.status, answer.fields[b"connection"]) == (200, b"close")
        assert caller.ends()


def test_they_are_answered_to_http_1_0_and_with_a_body() -> None:
    """As load balancers ask."""
    scene = Scene()
    with scene.served(**PATHS) as server, calling(server, 3) as (old, kept, body):
        answer = old.send(b"GET /healthz HTTP/1.0\r\n\r\n").answer()
        assert (answer.status, answer.fields[b"connection"]) == (200, b"close")
        assert old.ends()
        for _ in range(2):
            answer = kept.send(b"GET /readyz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").answer()
            assert (answer.status, answer.fields[b"connection"]) == (200, b"keep-alive")
        for _ in range(2):
            assert body.send(request("/healthz", body=b"body")).answer().body == b"alive\n"
    assert not scene.began


def test_without_these_paths_they_are_the_apps() -> None:
    scene = Scene()
    with scene.served() as server, calling(server) as (caller,):
        assert [caller.get(path).body for path in PATHS.values()] == [b"/healthz", b"/readyz"]


def test_it_is_alive_and_not_ready_while_it_stops() -> None:
    scene = Scene()
    with scene.served(threads=2, reserve=0, **PATHS) as server, calling(server, 3) as (held, live, ready):
        for caller in (live, ready):
            assert caller.get("/readyz").status == 200
        held.send(request("/hold"))
        scene.until_inside()
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        until(lambda: driver_of(server).loop.draining)
        answer = ready.get("/readyz")
        assert (answer.status, b"the server stops" in answer.body) == (503, True)
        assert live.get("/healthz").status == 200
        live.sock.close()
        ready.sock.close()
        scene.gate.set()
        assert held.answer().body == b"/hold"
        stopping.join(PATIENCE)
        assert not stopping.is_alive()


def test_it_is_not_ready_when_whoever_comes_would_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that began the second has waited for 900 s; so it takes a thirty-second of that from one to the next."""
    clock, scene = LeapingClock(monkeypatch), Scene()
    limits = Limits(idle_timeout=None, linger_timeout=0.01)
    with (
        scene.served(threads=1, limits=limits, queue_timeout=1000.0, **PATHS) as server,
        calling(server, 60) as (caller, *others),
    ):
        slow = others.pop().send(request("/hold"))
        scene.until_inside()
        until(lambda: "GET /hold" in server.snapshot().slow_kinds)
        clock.leap(1)  # it is one of the slowest by now
        scene.gate.set()
        assert slow.answer().body == b"/hold"
        scene.gate.clear()
        others.pop().send(request("/hold"))
        scene.until_inside()
        first = others.pop().send(request("/hold"))
        until(lambda: server.snapshot().pool.waiting)
        clock.leap(900)
        assert caller.get("/readyz").status == 200
        scene.gate.set()
        assert first.answer().body == b"/hold"
        scene.inside.acquire()
        scene.gate.clear()
        others.pop().send(request("/hold"))
        scene.until_inside()
        while not server.snapshot().rejected_messages:
            seen = counts(server)
            others.pop().send(request("/hold"))
            until(lambda seen=seen: counts(server) != seen)  # type: ignore[misc]
        answer = caller.get("/readyz")
        assert (answer.status, b"longer than queue_timeout" in answer.body) == (503, True), answer.body
        scene.gate.set()
        until(lambda: not server.snapshot().pool.waiting)
        assert caller.get("/readyz").status == 200
