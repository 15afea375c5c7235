"""Protocol: what turns bytes into calls, and all that differs between servers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from typing import Protocol as _Protocol

from treadle._base import checks
from treadle.server._protocols.takeover import TakeOver
from treadle.server._transport.limits import Limits, Phase
from treadle.server._transport.sending.file_range import FileRange

if TYPE_CHECKING:
    from treadle.server._transport.decoder import Decoder
    from treadle.server._transport.peer import Peer

__all__ = ["Answer", "Protocol", "check", "drain_grace_of", "lacking", "missing_from", "phases_of", "queue_timeout_of"]

Bytes = bytes | bytearray | memoryview
# Of a handler. Of several they are sent one after another, of an iterator as it gives them; None: nothing is.
Several = list[bytes] | list[bytes | FileRange] | tuple[Bytes | FileRange, ...]
Answer = Bytes | FileRange | Several | Iterator[Bytes] | TakeOver | None


class Protocol(_Protocol):
    """What a server asks of a protocol. Every method may be called from many threads at once.

    Any object that has these attributes is one. A class that is derived from this one has to have them too, and type
    checkers look whether it does.

    One that is served message by message may also have these, or None in their place:

        kind(message)    what messages have in common that take about as long; hashable, at most 200 bytes
        instant(message) its answer, bytes, if that needs no handler, and so no thread; None: it is the handler's
        key(message)     whose it is, for a pool whose order looks at keys; hashable
        over(message, sent, error)
                         told once what became of each message: how many bytes of its answer the kernel has taken, and
                         why not all, or what the handler raised; None: all is well. By the thread that has handled it,
                         if it is over when that is done with it, else by another one of the pool's; it may block. Then
                         `Peer.exchange` is the Exchange of the message while it is handled, with its times, and the
                         server has each message take a longer way.
        fresh_context    whether each message is handled in a copy of the connection's context; else all are in that
        queue_timeout    seconds that a message may wait for a thread, more than 0: one that would wait for longer, as
                         it went lately, is rejected at once, see `refusal()`
        drain_grace      seconds that a client which has been answered before may take for its next message once the
                         server stops, 0 or more
        started(server)  told of the Server before it listens, once, by the thread that starts it; what it raises,
                         `Server.start` raises
        reload()         told at SIGHUP, or by `Server.reload`: it opens its files anew; it may block
        phases           the limits of time of each phase of reading a message: a mapping of its name, as "head" or
                         "body", to a Phase

    See `Messages`, which takes the first two as arguments. Where there are phases, a decoder has an attribute `phase`:
    the name of what it is reading. Its limits, called "head_timeout" and "min_head_rate", take the place of
    `Limits.read_timeout` and `Limits.min_read_rate`, which hold for other names. The time and the bytes count from when
    the message begins, or `phase` changes amid it; the decoder's `held` has to be more than 0 until the message is
    complete. The timeout of a phase "idle" is for the time between two messages; before the first, there is
    `Limits.idle_timeout`.

    Any may have this, or None in its place:

        refusal(why, message)    what a client is told that is refused or cut: bytes, or None, for nothing

    `why` is the name that `ServerSnapshot.closed_by` has for it. The client is told, and its connection is closed
    gently, so that it gets that, where a limit's time of reading is over amid a message ("read_timeout", ...; message
    None), or what came makes no message ("max_message", "framing"; None). "handler_timeout": so it is where the handler
    of `message` runs for too long, whose answer is dropped, if ever one comes. "message_rejected": the pool has no room
    for `message`, or sheds it; the client is told that in its turn, and goes on. "max_connections",
    "max_connections_per_host": it is not let in (None). After None, and where an answer is under way, or nothing of a
    message has come, all is as without `refusal()`; and what the user's Limits say is told wins. It is called by the
    thread that serves all, mostly, and must not block; what it raises is logged, and counts as None.

    Attributes:
        name: what logs and snapshots call the handler.
        greeting: what each client is sent when it has come in.
        speaks_first: whether a conversation begins before the client has sent anything.
        converse: None: it is served message by message, by `handle`. Else it is called with a connection and the
            Limits, serves it, blocking, to its end, and returns whether it pauses: it is not closed then, and what it
            has left in `intake.conversation` is called, in its place, when the client has sent something, or has ended.
    """

    name: str
    greeting: bytes
    speaks_first: bool
    converse: Any  # Callable[...] | None would be refused where a class says None, for attributes can be set

    @abstractmethod
    def decoder(self, limits: Limits, peer: Peer, /) -> Decoder[Any]:
        """Return what cuts one connection's bytes into messages.

        `peer` is the object that the handler is given; behind a trusted proxy it tells the client once bytes are fed.
        """

    @abstractmethod
    def handle(self, message: Any, peer: Peer, /) -> Answer:
        """Return the answer to a message; it may block."""


MEMBERS = tuple(sorted({*Protocol.__annotations__, *(name for name in vars(Protocol) if not name.startswith("_"))}))
MAY_HAVE = {  # of what is called, and with what
    "kind": ("message",),
    "instant": ("message",),
    "key": ("message",),
    "over": ("message", "sent", "error"),
    "refusal": ("why", "message"),
    "started": ("server",),
    "reload": (),
}


def missing_from(protocol: object) -> list[str]:
    """Return what an object lacks to be a protocol."""
    return [name for name in MEMBERS if not hasattr(protocol, name)]


def lacking(missing: list[str]) -> str:
    """Return what may be served in the place of an object that lacks something."""
    return f"Messages(handler, ...), Session(handler), or an object of your own that has {', '.join(missing)} as well"


def check(protocol: Any) -> None:
    """Check that an object is a protocol, whose methods can be called as they will be, as far as can be told.

    Raises:
        TypeError, ValueError: it is none, or they cannot.
    """
    if isinstance(protocol, type):
        raise TypeError(f"protocol={protocol!r} is a class; allowed: an object of it, as in {protocol.__name__}(...)")
    if missing := missing_from(protocol):
        raise TypeError(f"protocol={protocol!r} is no protocol; allowed: {lacking(missing)}")
    checks.text("name", protocol.name)
    if not isinstance(protocol.greeting, bytes):
        raise TypeError(f"greeting={protocol.greeting!r} is {type(protocol.greeting).__name__}; allowed: bytes")
    checks.handler("decoder", protocol.decoder, "limits", "peer")
    if protocol.converse is None:
        checks.handler("handle", protocol.handle, "message", "peer", generates=True)
    else:
        checks.handler("converse", protocol.converse, "connection", "limits")
    for name, arguments in MAY_HAVE.items():
        if (function := getattr(protocol, name, None)) is not None:
            checks.handler(name, function, *arguments)
    phases_of(protocol)
    queue_timeout_of(protocol)
    drain_grace_of(protocol)


def queue_timeout_of(protocol: Any) -> float | None:
    """Return the seconds that a message may wait for a thread; None: as long as it takes.

    Raises:
        TypeError, ValueError: it is no such time.
    """
    timeout = getattr(protocol, "queue_timeout", None) if protocol.converse is None else None
    if timeout is not None and checks.duration("queue_timeout", timeout) == 0:
        raise ValueError(f"queue_timeout={timeout!r}; allowed: more than 0 seconds, or None for no limit")
    return timeout


def drain_grace_of(protocol: Any) -> float:
    """Return the seconds that a client which was answered has for its next message once the server stops.

    Raises:
        TypeError, ValueError: it is no such time.
    """
    grace = getattr(protocol, "drain_grace", None)
    return 0.0 if grace is None else checks.duration("drain_grace", grace)


def phases_of(protocol: Any) -> Mapping[str, Phase]:
    """Return the limits of the phases in which messages are read; empty: there are none.

    Raises:
        TypeError, ValueError: they are none.
    """
    phases = getattr(protocol, "phases", None) if protocol.converse is None else None
    if phases is None:
        return {}
    if not isinstance(phases, Mapping):
        raise TypeError(f"phases={phases!r} is {type(phases).__name__}; allowed: a mapping of names to Phase(...)")
    for name, phase in phases.items():
        if not isinstance(phase, Phase):
            raise TypeError(f"phases[{name!r}]={phase!r} is {type(phase).__name__}; allowed: Phase(...)")
        if not (isinstance(name, str) and name.isidentifier()):
            raise ValueError(f"phases has {name!r}; allowed: names that are identifiers, such as 'head'")
    return dict(phases)
