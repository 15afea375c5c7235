"""Acceptor: lets clients in from one listener, as fast as the limits and the system allow."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from treadle.server.burst import Burst
from treadle.server.gate import Gate
from treadle.server.poller import READ

if TYPE_CHECKING:
    from treadle.server.lane import Lane
    from treadle.server.limits import Limits
    from treadle.server.listen import Listener

__all__ = ["Acceptor"]

_log = logging.getLogger("treadle.server")

LONGEST_QUEUE = 1 << 16  # clients that the kernel may hold; its own limit (net.core.somaxconn) is lower
AT_ONCE = 16  # connections accepted before the others have their turn; peers take 4 to 128
QUIET = 10.0  # seconds without a like event after which it is logged again; a guess
FIRST_PAUSE, LONGEST_PAUSE = (
    0.05,
    1.0,
)  # seconds without accepting when the system is out of something; Go's and Tomcat's
OUT_OF_IT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
OUT_OF_FILES = {errno.EMFILE, errno.ENFILE}


class Acceptor:
    """Accepts from one listener. For the leader of its lane alone, but for the counts.

    It keeps one descriptor in reserve: when none is left, that one is given up for a moment to accept a client and
    close it, who would else wait for an answer that cannot come.

    Args:
        rejection: what clients are told that are turned away.
        welcome: takes an accepted socket and its address.
        evict: makes room by closing the connection that has been idle for longest, if one is idle; then, perhaps later,
            calls what it is given.
        emptied: called when, after `empty`, nobody waits any more, and the listener is closed.
    """

    calm = False

    def __init__(
        self,
        lane: Lane,
        listener: Listener,
        gate: Gate,
        limits: Limits,
        rejection: bytes,
        welcome: Callable[[socket.socket, Any], object],
        evict: Callable[[Callable[[], object]], object],
        emptied: Callable[[], object],
    ) -> None:
        self.lane = lane
        self.listener = listener
        self.gate = gate
        self.limits = limits
        self.rejection = rejection
        self.welcome = welcome
        self.evict = evict
        self.emptied = emptied
        self.due = inf  # when a pause ends
        self.evicting = 0  # clients that were accepted, and wait until room is made for them
        self.emptying = False  # only those are accepted that wait already, and it is closed
        self.watched = 0
        self.pause = FIRST_PAUSE
        self.closed = False
        self.accepted = self.refused = 0
        self.full, self.refusals, self.failures = Burst(QUIET), Burst(QUIET), Burst(QUIET)
        self.reserve = open_reserve()
        self.fd = listener.sock.fileno()
        lane.sources[self.fd] = self
        self.watch(READ)

    def watch(self, events: int) -> None:
        """Watch the listener for `events`; 0: do not."""
        poller = self.lane.poller
        if events and not self.watched:
            try:
                poller.add(self.fd, events)
            except OSError as error:  # the system is out of something, such as fs.epoll.max_user_watches
                self.failed(error)
                self.lane.timers.hasten(self, self.lane.now + self.pause)
                return
        elif self.watched and not events:
            poller.remove(self.fd, self.watched)
        self.watched = events

    def attend(self, event: int) -> None:
        """Accept some; `event` 0: a pause is over."""
        if self.closed:
            return
        for _ in range(AT_ONCE):
            if not self.may_accept():
                return
            try:
                sock, address = self.listener.sock.accept()
            except BlockingIOError:
                if self.emptying:
                    self.close()
                    self.emptied()
                    return
                break
            except OSError as error:
                if error.errno in OUT_OF_IT:
                    self.out_of_it(error)
                    return
                if self.failures.begins():  # ECONNABORTED and its kin: the client left while it waited
                    _log.info("%s: a client left before it was accepted: %s", self.listener.address, error.strerror)
                continue
            self.pause = FIRST_PAUSE
            self.let_in(sock, address)
        self.watch(READ)

    def may_accept(self) -> bool:
        """Whether there is room, made if need be; else the listener is paused."""
        if self.evicting:
            self.watch(0)  # until they are in
            return False
        if self.limits.when_full == "pause" and self.gate.full():
            if self.full.begins():
                _log.warning(
                    "%s: all %d connections are taken, so others wait in the kernel's queue (max_connections)",
                    self.listener.address,
                    self.limits.max_connections,
                )
            self.watch(0)  # until one leaves
            if self.gate.full():  # still: who left before we stopped watching did not know that we wait for it
                return False
        delay = 0.0 if self.emptying else self.gate.delay()
        if delay > 0:
            if self.full.begins():
                rate = self.limits.accept_rate
                _log.warning("%s: clients come faster than %g a second (accept_rate)", self.listener.address, rate)
            self.sleep(delay)
            return False
        return True

    def let_in(self, sock: socket.socket, address: Any) -> None:
        """Count a client in, or turn it away."""
        self.accepted += 1
        evicts = self.limits.when_full == "evict_idle" and self.gate.full() and self.gate.crowded(address) is None
        if not evicts:
            self.admit(sock, address)
            return
        self.evicting += 1
        self.evict(partial(self.go_on, sock, address))

    def go_on(self, sock: socket.socket, address: Any) -> None:
        """Room was made for a client, if it could be."""
        self.evicting -= 1
        if self.closed:  # meanwhile, at the end of a stop
            sock.close()
            return
        self.admit(sock, address)
        self.resume()

    def admit(self, sock: socket.socket, address: Any) -> None:
        """Count a client in if there is room, else turn it away."""
        refusal = self.gate.enter(address)
        if refusal is None:
            self.welcome(sock, address)
            return
        self.refused += 1
        if self.refusals.begins():
            _log.warning("%s: clients are refused: %s", self.listener.address, refusal)
        try:
            sock.setblocking(False)
            if self.rejection:
                sock.send(self.rejection)
        except OSError:
            pass  # it is gone already
        sock.close()

    def out_of_it(self, error: OSError) -> None:
        """The system is out of descriptors, or of memory: accept no more for a while."""
        self.failed(error)
        if error.errno in OUT_OF_FILES and self.reserve >= 0:
            os.close(self.reserve)
            self.reserve = -1
            try:
                self.listener.sock.accept()[0].close()
                self.refused += 1
            except OSError:
                pass  # somebody else was faster, with the client or with the descriptor
            self.reserve = open_reserve()
        self.sleep(self.pause)
        self.pause = min(self.pause * 2, LONGEST_PAUSE)

    def failed(self, error: OSError) -> None:
        """Say, once, why nothing is accepted for now."""
        if self.failures.begins():
            every = f"{FIRST_PAUSE:g} to {LONGEST_PAUSE:g} s"
            _log.error("%s: cannot accept: %s; trying again every %s", self.listener.address, error.strerror, every)

    def sleep(self, seconds: float) -> None:
        """Accept nothing for `seconds`, or until a connection leaves."""
        self.watch(0)
        self.lane.timers.hasten(self, self.lane.now + seconds)

    def resume(self) -> None:
        """Go on, for a connection has left, and with it what there was too little of."""
        if self.watched or self.closed:
            return
        self.lane.timers.forget(self)
        if self.emptying:  # perhaps nobody waits any more, and then the poller would never tell of it
            self.lane.post(partial(self.attend, READ))
        else:
            self.watch(READ)

    def empty(self) -> None:
        """Accept all that wait in the kernel's queue, unless others will, as there is room for them; then close it."""
        if self.closed or self.emptying:
            return
        if self.listener.inherited:
            self.close()
            return
        self.emptying = True
        self.attend(READ)

    def turn_away(self) -> int:
        """Close the listener though clients may wait in its queue; return how many did."""
        waiting = self.evicting
        if self.closed:
            return waiting
        for _ in range(LONGEST_QUEUE):
            try:
                self.listener.sock.accept()[0].close()
            except OSError:
                break
            waiting += 1
        self.close()
        return waiting

    def close(self) -> None:
        """Accept no more."""
        if self.closed:
            return
        self.closed = True
        self.lane.timers.forget(self)
        self.watch(0)
        del self.lane.sources[self.fd]
        self.listener.close()
        if self.reserve >= 0:
            os.close(self.reserve)
            self.reserve = -1


def open_reserve() -> int:
    """Return a descriptor to hold in reserve; -1 if there is none."""
    try:
        return os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return -1
