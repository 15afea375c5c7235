"""Outbox: what is kept, in which order it goes, and how much at once."""

from __future__ import annotations

import socket
import sys

import pytest

from treadle.server._transport.outbox import Outbox, Transfer, unacknowledged


class Kernel:
    """Takes at most so many bytes at a time, and in all."""

    def __init__(self, at_once: int, in_all: int) -> None:
        self.at_once, self.left = at_once, in_all
        self.taken = b""
        self.offered: list[int] = []

    def send(self, data: memoryview) -> int:
        self.offered.append(len(data))
        if not self.left:
            raise BlockingIOError
        took = bytes(data[: min(self.at_once, self.left)])
        self.taken += took
        self.left -= len(took)
        return len(took)


def test_what_is_kept_goes_in_order_and_is_counted() -> None:
    outbox, kernel = Outbox(), Kernel(100, 100)
    for piece in (b"one", b"two", b"three"):
        outbox.add(memoryview(piece))
    assert outbox.unsent == 11
    outbox.send(kernel.send, None)
    assert kernel.taken == b"onetwothree"
    assert (outbox.unsent, outbox.transfer.sent, list(outbox.pieces)) == (0, 11, [])


def test_what_the_kernel_does_not_take_stays_and_it_is_not_asked_again() -> None:
    outbox, kernel = Outbox(), Kernel(2, 100)
    outbox.add(memoryview(b"abcdef"))
    outbox.send(kernel.send, None)
    assert (kernel.taken, outbox.unsent, outbox.transfer.sent, kernel.offered) == (b"ab", 4, 2, [6])
    assert bytes(outbox.pieces[0]) == b"cdef"


def test_no_more_than_so_much_is_offered_at_once() -> None:
    outbox, kernel = Outbox(), Kernel(3, 100)
    outbox.add(memoryview(b"abcdefgh"))
    outbox.send(kernel.send, 3)
    assert (kernel.taken, kernel.offered) == (b"abcdefgh", [3, 3, 2])


def test_a_full_kernel_is_told_and_what_went_before_is_counted() -> None:
    outbox, kernel = Outbox(), Kernel(3, 3)
    outbox.add(memoryview(b"abc"))
    outbox.add(memoryview(b"def"))
    with pytest.raises(BlockingIOError):
        outbox.send(kernel.send, None)
    assert (outbox.unsent, outbox.transfer.sent) == (3, 3)


def test_what_the_handler_may_change_is_copied_and_bytes_are_not() -> None:
    outbox, fixed, open_ = Outbox(), b"fixed", bytearray(b"open")
    outbox.add(memoryview(fixed))
    outbox.add(memoryview(open_))
    open_[:] = b"shut"
    assert [bytes(piece) for piece in outbox.pieces] == [b"fixed", b"open"]
    assert outbox.pieces[0].obj is fixed


def test_what_is_cleared_is_not_sent() -> None:
    outbox = Outbox()
    outbox.add(memoryview(b"x"))
    outbox.clear()
    assert (outbox.unsent, list(outbox.pieces)) == (0, [])


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
