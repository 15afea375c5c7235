"""A small protocol with phases, and words for clients that are refused: a line says how long the body behind it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from treadle.errors import MessageTooLong
from treadle.server import Limits, Peer, Phase

__all__ = ["Posts", "post", "told"]


class Posts:
    """Calls `handler(body, peer)`.

    Attributes:
        asked: what `refusal()` was called with.
    """

    name, greeting, speaks_first, converse = "posts", b"", False, None

    def __init__(self, handler: Callable[[bytes, Peer], bytes | None], **phases: Phase) -> None:
        self.handle = handler
        self.phases = phases
        self.asked: list[tuple[str, Any]] = []

    def decoder(self, limits: Limits, peer: Peer) -> PostDecoder:
        return PostDecoder(limits.max_message)

    def refusal(self, why: str, message: Any) -> bytes | None:
        self.asked.append((why, message))
        return told(why, message)


class PostDecoder:
    """Cuts posts."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.rest = b""
        self.size: int | None = None

    @property
    def phase(self) -> str:
        return "head" if self.size is None else "body"

    @property
    def held(self) -> int:
        return len(self.rest) + (self.size is not None)

    def feed(self, data: bytes) -> Iterator[bytes]:
        self.rest += data
        while True:
            if self.size is None:
                head, line, rest = self.rest.partition(b"\n")
                if not line:
                    return
                self.size, self.rest = int(head), rest
                if self.size > self.limit:
                    raise MessageTooLong(self.limit, self.size)
            if len(self.rest) < self.size:
                return
            body, self.rest = self.rest[: self.size], self.rest[self.size :]
            self.size = None
            yield body

    def finish(self) -> tuple[()]:
        return ()


def post(*bodies: bytes) -> bytes:
    """Return what a client sends."""
    return b"".join(b"%d\n%s" % (len(body), body) for body in bodies)


def told(why: str, message: bytes | None = None) -> bytes:
    """Return what a client is told that is refused."""
    return f"<{why} {'' if message is None else message.decode()}>".encode()
