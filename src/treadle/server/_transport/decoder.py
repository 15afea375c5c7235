"""Decoder: what makes one client's bytes into messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar, final

from treadle.server._transport.sending.file_range import FileRange

__all__ = ["MOST", "AnswerBroken", "CloseConnection", "Decoder", "RawDecoder", "Reply"]

# Messages that are cut at once, at most, where they are generated; the rest is kept as it came, for a message of two
# bytes takes forty. A guess.
MOST = 64
M_co = TypeVar("M_co", covariant=True)
Last = (
    bytes | bytearray | memoryview | FileRange | list[bytes] | list[bytes | FileRange] | tuple[bytes | FileRange, ...]
)


class CloseConnection(Exception):
    """Raised by a handler, or a framing, to end the connection after `answer` is sent. No failure, and not logged.

    Args:
        answer: the last bytes for the peer. From a handler also a FileRange, or a list of bytes and FileRanges.
    """

    def __init__(self, answer: Last = b"") -> None:
        if isinstance(answer, (bytes, bytearray, memoryview)):
            answer = bytes(answer)
        elif not isinstance(answer, (FileRange, list, tuple)):
            allowed = "bytes, a FileRange, or a list of these"
            raise TypeError(f"answer={answer!r} is {type(answer).__name__}; allowed: {allowed}")
        self.answer = answer
        super().__init__(self.answer)  # which can be pickled


class AnswerBroken(Exception):
    """Raised by a handler from what has broken its answer, and was logged: its connection is cut, as over that."""


@final
class Reply:
    """What a decoder answers itself, without a handler, in its turn: behind the answers to the messages before it.

    It is no message: nobody counts it, and no observer is told of it.

    Args:
        answer: what the peer is sent.
        final: whether it is the whole answer to what has come in full. If not, as "100 Continue", what is incomplete
            gains no time by it.
    """

    __slots__ = ("answer", "final")

    def __init__(self, answer: bytes | bytearray | memoryview, *, final: bool = False) -> None:
        if not isinstance(answer, (bytes, bytearray, memoryview)):
            raise TypeError(f"answer={answer!r} is {type(answer).__name__}; allowed: bytes")
        self.answer = bytes(answer)
        self.final = final

    def __repr__(self) -> str:
        return f"Reply({self.answer!r}{', final=True' if self.final else ''})"


class Decoder(Protocol[M_co]):
    """Makes one connection's bytes into messages. For one thread at a time."""

    @property
    def feed(self) -> Callable[[bytes], Iterable[M_co]]:
        """Take what arrived; return the messages that are complete with it, or generate them one by one.

        What is generated is asked for some at a time, as the messages before are handled; so a client that sends many
        small ones is given memory for few of them. It is called again when all have been taken. What is raised as they
        are generated ends the connection after the answers to those before.

        Of a decoder that also answers itself, Replies stand among the messages that it generates. In a list or a tuple
        there are messages only.

        Raises:
            MessageTooLong: the next message is longer than allowed.
            CloseConnection: the connection is to end with that answer.
            ValueError: what has come makes no message: it ends so, too, without an answer but for the protocol's
                `refusal()`, and is logged as the client's fault.
            Exception: anything else ends it likewise, and is logged as the decoder's fault, with its traceback.
        """

    @property
    def held(self) -> int:
        """Bytes of the message that is not complete yet."""

    def finish(self) -> Iterable[M_co]:
        """Return what counts as a message though the peer has ended the stream after it.

        With TLS called only after the peer's goodbye: any other end may be somebody else's.
        """

    # It may also have
    #     def take_rest(self) -> bytes:  give back what it holds, as it came, and hold nothing; see `TakeOver`


class RawDecoder:
    """Passes every chunk on, in pieces of at most `limit` bytes."""

    __slots__ = ("limit",)
    held = 0

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def feed(self, data: bytes) -> Iterable[bytes]:
        """Return the chunk, or its pieces; if they are many, generate them."""
        if len(data) <= self.limit:
            return (data,)
        pieces = (data[start : start + self.limit] for start in range(0, len(data), self.limit))
        return pieces if len(data) > self.limit * MOST else list(pieces)

    def finish(self) -> Sequence[bytes]:
        """Return nothing: nothing is held back."""
        return ()
