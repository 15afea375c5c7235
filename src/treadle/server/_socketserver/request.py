"""Request: one request that a `socketserver` server let in, from then until it is closed.

One thread at a time owns a request, and only the owner touches its socket:

    state      owner                    leaves it by
    waiting    the serving thread       a byte, its deadline, or server_close: the poller forgets the descriptor first
    handed     nobody                   a thread of the pool takes it; or the pool drops it
    running    that thread              the conversation ends, or waits for its next request, and is handed back
    over       -

So no descriptor is closed while the poller knows it, and none is closed by a thread while another one looks at it.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
import threading
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

from treadle._base import clock
from treadle.server._loop.poller import READ
from treadle.server._loop.readiness import ready_now
from treadle.server._socketserver.handshake import Handshake
from treadle.server._socketserver.keepalive import KeepAlive, Limiting
from treadle.server._transport.connection import plain_of

if TYPE_CHECKING:
    from treadle._tasks.future import Future
    from treadle.server._loop.timers import Entry

__all__ = ["Hooks", "Manager", "Request", "current_request"]

_here = threading.local()


class Hooks(Limiting, Protocol):
    """What a request asks of its server: limits, and hooks, as BaseServer has them."""

    idle_timeout: float | None
    handshake_timeout: float | None

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Make a handler, which handles the request."""

    def shutdown_request(self, request: Any) -> None:
        """Close the socket."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell of the exception that is being handled."""


class Manager(Protocol):
    """What a request asks of whoever manages all of them.

    Attributes:
        lock: guards whether sockets are being closed.
    """

    lock: threading.Lock

    def stop_waiting(self, request: Request) -> None:
        """Do not poll the request any more."""

    def give_back(self, request: Request) -> None:
        """Have the request wait for its client."""

    def hand_over(self, request: Request) -> None:
        """Have the pool run the request."""

    def forget(self, request: Request) -> None:
        """The request is over."""

    def tell_failed_handshake(self, request: Request, error: OSError) -> None:
        """Log that a client could not shake hands."""


class Request:
    """A request: its socket, its client's address, and the conversation over it.

    Args:
        sock: what `get_request` returned: a socket, or for datagrams a tuple.
        polled: whether a thread serves that may poll its socket.

    Attributes:
        handshake: the TLS handshake, until it is done.
        wants: what it waits for; 0: for nothing more, it was too late.
        fd: the descriptor under which it is polled; -1: it is not.
        thread: the one that runs it.
        orphaned: this is a forked child, and the request is the parent's.
        ending: the socket is being closed. [the manager's lock]
    """

    __slots__ = (
        "address",
        "conversation",
        "due",
        "ending",
        "entry",
        "fd",
        "handshake",
        "manager",
        "orphaned",
        "polled",
        "server",
        "sock",
        "task",
        "thread",
        "wants",
    )

    def __init__(self, manager: Manager, server: Hooks, sock: Any, address: Any, *, polled: bool) -> None:
        self.manager = manager
        self.server = server
        self.sock = sock
        self.address = address
        self.polled = polled
        self.conversation = KeepAlive(server, sock, polled=polled)
        self.handshake: Handshake | None = None
        if isinstance(sock, ssl.SSLSocket) and sock.version() is None:
            self.handshake = Handshake(sock, server.handshake_timeout, polled=polled)
        self.wants = READ
        self.fd = -1
        self.due = inf  # see Timers
        self.entry: Entry | None = None
        self.task: Future[Any] | None = None
        self.thread: threading.Thread | None = None
        self.orphaned = self.ending = False

    def attend(self, event: int) -> None:
        """Go on, for it is ready; `event` 0: its time is over. For the serving thread."""
        if self.orphaned:
            return
        event = event or ready_now(self.fd, self.wants)  # its client may have been on time, and this process late
        self.manager.stop_waiting(self)
        if self.handshake is not None and self.handshake.refused:
            if event and self.handshake.lingers():
                self.manager.give_back(self)
            else:
                self.leave()
        elif event or self.conversation.handler is not None:  # which says farewell on a thread: it is the user's code
            if not event:
                self.wants = 0
            self.manager.hand_over(self)
        else:
            self.leave()

    def waits(self) -> bool:
        """Whether there is nothing to do before the client sends something."""
        return self.polled and self.fileno() >= 0 and (self.handshake is not None or self.server.wait_for_first_byte)

    def converses(self) -> bool:
        """Whether it is a handler that waits for the client on its thread, if one does."""
        return self.handshake is None and isinstance(self.sock, socket.socket)

    def fileno(self) -> int:
        """Return the descriptor to poll; -1 if there is none."""
        handler = self.conversation.handler
        holder = self.sock if handler is None else handler.connection
        return holder.fileno() if isinstance(holder, socket.socket) else -1

    def patience_ends(self) -> float:
        """Return when it is too late for what it waits for now."""
        if self.handshake is not None:
            return self.handshake.deadline
        if self.conversation.head_by is not None:
            return self.conversation.head_by
        limit = self.server.idle_timeout
        return inf if limit is None else clock.now() + limit

    # -- in a thread of the pool ------------------------------------------------------------------------------------

    def run(self) -> None:
        """Go on with the conversation; and hand it back, or end it."""
        outer = current_request()
        _here.request, self.thread = self, threading.current_thread()
        back = False
        try:
            try:
                back = self._advance() and not self.orphaned
            except Exception:
                self.server.handle_error(self.sock, self.address)
            finally:
                if not back:
                    self.close()
        except BaseException:  # as in a thread of ThreadingMixIn, SystemExit included
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), self.thread)))
        finally:
            _here.request, self.thread = outer, None
            if not back:
                self.manager.forget(self)
            elif self.conversation.ready:
                self.manager.hand_over(self)
            else:
                self.manager.give_back(self)

    def _advance(self) -> bool:
        """Run the handler as far as it goes without waiting for the client; return whether there is more to come."""
        if self.handshake is not None:
            try:
                self.wants = self.handshake.step()
            except OSError as error:
                self.wants = READ
                self.manager.tell_failed_handshake(self, error)
                return isinstance(error, ssl.SSLError) and self.handshake.refuse()
            if self.wants:
                return True
            self.handshake, self.wants = None, READ
            if self.waits() and not self.sock.pending():
                return True
        conversation = self.conversation
        try:
            if conversation.handler is None:
                conversation.limit()
                self.server.finish_request(self.sock, self.address)
            else:
                conversation.resume(late=not self.wants)
        except BlockingIOError as error:
            limits = self.server.read_timeout, self.server.write_timeout
            if limits != (None, None) and isinstance(self.sock, socket.socket) and self.sock.gettimeout() is None:
                said = "the client has sent nothing for read_timeout=%s s, or taken nothing for write_timeout=%s s"
                raise TimeoutError(said % limits) from error  # see limit_receiving
            raise
        return conversation.handler is not None

    # -- the end ----------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """End it. For its owner."""
        try:
            try:
                self.conversation.finish()
            finally:
                self.close()
        except Exception:
            self.server.handle_error(self.sock, self.address)
        finally:
            self.manager.forget(self)

    def close(self) -> None:
        """Close the socket. The only place where that is done, but for `abandon`."""
        if self.orphaned:
            self.abandon()
            return
        with self.manager.lock:
            self.ending = True
        self.server.shutdown_request(self.sock)

    def abandon(self) -> None:
        """In a forked child, close this copy of the socket, and neither shut it down nor say anything to the client."""
        for holder in (self.sock, getattr(self.conversation.handler, "connection", None)):
            # Detached, for files of the handler's keep it open; and what they hold back is not for the child to send.
            if isinstance(holder, socket.socket) and holder.fileno() >= 0:
                os.close(holder.detach())

    def cut(self) -> None:
        """Have a handler that waits for its client see the end of it; its owner closes the socket."""
        with self.manager.lock:  # so the owner does not close it meanwhile, and nobody opens another by the same number
            if not self.ending and isinstance(self.sock, socket.socket):
                try:
                    # Not SSLSocket's, which takes the TLS layer from under the thread that uses it.
                    plain_of(self.sock).shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it has ended already

    def settled(self, task: Future[Any]) -> None:
        """Leave if the pool dropped the task; for the task's callback."""
        if task.cancelled() or task.exception() is not None:
            self.leave()


def current_request() -> Request | None:
    """Return the request that this thread runs."""
    return getattr(_here, "request", None)
