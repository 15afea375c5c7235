"""Outbox: what is kept, in which order it goes, and how much at once."""

from __future__ import annotations

import array
from typing import Any

import pytest

from kernels import Kernel
from treadle.server._transport.sending.outbox import BURST, UNTOLD, VIEWS, Outbox, view_of


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


class Scripted:
    """A Part of so many bytes."""

    is_last, made = True, 0

    def __init__(self, size: int, *, is_open: bool = False) -> None:
        self.size, self.is_open = size, is_open
        self.told: list[str] = []

    def send(self, kernel: Any) -> int:
        took: int = kernel.send(b"p" * self.size) if self.size else 0
        self.size -= took
        return took

    def is_over(self) -> bool:
        return not self.size and not self.is_open

    def drop(self) -> None:
        self.told.append("drop")

    def forget_threads(self) -> None:
        self.told.append("forget_threads")


def test_a_part_goes_in_its_turn_and_is_told_when_it_is_over() -> None:
    outbox, kernel, part = Outbox(), Kernel(2, 100), Scripted(3)
    outbox.add(memoryview(b"ab"))
    outbox.add_part(part)
    outbox.add(memoryview(b"c"))
    assert (outbox.unsent, outbox.parts) == (6, 1)
    outbox.send(kernel)
    assert (kernel.taken, part.told, outbox.unsent, outbox.parts) == (b"abpppc", ["drop"], 0, 0)
    assert outbox.transfer.sent == 6


def test_behind_a_part_nothing_has_room_however_small_it_is() -> None:
    """It may keep a file open, and a client may ask for thousands of them."""
    outbox, part = Outbox(), Scripted(0)
    assert outbox.has_room(0)
    outbox.add(memoryview(b"x"))
    assert outbox.has_room(1)
    assert not outbox.has_room(0)
    outbox.add_part(part)
    outbox.add(memoryview(b"y"))
    assert not outbox.has_room(100)
    outbox.send(Kernel(100, 100))
    assert outbox.has_room(0)


def test_a_part_that_is_still_being_made_counts_no_bytes_until_it_is_sealed() -> None:
    outbox, kernel, part = Outbox(), Kernel(2, 4), Scripted(3, is_open=True)
    outbox.fill(part)
    assert (outbox.unsent, outbox.is_dry(), outbox.has_room(100)) == (0, False, False)
    outbox.send(kernel)
    assert (outbox.unsent, outbox.is_dry(), len(outbox.pieces)) == (0, True, 1)
    part.size = 5
    outbox.seal()
    assert (outbox.unsent, part.is_open, outbox.filling, outbox.is_dry()) == (5, False, None, False)
    with pytest.raises(BlockingIOError):
        outbox.send(kernel)
    assert outbox.unsent == 4
    kernel.left = 4
    outbox.send(kernel)
    assert (outbox.unsent, part.told) == (0, ["drop"])
    outbox.seal()  # again, which is nothing


def test_one_client_is_given_so_much_in_a_turn() -> None:
    outbox, kernel = Outbox(), Kernel(BURST, 10 * BURST)
    for _ in range(3):
        outbox.add_part(Scripted(BURST))
    outbox.send(kernel)
    assert (len(kernel.taken), outbox.unsent) == (BURST, 2 * BURST)


def test_so_many_views_are_given_at_once() -> None:
    outbox, kernel = Outbox(), Kernel(1000, 1000)
    for number in range(2 * VIEWS + 1):
        outbox.add(memoryview(b"%d," % number))
    outbox.send(kernel)
    assert len(kernel.offered) == 3
    assert kernel.taken == b"".join(b"%d," % number for number in range(2 * VIEWS + 1))


def test_parts_that_are_cleared_are_dropped_and_in_a_forked_child_not_even_locked() -> None:
    outbox, parts = Outbox(), [Scripted(1), Scripted(1, is_open=True)]
    for part in parts:
        outbox.add_part(part)
    outbox.add(memoryview(b"x"))
    outbox.forget_threads()
    assert [part.told for part in parts] == [["forget_threads"]] * 2
    outbox.clear()
    assert (outbox.unsent, outbox.parts, list(outbox.pieces)) == (0, 0, [])
    assert [part.told[1:] for part in parts] == [["drop"]] * 2


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b"bytes", b"bytes"),
        (bytearray(b"more"), b"more"),
        (memoryview(b"abcdef")[::2], b"ace"),
        (memoryview(array.array("H", [0x4141, 0x4242])), b"AABB"),
        (memoryview(array.array("H")), b""),
    ],
)
def test_the_bytes_of_an_answer_are_one_after_another(answer: Any, found: bytes) -> None:
    view = view_of(answer)
    assert (bytes(view), view.format, view.nbytes) == (found, "B", len(view))


def test_what_has_no_bytes_has_no_view() -> None:
    with pytest.raises(TypeError):
        view_of("text")


def test_nothing_has_room_while_the_protocol_is_to_be_told_of_so_many_before() -> None:
    outbox = Outbox()
    outbox.untold = UNTOLD - 1
    assert outbox.has_room(0)
    outbox.untold = UNTOLD
    assert not outbox.has_room(100)
