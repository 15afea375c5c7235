"""EventLoopGroup: the lanes of one server, the listeners that feed them, and how they all come to an end."""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextvars import Context
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from treadle._base import clock
from treadle._base.log_throttle import LogThrottle, LogThrottles, kind_of
from treadle._base.words import counted, log
from treadle._dispatch import lifecycle
from treadle.server._accept.acceptor import Acceptor
from treadle.server._accept.limiter import ConnectionLimiter
from treadle.server._accept.reception import REFUSED, Reception
from treadle.server._eviction import Eviction
from treadle.server._serving.driver import Lane
from treadle.server._serving.handlers import Handlers
from treadle.server._serving.watchdog import Watchdog
from treadle.server._transport.causes import CUT, NO_HANDSHAKE, cause_of
from treadle.server._transport.connection import CHUNK, ClientConnection, Peer, hang_up
from treadle.server._transport.deadlines import Deadlines
from treadle.server._transport.io import ConnectionIO
from treadle.server._transport.observing.observer import Observers
from treadle.server._transport.observing.record import Record
from treadle.server._transport.reaper import Reaper

if TYPE_CHECKING:
    from treadle._dispatch.dispatcher import Dispatcher
    from treadle.server._accept.listen import Listener
    from treadle.server._accept.proxy import Proxies
    from treadle.server._loop.timers import Entry
    from treadle.server._protocols.framing import Decoder
    from treadle.server._protocols.protocol import Protocol
    from treadle.server._transport.limits import Limits
    from treadle.server._transport.observing.observer import Observer

__all__ = ["EventLoopGroup"]

_log = logging.getLogger("treadle.server")

LIMITS = {
    "handshake_timeout": logging.WARNING,
    "read_timeout": logging.WARNING,
    "write_timeout": logging.WARNING,
    "handler_timeout": logging.WARNING,
    "min_read_rate": logging.WARNING,
    "min_write_rate": logging.WARNING,
    "evicted": logging.WARNING,
    "idle_timeout": logging.INFO,
}  # what cuts connections, and how it is logged


class EventLoopGroup:
    """One lane, or, where threads run Python at the same time, one for each processor.

    The first lane accepts, and deals the connections out. Its end is driven by the leaders themselves, so nobody has to
    wait for it: `drain` lets each lane empty, at the deadline what is left is cut, and the last lane to be empty ends
    them all.

    Args:
        over: called once, by a leader, when all lanes have ended.
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
        self.when_full = when_full  # what happens to messages that the pool has no room for
        self.proxies = proxies
        self.observers = Observers(protocol.name, observers) if observers else None
        self.gate = ConnectionLimiter(limits, proxies)
        self.deadlines = Deadlines(limits)
        self.context: ssl.SSLContext | None = None  # of TLS; replaced by reload
        self.acceptors: list[Acceptor] = []
        self.watchdogs: list[Watchdog] = []
        self._throttles = LogThrottles()
        self._cuts = {limit: LogThrottle() for limit in LIMITS}
        self._turn = 0  # the lane that is dealt the next connection; the first lane's leader's
        self._lock = threading.RLock()  # guards what follows; a signal handler may look while it is held
        self.cut = 0
        self.closed = 0
        self.rejected = 0  # clients behind proxies that were turned away
        self.closed_by: Counter[str] = Counter()
        self._counted: set[Lane] = set()  # whose connections are in `cut`
        self._ended = False
        self.lanes = [self._new_lane(number, dispatcher) for number in range(_lanes_wanted(dispatcher))]
        lifecycle.after_fork(
            self._forget_threads
        )  # not by way of the server, which does not know it before `start` has returned

    def _new_lane(self, number: int, dispatcher: Dispatcher) -> Lane:
        lane = Lane(f"{self.protocol.name}-{number}", dispatcher, self.deadlines.period())
        observed = self.observers is not None
        lane.handling = Handlers(lane, self.protocol, self.limits, self._throttles, self.when_full, observed=observed)
        proxies = self.proxies
        reception = None if proxies is None else Reception(lane, self.gate, self.limits, proxies)
        lane.service = ConnectionIO(
            lane, self.limits, self.deadlines, partial(self._left, lane), self._throttles, reception
        )
        lane.keeper = Reaper(lane, self.deadlines)
        lane.broken = self.lost
        return lane

    def start(self, listeners: Sequence[Listener], context: ssl.SSLContext | None) -> None:
        """Accept, and serve.

        Raises:
            RuntimeError: no thread can be started.
        """
        self.context = context
        # glibc maps memory afresh for each large buffer until one such was freed; from then on a read costs no mapping.
        bytes(4 * CHUNK)
        first = self.lanes[0]
        rejection = self.limits.reject_connections_with if context is None else b""  # which is no TLS
        ways = (rejection, self._welcome, Eviction(self.lanes).evict, self._all_accepted, self._rejecting)
        for listener in listeners:
            self.acceptors.append(Acceptor(first, listener, self.gate, self.limits, *ways))
        try:
            for lane in self.lanes:
                self.watchdogs.append(Watchdog(lane, f"{lane.name}-watchdog"))
        except BaseException:
            for acceptor in self.acceptors:
                acceptor.close()
            for lane in self.lanes:
                lane.end()
            for lane in self.lanes[len(self.watchdogs) :]:
                lane.close()
            raise

    @property
    def listeners(self) -> list[Listener]:
        """Where it listens, or did."""
        return [acceptor.listener for acceptor in self.acceptors]

    # -- connections, called by leaders ---------------------------------------------------------------------------

    def _welcome(self, sock: socket.socket, address: Any) -> None:
        """Take in an accepted socket."""
        decoder, why = self._decoder(), "framing"
        if self.lanes[0].orphaned:  # the framing has forked, and this is the child, where no server is
            sock.close()
            return
        if decoder is not None:
            try:
                sock.setblocking(False)
                if sock.family != getattr(socket, "AF_UNIX", None):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self.context is not None:
                    sock = self.context.wrap_socket(
                        sock,
                        server_side=True,
                        do_handshake_on_connect=False,
                        suppress_ragged_eofs=False,  # see ConnectionIO.cut_short
                    )
            except Exception as error:
                decoder, why = None, self._fault_of(error)
        if decoder is None:
            self.gate.leave(address)
            with self._lock:
                self.closed += 1
                self.closed_by[cause_of(why)] += 1
            if self.observers is not None:
                Record(self.observers, Peer(address, sock)).closed(why)
            hang_up(sock)
            return
        lane = self.lanes[self._turn % len(self.lanes)]
        self._turn += 1
        conn = ClientConnection(sock, Peer(address, sock), decoder, Context(), clock.now())
        if self.observers is not None:
            Record(self.observers, conn.peer, converses=self.protocol.converse is not None).attach(conn)
        if lane is self.lanes[0]:
            lane.service.adopt(conn)
        else:
            with lane.lock:
                lane.dealt += 1
            lane.post(partial(self._deal, lane, conn))

    def _rejecting(self, sock: socket.socket, address: Any, reason: str) -> None:
        """A client is about to be turned away."""
        if self.observers is not None:
            Record(self.observers, Peer(address, sock)).rejected(reason)

    def _deal(self, lane: Lane, conn: ClientConnection) -> None:
        """Have a lane adopt what it was dealt."""
        with lane.lock:
            counted = lane.dealt == 0  # among those that are cut, by `abandon`
            lane.dealt -= not counted
            over = lane.emptied.is_set()
        if not over:
            lane.service.adopt(conn)
            return
        with self._lock:  # the time was over before the lane had its turn
            self.cut += not counted
        lane.service.left(conn, CUT)
        hang_up(conn.sock)

    def _fault_of(self, error: Exception) -> str:
        """Return by what a client is closed that could not be taken in, and say so if that is no fault of its own."""
        if isinstance(error, OSError) and (not isinstance(error, ssl.SSLError) or error.errno == errno.ENOTCONN):
            # It is gone already, perhaps after it has sent something: ordinary.
            return os.strerror(error.errno) if error.errno else type(error).__name__
        throttle = self._throttles.of("context", *kind_of(error))
        if throttle.begins():
            said = "%s: clients are closed, for TLS fails before the handshake%s"
            log(_log, logging.ERROR, said, self.protocol.name, throttle.rest, error=error)
        return NO_HANDSHAKE

    def _decoder(self) -> Decoder[Any] | None:
        """Return a decoder for a new connection; None if the framing, which may be the user's, fails."""
        try:
            decoder = self.protocol.decoder(self.limits)
            if not (hasattr(decoder, "feed") and hasattr(decoder, "finish")):
                raise TypeError(
                    f"the framing's decoder() returned {type(decoder).__name__}; allowed: an object with feed, held "
                    "and finish, such as Lines().decoder(limit)"
                )
            return decoder
        except BaseException as error:
            throttle = self._throttles.of("decoder", *kind_of(error))
            if not self.lanes[0].orphaned and throttle.begins():
                said = "%s: clients are closed, for the framing fails%s"
                log(_log, logging.ERROR, said, self.protocol.name, throttle.rest, error=error)
            return None

    def _left(self, lane: Lane, conn: ClientConnection, why: str) -> None:
        """A connection is about to be closed."""
        self.gate.leave(conn.peer.address, behind=conn.peer.proxy is not None)
        with self._lock:
            if why == REFUSED:
                self.rejected += 1
            else:
                self.closed += 1
                if why:
                    self.closed_by[cause_of(why)] += 1
        if why:
            self._tell_cut(conn, why)
        if conn.record is not None and why != REFUSED:
            conn.record.closed(why)
        for acceptor in self.acceptors:
            if not acceptor.watched and not acceptor.closed:
                self.lanes[0].post(acceptor.resume)
        self._note_empty(lane)

    def _tell_cut(self, conn: ClientConnection, why: str) -> None:
        """Log a connection that was cut: the first of many by the same limit, so that none looks like a hang."""
        if why in LIMITS and (throttle := self._cuts[why]).begins():
            by = why if conn.header is None else f"{why}, for its PROXY header is not complete"
            said = "%s: cut by %s; those that follow soon are only counted%s"
            log(_log, LIMITS[why], said, conn.peer, by, throttle.rest)
        else:
            log(_log, logging.DEBUG, "%s: cut: %s", conn.peer, why)

    def causes(self) -> dict[str, int]:
        """Return how many connections were closed by which limit or fault. From any thread."""
        with self._lock:
            return dict(self.closed_by)

    # -- the end, called by leaders -------------------------------------------------------------------------------

    def drain(self, deadline: float) -> None:
        """Begin to end, by `deadline` at the latest; again: by an earlier one. Called by the first lane's leader."""
        first = self.lanes[0]
        first.timers.hasten(Alarm(self._cut_all), deadline)
        if first.draining:
            return
        for lane in self.lanes:
            lane.post(lane.keeper.drain)
        for acceptor in self.acceptors:
            acceptor.empty()
        self._all_accepted()

    def _all_accepted(self) -> None:
        """Nobody waits at a listener any more."""
        if all(acceptor.closed for acceptor in self.acceptors):
            self.deaf()
        for lane in self.lanes:
            lane.post(partial(self._note_empty, lane))

    def _cut_all(self) -> None:
        for lane in self.lanes:
            lane.post(partial(self._cut_lane, lane))

    def _cut_lane(self, lane: Lane) -> None:
        """The time is over."""
        if lane.emptied.is_set():
            return
        cut = self._count_cut(lane)  # first: what follows tells of each, and may be stuck in that
        lane.keeper.cut_all(CUT)
        if lane is self.lanes[0]:
            turned_away = sum(acceptor.turn_away() for acceptor in self.acceptors)
            with self._lock:
                self.cut += turned_away
            cut += turned_away
        self._empty(lane)
        if cut:
            what = counted(cut, "connection was", "connections were")
            log(_log, logging.WARNING, "%s: %s not done in time, and cut", self.protocol.name, what)

    def _count_cut(self, lane: Lane) -> int:
        """Count the connections of a lane as cut, once; return how many there were."""
        left = len(lane.connections())
        with self._lock:
            if lane in self._counted:
                return 0
            self._counted.add(lane)
            self.cut += left
        return left

    def _note_empty(self, lane: Lane) -> None:
        accepted = all(acceptor.done() for acceptor in self.acceptors)  # looked at first: the rest is dealt by then
        if lane.draining and accepted and not lane.dealt and len(lane.sources) == 1:  # the waker
            self._empty(lane)

    def _empty(self, lane: Lane) -> None:
        """A lane has nothing left to do; the last one ends them all."""
        with self._lock:
            lane.emptied.set()
            if self._ended or not all(other.emptied.is_set() for other in self.lanes):
                return
            self._ended = True
        for other in self.lanes:
            other.end()
        self.over()

    def _forget_threads(self) -> None:
        """In a forked child, be over, and let go of everything; the parent's clients notice nothing."""
        self._lock = threading.RLock()
        self.gate = ConnectionLimiter(self.limits)
        self._throttles.forget_threads()
        if self.observers is not None:
            self.observers.forget_threads()
        for lane in self.lanes:
            lane.forget_threads()
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
        for lane in self.lanes:
            with lane.lock:
                lane.emptied.set()
                others, lane.dealt = others + lane.dealt, 0
        with self._lock:
            self.cut += others
        for lane in self.lanes:
            self._count_cut(lane)
            for conn in lane.connections():
                if conn.busy:
                    lane.keeper.disown(conn, CUT)
                else:
                    conn.shut_down(socket.SHUT_RDWR)
            lane.end()

    def lost(self, error: Exception) -> None:
        """End at once, for nobody hears of anything any more: others have closed a descriptor of the server's own.

        It is not made anew: who closes descriptors that are not theirs has probably closed clients' as well, and their
        numbers may be those of other clients by now, or of files.
        """
        self.abandon()
        self.broken(error)

    def is_ours(self) -> bool:
        """Whether this thread is a watchdog, which leads when nobody else can, and then calls observers."""
        return any(watchdog.thread is threading.current_thread() for watchdog in self.watchdogs)

    def join(self, until: float) -> None:
        """Wait, but not beyond `until`, for the watchdogs, who end last."""
        for watchdog in self.watchdogs:
            if watchdog.thread is not threading.current_thread():
                watchdog.thread.join(None if until == inf else max(0.0, until - clock.now()))


class Alarm:
    """Something to do at a certain time."""

    def __init__(self, do: Callable[[], object]) -> None:
        self.do = do
        self.due = inf
        self.entry: Entry | None = None

    def attend(self, event: int) -> None:
        """Do it."""
        self.do()


def _lanes_wanted(dispatcher: Dispatcher) -> int:
    """Return how many leaders make sense: one, unless threads run Python at the same time."""
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        return 1
    return max(1, min(os.cpu_count() or 1, dispatcher.workers.max_workers // 2))
