"""Framings: where one message ends and the next begins.

A framing is the rule, shared by all connections; `decoder` makes one connection's Decoder, which is fed what arrives
and gives back whole messages, or generates them if they are many. What it holds back is never more than the message
limit and what was read at once, however the bytes are split, and each byte is looked at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Protocol, TypeVar

from treadle._base import checks
from treadle._base.words import counted
from treadle.errors import MessageTooLong
from treadle.server._transport.decoder import MOST, Decoder, RawDecoder

__all__ = ["Delimiter", "Framing", "LengthPrefix", "Lines", "Raw"]

M_co = TypeVar("M_co", covariant=True)  # what a message is: bytes, unless a framing makes more of them

SLICE = (
    1 << 12
)  # bytes that are cut at once when they hold many messages, and each of these may be of one byte; a guess
MAX_PREFIX = 8  # bytes of a length prefix: more than memory has


class Framing(Protocol[M_co]):
    """What Messages asks of a framing: where one message ends, and what it is."""

    def decoder(self, limit: int) -> Decoder[M_co]:
        """Return a decoder for one connection, whose messages have at most `limit` bytes."""


class Raw:
    """Each chunk that arrives is a message, split as chance has it: for echoes, proxies, and framings of your own."""

    def decoder(self, limit: int) -> RawDecoder:
        """Return a decoder for one connection."""
        return RawDecoder(limit)

    def __repr__(self) -> str:
        return "Raw()"


class Delimiter:
    """A message ends at `delimiter`, which is not part of it. Bytes after the last one are no message.

    Args:
        delimiter: one byte or more.

    Raises:
        TypeError, ValueError: `delimiter` is not bytes, or empty.
    """

    def __init__(self, delimiter: bytes) -> None:
        if not isinstance(delimiter, bytes):
            raise TypeError(f"delimiter={delimiter!r} is {type(delimiter).__name__}; allowed: bytes, as in b'\\0'")
        if not delimiter:
            raise ValueError("delimiter=b'' ends nothing; allowed: one byte or more")
        self.delimiter = delimiter

    def decoder(self, limit: int) -> DelimiterDecoder:
        """Return a decoder for one connection."""
        return DelimiterDecoder(self.delimiter, limit)

    def __repr__(self) -> str:
        return f"Delimiter({self.delimiter!r})"


class DelimiterDecoder:
    """Cuts at each delimiter."""

    __slots__ = ("delimiter", "limit", "most", "rest", "too_long")

    def __init__(self, delimiter: bytes, limit: int) -> None:
        self.delimiter = delimiter
        self.limit = limit
        self.most = limit + len(delimiter) - 1  # what may be held back: a whole message, and half of what ends it
        self.rest = bytearray()  # of a message that is not complete
        self.too_long = False

    @property
    def held(self) -> int:
        """Bytes of the message that is not complete yet."""
        return len(self.rest)

    def take_rest(self) -> bytes:
        """Give back what is held, as it came."""
        rest, self.rest = bytes(self.rest), bytearray()
        return rest

    def feed(self, data: bytes) -> Iterable[bytes]:
        """Return the messages that are complete with `data`; if they are many, generate them."""
        if self.too_long:
            raise MessageTooLong(self.limit)
        if len(data) > SLICE and data.count(self.delimiter) > MOST:
            return self.gradually(data)
        return self.take(data)

    def gradually(self, data: bytes) -> Iterator[bytes]:
        """Generate the messages that are complete with `data`, cutting a slice of it at a time."""
        for start in range(0, len(data), SLICE):
            yield from self.take(data[start : start + SLICE])

    def take(self, data: bytes) -> Iterable[bytes]:
        """Return the messages that are complete with `data`."""
        if self.rest:
            messages = self.complete(data)
        else:
            messages = data.split(self.delimiter)
            if messages[-1]:
                self.rest += messages[-1]
            del messages[-1]
        return self.check(messages)

    def complete(self, data: bytes) -> list[bytes]:
        """Return the messages that are complete with `data`, the first of which has begun before."""
        delimiter, rest = self.delimiter, self.rest
        start = max(0, len(rest) - len(delimiter) + 1)  # a delimiter may be split between two chunks
        rest += data
        if rest.find(delimiter, start) < 0:
            return []
        messages = bytes(rest).split(delimiter)
        self.rest = bytearray(messages.pop())
        return messages

    def check(self, messages: list[bytes]) -> Iterable[bytes]:
        """Return `messages` up to the first that is too long, at which it raises."""
        limit = self.limit
        # Most messages are short, and all of them together are seldom more than one may be.
        for number, message in enumerate(messages):
            if len(message) > limit:
                del messages[number:]
                self.too_long = True
                break
        if len(self.rest) > self.most:
            self.too_long = True
        if self.too_long:
            self.rest = bytearray()
            if not messages:
                raise MessageTooLong(limit)
            return raising_after(messages, limit)
        return messages

    def finish(self) -> Sequence[bytes]:
        """Return nothing: a message without its delimiter may be half a message."""
        return ()


class Lines:
    r"""A message is a line, without its end: "\n" or "\r\n". A last line without an end counts, as in a file."""

    def decoder(self, limit: int) -> LinesDecoder:
        """Return a decoder for one connection."""
        return LinesDecoder(b"\n", limit)

    def __repr__(self) -> str:
        return "Lines()"


class LinesDecoder(DelimiterDecoder):
    r"""Cuts at each "\n", and takes a "\r" before it away."""

    __slots__ = ()

    def __init__(self, delimiter: bytes, limit: int) -> None:
        super().__init__(delimiter, limit)
        self.most = limit + 1  # a "\r" may be there already

    def check(self, messages: list[bytes]) -> Iterable[bytes]:
        """Return the lines without what ends them."""
        for number, line in enumerate(messages):
            if line[-1:] == b"\r":
                messages[number] = line[:-1]
        return super().check(messages)

    def finish(self) -> Sequence[bytes]:
        """Return the last line, if it lacks its end."""
        rest, self.rest = bytes(self.rest), bytearray()
        return (rest,) if 0 < len(rest) <= self.limit else ()


class LengthPrefix:
    """A message follows its length, an unsigned integer, which is not part of it.

    Args:
        size: bytes of the length, 1 to 8.
        byteorder: "big" (network order) or "little".

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or out of range.
    """

    def __init__(self, size: int = 4, byteorder: Literal["big", "little"] = "big") -> None:
        if checks.integer("size", size, least=1) > MAX_PREFIX:
            raise ValueError(f"size={size!r}; allowed: 1 to {MAX_PREFIX} bytes")
        self.size = size
        self.byteorder = checks.one_of("byteorder", byteorder, ("big", "little"))

    def pack(self, message: bytes) -> bytes:
        """Return `message` behind its length: what to answer, or to send, in this framing.

        Raises:
            TypeError: it is not bytes.
            OverflowError: it is longer than the prefix can say.
        """
        try:
            length = len(message).to_bytes(self.size, "big" if self.byteorder == "big" else "little")
            return b"".join((length, message))
        except TypeError:
            raise TypeError(f"message={message!r} is {type(message).__name__}; allowed: bytes") from None
        except OverflowError:
            most = 256**self.size - 1
            raise OverflowError(
                f"a message of {counted(len(message), 'byte')} is longer than {most}, the most that {self!r} can say; "
                "take a prefix of more bytes"
            ) from None

    def decoder(self, limit: int) -> LengthPrefixDecoder:
        """Return a decoder for one connection."""
        return LengthPrefixDecoder(self, limit)

    def __repr__(self) -> str:
        return f"LengthPrefix({self.size}, {self.byteorder!r})"


class LengthPrefixDecoder:
    """Cuts by lengths."""

    __slots__ = ("framing", "limit", "need", "rest", "too_long")

    def __init__(self, framing: LengthPrefix, limit: int) -> None:
        self.framing = framing
        self.limit = limit
        self.rest = bytearray()  # a message that is not complete, with its length
        self.need = framing.size  # bytes of `rest` before another look is worth while
        self.too_long = 0

    @property
    def held(self) -> int:
        """Bytes of the message that is not complete yet, its length included."""
        return len(self.rest)

    def take_rest(self) -> bytes:
        """Give back what is held, as it came."""
        rest, self.rest = bytes(self.rest), bytearray()
        return rest

    def feed(self, data: bytes) -> Iterable[bytes]:
        """Return the messages that are complete with `data`."""
        if self.too_long:
            raise MessageTooLong(self.limit, self.too_long)
        if self.rest:
            self.rest += data
            if len(self.rest) < self.need:
                return ()
            data = bytes(self.rest)
            self.rest = bytearray()
        messages, start = self.cut(data, 0)
        return messages if start < 0 else self.gradually(messages, data, start)

    def gradually(self, messages: Iterable[bytes], data: bytes, start: int) -> Iterator[bytes]:
        """Generate `messages`, and then those in `data` from `start` on."""
        while True:
            yield from messages
            if start < 0:
                return
            messages, start = self.cut(data, start)

    def cut(self, data: bytes, start: int) -> tuple[Iterable[bytes], int]:
        """Return some messages of `data` from `start` on, and where to go on; -1: nowhere, for the rest is held."""
        size, order = self.framing.size, self.framing.byteorder
        messages: list[bytes] = []
        have = len(data)
        self.need = size
        while have - start >= size:
            length = int.from_bytes(data[start : start + size], "big" if order == "big" else "little")
            if length > self.limit:
                self.too_long = length
                if not messages:
                    raise MessageTooLong(self.limit, length)
                return raising_after(messages, self.limit, length), -1
            end = start + size + length
            if end > have:
                self.need = size + length
                break
            messages.append(data[start + size : end])
            start = end
            if len(messages) == MOST:
                return messages, start
        if start < have:
            self.rest += data[start:]
        return messages, -1

    def finish(self) -> Sequence[bytes]:
        """Return nothing: half a message is none."""
        return ()


def raising_after(messages: Sequence[bytes], limit: int, length: int | None = None) -> Iterator[bytes]:
    """Generate `messages`, which came before what is too long and so are handled, and raise for that."""
    yield from messages
    raise MessageTooLong(limit, length)
