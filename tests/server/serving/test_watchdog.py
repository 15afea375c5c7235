"""Watchdog: when it takes the lead away, and when not. How the lead moves then is in test_leadership.py."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from tcp import PATIENCE, ask, client, driver_of
from treadle.server import Messages, Peer, Server
from treadle.server._serving import watchdog
from treadle.server._serving.leadership import Lead
from treadle.server._serving.watchdog import INSIDE, SAMPLE, Sample, Watchdog


def echo(data: bytes, peer: Peer) -> bytes:
    return data


def test_a_leader_that_stays_in_one_handler_loses_the_lead_and_is_counted() -> None:
    gate, inside = threading.Event(), threading.Event()

    def handle(data: bytes, peer: Peer) -> bytes:
        inside.set()
        assert gate.wait(PATIENCE)
        return data

    with Server(Messages(handle), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        assert server._group is not None
        watch = server._group.watchdogs[0]
        sock.sendall(b"x")
        assert inside.wait(PATIENCE)
        while not watch.promotions:
            threading.Event().wait(0.001)
        with client(server):
            gate.set()
            assert ask(sock, b"", 1) == b"x"
        assert watch.promotions == 1


class Watched:
    """An event loop and all that belongs to it. Its leader is always in a handler: in another at each look, or not."""

    def __init__(self, looks: int, *, busy: bool) -> None:
        self.looks, self.busy, self.turns = looks, busy, 1
        self.over = self.vacant = self.is_to_look = False
        self.lead: Any = SimpleNamespace(slot=["a connection"], clock=None)
        self.watchdog_wakeup = self.leadership = self.loop = self.handlers = self

    def acquire(self, blocking: bool, timeout: float) -> None:
        """It waits for the next look."""
        self.turns += self.busy
        self.looks -= 1
        if not self.looks:
            self.over, self.lead = True, None

    def promote_new_leader(self, lead: Any) -> bool:
        return True

    def offload_messages(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("busy", "looks", "promotions"), [(True, 1000, 0), (False, 1, 0), (False, 2, 1)])
def test_a_busy_leader_is_left_alone(busy: bool, looks: int, promotions: int) -> None:
    watch: Any = object.__new__(Watchdog)
    watch.driver = watch.leadership = watched = Watched(looks, busy=busy)
    watch.promotions, watch._promoted_at, watch._sample = 0, -watchdog.FEW, Sample(watched.offload_messages)
    watch._watch()
    assert watch.promotions == promotions


def sample_of(monkeypatch: object, *, inside: int, worked: float, seconds: float) -> int:
    told: list[bool] = []
    times = iter([0.0, 0.0, seconds, seconds, seconds])
    clocks = iter([0.0, worked, worked])
    monkeypatch.setattr(watchdog, "now", lambda: next(times))  # type: ignore[attr-defined]
    monkeypatch.setattr(watchdog, "read_clock", lambda clock: next(clocks))  # type: ignore[attr-defined]
    lead = object.__new__(Lead)
    lead.clock = 1
    sample = Sample(lambda: told.append(True))
    for look in range(SAMPLE):
        lead.slot = [None] if look < inside else []  # type: ignore[list-item]
        sample.look(lead)
    return len(told)


def test_leaders_that_are_inside_handlers_and_do_not_work_are_blocked(monkeypatch: object) -> None:
    most = int(INSIDE * SAMPLE) + 1
    assert sample_of(monkeypatch, inside=most, worked=0.1, seconds=1.0) == 1
    assert sample_of(monkeypatch, inside=most, worked=0.9, seconds=1.0) == 0  # they compute
    assert sample_of(monkeypatch, inside=most - 1, worked=0.1, seconds=1.0) == 0  # they wait for clients


def test_its_thread_ends_with_the_server() -> None:
    server = Server(Messages(echo), "127.0.0.1:0", max_workers=2).start()
    assert server._group is not None
    threads = [watch.thread for watch in server._group.watchdogs]
    assert all(thread.is_alive() for thread in threads)
    server.stop()
    assert not any(thread.is_alive() for thread in threads)
    assert driver_of(server).loop.over


@pytest.mark.parametrize(
    ("leadership", "slot"),
    [
        ({"turns": 2}, []),
        ({}, ["a connection"]),
        ({"vacant": True}, []),
        ({"over": True}, []),
        ({"is_to_look": True}, []),
    ],
)
def test_it_does_not_go_to_sleep_when_something_has_begun_meanwhile(
    leadership: dict[str, Any], slot: list[Any]
) -> None:
    """Its leader looked whether it sleeps before it said so, and will not wake it."""
    watch: Any = object.__new__(Watchdog)
    watch.leadership = SimpleNamespace(
        **{"turns": 1, "vacant": False, "over": False, "is_to_look": False, **leadership},
        watchdog_wakeup=None,
    )  # where it must not sleep
    watch.driver = SimpleNamespace(loop=watch.leadership)
    assert not watch._sleep(SimpleNamespace(slot=slot), 1)
    assert not watch.leadership.watchdog_sleeps
