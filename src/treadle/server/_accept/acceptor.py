"""Acceptor: lets clients in from one listener, as fast as the limits and the system allow."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from treadle._base.log_throttle import LogThrottles
from treadle._base.words import all_of, log
from treadle.server._accept.backoff import Backoff
from treadle.server._accept.limiter import ConnectionLimiter, limit_of
from treadle.server._loop.poller import READ
from treadle.server._transport.causes import CUT, cause_of
from treadle.server._transport.connection import hang_up

if TYPE_CHECKING:
    from treadle.server._accept.listen import Listener
    from treadle.server._loop.event_loop import EventLoop
    from treadle.server._loop.timers import Entry
    from treadle.server._transport.limits import Limits

__all__ = ["Acceptor", "Callbacks"]

_log = logging.getLogger("treadle.server")

LONGEST_QUEUE = 1 << 16  # clients that the kernel may hold; its own limit (net.core.somaxconn) is lower
AT_ONCE = 16  # connections accepted before the others have their turn; peers take 4 to 128
OUT_OF_FILES = {errno.EMFILE, errno.ENFILE}
# What is the matter with one client, who left or whom a firewall keeps out, and is told by accept (accept(2), Linux).
# EOPNOTSUPP is one of these, too, but might be said of the listener: it has a pause, as what nobody foresaw has.
OF_A_CLIENT = {
    errno.ECONNABORTED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENOPROTOOPT,
    errno.EPERM,
    errno.EPROTO,
    errno.ETIMEDOUT,
    getattr(errno, "ENONET", errno.EPROTO),
}
# It is no listening socket any more: shut down, by whoever shares it; or closed, so that its number is nobody's, or
# that of something else. UNIX sockets that were shut down still say that they listen (SO_ACCEPTCONN).
FOR_GOOD = {errno.EINVAL, errno.EBADF, errno.ENOTSOCK}


@dataclass(slots=True)
class Callbacks:
    """What an Acceptor has done about clients, and about its end.

    Attributes:
        accepted: takes an accepted socket and its address.
        evict: makes room by closing the connection that has been idle for longest, if one is idle; then, perhaps later,
            calls what it is given.
        emptied: called when the listener is closed: after `empty` nobody waits any more, or it was shut down by others.
        rejecting: takes the socket and the address of a client that is about to be turned away, and the reason.
    """

    accepted: Callable[[socket.socket, Any], object]
    evict: Callable[[Callable[[], object]], object]
    emptied: Callable[[], object]
    rejecting: Callable[[socket.socket, Any, str], object]


class Acceptor:
    """Accepts from one listener. For the leader of its event loop alone, but for the counts.

    It keeps one descriptor in reserve: when none is left, that one is given up for a moment to accept a client and
    close it, who would else wait for an answer that cannot come.

    Args:
        reject_with: returns what clients are told that are turned away, by the limit that does it.
    """

    state = None

    def __init__(
        self,
        loop: EventLoop,
        listener: Listener,
        limiter: ConnectionLimiter,
        limits: Limits,
        reject_with: Callable[[str], bytes],
        callbacks: Callbacks,
    ) -> None:
        self.loop = loop
        self.listener = listener
        self.limiter = limiter
        self.limits = limits
        self.reject_with = reject_with
        self.callbacks = callbacks
        self.due = inf  # when a pause ends
        self.entry: Entry | None = None
        self.evicting: dict[socket.socket, Any] = {}  # clients that were accepted, and wait until room is made for them
        self.emptying = False  # only those are accepted that wait already, and it is closed
        self.watched = 0
        self.closed = False
        self.accepted = self.rejected = 0
        self.throttles = LogThrottles()
        self.backoff = Backoff(listener, self.throttles)
        self.reserve = open_reserve()
        self.fd = listener.sock.fileno()
        loop.sources[self.fd] = self
        self.watch(READ)

    def watch(self, events: int) -> None:
        """Watch the listener for `events`; 0: do not."""
        poller = self.loop.poller
        if events and not self.watched:
            try:
                poller.add(self.fd, events)
            except OSError as error:  # the system is out of something, such as fs.epoll.max_user_watches
                self.backoff.tell(error)
                self.loop.timers.hasten(self, self.loop.now + self.backoff.pause)
                return
        elif self.watched and not events:
            poller.remove(self.fd, self.watched)
        self.watched = events

    def attend(self, event: int) -> None:
        """Accept some; `event` 0: a pause is over."""
        if self.closed:
            return
        if self.listener.inherited:  # whoever has it too may have had it block, which holds for all who have it
            with suppress(OSError):
                self.listener.sock.setblocking(False)
        for _ in range(AT_ONCE):
            if self.closed or not self.may_accept():  # closed meanwhile, for the framing has forked
                return
            try:
                sock, address = self.listener.sock.accept()
            except BlockingIOError:
                if self.emptying:
                    self.close()
                    self.callbacks.emptied()
                    return
                if event & ~READ:  # the poller tells of an error, or an end, and would go on to
                    number = self.listener.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # which clears it
                    self.back_off(OSError(number, os.strerror(number)))
                    return
                break
            except OSError as error:
                if error.errno in FOR_GOOD:
                    self.lost(error)
                    return
                if error.errno not in OF_A_CLIENT:
                    self.back_off(error, again=event == 0 and self.backoff.grown())
                    return
                throttle = self.throttles.of("left", error.errno)  # while it waited
                if throttle.begins():
                    said = "%s: a client left before it was accepted: %s%s"
                    log(_log, logging.INFO, said, self.listener, error.strerror, throttle.rest)
                continue
            self.backoff.reset()
            self.let_in(sock, address)
        self.go_on_later()

    def go_on_later(self) -> None:
        """Attend to the listener again when there is reason to, the others having had their turn."""
        if self.emptying:  # perhaps nobody waits any more, and then the poller would never tell of it
            self.loop.post(partial(self.attend, READ))
        else:
            self.watch(READ)

    def may_accept(self) -> bool:
        """Whether there is room, made if need be; else the listener is paused."""
        if self.evicting:
            self.watch(0)  # until they are in
            return False
        if self.limits.at_max_connections == "pause" and self.limiter.full():
            if (throttle := self.throttles.of("full")).begins():
                log(
                    _log,
                    logging.WARNING,
                    "%s: %s taken, so others wait in the kernel's queue (max_connections)%s",
                    self.listener,
                    all_of(self.limits.max_connections, "connection"),
                    throttle.rest,
                )
            self.watch(0)  # until one leaves
            if self.limiter.full():  # still: who left before we stopped watching did not know that we wait for it
                return False
        delay = 0.0 if self.emptying else self.limiter.delay()
        if delay > 0:
            if (throttle := self.throttles.of("fast")).begins():
                rate, said = self.limits.accept_rate, "%s: clients come faster than %g a second (accept_rate)%s"
                log(_log, logging.WARNING, said, self.listener, rate, throttle.rest)
            self.sleep(delay)
            return False
        return True

    def let_in(self, sock: socket.socket, address: Any) -> None:
        """Count a client in, or turn it away."""
        self.accepted += 1
        evicts = (
            self.limits.at_max_connections == "evict_idle"
            and self.limiter.full()
            and self.limiter.crowded(address) is None
        )
        if not evicts:
            self.admit(sock, address)
            return
        self.evicting[sock] = address
        self.callbacks.evict(partial(self.go_on, sock, address))

    def go_on(self, sock: socket.socket, address: Any) -> None:
        """Room was made for a client, if it could be."""
        try:
            del self.evicting[sock]
        except KeyError:  # it was turned away meanwhile
            return
        self.admit(sock, address)
        if self.closed:
            self.callbacks.emptied()
        else:
            self.resume()

    def admit(self, sock: socket.socket, address: Any) -> None:
        """Count a client in if there is room, else turn it away."""
        refusal = self.limiter.enter(address)
        if refusal is None:
            self.callbacks.accepted(sock, address)
            return
        self.rejected += 1
        throttle = self.throttles.of("refused", refusal.rpartition(" ")[2])  # which limit it is, and not whose address
        if throttle.begins():
            log(_log, logging.WARNING, "%s: clients are rejected: %s%s", self.listener, refusal, throttle.rest)
        self.callbacks.rejecting(sock, address, limit_of(refusal))
        told = self.reject_with(limit_of(refusal))
        try:
            sock.setblocking(False)
            if told:
                sock.send(told)
        except OSError:
            pass  # it is gone already
        hang_up(sock)

    def back_off(self, error: OSError, *, again: bool = False) -> None:
        """Accept no more for a while: the system is out of descriptors, or of memory, or nobody knows why.

        Args:
            again: it was so before the last pause as well, and nobody has left in it. So whoever comes while others
                are just leaving is not turned away.
        """
        if (again or self.emptying) and error.errno in OUT_OF_FILES and self.reserve >= 0:
            self.close_reserve()
            try:
                sock, address = self.listener.sock.accept()
                self.accepted += 1
                self.rejected += 1
                self.callbacks.rejecting(sock, address, errno.errorcode[error.errno])
                hang_up(sock)
            except BlockingIOError:
                if self.emptying:  # Linux wants a descriptor before it looks whether somebody waits: nobody does
                    self.close()
                    self.callbacks.emptied()
                    return
            except OSError:
                pass  # somebody else was faster, with the descriptor
            self.reserve = open_reserve()
        self.backoff.tell(error)
        self.sleep(self.backoff.next())

    def lost(self, error: OSError) -> None:
        """There is no listening socket any more: let it go, for accept would fail at once, again and again."""
        log(
            _log,
            logging.ERROR,
            "%s: no more clients are accepted here, for the listening socket was shut down or closed by somebody else "
            "(%s); whoever is connected is served on",
            self.listener,
            error.strerror,
        )
        self.close()
        self.callbacks.emptied()

    def sleep(self, seconds: float) -> None:
        """Accept nothing for `seconds`, or until a connection leaves."""
        self.watch(0)
        self.loop.timers.hasten(self, self.loop.now + seconds)

    def resume(self) -> None:
        """Go on, for a connection has left, and with it what there was too little of."""
        if self.watched or self.closed:
            return
        self.loop.timers.forget(self)
        self.go_on_later()

    def empty(self) -> None:
        """Accept all that wait in the kernel's queue, unless others will, as there is room for them; then close it."""
        if self.closed or self.emptying:
            return
        if self.listener.inherited or not self.listener.is_there():  # others' clients are not ours to accept
            self.close()
            return
        self.emptying = True
        self.attend(READ)

    def turn_away(self) -> int:
        """Close the listener though clients may wait in its queue; return how many did."""
        for sock, address in self.evicting.items():
            self.callbacks.rejecting(sock, address, cause_of(CUT))
        waiting = self.drop_evicting()
        self.rejected += waiting
        if self.closed:
            return waiting
        waiting += self.drop_waiting()
        self.close()
        return waiting

    def drop_evicting(self) -> int:
        """Close all clients that wait until room is made for them; return how many did. Safe from any thread."""
        dropped = 0
        while self.evicting:
            with suppress(KeyError):  # somebody else was faster
                hang_up(self.evicting.popitem()[0])
                dropped += 1
        return dropped

    def drop_waiting(self) -> int:
        """Close all clients that wait in the listener's queue; return how many did. Safe from any thread."""
        if not self.listener.is_there():
            return 0
        for waiting in range(LONGEST_QUEUE):
            try:
                hang_up(self.listener.sock.accept()[0])
            except OSError:
                return waiting
        return LONGEST_QUEUE

    def abandon(self) -> int:
        """As `turn_away`, for a leader that is stuck, and from another thread."""
        closed, self.closed = self.closed, True  # and so the leader leaves it alone
        waiting = self.drop_evicting()
        if closed:
            return waiting
        waiting += 0 if self.listener.inherited else self.drop_waiting()
        self.listener.close()
        self.close_reserve()
        return waiting

    def done(self) -> bool:
        """Whether everybody is in, or was turned away, and nobody comes any more."""
        return self.closed and not self.evicting

    def close(self) -> None:
        """Accept no more."""
        if self.closed:
            return
        self.closed = True
        self.loop.timers.forget(self)
        if self.loop.sources.get(self.fd) is self:  # else somebody has closed it, and a connection has its number
            self.watch(0)
            del self.loop.sources[self.fd]
        self.listener.close()
        self.close_reserve()

    def close_reserve(self) -> None:
        """Give up the descriptor that is held in reserve."""
        reserve, self.reserve = self.reserve, -1  # at no time is there a number here that may be another file's by now
        if reserve >= 0:
            with suppress(OSError):  # somebody has closed it behind our back
                os.close(reserve)

    def forget_threads(self) -> None:
        """In a forked child, close this copy; a UNIX socket's file is the parent's."""
        self.closed = True
        while self.evicting:
            self.evicting.popitem()[0].close()
        self.listener.share()
        self.listener.close()
        self.close_reserve()


def open_reserve() -> int:
    """Return a descriptor to hold in reserve; -1 if there is none."""
    try:
        return os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return -1
