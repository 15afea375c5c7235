"""Framings: any split of the bytes gives the same messages. `make fuzz` tries many more (tests/fuzz/framings.py)."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from itertools import combinations, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.errors import MessageTooLong
from treadle.server import Delimiter, LengthPrefix, Lines, Raw
from treadle.server._protocols.framing import Framing, LengthPrefixDecoder
from treadle.server._transport.decoder import MOST, Decoder

CUTS = st.lists(st.integers(0, 200), max_size=10)
BYTES = st.binary(max_size=200) | st.lists(st.sampled_from(b"ab\r\n"), max_size=30).map(bytes)  # full of ends


def feed_in_pieces(decoder: Decoder[bytes], data: bytes, cuts: list[int]) -> list[bytes]:
    """Feed `data`, cut at `cuts`; return the messages, those of the end included."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges) if start < end]
    return [message for piece in pieces for message in decoder.feed(piece)] + list(decoder.finish())


@given(BYTES, CUTS, st.sampled_from([b"\0", b"ab", b"aa", b"aba", b"abab", b"aab", b"\r\n"]))
def test_delimited_messages_are_what_split_gives(data: bytes, cuts: list[int], delimiter: bytes) -> None:
    for text in (data, data.replace(b"\1", delimiter), delimiter.join([data, data])):
        expected = text.split(delimiter)[:-1]
        assert feed_in_pieces(Delimiter(delimiter).decoder(10_000), text, cuts) == expected


@pytest.mark.parametrize("delimiter", [b"aa", b"aba", b"abab", b"\r\n\r\n"])
def test_a_delimiter_is_found_wherever_it_is_split(delimiter: bytes) -> None:
    data = b"x" + delimiter + delimiter[:-1] + b"x" + delimiter + delimiter[:1]
    expected = data.split(delimiter)[:-1]
    every_two = [list(cuts) for cuts in combinations(range(len(data)), 2)]
    for cuts in (*every_two, list(range(len(data)))):
        assert feed_in_pieces(Delimiter(delimiter).decoder(100), data, cuts) == expected


@given(BYTES, CUTS)
def test_lines_are_what_a_file_gives(data: bytes, cuts: list[int]) -> None:
    *whole, rest = data.split(b"\n")
    expected = [line.removesuffix(b"\r") for line in whole] + ([rest] if rest else [])
    assert feed_in_pieces(Lines().decoder(10_000), data, cuts) == expected


@given(
    st.lists(st.binary(max_size=40), max_size=6),
    CUTS,
    st.sampled_from([1, 2, 3, 8]),
    st.sampled_from(["big", "little"]),
)
def test_prefixed_messages_are_what_was_packed(parts: list[bytes], cuts: list[int], size: int, order: Any) -> None:
    framing = LengthPrefix(size, order)
    data = b"".join(map(framing.pack, parts))
    for pieces in (cuts, list(range(len(data)))):
        assert feed_in_pieces(framing.decoder(10_000), data, pieces) == parts
    half = framing.pack(b"x" * 40)[:-1]
    assert feed_in_pieces(framing.decoder(10_000), data + half, cuts) == parts


@given(st.binary(max_size=200), CUTS)
def test_raw_passes_everything_on_in_pieces_that_are_not_too_long(data: bytes, cuts: list[int]) -> None:
    decoder = Raw().decoder(7)
    messages = feed_in_pieces(decoder, data, cuts)
    assert decoder.held == 0
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
    framing: Framing[bytes], longest: bytes, too_long: bytes, step: int
) -> None:
    decoder = framing.decoder(5)
    messages: list[bytes] = []
    data = longest + too_long
    with pytest.raises(MessageTooLong) as caught:  # noqa: PT012  # the messages before it are looked at
        for start in range(0, len(data), step):
            messages += decoder.feed(data[start : start + step])
    assert messages == [b"12345"]
    assert caught.value.limit == 5
    with pytest.raises(MessageTooLong):
        decoder.feed(longest)  # there is no way back: nobody knows where it would begin
    assert decoder.held == 0
    assert list(decoder.finish()) == []


@pytest.mark.parametrize(
    ("framing", "data"), [(Lines(), b"123456\n"), (Delimiter(b"--"), b"123456--"), (LengthPrefix(1), b"\x06")]
)
def test_a_message_that_is_too_long_is_refused_at_once(framing: Framing[bytes], data: bytes) -> None:
    with pytest.raises(MessageTooLong):
        framing.decoder(5).feed(data)


@pytest.mark.parametrize(
    ("framing", "most"),
    [
        (Lines(), b"12345\r"),
        (Delimiter(b"--"), b"12345-"),
        (Delimiter(b"abc"), b"12345ab"),
        (LengthPrefix(2), b"\0\x051234"),
    ],
)
@pytest.mark.parametrize("step", [1, 100])
def test_what_is_held_is_a_message_and_half_an_end_at_most(framing: Framing[bytes], most: bytes, step: int) -> None:
    decoder = framing.decoder(5)
    for start in range(0, len(most), step):
        assert list(decoder.feed(most[start : start + step])) == []
    assert decoder.held == len(most)
    if isinstance(framing, LengthPrefix):
        assert list(decoder.feed(b"5")) == [b"12345"]
    else:
        with pytest.raises(MessageTooLong):
            decoder.feed(b"x")
    assert decoder.held == 0


def test_a_length_has_four_bytes_in_network_order_unless_told_otherwise() -> None:
    assert LengthPrefix().pack(b"x") == b"\0\0\0\1x"


def test_a_length_that_is_too_long_is_refused_before_its_message_comes() -> None:
    decoder = LengthPrefix(4).decoder(5)
    assert list(decoder.feed(b"\0\0\0\x021")) == []
    messages = iter(decoder.feed(b"2\0\0\0\x06"))
    assert next(messages) == b"12"
    for goes_on in (lambda: next(messages), lambda: decoder.feed(b"x"), lambda: decoder.feed(b"x")):
        with pytest.raises(MessageTooLong, match="a message of 6 bytes") as caught:
            goes_on()
        assert (caught.value.limit, caught.value.length) == (5, 6)


def test_half_a_message_is_not_looked_at_again_before_it_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a long message in small pieces would cost its square."""
    looks, cut = list[int](), LengthPrefixDecoder.cut

    def counted(decoder: LengthPrefixDecoder, data: bytes, start: int) -> tuple[Iterable[bytes], int]:
        looks.append(len(data) - start)
        return cut(decoder, data, start)

    monkeypatch.setattr(LengthPrefixDecoder, "cut", counted)
    data = LengthPrefix(2).pack(b"x" * 100)
    assert feed_in_pieces(LengthPrefix(2).decoder(100), data * 2, list(range(204))) == [b"x" * 100] * 2
    assert looks == [1, 2, 102] * 2


@pytest.mark.parametrize("framing", [Lines(), Delimiter(b"--"), LengthPrefix(4)])
def test_half_a_message_is_held_and_counted(framing: Lines | Delimiter | LengthPrefix) -> None:
    decoder = framing.decoder(1000)
    assert decoder.held == 0
    half = b"\0\0\0\x09half" if isinstance(framing, LengthPrefix) else b"half"
    assert list(decoder.feed(half)) == []
    assert decoder.held == len(half)


def test_a_last_line_may_lack_its_end_but_not_be_too_long() -> None:
    decoder = Lines().decoder(3)
    assert list(decoder.feed(b"abc")) == []
    assert list(decoder.finish()) == [b"abc"]
    assert list(decoder.feed(b"abc\0")) == []
    assert list(decoder.finish()) == []


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Delimiter("x"), TypeError, "delimiter='x' is str; allowed: bytes"),  # type: ignore[arg-type]
        (lambda: Delimiter(b""), ValueError, "allowed: one byte or more"),
        (lambda: LengthPrefix(0), ValueError, "size must be greater than 0"),
        (lambda: LengthPrefix(9), ValueError, "size=9; allowed: 1 to 8 bytes"),
        (lambda: LengthPrefix(2, "middle"), ValueError, "byteorder='middle' is unknown"),  # type: ignore[arg-type]
        (lambda: LengthPrefix(1).pack(b"x" * 256), OverflowError, r"256 bytes is longer than 255, .* LengthPrefix\(1"),
        (lambda: LengthPrefix(1).pack("x"), TypeError, "message='x' is str; allowed: bytes"),  # type: ignore[arg-type]
        (lambda: LengthPrefix(1).pack(3), TypeError, "message=3 is int; allowed: bytes"),  # type: ignore[arg-type]
    ],
)
def test_bad_arguments_are_named(make: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("framing", "data", "message"),
    [
        (Lines(), b"xy\r\n" * 20_000, b"xy"),
        (Delimiter(b"--"), b"xy--" * 20_000, b"xy"),
        (LengthPrefix(1), b"\2xy" * 20_000, b"xy"),
        (Raw(), b"xy" * 20_000, b"xy"),
    ],
)
def test_many_messages_are_cut_a_few_at_a_time(framing: Framing[bytes], data: bytes, message: bytes) -> None:
    """Each takes forty bytes, 800 KB in all, and its client may not read the answers for long."""
    decoder = framing.decoder(2)
    tracemalloc.start()
    try:
        found = iter(decoder.feed(data))
        first = [next(found) for _ in range(MOST)]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 100_000
    assert first + list(found) == [message] * 20_000
    assert decoder.held == 0
    assert list(decoder.feed(data[: len(data) // 20_000])) == [message]


@pytest.mark.parametrize("framing", [Lines(), Delimiter(b"--"), LengthPrefix(1)])
def test_what_is_too_long_among_many_is_told_after_those_before_it(framing: Framing[bytes]) -> None:
    one, long = {
        Lines: (b"x\n", b"toolong\n"), Delimiter: (b"x--", b"toolong--"), LengthPrefix: (b"\1x", b"\7toolong"),
    }[type(framing)]  # fmt: skip
    found = iter(framing.decoder(5).feed(one * 5000 + long + one))
    assert [next(found) for _ in range(5000)] == [b"x"] * 5000
    with pytest.raises(MessageTooLong):
        next(found)


@pytest.mark.parametrize(
    ("framing", "data", "rest"),
    [
        (Lines(), b"one\nha\r", b"ha\r"),
        (Delimiter(b"--"), b"one--ha-", b"ha-"),
        (LengthPrefix(1), b"\x03one\x05ha", b"\x05ha"),
    ],
)
def test_what_is_held_can_be_taken_back_as_it_came(framing: Framing[bytes], data: bytes, rest: bytes) -> None:
    decoder: Any = framing.decoder(100)
    assert list(decoder.feed(data)) == [b"one"]
    assert decoder.take_rest() == rest
    assert decoder.held == 0
    assert list(decoder.feed(data)) == [b"one"]  # nothing of it is left
