"""Protocol: what turns bytes into calls, and all that differs between servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from typing import Protocol as _Protocol

from treadle.server._transport.sending.file_range import FileRange

if TYPE_CHECKING:
    from treadle.server._transport.connection import ClientConnection
    from treadle.server._transport.decoder import Decoder
    from treadle.server._transport.limits import Limits
    from treadle.server._transport.peer import Peer

__all__ = ["Answer", "Protocol", "missing_from"]

Bytes = bytes | bytearray | memoryview
# Of a handler. Of several bytes they are sent one after another, of an iterator as it gives them; None: nothing is.
Answer = Bytes | list[bytes] | tuple[Bytes, ...] | FileRange | Iterator[Bytes] | None


class Protocol(_Protocol):
    """What a server asks of a protocol. Every method may be called from many threads at once.

    One that is served message by message may also have these, or None in their place:

        kind(message)    what messages have in common that take about as long; hashable, at most 200 bytes
        key(message)     whose it is, for a pool whose order looks at keys; hashable
        over(message, sent, error)
                         told once what became of each message: how many bytes of its answer the kernel has taken, and
                         why not all, or what the handler raised; None: all is well. By the thread that has handled it,
                         if it is over when that is done with it, else by another one of the pool's; it may block. Then
                         `Peer.exchange` is the Exchange of the message while it is handled, with its times, and the
                         server has each message take a longer way.
        fresh_context    whether each message is handled in a copy of the connection's context; else all are in that

    See `Messages`, which takes the first two as arguments.

    Any may have this, or None in its place:

        refusal(why, message)    what a client is told that is refused or cut: bytes, or None, for nothing

    `why` is the name that `ServerSnapshot.closed_by` has for it. The client is told, and its connection is closed
    gently, so that it gets that, where a limit's time of reading is over amid a message ("read_timeout", ...; message
    None), or what came makes no message ("max_message", "framing"; None). "message_rejected": the pool has no room for
    `message`, or sheds it; the client is told that in its turn, and goes on. "max_connections",
    "max_connections_per_host": it is not let in (None). After None, and where an answer is under way, or nothing of a
    message has come, all is as without `refusal`; and what the user's Limits say is told wins. It is called by the
    thread that serves all, mostly, and must not block; what it raises is logged, and counts as None.
    """

    @property
    def name(self) -> str:
        """What logs and snapshots call the handler."""

    @property
    def greeting(self) -> bytes:
        """What each client is sent when it has come in."""

    @property
    def speaks_first(self) -> bool:
        """Whether a conversation begins before the client has sent anything."""

    def decoder(self, limits: Limits) -> Decoder[Any]:
        """Return what cuts one connection's bytes into messages."""

    @property
    def handle(self) -> Callable[[Any, Peer], Answer]:
        """Return the answer to a message; it may block."""

    @property
    def converse(self) -> Callable[[ClientConnection, Limits], None] | None:
        """Serve a connection to its end, blocking; None: it is served message by message, by `handle`."""


MEMBERS = tuple(sorted(name for name in vars(Protocol) if not name.startswith("_")))


def missing_from(protocol: object) -> list[str]:
    """Return what an object lacks to be a protocol."""
    return [name for name in MEMBERS if not hasattr(protocol, name)]
