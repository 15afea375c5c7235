"""Calls: what is done with what a handler returns, or raises."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextvars import Context
from typing import Any

import pytest

from treadle import Pool
from treadle._base.log_throttle import LogThrottles
from treadle._pool.submit import dispatcher_of
from treadle.server import CloseConnection, Limits, Lines, Messages, Peer
from treadle.server._loop.event_loop import EventLoop
from treadle.server._serving.calling.calls import Calls
from treadle.server._transport.connection import ClientConnection
from treadle.server._transport.deadlines import Deadlines
from treadle.server._transport.io import ConnectionIO
from treadle.server._transport.state import State

Make = Callable[..., tuple[Calls, ClientConnection, socket.socket]]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make the Calls of a handler, and a connection, with the client's end of it."""
    loop, limits, pool = EventLoop("loop"), Limits(), Pool(1)
    io = ConnectionIO(loop, limits, Deadlines(limits), lambda conn, why: None, LogThrottles(), inline=True)
    ours, theirs = socket.socketpair()

    def made(handler: Callable[[bytes, Peer], Any]) -> tuple[Calls, ClientConnection, socket.socket]:
        ours.setblocking(False)
        theirs.settimeout(10)
        conn = ClientConnection(ours, Peer("", ours), Lines().decoder(100), Context(), 0.0)
        calls = Calls(io, Messages(handler, Lines()), limits, dispatcher_of(pool), observed=False)
        return calls, conn, theirs

    with ours, theirs, pool:
        yield made
    loop.close()


def run(calls: Calls, conn: ClientConnection) -> Any:
    answers = calls.answers(conn)
    answers.add(b"before ")
    answer = calls.run(conn, b"message", answers)
    answers.add(answer)
    answers.send()
    return answer


def test_bytes_are_the_answer_and_are_sent_with_those_before(make: Make) -> None:
    calls, conn, theirs = make(lambda line, peer: line)
    assert run(calls, conn) == b"message"
    assert theirs.recv(100) == b"before message"
    assert (conn.number, calls.failures) == (1, 0)


def test_pieces_are_sent_behind_those_before_when_the_leader_has_made_them_all(make: Make) -> None:
    calls, conn, theirs = make(lambda line, peer: iter([b"one ", b"two"]))
    assert run(calls, conn) == b""
    assert theirs.recv(100) == b"before "
    calls.send_made(conn)
    assert theirs.recv(100) == b"one two"
    assert conn.outbox.filling is None


def test_what_another_thread_made_is_the_leaders_to_send(make: Make) -> None:
    calls, conn, _ = make(lambda line, peer: iter([b"piece"]))
    conn.state = State.BUSY
    run(calls, conn)
    assert conn.outbox.filling is not None
    assert len(conn.outbox.pieces) == 1
    assert not calls.may_go_on(conn)


@pytest.mark.parametrize(("error", "failures"), [(ValueError("mine"), 1), (CloseConnection(b"bye"), 0)])
def test_what_it_raises_ends_the_connection_and_is_a_failure_or_not(
    make: Make, error: BaseException, failures: int
) -> None:
    def fail(line: bytes, peer: Peer) -> bytes:
        raise error

    calls, conn, _ = make(fail)
    assert run(calls, conn) == (b"bye" if not failures else None)
    assert (conn.ending.closing, calls.failures) == (True, failures)


def test_a_connection_may_go_on_while_its_client_takes_its_answers(make: Make) -> None:
    calls, conn, _ = make(lambda line, peer: line)
    assert calls.may_go_on(conn)
    conn.outbox.add(memoryview(b"x" * (calls.max_unsent + 1)))
    assert not calls.may_go_on(conn)
    conn.outbox.clear()
    conn.ending.error = "gone"
    assert not calls.may_go_on(conn)
