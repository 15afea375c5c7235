"""EventLoopGroup: the event loops of one server, the listeners that feed them, and how they all come to an end."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from treadle._base import clock
from treadle._base.log_throttle import LogThrottles
from treadle._base.words import counted, log
from treadle._dispatch import lifecycle
from treadle.server._accept.acceptor import Acceptor, Callbacks
from treadle.server._accept.limiter import ConnectionLimiter
from treadle.server._accept.reception import REFUSED, Reception
from treadle.server._eviction import Eviction
from treadle.server._factory import ConnectionFactory
from treadle.server._loop.event_loop import Alarm
from treadle.server._protocols.protocol import Protocol, drain_grace_of, phases_of, queue_timeout_of
from treadle.server._serving.driver import Driver
from treadle.server._serving.watchdog import Watchdog
from treadle.server._tally import Tally
from treadle.server._transport.causes import CUT
from treadle.server._transport.connection import CHUNK, ClientConnection, hang_up
from treadle.server._transport.deadlines import Deadlines
from treadle.server._transport.observing.observer import Observers

if TYPE_CHECKING:
    from treadle._dispatch.dispatcher import Dispatcher
    from treadle.server._accept.listen import Listener
    from treadle.server._accept.proxy import Proxies
    from treadle.server._serving.calling.exchanges import Exchanges
    from treadle.server._transport.limits import Limits
    from treadle.server._transport.observing.observer import Observer

__all__ = ["EventLoopGroup", "leaders_of"]

_log = logging.getLogger("treadle.server")


class EventLoopGroup:
    """One event loop, or, where threads run Python at the same time, one for each processor; each with its Driver.

    The first one accepts, and deals the connections out. The end is driven by the leaders themselves, so nobody has to
    wait for it: `drain` lets each loop empty, at the deadline what is left is cut, and the last loop to be empty ends
    them all.

    Args:
        over: called once, by a leader, when all loops have ended.
        when_full: what happens to messages that the pool has no room for.
        proxies: who is trusted to say who the client is; None: nobody, and PROXY headers are bytes like others.
        broken: called when nobody is served any more, for others have closed a descriptor of the server's own.
        deaf: called by a leader when the last listener is closed: at the end, or because others have shut it down.
        observers: who is told of connections and messages.
    """

    def __init__(
        self,
        protocol: Protocol,
        limits: Limits,
        dispatcher: Dispatcher,
        over: Callable[[], object],
        when_full: str = "block",
        proxies: Proxies | None = None,
        deaf: Callable[[], object] = lambda: None,
        broken: Callable[[Exception], object] = lambda error: None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.protocol = protocol
        self.limits = limits
        self.over = over
        self.deaf = deaf
        self.broken = broken
        self.observers = Observers(protocol.name, observers) if observers else None
        self.limiter = ConnectionLimiter(limits, proxies)
        self.tally = Tally()
        self.throttles = LogThrottles()
        self.factory = ConnectionFactory(protocol, limits, self.observers, self.throttles, self._not_taken_in)
        self.acceptors: list[Acceptor] = []
        self.watchdogs: list[Watchdog] = []
        self._next = 0  # the driver that is dealt the next connection; the first one's leader's
        self._lock = threading.RLock()  # guards what follows
        self._counted: set[Driver] = set()  # whose connections are among those that are cut
        self._ended = False
        times = phases_of(protocol), queue_timeout_of(protocol), drain_grace_of(protocol)
        deadlines = Deadlines(limits, *times)
        ways = (limits, deadlines, self._left, self.lost, self.throttles, when_full)
        name, observed = protocol.name, self.observers is not None
        self.drivers = [
            Driver(f"{name}-{number}", protocol, dispatcher, *ways, observed=observed)
            for number in range(_loops_wanted(dispatcher))
        ]
        if proxies is not None:
            for driver in self.drivers:
                driver.reception = Reception(driver.io, self.limiter, proxies, driver.opened)
        lifecycle.after_fork(
            self._forget_threads
        )  # not by way of the server, which does not know it before `start` has returned

    def start(self, listeners: Sequence[Listener], context: ssl.SSLContext | None) -> None:
        """Accept, and serve.

        Raises:
            RuntimeError: no thread can be started.
        """
        self.factory.context = context
        # glibc maps memory afresh for each large buffer until one such was freed; from then on a read costs no mapping.
        bytes(4 * CHUNK)
        first = self.drivers[0]
        rejection = first.io.refusals.at_the_door if context is None else _silence  # for words are no TLS
        evict = Eviction(self.drivers).evict
        callbacks = Callbacks(self._take_in, evict, self._all_accepted, self.factory.rejecting)
        for listener in listeners:
            acceptor = Acceptor(first.loop, listener, self.limiter, self.limits, rejection, callbacks)
            self.acceptors.append(acceptor)
        try:
            for driver in self.drivers:
                self.watchdogs.append(Watchdog(driver, f"{driver.loop.name}-watchdog"))
        except BaseException:
            for acceptor in self.acceptors:
                acceptor.close()
            for driver in self.drivers:
                driver.leadership.end()
            for driver in self.drivers[len(self.watchdogs) :]:
                driver.close()
            raise

    @property
    def listeners(self) -> list[Listener]:
        """Where it listens, or did."""
        return [acceptor.listener for acceptor in self.acceptors]

    # -- connections, called by leaders ---------------------------------------------------------------------------

    def _take_in(self, sock: socket.socket, address: Any) -> None:
        """Take in an accepted socket."""
        conn = self.factory.make(sock, address)
        if conn is None:
            return
        driver = self.drivers[self._next % len(self.drivers)]
        self._next += 1
        if driver is self.drivers[0]:
            driver.register(conn)
        else:
            with driver.loop.lock:
                driver.dealt += 1
            driver.loop.post(partial(self._deal, driver, conn))

    def _not_taken_in(self, address: Any, why: str) -> None:
        self.tally.add_closed(why)
        self.limiter.leave(address)

    def _deal(self, driver: Driver, conn: ClientConnection) -> None:
        """Have a driver look after what it was dealt."""
        with driver.loop.lock:
            counted = driver.dealt == 0  # among those that are cut, by `abandon`
            driver.dealt -= not counted
            over = driver.emptied.is_set()
        if not over:
            driver.register(conn)
            return
        self.tally.add_cut(not counted)  # the time was over before the loop had its turn
        driver.io.left(conn, CUT)
        hang_up(conn.sock)

    def _left(self, driver: Driver, conn: ClientConnection, why: str) -> None:
        """A connection is about to be closed."""
        self.tally.add_closed(why)  # first: who sees that a connection is gone finds it among those that were closed
        self.limiter.leave(conn.peer.address, behind=conn.peer.proxy is not None)
        if why:
            self.tally.tell_cut(conn.peer, why, in_header=conn.intake.header is not None)
        if conn.record is not None and why != REFUSED:
            conn.record.closed(why)
        for acceptor in self.acceptors:
            if not acceptor.watched and not acceptor.closed:
                self.drivers[0].loop.post(acceptor.resume)
        self._note_empty(driver)

    # -- the end, called by leaders -------------------------------------------------------------------------------

    def drain(self, deadline: float) -> None:
        """Begin to end, by `deadline` at the latest; again: by an earlier one. Called by the first loop's leader."""
        first = self.drivers[0].loop
        first.timers.hasten(Alarm(self._cut_all), deadline)
        if first.draining:
            return
        for driver in self.drivers:
            driver.loop.post(driver.reaper.drain)
        for acceptor in self.acceptors:
            acceptor.empty()
        self._all_accepted()

    def _all_accepted(self) -> None:
        """Nobody waits at a listener any more."""
        if all(acceptor.closed for acceptor in self.acceptors):
            self.deaf()
        for driver in self.drivers:
            driver.loop.post(partial(self._note_empty, driver))

    def _cut_all(self) -> None:
        for driver in self.drivers:
            driver.loop.post(partial(self._cut_loop, driver))

    def _cut_loop(self, driver: Driver) -> None:
        """The time is over."""
        if driver.emptied.is_set():
            return
        cut = self._count_cut(driver)  # first: what follows tells of each, and may be stuck in that
        driver.reaper.cut_all(CUT)
        if driver is self.drivers[0]:
            turned_away = sum(acceptor.turn_away() for acceptor in self.acceptors)
            self.tally.add_cut(turned_away)
            cut += turned_away
        self._empty(driver)
        if cut:
            what = counted(cut, "connection was", "connections were")
            log(_log, logging.WARNING, "%s: %s not done in time, and cut", self.protocol.name, what)

    def _count_cut(self, driver: Driver) -> int:
        """Count the connections of a loop as cut, once; return how many there were."""
        left = len(driver.io.connections())
        with self._lock:
            if driver in self._counted:
                return 0
            self._counted.add(driver)
        self.tally.add_cut(left)
        return left

    def _note_empty(self, driver: Driver) -> None:
        accepted = all(acceptor.done() for acceptor in self.acceptors)  # looked at first: the rest is dealt by then
        if driver.loop.draining and accepted and not driver.dealt and driver.loop.is_empty():
            self._empty(driver)

    def _empty(self, driver: Driver) -> None:
        """A loop has nothing left to do; the last one ends them all."""
        with self._lock:
            driver.emptied.set()
            if self._ended or not all(other.emptied.is_set() for other in self.drivers):
                return
            self._ended = True
        for other in self.drivers:
            other.leadership.end()
        self.over()

    def _forget_threads(self) -> None:
        """In a forked child, be over, and let go of everything; the parent's clients notice nothing."""
        self._lock = threading.RLock()
        self.factory.orphaned = True
        self.limiter.forget_threads()
        self.tally.forget_threads()
        self.throttles.forget_threads()
        if self.observers is not None:
            self.observers.forget_threads()
        for driver in self.drivers:
            driver.forget_threads()
        for acceptor in self.acceptors:
            acceptor.forget_threads()

    def abandon(self) -> None:
        """End without the leaders, who are stuck, as in a log handler that blocks. Called by whoever waits for the end.

        A leader may only have been slow, as when the whole process was stopped, and go on at the same time: so what is
        a leader's alone is left to it, to be ended when it comes to.
        """
        with self._lock:
            if self._ended:
                return
            self._ended = True
        others = sum(acceptor.abandon() for acceptor in self.acceptors)
        for driver in self.drivers:
            with driver.loop.lock:
                driver.emptied.set()
                others, driver.dealt = others + driver.dealt, 0
        self.tally.add_cut(others)
        for driver in self.drivers:
            self._count_cut(driver)
            for conn in driver.io.connections():
                if conn.busy:
                    driver.reaper.abort_busy(conn, CUT)
                else:
                    conn.shut_down(socket.SHUT_RDWR)
            driver.leadership.end()

    def lost(self, error: Exception) -> None:
        """End at once, for nobody hears of anything any more: others have closed a descriptor of the server's own.

        It is not made anew: who closes descriptors that are not theirs has probably closed clients' as well, and their
        numbers may be those of other clients by now, or of files.
        """
        self.abandon()
        self.broken(error)

    def is_ours(self) -> bool:
        """Whether this thread is a watchdog, which leads when nobody else can, or one that tells the protocol."""
        threads = [watchdog.thread for watchdog in self.watchdogs] + [one.teller.thread for one in self.exchanges]
        return threading.current_thread() in threads

    def join(self, until: float) -> None:
        """Wait, but not beyond `until`, for the watchdogs, who end last."""
        for watchdog in self.watchdogs:
            if watchdog.thread is not threading.current_thread():
                watchdog.thread.join(None if until == inf else max(0.0, until - clock.now()))

    def quiet(self, until: float) -> None:
        """Wait, but not beyond `until`, until the protocol was told of all that is over."""
        for exchanges in self.exchanges:
            exchanges.quiet(None if until == inf else max(0.0, until - clock.now()))

    @property
    def exchanges(self) -> list[Exchanges]:
        """What tells the protocol what became of its messages, in each event loop, if it wants to know."""
        found = (driver.handlers.calls.exchanges for driver in self.drivers)
        return [exchanges for exchanges in found if exchanges is not None]


def _loops_wanted(dispatcher: Dispatcher) -> int:
    return leaders_of(dispatcher.workers.max_workers)


def leaders_of(threads: int) -> int:
    """Return how many of so many threads lead: one, unless they run Python at the same time."""
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        return 1
    return max(1, min(os.cpu_count() or 1, threads // 2))


def _silence(why: str) -> bytes:
    return b""
