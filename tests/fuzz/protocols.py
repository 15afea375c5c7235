"""Protocols that do all that they may, beside handling messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from fuzz.framings import UP
from fuzz.parts import HandlerFault, Turn
from treadle.server import Messages, Reply
from treadle.server._transport.limits import Phase

if TYPE_CHECKING:
    from fuzz.parts import Client
    from fuzz.world import World

__all__ = ["CALLS", "Rich"]

CALLS: ContextVar[int] = ContextVar("CALLS", default=0)  # of the handler, in this context
NAME = re.compile(rb"(\d+)\.(\d+)\.")  # how a message begins: its client's number, and its own
REASONS = ["read_timeout", "min_read_rate", "head_timeout", "body_timeout", "max_message", "framing"]
REASONS += ["handler_timeout", "message_rejected"]


class Rich(Messages[bytes]):
    """Messages that are partly answered at once, or by the decoder; what becomes of each is told; and so on."""

    def __init__(self, world: World, framing: Any, greeting: bytes) -> None:
        self.world = world
        self.dice = dice = world.dice
        instant = self.instantly if dice.random() < 0.4 else None
        super().__init__(world.handle, framing, greeting=greeting, instant=instant)
        self.speaks = dice.random() < 0.4
        self.over = self.told if dice.random() < 0.6 else None
        self.fresh_context = dice.random() < 0.5
        timeout = dice.choice([None, 0.05, 1.0])
        phases = {"head": Phase(timeout), "body": Phase(dice.choice([None, 0.1]), None), "idle": Phase(75.0)}
        self.phases = phases if dice.random() < 0.3 and not world.lenient else None
        self.words = {why: dice.choice([b"!%s!" % why.encode(), b"", None, "text"]) for why in REASONS}
        self.refusal = self.refuse if dice.random() < 0.5 else None

    def decoder(self, limits: Any, peer: Any) -> Any:
        """Return a decoder."""
        return RichDecoder(self, super().decoder(limits, peer))

    def client_of(self, message: bytes) -> tuple[Client | None, int]:
        """Return whose message it is, and its number; None: that cannot be told."""
        found = NAME.match(message)
        if found is None or message.endswith(UP) or int(found[1]) > len(self.world.clients):
            return None, 0
        return self.world.clients[int(found[1]) - 1], int(found[2])

    def reply(self, message: bytes) -> bytes | None:
        """Return what the decoder answers; None: nothing."""
        client, number = self.client_of(message)
        return b"(%s)" % message if self.speaks and client is not None and number % 7 == 3 else None

    def early(self, message: bytes) -> bytes | None:
        """Return the answer to a message that needs no handler; None: it does."""
        client, number = self.client_of(message)
        if self.instant is not None and client is not None and number % 7 == 4:
            return b"[%s]" % message
        return self.reply(message)

    def instantly(self, message: bytes) -> Any:
        """Answer at once, or raise, or return what is not allowed."""
        if message[-3:] == b"2.*":
            raise HandlerFault("not at once")
        return "text" if message[-3:] == b"5.*" else self.early(message)

    def refuse(self, why: str, message: Any) -> Any:
        """Return what a client is told that is refused, or cut."""
        word = self.words.get(why)
        if why == "message_rejected":
            client, _ = (None, 0) if message is None else self.client_of(message)  # a conversation has none
            if client is None or not isinstance(word, bytes):
                return None  # and its connection is closed
            client.seen.append(message)
            client.turns.append(Turn(message, word))
            client.turns[-1].refused = True
        if word == "text":
            raise HandlerFault("no words")
        return word

    def told(self, message: Any, sent: int, error: BaseException | None) -> None:
        """Note what became of a message."""
        world = self.world
        client, number = self.client_of(message)
        if world.stage.failure is not None or client is None:
            return
        if number in client.told:
            world.stage.tear(f"of {message!r} is told again: {sent} bytes, {error!r}")
        client.told[number] = (sent, error)
        if not (world.hands.closed or world.hands.refuses):  # else it is the leader who calls
            world.linger_in_handler()
        if self.dice.random() < 0.01:
            raise HandlerFault("not told")


class RichDecoder:
    """A decoder that has phases, and answers some messages itself."""

    def __init__(self, protocol: Rich, decoder: Any) -> None:
        self.protocol = protocol
        self.decoder = decoder

    @property
    def held(self) -> int:
        """Bytes that are held back."""
        return int(self.decoder.held)

    def __getattr__(self, name: str) -> Any:
        if name == "take_rest":
            return self.decoder.take_rest
        raise AttributeError(name)

    @property
    def phase(self) -> str:
        """What is read."""
        return "head" if self.held < 5 else "body"

    def feed(self, data: bytes) -> Any:
        """Return messages, or generate them, and Replies."""
        messages = self.decoder.feed(data)
        return self.with_replies(messages) if self.protocol.speaks else messages

    def finish(self) -> Any:
        """Return messages, or generate them, and Replies."""
        messages = self.decoder.finish()
        return self.with_replies(messages) if self.protocol.speaks else messages

    def with_replies(self, messages: Any) -> Iterator[Any]:
        """Generate messages, and Replies in place of some."""
        for message in messages:
            answer = self.protocol.reply(message)
            yield message if answer is None else Reply(answer, final=len(message) % 2 == 0)
