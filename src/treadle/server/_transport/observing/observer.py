"""Observer: told what becomes of each connection and each message of a server, for access logs and histograms."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from treadle._base.words import log_first, pass_on, show
from treadle._tasks.observers import observers_like

if TYPE_CHECKING:
    from treadle.server._transport.peer import Peer

__all__ = ["ConnectionEvent", "MessageEvent", "Observer", "Observers", "server_observers_in"]

_log = logging.getLogger("treadle.server")

TOLD = ("connected", "rejected", "handled", "closed")  # the methods of an Observer


@dataclass(frozen=True, slots=True)
class ConnectionEvent:
    """One thing that happened to one connection.

    Attributes:
        handler: the handler's name, which is the server's in logs and snapshots.
        peer: who is at the other end; one object a connection, also in its messages' events and for its handler.
        time_ns: when it happened, monotonic nanoseconds.
        thread: the name of the thread in which it happened.
        connected_ns: when the connection was accepted; `time_ns` less this is how long it lasted.
        reason: closed: by which limit or fault, as in `ServerSnapshot.closed_by`; rejected: by which limit, or, by the
            name of its error, of what the system had no more ("EMFILE": descriptors). None: in order, or its
            handler raised.
        messages: closed: how many of its messages observers were told of.
        bytes_in: closed: bytes that were read, those of TLS, and of a proxy's header, not counted.
        bytes_out: closed: bytes that the system has taken, those of TLS not counted.
    """

    handler: str
    peer: Peer
    time_ns: int
    thread: str
    connected_ns: int
    reason: str | None = None
    messages: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(frozen=True, slots=True)
class MessageEvent:
    """What became of one message; of a Session, of one call of its handler, which counts as one message.

    So a conversation that never pauses is one, and of one that does each call is told of by itself.

    All times are monotonic nanoseconds, in the order in which they stand here. Of bytes it counts when they were read,
    for how long the system had them by then nobody knows.

    Attributes:
        handler: the handler's name.
        peer: who has sent it.
        first_byte_ns: when its first byte was read.
        complete_ns: when its last byte was read; of a Session both are of what was read last before the call, or, with
            `speaks_first`, of when it came to be its turn.
        begun_ns: when the handler was called; None if it never was.
        returned_ns: when that returned, or raised; None if it was not called, or ran for longer than it may.
        time_ns: when the system was given the answer, or of it what the system takes.
        thread: the name of the thread in which the handler ran, or, without one, that has answered; if neither, of that
            which has found out.
        handed_over: whether it was a task of the pool's, or the leading thread has lost the lead over it.
        task_id: that of the pool's task in which it was handled, if the pool has observers, too, which are told of
            that task. What waits in one connection is one task. None: of no task, for the leading thread has run it.
        bytes_in: bytes of the message without what frames it; 0 if the framing makes something else of it. Of a
            Session, what was read from the connection since the call before.
        bytes_out: bytes of the answer, also if the client is gone; of a Session, those that the system has taken
            since the call before.
        error: what the handler raised, but for CloseConnection; or why it was not called, such as PoolFull or Shed; or
            ConnectionAbortedError, if the connection was cut, or the client gone, before the answer was given to the
            system: its `strerror` says by which limit. None: all went well.
    """

    handler: str
    peer: Peer
    first_byte_ns: int
    complete_ns: int
    begun_ns: int | None
    returned_ns: int | None
    time_ns: int
    thread: str
    handed_over: bool
    task_id: int | None
    bytes_in: int
    bytes_out: int
    error: BaseException | None

    @property
    def waited(self) -> float:
        """Seconds from its last byte until the handler was called; until now if it never was."""
        return ((self.time_ns if self.begun_ns is None else self.begun_ns) - self.complete_ns) / 1e9

    @property
    def ran(self) -> float:
        """Seconds in the handler; 0 if it was not called."""
        return 0.0 if self.begun_ns is None or self.returned_ns is None else (self.returned_ns - self.begun_ns) / 1e9


class Observer:
    """Is told what happens to each connection and each message of a server; override what you need.

    Each connection that is accepted is either rejected, or connected first, and closed last. Each message that is
    complete is handled once, whatever becomes of it: the handler returned, or raised; the pool had no room for it; its
    client was gone before its turn. The messages of a connection are told in their order, between its two events; only
    a handler that still runs when its server has ended without it is told after that. A forked child is told nothing.

    Called with no lock held, in the thread in which it happens, and so from several threads at once: `handled` in the
    thread that ran the handler, where it may block as the handler may, and holds up only its own connection; the
    others, and `handled` where the handler was overdue, mostly in the thread that leads, where whatever blocks holds up
    all clients. What a method raises is logged, once, then at DEBUG level, and harms nobody.
    """

    def connected(self, event: ConnectionEvent) -> None:
        """A client was let in; before the TLS handshake, and after a trusted proxy has said who it is."""

    def rejected(self, event: ConnectionEvent) -> None:
        """A client was turned away, because of `event.reason`."""

    def handled(self, event: MessageEvent) -> None:
        """A message was handled and answered, or will not be, because of `event.error`."""

    def closed(self, event: ConnectionEvent) -> None:
        """A connection is over; its socket is closed next."""


class Observers:
    """The observers of one server.

    Args:
        handler: the handler's name.
        observers: who is told.
    """

    def __init__(self, handler: str, observers: Sequence[Observer]) -> None:
        self.handler = handler
        self.observers = observers
        self.told: dict[object, object] = {}  # what was logged

    def tell(self, what: str, event: ConnectionEvent | MessageEvent) -> None:
        """Call the method `what` of each with `event`. No lock is held.

        What one of them raises is dropped, SystemExit too: the thread may be one that nobody could replace, such as the
        watchdog. Only Ctrl-C in the main thread is raised, once the others were told.
        """
        fatal: BaseException | None = None
        observers = self.observers
        for observer in observers:
            try:
                getattr(observer, what)(event)
            except BaseException as error:
                if self.observers is observers:
                    message = "observer %s failed in %s; further failures there are logged at DEBUG level"
                    key = what, id(observer)
                    log_first(self.told, key, _log, logging.ERROR, message, show(observer), what, error=error)
                fatal = error
            if self.observers is not observers:  # it has forked, and this is the child
                return
        if fatal is not None:
            pass_on(fatal)

    def forget_threads(self) -> None:
        """In a forked child, tell nothing any more: the server is the parent's."""
        self.observers = ()


def server_observers_in(observers: Iterable[Observer]) -> tuple[Observer, ...]:
    """Return `observers`, which can be told all that there is to tell.

    Raises:
        TypeError: they are not iterable, or one of them is no Observer, and nothing like it, or has methods that are
            async, generators, or take other arguments.
    """
    return observers_like(observers, TOLD, "treadle.server.Observer")
