"""Deadlines: which limit holds in which state, and when. That they are kept: tests/behaviour/test_server_rules.py."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextvars import Context
from math import inf

import pytest

from treadle.server import Limits, Lines, Peer
from treadle.server._transport.connection import ClientConnection
from treadle.server._transport.deadlines import GRACE, LAST_RESORT, Deadlines, TransferLimit
from treadle.server._transport.limits import Phase
from treadle.server._transport.sending.spool import Spool
from treadle.server._transport.state import State


@pytest.fixture
def conn() -> Iterator[ClientConnection]:
    """A connection that came at 100.0."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ClientConnection(ours, Peer("", ours), Lines().decoder(100), Context(), 100.0)


UNLIMITED = dict.fromkeys(("read_timeout", "write_timeout", "idle_timeout", "min_write_rate"))
LIMITS = Limits(handshake_timeout=1, read_timeout=2, write_timeout=3, idle_timeout=4, max_age=500, linger_timeout=6)


def test_each_phase_has_its_own(conn: ClientConnection) -> None:
    deadlines = Deadlines(LIMITS)
    assert deadlines.of(conn) == (104.0, "idle_timeout")
    conn.state = State.HEADER
    assert deadlines.of(conn) == (101.0, "handshake_timeout")
    conn.state = State.HANDSHAKE
    assert deadlines.of(conn) == (101.0, "handshake_timeout")
    conn.state = State.LINGERING
    assert deadlines.of(conn) == (106.0, "linger_timeout")
    conn.state = State.OPEN
    conn.intake.begun = 101.5
    assert deadlines.of(conn) == (103.5, "read_timeout")
    conn.outbox.add(memoryview(b"x"))
    conn.outbox.transfer.begin(102.0, 0)
    assert deadlines.of(conn) == (105.0, "write_timeout")
    conn.state = State.BUSY
    assert deadlines.of(conn)[0] == inf


def test_between_messages_the_nearest_holds(conn: ClientConnection) -> None:
    deadlines = Deadlines(LIMITS)
    conn.active = 599.0
    assert deadlines.of(conn) == (600.0, "max_age")
    conn.active, deadlines.drained_at = 597.0, 598.0
    assert deadlines.of(conn) == (598.0 + GRACE, "the server stops")
    conn.active, deadlines.drained_at = 598.5, 598.0  # it came, or said something, since the server began to stop
    assert deadlines.of(conn) == (598.5 + GRACE, "the server stops")


@pytest.mark.parametrize("state", [State.HEADER, State.HANDSHAKE])
def test_what_comes_before_is_not_awaited_longer_than_a_first_message_when_the_server_stops(
    conn: ClientConnection, state: State
) -> None:
    deadlines = Deadlines(Limits(handshake_timeout=50))
    conn.state = state
    assert deadlines.of(conn) == (150.0, "handshake_timeout")
    deadlines.drained_at = 120.0
    assert deadlines.of(conn) == (120.0 + GRACE, "the server stops")


def test_a_handshake_that_goes_on_has_its_time_when_the_server_stops(conn: ClientConnection) -> None:
    deadlines = Deadlines(Limits(handshake_timeout=50))
    conn.state, conn.active, deadlines.drained_at = State.HANDSHAKE, 125.0, 120.0
    assert deadlines.of(conn) == (125.0 + GRACE, "the server stops")
    conn.state = State.HANDSHAKE_BUSY  # a thread computes it
    assert deadlines.of(conn) == (150.0, "handshake_timeout")


def test_without_limits_there_is_none(conn: ClientConnection) -> None:
    unlimited = Limits(read_timeout=None, write_timeout=None, idle_timeout=None)
    deadlines = Deadlines(unlimited)
    assert deadlines.of(conn)[0] == inf
    conn.intake.begun = 1.0
    assert deadlines.of(conn)[0] == inf


@pytest.mark.parametrize(
    ("limits", "period"),
    [
        (LIMITS, 1.0),
        (Limits(**UNLIMITED, handshake_timeout=60), 60.0),  # type: ignore[arg-type]
        (Limits(min_read_rate=10, min_rate_grace=0.5), 0.5),
        (Limits(min_rate_grace=0.5), 0.5),
        (Limits(min_rate_grace=0.5, min_write_rate=None), 10.0),
        (Limits(**UNLIMITED, handshake_timeout=99999), LAST_RESORT),  # type: ignore[arg-type]
    ],
)
def test_a_connection_is_looked_at_as_often_as_the_shortest_limit(limits: Limits, period: float) -> None:
    assert Deadlines(limits).period() == period


def test_without_limits_there_is_no_end() -> None:
    limit = TransferLimit("read", None, None, 5.0)
    assert limit.end(10.0, 0)[0] == inf
    assert limit.left(10.0, 0, 99999.0) is None


def test_the_timeout_counts_from_the_beginning_whatever_came() -> None:
    limit = TransferLimit("read", 30.0, None, 5.0)
    assert limit.end(10.0, 0) == limit.end(10.0, 1 << 30) == (40.0, "read_timeout")


def test_the_rate_gives_more_time_for_each_byte_but_not_beyond_the_timeout() -> None:
    limit = TransferLimit("write", 30.0, 100.0, 5.0)
    assert limit.end(10.0, 0) == (15.0, "min_write_rate")
    assert limit.end(10.0, 200) == (17.0, "min_write_rate")
    assert limit.end(10.0, 1_000_000) == (40.0, "write_timeout")


def test_what_is_left_runs_out_with_an_error_that_says_why() -> None:
    limit = TransferLimit("read", 30.0, None, 5.0)
    assert limit.left(10.0, 7, 15.0) == 25.0
    with pytest.raises(TimeoutError, match="slower than read_timeout allows: 7 bytes in 30 s"):
        limit.left(10.0, 7, 40.0)


def test_the_time_of_what_moves_counts_from_its_last_move_and_its_rate_from_the_beginning() -> None:
    limit = TransferLimit("write", 3.0, 100.0, 5.0)
    assert limit.end(10.0, 5000, 12.0) == (15.0, "write_timeout")
    assert limit.end(10.0, 100, 50.0) == (16.0, "min_write_rate")
    assert limit.left(10.0, 5000, 13.0, 12.0) == 2.0


def test_a_phase_has_the_time_that_the_protocol_gives_it(conn: ClientConnection) -> None:
    phases = {"head": Phase(7, 10), "body": Phase(None, 10), "idle": Phase(8)}
    deadlines = Deadlines(Limits(read_timeout=2, idle_timeout=4, min_rate_grace=5), phases)
    assert deadlines.of(conn) == (104.0, "idle_timeout")
    conn.number = 1
    assert deadlines.of(conn) == (108.0, "idle_timeout")
    conn.intake.begun, conn.intake.received, conn.intake.phase = 101.0, 10, "head"
    assert deadlines.of(conn) == (107.0, "min_head_rate")
    conn.intake.received = 50
    assert deadlines.of(conn) == (108.0, "head_timeout")
    conn.intake.phase = "body"
    assert deadlines.of(conn) == (111.0, "min_body_rate")
    for phase in ("other", "idle", ""):
        conn.intake.phase = phase
        assert deadlines.of(conn) == (103.0, "read_timeout")


@pytest.mark.parametrize("phases", [{"head": Phase(3)}, {"idle": Phase(3)}])
def test_a_connection_is_looked_at_as_often_as_the_shortest_phase(phases: dict[str, Phase]) -> None:
    assert Deadlines(Limits(), phases).period() == 3
    assert Deadlines(Limits(min_write_rate=None, min_rate_grace=1.5), {"head": Phase(None, 1)}).period() == 1.5


def test_what_is_sent_while_a_handler_makes_it_has_the_time_of_both(conn: ClientConnection) -> None:
    deadlines = Deadlines(Limits(write_timeout=3, handler_timeout=20))
    conn.state, conn.timing.handled = State.BUSY, 101.0
    spool = Spool(100, 0, None, lambda: True)
    conn.outbox.fill(spool)
    assert deadlines.of(conn) == (121.0, "handler_timeout")  # nothing waits for the client
    conn.outbox.transfer.begin(102.0, 0)
    assert deadlines.of(conn) == (105.0, "write_timeout")
    conn.outbox.transfer.begin(120.0, 0)
    assert deadlines.of(conn) == (121.0, "handler_timeout")
    conn.outbox.seal()
    conn.outbox.transfer.begin(102.0, 0)
    assert deadlines.of(conn) == (121.0, "handler_timeout")  # what waits is of answers before
    conn.ending.error = "cut"
    assert deadlines.of(conn)[0] == inf
