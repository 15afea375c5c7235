"""ServerSnapshot: what a server shows of itself, at each stage."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from tcp import ask, client
from treadle.server import Messages, Server, _group


def echo(data: bytes, peer: object) -> bytes:
    return data


def test_before_during_and_after() -> None:
    server = Server(Messages(echo), "127.0.0.1:0", max_workers=3)
    before = server.snapshot()
    assert (before.state, before.addresses, before.messages, before.pool.max_workers) == ("new", (), 0, 3)
    with server, client(server) as sock:
        ask(sock, b"x")
        during = server.snapshot()
        assert (during.state, during.addresses, during.connections) == ("serving", server.addresses, 1)
    after = server.snapshot()
    assert (after.state, after.connections, after.closed_connections, after.messages) == ("stopped", 0, 1, 1)
    assert after.pool.closed


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Server(Messages(echo), pool=None).snapshot().messages = 3  # type: ignore[misc]


def test_slow_kinds_of_all_event_loops_are_named_with_what_they_take_where_they_take_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_group, "_loops_wanted", lambda dispatcher: 2)
    protocol = Messages(echo, kind=lambda message: message[:1])
    with Server(protocol, "127.0.0.1:0", max_workers=4) as server:
        assert server.snapshot().slow_kinds == {}
        assert server._group is not None
        for driver, took in zip(server._group.drivers, (0.5, 0.25), strict=True):
            kinds = driver.handlers.slowness.kinds
            assert kinds is not None
            kinds.timed(kinds.find(b"slow"), took)
            kinds.timed(kinds.find(b"quick"), 0.0001)
        assert server.snapshot().slow_kinds == {b"s": 0.5}


def test_what_closed_connections_is_told_while_it_changes() -> None:
    """In threads that run at the same time, above all."""
    with Server(Messages(echo), "127.0.0.1:0", max_workers=1) as server:
        found, done = server._group, threading.Event()
        assert found is not None

        def close() -> None:
            for number in range(50_000):
                with found.tally._lock:
                    found.tally._closed_by[f"limit {number % 500}"] += 1
                    if number % 500 == 499:
                        found.tally._closed_by.clear()
            done.set()

        closing = threading.Thread(target=close)
        closing.start()
        while not done.is_set():
            assert len(server.snapshot().closed_by) <= 500
        closing.join()
