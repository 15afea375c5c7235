"""Framings under random bytes, splits and limits, against a model that looks at the whole stream at once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from treadle.errors import MessageTooLong
from treadle.server import Delimiter, LengthPrefix, Lines, Raw

__all__ = ["UP", "Stream", "Upgrades", "cut", "play", "random_framing"]

Framing = Any


@dataclass
class Stream:
    """What a whole stream is made of.

    Attributes:
        messages: in their order, up to the first that is too long.
        too_long: whether there is one that is.
        held: bytes behind the last message, which make none.
        behind: bytes that follow a message after which nothing is cut any more; None: there is no such message.
    """

    messages: list[bytes]
    too_long: bool
    held: int
    behind: bytes | None = None


def cut(framing: Framing, data: bytes, limit: int, *, ended: bool) -> Stream:
    """Return what `data` is made of, by the plainest way there is."""
    if isinstance(framing, Raw):
        return Stream([data] if data else [], False, 0)
    if isinstance(framing, LengthPrefix):
        return _cut_by_lengths(framing, data, limit)
    if isinstance(framing, Upgrades):
        return _cut_to_upgrade(data, limit)
    lines = isinstance(framing, Lines)
    *messages, rest = data.split(b"\n" if lines else framing.delimiter)
    if lines:
        messages = [line[:-1] if line.endswith(b"\r") else line for line in messages]
    for number, message in enumerate(messages):
        if len(message) > limit:
            return Stream(messages[:number], True, 0)
    if lines and ended and rest:
        return Stream([*messages, rest], False, 0) if len(rest) <= limit else Stream(messages, True, 0)
    return Stream(messages, len(rest) > limit + (1 if lines else len(framing.delimiter) - 1), len(rest))


def _cut_by_lengths(framing: LengthPrefix, data: bytes, limit: int) -> Stream:
    messages: list[bytes] = []
    while len(data) >= framing.size:
        prefix = data[: framing.size]
        length = int.from_bytes(prefix if framing.byteorder == "big" else prefix[::-1], "big")
        if length > limit:
            return Stream(messages, True, 0)
        if len(data) < framing.size + length:
            break
        messages.append(data[framing.size : framing.size + length])
        data = data[framing.size + length :]
    return Stream(messages, False, len(data))


def _cut_to_upgrade(data: bytes, limit: int) -> Stream:
    messages: list[bytes] = []
    while True:
        message, end, data = data.partition(b"\n")
        if len(message) > limit:
            return Stream(messages, True, 0)
        if not end:
            return Stream(messages, False, len(message))
        messages.append(message)
        if message.endswith(UP):
            return Stream(messages, False, 0, data)


UP = b"UP"


class Upgrades:
    """A framing of lines, of which one that ends with UP is the last."""

    delimiter = b"\n"

    def decoder(self, limit: int) -> UpgradesDecoder:
        """Return a decoder."""
        return UpgradesDecoder(limit)


class UpgradesDecoder:
    """A decoder that gives back what it has not cut."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.data = bytearray()

    @property
    def held(self) -> int:
        """Bytes that are held back."""
        return len(self.data)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Generate messages, up to one that ends with UP."""
        self.data += data
        message = b""
        while not message.endswith(UP):
            size = self.data.find(b"\n")
            if (len(self.data) if size < 0 else size) > self.limit:
                raise MessageTooLong(self.limit)
            if size < 0:
                return
            message = bytes(self.data[:size])
            del self.data[: size + 1]
            yield message

    def finish(self) -> tuple[bytes, ...]:
        """Return nothing."""
        return ()

    def take_rest(self) -> bytes:
        """Give back what was not cut."""
        rest = bytes(self.data)
        self.data.clear()
        return rest


def random_framing(dice: random.Random) -> Framing:
    """Return any framing."""
    kind = dice.randrange(5)
    if kind == 0:
        return Raw()
    if kind == 1:
        return Lines()
    if kind == 2:
        return Delimiter(dice.choice([b"\0", b"--", b"aab", b"\r\n\r\n", b"aaaa", b"abab"]))
    return LengthPrefix(dice.choice([1, 1, 2, 2, 3, 4, 8]), dice.choice(["big", "little"]))


def random_stream(dice: random.Random, framing: Framing, limit: int) -> bytes:
    """Return bytes in which there is something to cut, as a rule."""
    pieces: list[bytes] = []
    for _ in range(dice.randrange(12)):
        kind = dice.random()
        size = dice.choice([0, 1, 2, 3, limit - 1, limit, limit + 1, dice.randrange(limit + 4)])
        if dice.random() < 0.15:
            size += dice.randrange(1, 3 * limit + 3)
        body = bytes(dice.choice(b"ab-\r\n\0") for _ in range(max(0, size)))
        if kind < 0.15:
            pieces.append(body)
        elif isinstance(framing, LengthPrefix):
            known = min(len(body), 256**framing.size - 1)
            pieces.append(
                known.to_bytes(framing.size, "big" if framing.byteorder == "big" else "little") + body[:known]
            )
        elif isinstance(framing, Delimiter):
            pieces.append(body + framing.delimiter)
        else:
            pieces.append(body + dice.choice([b"\n", b"\r\n"]))
    data = b"".join(pieces)
    return data[: dice.randrange(len(data) + 1)] if dice.random() < 0.3 else data


def random_splits(dice: random.Random, data: bytes) -> list[bytes]:
    """Return `data` in chunks, none of them empty."""
    most = dice.choice([1, 2, 5, 30, 1000])
    chunks = []
    while data:
        size = dice.randrange(1, most + 1)
        chunks.append(data[:size])
        data = data[size:]
    return chunks


def play(seed: int) -> None:
    """Cut one random stream, chunk by chunk, and compare.

    Raises:
        AssertionError: the decoder and the model do not agree.
    """
    dice = random.Random(seed)
    framing, limit = random_framing(dice), dice.choice([1, 2, 3, 4, 7, 16, 50])
    chunks = random_splits(dice, random_stream(dice, framing, limit))
    decoder = framing.decoder(limit)
    told: list[bytes] = []
    failed = False
    said = f"seed {seed}: {framing!r}, limit {limit}, {chunks!r}"
    for number, chunk in enumerate(chunks):
        before, messages = decoder.held, list[bytes]()
        try:
            messages.extend(decoder.feed(chunk))
        except MessageTooLong:
            failed = True
        assert all(type(message) is bytes and len(message) <= limit for message in messages), said
        told += messages
        assert decoder.held <= before + len(chunk), said
        assert decoder.held <= limit + len(getattr(framing, "delimiter", b"12345678")), f"{said}: {decoder.held} held"
        so_far = cut(framing, b"".join(chunks[: number + 1]), limit, ended=False)
        if isinstance(framing, Raw):
            assert b"".join(told) == b"".join(so_far.messages), said
        else:
            assert told == so_far.messages, f"{said}: {told!r} is not {so_far.messages!r}"
        if failed:
            break
        assert not so_far.too_long, f"{said}: what is too long was passed over"
        assert decoder.held == so_far.held, said
    whole = cut(framing, b"".join(chunks), limit, ended=True)
    if not failed:
        last = decoder.finish()
        assert all(len(message) <= limit for message in last), f"{said}: the end makes {last!r}"
        told += last
        assert not decoder.finish(), said
    if isinstance(framing, Raw):
        assert b"".join(told) == b"".join(whole.messages), said
    else:
        assert told == whole.messages, f"{said}: {told!r} is not {whole.messages!r}"
    assert not failed or whole.too_long, f"{said}: nothing was too long"
    if whole.too_long:  # what follows is refused for good
        try:
            decoder.feed(b"x")
        except MessageTooLong:
            pass
        else:
            assert decoder.held <= limit + 9, said
