"""Outbox: what is kept, in which order it goes, and how much at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

import pytest

from treadle.server._transport.sending.outbox import Outbox


class Kernel:
    """Takes at most so many bytes at a time, and in all."""

    def __init__(self, takes: int, in_all: int, at_once: int | None = None) -> None:
        self.takes, self.left, self.at_once = takes, in_all, at_once
        self.torn = False
        self.taken = b""
        self.offered: list[int] = []

    def send(self, data: bytes | memoryview) -> int:
        self.offered.append(len(data))
        if not self.left:
            raise BlockingIOError
        took = bytes(data[: min(self.takes, self.left)])
        self.taken += took
        self.left -= len(took)
        return len(took)

    def send_views(self, views: Sequence[memoryview]) -> int:
        return self.send(b"".join(views)[: self.at_once])

    def send_file(self, file: IO[bytes], offset: int, size: int) -> int:
        file.seek(offset)
        return self.send(file.read(size))

    def tear(self) -> None:
        self.torn = True


def views_of(outbox: Outbox) -> list[bytes]:
    return [bytes(view) for view in outbox.pieces if isinstance(view, memoryview)]


def test_what_is_kept_goes_in_order_and_is_counted() -> None:
    outbox, kernel = Outbox(), Kernel(100, 100)
    for piece in (b"one", b"two", b"three"):
        outbox.add(memoryview(piece))
    assert outbox.unsent == 11
    outbox.send(kernel)
    assert kernel.taken == b"onetwothree"
    assert (outbox.unsent, outbox.transfer.sent, list(outbox.pieces)) == (0, 11, [])


def test_what_the_kernel_does_not_take_stays_and_it_is_not_asked_again() -> None:
    outbox, kernel = Outbox(), Kernel(2, 100)
    outbox.add(memoryview(b"abcdef"))
    outbox.send(kernel)
    assert (kernel.taken, outbox.unsent, outbox.transfer.sent, kernel.offered) == (b"ab", 4, 2, [6])
    assert views_of(outbox) == [b"cdef"]


def test_no_more_than_so_much_is_offered_at_once() -> None:
    outbox, kernel = Outbox(), Kernel(3, 100, at_once=3)
    outbox.add(memoryview(b"abcdefgh"))
    outbox.send(kernel)
    assert (kernel.taken, kernel.offered) == (b"abcdefgh", [3, 3, 2])


def test_a_full_kernel_is_told_and_what_went_before_is_counted() -> None:
    outbox, kernel = Outbox(), Kernel(3, 3, at_once=3)
    outbox.add(memoryview(b"abc"))
    outbox.add(memoryview(b"def"))
    with pytest.raises(BlockingIOError):
        outbox.send(kernel)
    assert (outbox.unsent, outbox.transfer.sent) == (3, 3)


def test_what_the_handler_may_change_is_copied_and_bytes_are_not() -> None:
    outbox, fixed, open_ = Outbox(), b"fixed", bytearray(b"open")
    outbox.add(memoryview(fixed))
    outbox.add(memoryview(open_))
    open_[:] = b"shut"
    assert views_of(outbox) == [b"fixed", b"open"]
    assert [view.obj is fixed for view in outbox.pieces if isinstance(view, memoryview)] == [True, False]


def test_what_is_cleared_is_not_sent() -> None:
    outbox = Outbox()
    outbox.add(memoryview(b"x"))
    outbox.clear()
    assert (outbox.unsent, list(outbox.pieces)) == (0, [])
