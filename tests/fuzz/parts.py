"""Parts of a world: limits, clients and what they send, and framings that raise; all at random."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from fuzz.framings import UP, Upgrades
from treadle.server import LengthPrefix, Limits, Lines, Raw
from treadle.server._transport.connection import ClientConnection

if TYPE_CHECKING:
    from fuzz.wire import Wire

__all__ = ["LARGEST", "Ambiguous", "Client", "HandlerFault", "Moody", "Turn", "random_limits", "random_script"]

LARGEST = 3000  # bytes of an answer


class HandlerFault(Exception):
    """What handlers raise here."""


class Ambiguous:
    """An answer that is neither true nor false, as arrays are."""

    def __bool__(self) -> bool:
        raise HandlerFault("neither true nor false")


class Moody:
    """A framing that is another one, and raises now and then."""

    def __init__(self, framing: Any, dice: random.Random) -> None:
        self.framing = framing
        self.dice = dice

    def decoder(self, limit: int) -> MoodyDecoder:
        """Return a decoder, or raise."""
        if self.dice.random() < 0.05:
            raise HandlerFault("no decoder")
        return MoodyDecoder(self.framing.decoder(limit), self.dice)


class MoodyDecoder:
    """A decoder that raises now and then."""

    def __init__(self, decoder: Any, dice: random.Random) -> None:
        self.decoder = decoder
        self.dice = dice

    @property
    def held(self) -> int:
        """Bytes that are held back."""
        return int(self.decoder.held)

    def feed(self, data: bytes) -> Any:
        """Return messages, or raise."""
        if self.dice.random() < 0.1:
            raise HandlerFault("no messages")
        return self.decoder.feed(data)

    def finish(self) -> Any:
        """Return messages, or raise."""
        if self.dice.random() < 0.3:
            raise HandlerFault("no end")
        return self.decoder.finish()


class Turn:
    """What one message is answered with, or said in a conversation.

    Attributes:
        whole: the client is sent all of it, and what comes behind it.
        refused: these are the words for a message that the pool has no room for; of them it is told how many there are.
    """

    def __init__(self, message: bytes, answer: bytes = b"") -> None:
        self.message = message
        self.answer = bytearray(answer)
        self.whole = True
        self.refused = False


class Client:
    """One client: what it sends, and what becomes of it."""

    def __init__(self, number: int, dice: random.Random, script: bytes, greeting: bytes) -> None:
        self.number = number
        self.address = (dice.choice(["10.0.0.1", "10.0.0.2"]), number)
        self.script = script
        self.early = b""
        self.early_end = False
        self.wire: Wire | None = None
        self.sent = bytearray()
        self.ended = self.left = False
        self.received = bytearray()
        # What the handler did.
        self.seen: list[bytes] = []
        self.heard = bytearray()  # in conversations
        self.taken_over = False
        self.paused: Any = None  # the conversation, from when it wants to pause until it is called again
        self.greeting = greeting
        self.turns: list[Turn] = []
        self.calls = 0
        self.told: dict[int, tuple[int, BaseException | None]] = {}  # of which of its messages; bytes sent, why no more
        self.lent: list[bytearray] = []  # which it may change by the next message
        self.inside = False
        self.closing = False  # the handler has said so
        # What the server did.
        self.conn: ClientConnection | None = None
        self.why: list[str] = []
        self.while_draining = False

    def lend(self, data: bytes) -> bytearray:
        """Return an answer that the handler will change."""
        self.lent.append(bytearray(data))
        return self.lent[-1]

    def change_answer(self) -> None:
        """Change what was answered before."""
        for data in self.lent:
            data[:] = b"?" * len(data)
        self.lent.clear()


def random_limits(dice: random.Random, *, lenient: bool) -> Limits:
    """Return any limits; or such that those of time and number hardly come."""

    def seconds(*values: float | None) -> Any:
        """Return one of `values`, of which the most lenient is None, or else the last."""
        return (None if None in values else values[-1]) if lenient else dice.choice(values)

    return Limits(
        max_connections=100 if lenient else dice.choice([1, 2, 5, 100]),
        max_connections_per_host=seconds(None, None, 1, 3),
        accept_rate=seconds(None, None, 0.5, 20.0),
        at_max_connections=dice.choice(["pause", "reject", "evict_idle"]),
        reject_connections_with=dice.choice([b"", b"full\n"]),
        max_message=dice.choice([8, 40, 200, 100_000]),
        max_unsent=dice.choice([0, 1, 100, 1000, 65536]),
        spool_memory=dice.choice([0, 1, 100, 1000, 1 << 18]),
        spool_file=dice.choice([0, 100, 1000, 1 << 30]),
        handshake_timeout=seconds(0.05, 1.0, 10.0),
        read_timeout=seconds(None, 0.05, 1.0, 30.0),
        write_timeout=seconds(None, 0.05, 1.0, 30.0),
        handler_timeout=dice.choice([None, None, None, 0.05, 1.0]),
        idle_timeout=seconds(None, 0.05, 1.0, 75.0),
        max_age=seconds(None, None, None, 0.1, 2.0),
        min_read_rate=seconds(None, None, 1.0, 1000.0),
        min_write_rate=seconds(None, None, 1.0, 1000.0),
        min_rate_grace=seconds(0.01, 5.0),
        linger_timeout=seconds(0.0, 0.1, 2.0),
        max_linger_bytes=dice.choice([0, 10, 65536]),
    )


def random_script(dice: random.Random, framing: Any, limit: int, number: int, *, long: bool) -> bytes:
    """Return what a client is to send in all."""
    pieces: list[bytes] = []
    for serial in range(dice.choice([5, 20, 80] if long else [0, 1, 2, 5, 20, 80])):
        size = dice.choice([0, 0, 1, 10, 30, 150])
        body = (b"%d.%d." % (number, serial)).ljust(size, b"*")
        if isinstance(framing, Upgrades) and dice.random() < 0.1:
            body += UP
        if dice.random() < (0.999 if long else 0.98):
            body = body[:limit]
        if isinstance(framing, LengthPrefix):
            body = body[: 256**framing.size - 1]
            pieces.append(framing.pack(body))
        elif isinstance(framing, Lines):
            pieces.append(body + dice.choice([b"\n", b"\r\n"]))
        elif isinstance(framing, Raw):
            pieces.append(body)
        else:
            pieces.append(body + framing.delimiter)
    if dice.random() < 0.2:
        pieces.append(b"\x01half")
    return b"".join(pieces)
