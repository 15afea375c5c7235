"""A protocol that has everything that one may have, and answers in every form: for ways of serving to be tested with.

`treadle tcp behaviour.forms:SERVED` serves it; then the variable FORMS_GATE names a FIFO that handlers wait at, and
what is told goes to standard output, a line each.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from behaviour.posts import PostDecoder, post, told
from treadle.server import CloseConnection, Connection, FileRange, Messages, Peer, Phase, Reply, TakeOver

__all__ = ["FORMS", "HASTY", "LARGE", "SERVED", "Forms", "answer_to", "sent_for", "shout"]

FORMS = ["bytes", "view", "list", "tuple", "file", "pieces", "much", "none", "fresh", "instant", "ping"]
PIECE = 40_000  # bytes of each piece of what is much
PIECES = 40  # together they are more than a spool keeps in memory
LARGE = 8_000_000  # bytes: more than the kernel takes of one answer at once
EARLIER: ContextVar[int] = ContextVar("EARLIER", default=0)  # messages that were handled in this context


def sent_for(body: bytes) -> bytes:
    """Return what a client sends: a line that the decoder answers itself, or a post."""
    return body + b"\n" if body.startswith(b"ping") else post(body)


def answer_to(body: bytes) -> bytes:
    """Return what comes back."""
    form = body.split()[0]
    if form == b"much":
        return b"%*s\n" % (PIECE * PIECES - 1, body)
    if form == b"large":
        return bytes(LARGE)
    return {b"none": b"", b"fresh": b"0\n"}.get(form, body + b"\n")


class Forms(Messages[Any]):
    """Answers posts whose first word is the form of the answer, by which comes what was sent.

    Args:
        hold: what b"hold" blocks in, and b"held" between its two pieces.
        tell: what `over()` is.
        phases: limits of time.
    """

    fresh_context = True

    def __init__(
        self,
        hold: Callable[[bytes], object],
        tell: Callable[[bytes, int, BaseException | None], object],
        **phases: Phase,
    ) -> None:
        super().__init__(self.answer, Cuts(), instant=at_once)
        self.hold, self.over, self.phases = hold, tell, phases

    def refusal(self, why: str, message: Any) -> bytes | None:
        return told(why, message)

    def answer(self, body: bytes, peer: Peer) -> Any:
        line, half = body + b"\n", len(body) // 2
        match body.split()[0].decode():
            case "bytes":
                return line
            case "view":
                return memoryview(bytearray(line))
            case "list":
                return [line[:half], line[half:]]
            case "tuple":
                return (line[:half], b"", line[half:])
            case "file":
                return FileRange(file_of(b"head" + line + b"tail"), 4, len(line))
            case "pieces":
                return iter([line[:half], b"", line[half:]])
            case "much" | "large":
                whole = answer_to(body)
                if body.startswith(b"large"):
                    return whole
                return (whole[start : start + PIECE] for start in range(0, len(whole), PIECE))
            case "none":
                return None
            case "fresh":
                EARLIER.set(EARLIER.get() + 1)
                return b"%d\n" % (EARLIER.get() - 1)
            case "where":
                return b"%d\n" % os.getpid()
            case "hold":
                self.hold(body)
                return line
            case "held":
                return self.halves(line[:half], line[half:])
            case "talk":
                return TakeOver(shout, line)
            case "bye":
                raise CloseConnection(line)
        raise ValueError(body)

    def halves(self, first: bytes, second: bytes) -> Iterator[bytes]:
        yield first
        self.hold(first)
        yield second


class Cuts:
    """The framing."""

    def decoder(self, limit: int) -> FormDecoder:
        return FormDecoder(limit)


class FormDecoder(PostDecoder):
    """Cuts posts, answers pings itself, and cuts nothing behind b"talk"."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.over = False

    def feed(self, data: bytes) -> Iterator[Any]:
        self.rest += data
        while not self.over:
            if self.size is None:
                line, end, rest = self.rest.partition(b"\n")
                if not end:
                    return
                self.rest = rest
                if line.startswith(b"ping"):
                    yield Reply(line + end, final=True)
                    continue
                self.size = int(line)
            if len(self.rest) < self.size:
                return
            body, self.rest, self.size = self.rest[: self.size], self.rest[self.size :], None
            self.over = body.startswith(b"talk")
            yield body

    def take_rest(self) -> bytes:
        """Give back what the conversation reads first."""
        rest, self.rest = self.rest, b""
        return rest


def at_once(body: bytes) -> bytes | None:
    return body + b"\n" if body.startswith(b"instant") else None


def file_of(data: bytes) -> Any:
    file = tempfile.TemporaryFile()  # noqa: SIM115  # the server closes it
    file.write(data)
    file.flush()
    return file


def shout(conn: Connection) -> object:
    """Answer a line in capitals, and pause."""
    line = conn.readline()
    conn.sendall(line.upper())
    return conn.pause() if line else None


def wait_at_the_gate(body: bytes) -> None:
    """Say so, and wait until somebody opens the FIFO."""
    os.write(1, b"at the gate: %s\n" % body)
    os.close(os.open(os.environ["FORMS_GATE"], os.O_RDONLY))


def say(body: bytes, sent: int, error: BaseException | None) -> None:
    """Tell what `over()` is told."""
    os.write(1, b"over: %d, %s, %d, %s\n" % (os.getpid(), body, sent, type(error).__name__.encode()))


SERVED = Forms(wait_at_the_gate, say)
HASTY = Forms(wait_at_the_gate, say, body=Phase(0.5))
