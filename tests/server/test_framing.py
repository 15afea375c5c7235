"""Framings: any split of the bytes gives the same messages. `make fuzz` tries many more (tests/fuzz/framings.py)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.errors import MessageTooLong
from treadle.server import Delimiter, LengthPrefix, Lines, Raw
from treadle.server.framing import Cutter, Framing

CUTS = st.lists(st.integers(0, 200), max_size=10)


def feed_in_pieces(cutter: Cutter, data: bytes, cuts: list[int]) -> list[bytes]:
    """Feed `data`, cut at `cuts`; return the messages, those of the end included."""
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges) if start < end]
    return [message for piece in pieces for message in cutter.feed(piece)] + list(cutter.finish())


@given(st.binary(max_size=200), CUTS, st.sampled_from([b"\0", b"ab", b"aa", b"aba", b"\r\n"]))
def test_delimited_messages_are_what_split_gives(data: bytes, cuts: list[int], delimiter: bytes) -> None:
    for text in (data, data.replace(b"\1", delimiter), delimiter.join([data, data])):
        expected = text.split(delimiter)[:-1]
        assert feed_in_pieces(Delimiter(delimiter).cutter(10_000), text, cuts) == expected


@given(st.lists(st.binary(max_size=20), max_size=8), CUTS)
def test_lines_are_what_a_file_gives(parts: list[bytes], cuts: list[int]) -> None:
    data = b"\n".join(parts)
    *whole, rest = data.split(b"\n")
    expected = [line.removesuffix(b"\r") for line in whole] + ([rest] if rest else [])
    assert feed_in_pieces(Lines().cutter(10_000), data, cuts) == expected


@given(
    st.lists(st.binary(max_size=40), max_size=6),
    CUTS,
    st.sampled_from([1, 2, 3, 8]),
    st.sampled_from(["big", "little"]),
)
def test_prefixed_messages_are_what_was_packed(parts: list[bytes], cuts: list[int], size: int, order: str) -> None:
    framing = LengthPrefix(size, order)
    data = b"".join(map(framing.pack, parts))
    assert feed_in_pieces(framing.cutter(10_000), data, cuts) == parts
    half = framing.pack(b"x" * 40)[:-1]
    assert feed_in_pieces(framing.cutter(10_000), data + half, cuts) == parts


@given(st.binary(max_size=200), CUTS)
def test_raw_passes_everything_on_in_pieces_that_are_not_too_long(data: bytes, cuts: list[int]) -> None:
    messages = feed_in_pieces(Raw().cutter(7), data, cuts)
    assert b"".join(messages) == data
    assert all(0 < len(message) <= 7 for message in messages)


@pytest.mark.parametrize(
    ("framing", "longest", "too_long"),
    [
        (Lines(), b"12345\n", b"123456\n"),
        (Lines(), b"12345\r\n", b"123456\r\n"),
        (Delimiter(b"--"), b"12345--", b"123456--"),
        (LengthPrefix(1), b"\x0512345", b"\x06123456"),
    ],
)
@pytest.mark.parametrize("step", [1, 100])
def test_the_limit_is_exact_and_what_came_before_is_delivered(
    framing: Framing, longest: bytes, too_long: bytes, step: int
) -> None:
    cutter = framing.cutter(5)
    messages: list[bytes] = []
    data = longest + too_long
    with pytest.raises(MessageTooLong) as caught:  # noqa: PT012  # the messages before it are looked at
        for start in range(0, len(data), step):
            messages += cutter.feed(data[start : start + step])
        cutter.feed(b"more")
    assert messages == [b"12345"]
    assert caught.value.limit == 5
    with pytest.raises(MessageTooLong):
        cutter.feed(b"x")


@pytest.mark.parametrize("framing", [Lines(), Delimiter(b"--"), LengthPrefix(4)])
def test_half_a_message_is_held_and_counted(framing: Lines | Delimiter | LengthPrefix) -> None:
    cutter = framing.cutter(1000)
    assert cutter.held == 0
    half = b"\0\0\0\x09half" if isinstance(framing, LengthPrefix) else b"half"
    assert list(cutter.feed(half)) == []
    assert cutter.held == len(half)


def test_a_last_line_may_lack_its_end_but_not_be_too_long() -> None:
    cutter = Lines().cutter(3)
    assert list(cutter.feed(b"abc")) == []
    assert list(cutter.finish()) == [b"abc"]
    assert list(cutter.feed(b"abc\0")) == []
    assert list(cutter.finish()) == []


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Delimiter("x"), TypeError, "delimiter='x' is str; allowed: bytes"),  # type: ignore[arg-type]
        (lambda: Delimiter(b""), ValueError, "allowed: one byte or more"),
        (lambda: LengthPrefix(0), ValueError, "size must be greater than 0"),
        (lambda: LengthPrefix(9), ValueError, "size=9; allowed: 1 to 8 bytes"),
        (lambda: LengthPrefix(2, "middle"), ValueError, "byteorder='middle' is unknown"),
        (lambda: LengthPrefix(1).pack(b"x" * 256), OverflowError, "too big"),
    ],
)
def test_bad_arguments_are_named(make: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()  # type: ignore[operator]
