"""State: where a connection stands, and where it may go from there: the one table of its states and transitions.

    HEADER ----> HANDSHAKE <---> HANDSHAKE_BUSY
       |            |  `----> LINGERING
       `---> OPEN <-'
              |  ^
              |  `---> READY, BUSY       an open connection goes to and fro between these three
              v
           CLOSING ---> LINGERING ---> CLOSED, to which any but the busy ones may go at once

Beside its state a connection has an `Ending`: what has been decided about its end, by whoever decides it, while its
state may be another thread's to change.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["MOVES", "State"]


class State(Enum):
    """Where a connection stands. Changed by the thread that has it, and to and from a busy one with the loop's lock."""

    moves: tuple[State, ...]  # where it may go from here

    HEADER = "PROXY header"  # of a trusted proxy, which says who the client is, is awaited
    HANDSHAKE = "TLS handshake"
    HANDSHAKE_BUSY = "TLS handshake in another thread"  # than the leader's, which lost the lead over a step of it
    READY = "ready"  # open, plain, and nothing waits or is under way: a message may take the short way
    OPEN = "open"  # the leader has it, and looks closely at what it is to do
    BUSY = "busy"  # another thread than the leader's has it, or a task of the pool
    CLOSING = "closing"  # what is answered is still being sent; nothing is read
    LINGERING = "lingering"  # all is sent, and our half closed; what the peer still sends is thrown away
    CLOSED = "closed"


MOVES: dict[State, tuple[State, ...]] = {
    State.HEADER: (State.HANDSHAKE, State.OPEN, State.CLOSED),
    State.HANDSHAKE: (State.HANDSHAKE_BUSY, State.OPEN, State.LINGERING, State.CLOSED),
    State.HANDSHAKE_BUSY: (State.HANDSHAKE,),
    State.READY: (State.OPEN, State.BUSY, State.CLOSED),
    State.OPEN: (State.READY, State.BUSY, State.CLOSING, State.LINGERING, State.CLOSED),
    State.BUSY: (State.READY, State.OPEN),
    State.CLOSING: (State.LINGERING, State.CLOSED),
    State.LINGERING: (State.CLOSED,),
    State.CLOSED: (),
}

for (
    _state,
    _moves,
) in MOVES.items():  # where it is found without a hash: that of an Enum is Python
    _state.moves = _moves
