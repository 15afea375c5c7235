"""RequestManager: the requests of a `socketserver` server, from first to last, and the loop that serves them."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, cast

from treadle._base import checks, clock
from treadle._base.log_throttle import LogThrottles
from treadle._base.words import all_of, counted, log
from treadle._dispatch import lifecycle
from treadle._pool.pool import Pool
from treadle._pool.submit import dispatcher_of
from treadle.errors import PoolClosed
from treadle.server._loop.teller import Teller
from treadle.server._socketserver.parking import Parking, ended
from treadle.server._socketserver.request import Request, can_wait, current_visit
from treadle.server._transport.io import reason_of

if TYPE_CHECKING:
    from treadle.server._socketserver.mixin import PoolMixIn

__all__ = ["FIRST_PAUSE", "LONGEST_PAUSE", "RequestManager"]

_log = logging.getLogger("treadle.server")

LAST_WORDS = 0.5  # seconds that log handlers are given to take what is said at the end
LONGEST_POLL = 3600.0  # seconds; any, for the poller is woken when there is something to do
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # seconds without accepting when the system is out of something; Go's, Tomcat's


class RequestManager:
    """Knows every request until it is over, parks those that wait, and hands those that are ready to the pool.

    The thread in `serve` is the serving thread; between two of those, `close` may take its place. Whatever comes from
    other threads it finds in the inbox. It never waits for the pool: a request that finds no room there waits beside
    the pool's queue, where `max_connections` bounds it.

    Args:
        let_in: accepts some requests; for the serving thread, when there are some.
    """

    def __init__(self, server: PoolMixIn, let_in: Callable[[], object]) -> None:
        self.server = server
        self.let_in = let_in
        self.handler: Any = None  # makes the handlers; see `set_handler`
        self.converses = True  # handlers keep their threads between two messages of a client
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)  # a visit is over
        self.idle = threading.Event()  # nobody serves
        self.idle.set()
        # Below: guarded by the lock. `owner` and `stopping` are also read, and `stopping` set, without it.
        self.visits: set[Request] = set()
        self.inbox: list[Request] = []
        self.owner: int | None = None  # the identifier of the serving thread
        self.stopping = False
        self.closed = False
        self.orphaned = False  # this is a forked child, and the server is the parent's
        self.full = False  # the listener is not polled, until a visit is over
        self.pool: Pool | None = None
        self.parking: Parking | None = None  # from when it is served first
        # Below: for the serving thread.
        self.resume_at = 0.0  # when to accept again, after the system was out of something
        self.pause = FIRST_PAUSE
        self.deaf = False  # its listener lets nobody in any more
        self.throttles = LogThrottles()
        lifecycle.after_fork(self._forget_threads)

    def set_handler(self, handler: Any) -> None:
        """Have `handler` make the handlers."""
        self.handler = handler
        self.converses = not can_wait(handler)

    # -- from any thread --------------------------------------------------------------------------------------------

    def take(self, request: Any, address: Any) -> None:
        """Begin with a request.

        Raises:
            PoolClosed, PoolBroken, RuntimeError: the pool runs nothing more; the request is still the caller's.
        """
        visit = Request(self, request, address, polled=self.owner is not None)
        with self.lock:
            refused = self.closed
            if not refused:
                self.visits.add(visit)
        if refused:
            self.dismiss(request)
        elif not visit.waits():
            try:
                self._submit(visit)
            except BaseException:
                self.forget(visit)
                raise
        elif self.owner == threading.get_ident():
            self._park(visit)
        else:
            self.give_back(visit)

    def dismiss(self, request: Any) -> None:
        """Close a request that does not stay; in a forked child this copy alone, for the client is the parent's."""
        if self.orphaned:
            Request(self, request, None, polled=False).abandon()
        else:
            self.server.shutdown_request(request)

    def give_back(self, visit: Request, *, ready: bool = False) -> None:
        """Take back a visit that waits for its client; or, if it is `ready`, for its next turn in the pool."""
        if ready:
            self.hand_over(visit)
            return
        with self.lock:
            taken = not self.closed
            if taken:
                self.inbox.append(visit)
                if len(self.inbox) == 1:
                    self._wake()
        if not taken:
            visit.leave()

    def hand_over(self, visit: Request) -> None:
        """Give a visit to the pool; it is over if that takes no more."""
        try:
            self._submit(visit)
        except Exception:
            try:
                self.server.handle_error(visit.request, visit.address)
            finally:
                visit.leave()

    def _submit(self, visit: Request) -> None:
        pool = self._open_pool()
        visit.task = task = pool.options(name=type(self.server).__name__)._task_made(visit.run, (), {})
        dispatcher_of(pool).enter_later(task, "block")
        task.add_done_callback(visit.settled)
        if self.converses and visit.shake_by is None and isinstance(visit.request, socket.socket):
            self._tell_if_all_talk(pool)

    def _tell_if_all_talk(self, pool: Pool) -> None:
        """Say that every thread is in a conversation, so that clients which wait for one do not look forgotten."""
        home = dispatcher_of(pool)
        if not home.free_threads() and (throttle := self.throttles.of("talk")).begins():
            said = "%s: %s taken by conversations, so others wait (max_workers)%s"
            log(_log, logging.WARNING, said, self, all_of(home.workers.max_workers, "thread"), throttle.rest)

    def _open_pool(self) -> Pool:
        with self.lock:
            if self.pool is None:
                if self.closed:
                    raise PoolClosed(str(self), "server_close")
                server = self.server
                self.pool = server.pool
                if self.pool is None:
                    # Its queue needs no bound: nothing enters that max_connections has not let in.
                    self.pool = Pool(server.max_workers, queue_size=None, name=type(server).__name__)
                    # With daemon threads, nobody waits at exit for what still runs.
                    dispatcher_of(self.pool).state.abandoned = server.daemon_threads
            return self.pool

    def forget(self, visit: Request) -> None:
        """A visit is over."""
        visit.task = None
        with self.lock:
            self.visits.discard(visit)
            if self.full or self.resume_at:
                self.full, self.resume_at = False, 0.0  # what there was too little of, there is now
                self._wake()
            self.changed.notify_all()

    def has_room(self) -> bool:
        """Whether one more request may come in; if not, the serving thread is woken when one may."""
        most = checks.integer("max_connections", self.server.max_connections, least=1)
        with self.lock:
            self.full = len(self.visits) >= most
        if self.full and (throttle := self.throttles.of("full")).begins():
            said = "%s: %s taken, so others wait (max_connections)%s"
            log(_log, logging.WARNING, said, self, all_of(most, "place"), throttle.rest)
        return not self.full

    def wait_for_room(self, timeout: float | None) -> bool:
        """Block until one more request may come in; return False if it took longer than `timeout` seconds."""
        with self.changed:
            if self.resume_at:
                self.changed.wait(max(0.0, self.resume_at - clock.now()))
                self.resume_at = 0.0
        if self.has_room():
            return True
        with self.changed:
            return self.changed.wait_for(lambda: len(self.visits) < self.server.max_connections, timeout)

    def is_deaf(self) -> bool:
        """Whether nobody can be let in any more, for somebody has closed the listener, or shut it down; say so once."""
        if not self.deaf and not self.closed and ended(cast(Any, self.server).fileno()):
            self.deaf = True
            said = "%s: somebody has closed its socket, or shut it down, so nobody is let in any more"
            log(_log, logging.ERROR, said, self)
        return self.deaf

    def hold_off(self, error: OSError) -> None:
        """Accept nothing for a while, or until a visit is over: it would fail at once again."""
        if self.orphaned or (self.owner is not None and self.is_deaf()):
            return
        if (throttle := self.throttles.of("accept", error.errno)).begins():
            what, often = error.strerror or error, f"trying again every {FIRST_PAUSE:g} to {LONGEST_PAUSE:g} s"
            log(_log, logging.ERROR, "%s: cannot accept: %s; %s%s", self, what, often, throttle.rest)
        with self.lock:
            self.resume_at = clock.now() + self.pause
        self.pause = min(self.pause * 2, LONGEST_PAUSE)

    def tell_failed_handshake(self, visit: Request, error: OSError) -> None:
        """Log a client's failure to shake hands, one line a reason."""
        if (throttle := self.throttles.of("handshake", *reason_of(error))).begins():
            log(
                _log,
                logging.WARNING,
                "%s: TLS handshake with %s failed: %s%s",
                self,
                visit.address,
                error,
                throttle.rest,
            )

    def _wake(self) -> None:
        """Wake the serving thread; with the lock held, so that nobody closes the parking meanwhile."""
        if self.parking is not None:
            self.parking.wake()

    def __str__(self) -> str:
        return f"{type(self.server).__name__} on {getattr(self.server, 'server_address', None)}"

    # -- the serving thread -----------------------------------------------------------------------------------------

    def serve(self, poll_interval: float | None) -> None:
        """Serve until `stop`."""
        if not self._begin():
            return
        try:
            self._check_attributes()
            interval = LONGEST_POLL if poll_interval is None else max(0.0, poll_interval)
            while not self.stopping:
                self._turn(interval)
                if self.stopping:
                    break
                self.server.service_actions()
            if not self.closed:
                self._parking().unwatch()
                self._turn(0.0, accept=False)  # whose request has come already is served
        finally:
            self._end()

    def _begin(self) -> bool:
        """Become the serving thread; return False if there is nothing to serve any more."""
        with self.lock:
            if self.owner is not None:
                raise RuntimeError(f"{self} is being served already; call serve_forever in one thread")
            if self.stopping or self.closed:
                self.stopping = False
                return False
            if self.parking is None:
                self.parking = Parking()
            self.deaf = False
            self.idle.clear()
            self.owner = threading.get_ident()
        return True

    def _check_attributes(self) -> None:
        server = self.server
        checks.integer_or_none("max_workers", server.max_workers, least=1)
        for name in ("idle_timeout", "handshake_timeout", "read_timeout", "write_timeout", "drain_timeout"):
            checks.seconds(name, getattr(server, name))
        pool: object = server.pool
        if not isinstance(pool, Pool | None):
            raise TypeError(f"pool={pool!r} is {type(pool).__name__}; allowed: a treadle.Pool, or None")

    def _end(self) -> None:
        """Be no longer the serving thread."""
        self._parking().unwatch()
        with self.lock:
            self.owner = None
            self.stopping = False
            if not self.closed:
                self.idle.set()
                return
        self._empty()
        self._close_parking()
        self.idle.set()

    def _turn(self, interval: float, *, accept: bool = True) -> None:
        """Wait until there is something to do, and do it."""
        parking = self._parking()
        now = clock.now()
        resume_at = self._watch(now) if accept else inf
        for visit, event in parking.ready(min(now + interval, parking.timers.next, resume_at)):
            visit.attend(event)
        for visit in self._returned():
            self._park(visit)
        for visit in parking.late():
            visit.attend(parking.look(visit))  # its client may have been on time, and this process late
        if parking.knocked and not self.stopping:
            self.let_in()

    def _parking(self) -> Parking:
        return cast(Parking, self.parking)

    def _returned(self) -> Iterator[Request]:
        """Take the inbox's out, one by one, so that Ctrl-C loses none."""
        while self.inbox:
            with self.lock:
                visit = self.inbox.pop()
            yield visit

    def _watch(self, now: float) -> float:
        """Poll the listener if requests may come in; return when to look again, unless told sooner."""
        if now < self.resume_at:
            self._parking().unwatch()
            return self.resume_at
        self.resume_at = 0.0
        listener = cast(Any, self.server).fileno()
        if listener < 0:
            self.is_deaf()
        if listener >= 0 and not self.deaf and self.has_room():
            self._parking().watch(listener)
        else:
            self._parking().unwatch()
        return inf

    def _park(self, visit: Request) -> None:
        """Wait for the client."""
        if self.closed:
            visit.leave()
            return
        parking = self._parking()
        stranger = parking.visits.get(visit.descriptor())
        if stranger is not None:  # somebody has closed its socket behind our back, so the number was given anew
            parking.remove(stranger)
            stranger.leave()
        try:
            parking.add(visit, visit.patience_ends())
        except (OSError, ValueError):  # the handler will see
            self.hand_over(visit)

    def unpark(self, visit: Request) -> None:
        """Take out a visit that is parked."""
        self._parking().remove(visit)

    # -- the end ----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Have the serving thread end, and wait for that unless this is it; then from a signal handler, too."""
        self.stopping = True
        if self.owner == threading.get_ident():
            self._parking().wake()
            return
        with self.lock:
            self._wake()
        self.idle.wait()

    def close(self, timeout: float | None) -> None:
        """Take nothing more, and end what is parked; in the serving thread, which ends, or else here.

        Args:
            timeout: seconds to wait for the serving thread, which a hook may keep; None: as long as it takes.
        """
        with self.lock:
            closed, self.closed = self.closed, True
            owner = self.owner
            if owner is not None:
                self.stopping = True
            self._wake()
        if owner not in (None, threading.get_ident()):
            self.idle.wait(timeout)
            return
        if owner is not None:
            self._empty()  # and the parking is closed when the serving ends
        elif not closed and self.parking is not None:
            self._empty()
            self._close_parking()

    def _empty(self) -> None:
        """End what waits."""
        parking = self._parking()
        parking.unwatch()
        for visit in list(parking.visits.values()):
            parking.remove(visit)
            visit.leave()
        for visit in self._returned():
            visit.leave()

    def _close_parking(self) -> None:
        with self.lock:
            self._parking().close()

    def drain(self, deadline: float | None) -> None:
        """Wait until all visits are over; cut those that are not by the deadline."""
        timeout = None if deadline is None else max(0.0, deadline - clock.now())
        with self.changed:
            if self.changed.wait_for(lambda: not self.visits, timeout):
                return
            left = list(self.visits)
        for visit in left:
            task = visit.task
            if task is None or not task.cancel():
                visit.cut()
        # They may still run because they are stuck in a log handler, which is not to keep us as well.
        what = counted(len(left), "request is cut off, for it still runs", "requests are cut off, for they still run")
        said = "%s: %s after drain_timeout=%s s"
        teller = Teller()
        teller.tell(partial(log, _log, logging.WARNING, said, self, what, self.server.drain_timeout))
        teller.quiet(LAST_WORDS)

    def _forget_threads(self) -> None:
        """In a forked child, have no requests: they are the parent's, and their clients are to notice nothing.

        If a thread serves in the parent, nobody does here any more. A server that was not served yet can be, as is done
        in several processes that share a listener. The visit of the thread that has forked keeps its socket until its
        handler returns, as in ThreadingMixIn.
        """
        self.lock = threading.Lock()  # another thread may have had the old one
        self.throttles.forget_threads()
        self.changed = threading.Condition(self.lock)
        self.idle = threading.Event()
        self.idle.set()
        served, self.owner = self.owner is not None, None
        self.stopping = self.closed = served or self.closed
        self.orphaned = served or self.orphaned
        visits = {*self.visits, *self.inbox}
        self.visits.clear()
        self.inbox.clear()
        self.full, self.resume_at = False, 0.0
        if self.parking is not None:
            visits.update(self.parking.visits.values())
            self.parking.abandon()
            self.parking = self.parking if served else None
        here = current_visit()
        for visit in visits:
            visit.orphaned = True
            if visit is not here:
                visit.abandon()
        listener = getattr(self.server, "socket", None)
        if served and isinstance(listener, socket.socket) and listener.type == socket.SOCK_STREAM:
            listener.close()  # datagrams' handlers answer through it

    def close_pool(self, wait: bool) -> None:
        """Close the server's own pool, and wait until its threads have ended if nothing runs any more."""
        with self.lock:
            pool, self.pool = self.pool, None
            busy = bool(self.visits)
        if pool is not None and pool is not self.server.pool:
            pool.shutdown(wait=wait and not busy)

    def threads(self) -> list[threading.Thread]:
        """Return the threads that handle a request."""
        with self.lock:
            return [thread for visit in self.visits if (thread := visit.thread) is not None]
