"""Intake: what a client has sent and nobody has handled."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from treadle.server._loop.poller import READ

if TYPE_CHECKING:
    from treadle.server._transport.decoder import Decoder

__all__ = ["Intake"]


class Intake:
    """What came from one client. For the thread that has its connection.

    Attributes:
        decoder: what makes bytes into messages.
        waiting: messages that were read and not handled, as Arrivals, where there are observers; and Replies.
        more: generates those behind them, of what was read; None: there are none. While there are, `waiting` is
            empty only while somebody handles the last of it.
        held: bytes that the decoder holds back, of the message that is not complete.
        begun: when that message began, or the phase of it that is read; 0: there is none.
        received: bytes of it.
        first_byte: when the first message that waits began; 0: when it was read.
        read_at: when something was read last.
        phase: what the decoder said that is read, where the protocol has limits for phases; "": nothing yet.
        ended: the peer will send no more.
        wait_in: what TLS waits for before it can go on reading: READ, or WRITE.
        farewell: the last bytes for a client that has sent what makes no message; None: go on.
        header: of a trusted proxy, as far as it came; None: none is awaited.
        vet: tells by a connection, and its first bytes, whether it may go on; None: it may.
        conversation: goes on with a conversation that has paused, when there is something to read, or that is to begin
            after messages; as a protocol's `converse`. None: there is none, or it has not begun.
        spoken: the decoder has answered something itself.
    """

    __slots__ = (
        "begun",
        "conversation",
        "decoder",
        "ended",
        "farewell",
        "first_byte",
        "header",
        "held",
        "more",
        "phase",
        "read_at",
        "received",
        "spoken",
        "vet",
        "wait_in",
        "waiting",
    )

    def __init__(self, decoder: Decoder[Any]) -> None:
        self.decoder = decoder
        self.waiting: deque[Any] = deque()
        self.more: Iterator[Any] | None = None
        self.held = 0
        self.begun = 0.0
        self.received = 0
        self.first_byte = self.read_at = 0.0
        self.phase = ""
        self.ended = False
        self.wait_in = READ
        self.farewell: bytes | None = None
        self.header: Any = None
        self.vet: Callable[[Any, bytes], bool] | None = None
        self.spoken = False
        self.conversation: Callable[[Any, Any], bool] | None = None

    def end(self) -> None:
        """The peer will send no more, which a conversation that has paused reads as b""."""
        self.ended = True
        if self.conversation is not None:
            self.waiting.append(b"")

    def uncut(self) -> bytes | None:
        """Take out what was read and is no message yet, as it came; None if that cannot be had, or messages wait."""
        take_rest: Callable[[], bytes] | None = getattr(self.decoder, "take_rest", None)
        if self.waiting or self.more is not None or self.farewell is not None or (self.held and take_rest is None):
            return None
        self.held, self.begun, self.received = 0, 0.0, 0
        return b"" if take_rest is None else take_rest()

    def drop(self) -> None:
        """Handle nothing more of it."""
        self.waiting.clear()
        self.more = self.conversation = None

    def look_at_phase(self, now: float) -> None:
        """Count from `now` on if the decoder has come to another phase of the message that is read."""
        phase = self.decoder.phase  # type: ignore[attr-defined]  # where the protocol has phases
        if phase != self.phase:
            self.phase = phase if isinstance(phase, str) else ""
            if self.begun != now:  # else the message itself begins
                self.restart(now)

    def restart(self, now: float) -> None:
        """Count the time of the message that has begun, if one has, from `now` on."""
        if self.begun:
            self.begun, self.received = now, 0
