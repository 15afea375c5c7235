"""Routes: one request in twenty is slow, and the quick ones are not held up by it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import pytest

from behaviour.leads import depose
from behaviour.web.scene import Environ, Scene, calling, plain, request, until

pytestmark = pytest.mark.usefixtures("one_loop", "blind_watchdog")  # who is slow is for the tests to say


class Slow(Scene):
    """A scene whose gate is what makes a request slow, and nothing else."""

    def hold(self) -> None:
        """Come to the gate, and lead no more."""
        depose(self.server)
        super().hold()


def test_with_one_slow_request_in_twenty_the_quick_ones_are_answered_before_any_of_the_slow() -> None:
    """All but one thread are at the gate, and more of them wait, while every quick one is answered."""
    scene = Slow()
    with scene.served(threads=4, reserve=1) as server, calling(server, 32) as callers:
        quick, slow = callers[:20], callers[20:]
        for caller in quick:
            assert caller.get("/users/1").body == b"/users/1"
        for number, caller in enumerate(slow):
            caller.send(request(f"/hold/{number}"))  # one route
        scene.until_inside(3)
        for number in range(20):
            for caller in quick:
                assert caller.get(f"/users/{number}").body == b"/users/%d" % number
        assert scene.nobody_else_is_inside()
        assert list(server.snapshot().slow_kinds) == ["GET /hold/*"]
        scene.gate.set()
        for number, caller in enumerate(slow):
            assert caller.answer().body == b"/hold/%d" % number


def test_a_route_is_told_by_its_method_and_its_path_less_numbers_and_tokens() -> None:
    scene = Slow()
    with scene.served(threads=8) as server, calling(server, 4) as callers:
        uuid = "8c9f2f3e-5d0c-4a57-9b6f-0a4d0e1f2a3b"
        for caller, path in zip(callers, ("/hold/7", "/hold/8?x=1", f"/hold/{uuid}", "/hold/page"), strict=True):
            caller.send(request(path))
            scene.until_inside()
        until(lambda: len(server.snapshot().slow_kinds) == 2)
        assert set(server.snapshot().slow_kinds) == {"GET /hold/*", "GET /hold/page"}
        scene.gate.set()
        for caller in callers:
            assert caller.answer().status == 200


def test_quick_requests_are_handled_by_the_thread_that_leads_and_slow_ones_by_others() -> None:
    threads: dict[str, set[int]] = {"/quick": set(), "/hold": set()}

    def note(environ: Environ, start_response: Any) -> Iterable[bytes]:
        threads["/quick"].add(threading.get_ident())
        return plain(environ, start_response)

    def hold(environ: Environ, start_response: Any) -> Iterable[bytes]:
        threads["/hold"].add(threading.get_ident())
        scene.hold()
        return plain(environ, start_response)

    scene = Slow(quick=note, hold=hold)
    with scene.served(threads=4, reserve=1) as server, calling(server, 7) as (quick, *slow):
        assert quick.get("/quick").status == 200
        for caller in slow:
            caller.send(request("/hold"))
        scene.until_inside(3)
        threads["/quick"].clear()
        for _ in range(50):
            assert quick.get("/quick").status == 200
        assert not threads["/quick"] & threads["/hold"]
        scene.gate.set()
        for caller in slow:
            assert caller.answer().status == 200
