"""Slowness: by their kinds, or else by their connections."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextvars import Context
from typing import Any

import pytest

from treadle import Pool
from treadle._base.log_throttle import LogThrottles
from treadle._pool.submit import dispatcher_of
from treadle.server import Lines, Messages, Peer
from treadle.server._loop.event_loop import EventLoop
from treadle.server._serving.calling.slowness import PROBATION, Slowness
from treadle.server._serving.leadership import Leadership
from treadle.server._transport.connection import ClientConnection


@pytest.fixture
def leadership() -> Iterator[Leadership]:
    loop = EventLoop("loop")
    with Pool(1) as pool:
        yield Leadership(loop, dispatcher_of(pool), "handler")
    loop.close()


@pytest.fixture
def conn() -> Iterator[ClientConnection]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ClientConnection(ours, Peer("", ours), Lines().decoder(100), Context(), 0.0)


def slowness_of(leadership: Leadership, **more: Any) -> Slowness:
    return Slowness(leadership, Messages(lambda line, peer: line, Lines(), **more), LogThrottles())


def test_without_kinds_a_connection_is_slow_until_so_many_were_quick(
    leadership: Leadership, conn: ClientConnection
) -> None:
    slowness = slowness_of(leadership)
    assert slowness.is_quick(conn, None)
    slowness.judge(conn, 0.005)
    assert slowness.level_of(conn, None) == 1
    slowness.judge(conn, 0.02)
    assert slowness.level_of(conn, None) == 2
    for _ in range(PROBATION - 1):
        slowness.judge(conn, 0.0)
        assert not slowness.is_quick(conn, None)
    slowness.judge(conn, 0.0)
    assert slowness.is_quick(conn, None)


def test_with_kinds_others_of_the_connection_are_as_quick_as_they_were(
    leadership: Leadership, conn: ClientConnection
) -> None:
    slowness = slowness_of(leadership, kind=lambda line: line)
    conn.intake.waiting.append(b"slow")
    record = slowness.record_of(conn)
    slowness.judge(conn, 0.02, record)
    assert slowness.level_of(conn, record) == 2
    conn.intake.waiting[0] = b"quick"
    other = slowness.record_of(conn)
    other.level = 0
    assert slowness.is_quick(conn, other)
    assert not conn.timing.probation


def test_a_lead_that_was_lost_is_learnt_from_once_the_handler_is_done(
    leadership: Leadership, conn: ClientConnection
) -> None:
    slowness = slowness_of(leadership)
    slowness.returned(None, None, 0.02)  # its connection was taken away, and is another's
    assert slowness.is_quick(conn, None)
    slowness.returned(conn, None, 0.02)
    assert slowness.level_of(conn, None) == 2


def test_all_messages_go_to_the_pool_until_they_are_quick_on_average(
    leadership: Leadership, conn: ClientConnection
) -> None:
    slowness = slowness_of(leadership)
    slowness.offload()
    assert leadership.offload_all
    assert not slowness.is_led()
    for _ in range(100):
        slowness.judge(conn, 0.0)
    assert not leadership.offload_all
