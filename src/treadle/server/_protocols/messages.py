"""Messages: a plain function called for each message."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar, overload

from treadle._base import checks
from treadle._tasks.call import name_of
from treadle.server._protocols.framing import Framing, Raw
from treadle.server._protocols.protocol import Answer
from treadle.server._transport.decoder import Decoder, Reply
from treadle.server._transport.limits import Limits
from treadle.server._transport.peer import Peer

__all__ = ["Messages"]

M = TypeVar("M")


class Messages(Generic[M]):
    """Call `handler(message, peer)` for every message, and send what it returns.

    The handler is an ordinary function and may block. Messages of one connection are handled one after another, in
    their order, and answered in it; those of different connections at the same time, on as many threads as the server
    has. So the handler must be safe to call from several threads.

    Args:
        handler: takes the message, `bytes` without what frames it (or what a framing of your own cuts), and the `Peer`;
            returns bytes (a bytearray, a memoryview) to send as they are, or None. Also a FileRange; a list or tuple of
            bytes and FileRanges, which are not joined; or an iterator that gives bytes, as a generator does: each
            piece is on its way while the next is made, at the client's pace, see `Limits.spool_memory`, and its `close`
            is called in the same thread, also when the client has left. CloseConnection, raised, ends the connection
            after a last answer. Any other exception closes that connection only, and is logged with the peer, the
            number of the message, and the traceback: once in ten seconds for each line that raises it.
        framing: where a message ends: Raw(), Lines(), Delimiter(b"..."), LengthPrefix(4), or an object like them.
        greeting: sent to each client as soon as it has come in (and has ended the TLS handshake).
        kind: takes a message and returns what those have in common that take about as long: its command, say, or its
            route. Messages of kinds that have been slow (over 1 ms) are handled in threads of their own, so that the
            others do not wait for them, see `Server(reserve=...)`. It returns something hashable, of at most 200
            bytes; 1,024 kinds are told apart. It is called for every message, by the thread that serves all: it must
            not block, and 0.1 us is a good time. If it raises, or returns what is none, that is logged, and the message
            is of a kind with all such. None: all messages of one connection are of one kind.
        instant: takes a message and returns its answer, bytes, if that needs no thread, as a health check's or a
            redirect's; None: it is the handler's. So it is answered also while every thread is in a handler, in its
            turn: behind the answers to the messages before it. It is called first for every message, perhaps more than
            once, by whoever serves its connection, mostly the thread that serves all: it must not block, and 0.1 us is
            a good time. If it raises, or returns anything else, that is logged, and the message is the handler's.
        key: takes a message and returns whose it is, something hashable: for a pool whose order looks at keys, as
            "fair" does. Called for a message that is handed over to the pool; if it raises, that is logged, and the key
            is the client's address, as it is with None.

    Raises:
        TypeError: an argument is of the wrong type, is async, or cannot be called so; `handler` is a class.

    `kind`, `instant` and `key` may be called by several threads at once, as the handler.
    """

    converse = None
    speaks_first = False

    @overload
    def __init__(
        self: Messages[bytes],
        handler: Callable[[bytes, Peer], Answer],
        framing: None = None,
        *,
        greeting: bytes = ...,
        kind: Callable[[bytes], Hashable] | None = ...,
        instant: Callable[[bytes], bytes | None] | None = ...,
        key: Callable[[bytes], Hashable] | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self,
        handler: Callable[[M, Peer], Answer],
        framing: Framing[M | Reply],
        *,
        greeting: bytes = ...,
        kind: Callable[[M], Hashable] | None = ...,
        instant: Callable[[M], bytes | None] | None = ...,
        key: Callable[[M], Hashable] | None = ...,
    ) -> None: ...
    def __init__(
        self,
        handler: Callable[[Any, Peer], Answer],
        framing: Framing[Any] | None = None,
        *,
        greeting: bytes = b"",
        kind: Callable[[Any], Hashable] | None = None,
        instant: Callable[[Any], bytes | None] | None = None,
        key: Callable[[Any], Hashable] | None = None,
    ) -> None:
        if _makes_objects(handler):
            raise TypeError(
                f"handler={handler!r} is a class, and its objects are no bytes; pass a function or a method"
            )
        instead = "Session(...), with the command --session"
        checks.handler("handler", handler, "message", "peer", instead=instead, generates=True)
        if framing is None:
            framing = Raw()
        if isinstance(framing, type) or not callable(getattr(framing, "decoder", None)):
            raise TypeError(f"framing={framing!r} is no framing; allowed: an object like Raw() or Lines()")
        if not isinstance(greeting, bytes):
            raise TypeError(f"greeting={greeting!r} is {type(greeting).__name__}; allowed: bytes")
        for name, function in (("kind", kind), ("instant", instant), ("key", key)):
            if function is not None:
                checks.handler(name, function, "message")
        self.handle = handler
        self.kind = kind
        self.instant = instant
        self.key = key
        self.framing: Framing[Any] = framing
        self.greeting = greeting
        self.name = name_of(handler)

    def decoder(self, limits: Limits, peer: Peer) -> Decoder[M]:
        """Return what makes one connection's bytes into messages."""
        decoder: Decoder[M] = self.framing.decoder(limits.max_message)
        return decoder

    def __repr__(self) -> str:
        return f"Messages({self.name}, {self.framing!r})"


def _makes_objects(handler: object) -> bool:
    """Whether `handler` is a class, a call of which gives an object of it that is no bytes."""
    if not isinstance(handler, type):
        return False
    made: object = handler.__new__
    plain = made is object.__new__ and type(handler).__call__ is type.__call__
    return plain and not issubclass(handler, (bytes, bytearray, memoryview))
