"""Transfer: what counts as taken by the client."""

from __future__ import annotations

import socket
import sys

from treadle.server._transport.sending.transfer import Transfer, unacknowledged


def test_what_counts_is_what_the_client_has_taken_since_the_transfer_began() -> None:
    transfer = Transfer()
    transfer.begin(10.0, 1000)  # of answers before
    transfer.sent = 5000
    transfer.look(11.0, 6000)  # it has taken nothing
    assert (transfer.taken, transfer.moved) == (0, 10.0)
    transfer.look(12.0, 5500)
    assert (transfer.taken, transfer.moved) == (500, 12.0)
    transfer.look(13.0, 5500)
    assert (transfer.taken, transfer.moved) == (500, 12.0)
    transfer.begin(20.0, 5500)
    assert (transfer.since, transfer.taken, transfer.sent, transfer.moved) == (20.0, 0, 0, 20.0)


def test_what_a_client_has_not_read_is_unacknowledged_and_a_closed_socket_owes_nothing() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert unacknowledged(ours) == 0
        ours.send(b"x" * 1000)
        assert unacknowledged(ours) > 0 or sys.platform not in {"linux", "darwin"}
        theirs.recv(1000)
        assert unacknowledged(ours) == 0
    assert unacknowledged(ours) == 0
