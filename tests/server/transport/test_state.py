"""State: the table of a connection's states, and that nothing else comes to pass."""

from __future__ import annotations

import socket
from contextvars import Context
from itertools import product

import pytest

from treadle.server import Lines, Peer
from treadle.server._transport.connection import ClientConnection
from treadle.server._transport.state import MOVES, State


@pytest.mark.parametrize(("before", "after"), list(product(State, State)))
def test_a_connection_goes_where_the_table_says_and_nowhere_else(before: State, after: State) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        conn = ClientConnection(ours, Peer("", ours), Lines().decoder(100), Context(), 0.0)
        conn.state = before
        if after in MOVES[before]:
            conn.enter(after)
            assert conn.state is after
        else:
            with pytest.raises(RuntimeError, match=f"{before.value}> cannot become '{after.value}'"):
                conn.enter(after)
            assert conn.state is before


def test_every_state_is_in_the_table_and_all_end() -> None:
    assert set(MOVES) == set(State)
    ends = {State.CLOSED}
    while True:
        more = {state for state, moves in MOVES.items() if ends & set(moves)} - ends
        if not more:
            break
        ends |= more
    assert ends == set(State)


def test_nobody_closes_what_another_thread_has() -> None:
    """Its descriptor would be taken for its successor's."""
    busy = {State.BUSY, State.HANDSHAKE_BUSY}
    assert not any(State.CLOSED in MOVES[state] for state in busy)
    assert all(not set(MOVES[state]) & {State.CLOSING, State.LINGERING} for state in busy)


def test_what_a_leader_loses_is_busy_and_comes_back_as_it_was() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        conn = ClientConnection(ours, Peer("", ours), Lines().decoder(100), Context(), 0.0)
        for before, after in ((State.READY, State.OPEN), (State.OPEN, State.OPEN), (State.HANDSHAKE, State.HANDSHAKE)):
            conn.state = before
            conn.take_over(5.0)
            assert conn.busy
            assert conn.timing.handled == 5.0
            conn.hand_back()
            assert (conn.state, conn.timing.handled) == (after, 0.0)
        conn.state = State.CLOSED  # in a forked child
        conn.hand_back()
        assert conn.state is State.CLOSED
