"""RequestManager: the requests of a `socketserver` server, from first to last, and the loop that serves them."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any, Protocol, cast

from treadle._base import checks, clock
from treadle._base.log_throttle import LogThrottles
from treadle._base.words import all_of, counted, log
from treadle._dispatch import lifecycle
from treadle._pool.pool import Pool
from treadle._pool.submit import dispatcher_of
from treadle.errors import PoolClosed
from treadle.server._accept.handshake import reason_of
from treadle.server._loop.event_loop import EventLoop
from treadle.server._loop.teller import Teller
from treadle.server._socketserver.acceptor import RequestAcceptor
from treadle.server._socketserver.keepalive import can_wait
from treadle.server._socketserver.request import Hooks, Request, current_request

__all__ = ["RequestManager", "Served"]

_log = logging.getLogger("treadle.server")

LAST_WORDS = 0.5  # seconds that log handlers are given to take what is said at the end
LONGEST_POLL = 3600.0  # seconds; any, for the poller is woken when there is something to do


class Served(Hooks, Protocol):
    """What the manager asks of its server; see PoolMixIn."""

    max_workers: int | None
    pool: Pool | None
    max_connections: int
    drain_timeout: float | None
    daemon_threads: bool

    def fileno(self) -> int:
        """Return the listener's descriptor."""
        raise NotImplementedError

    def service_actions(self) -> None:
        """Do what is to be done between two turns."""


class RequestManager:
    """Knows every request until it is over, waits for clients, and hands those that are ready to the pool.

    The thread in `serve` is the serving thread, and runs the event loop; between two of those, `close` may take its
    place. What other threads want of it they post. It never waits for the pool: a request that finds no room there
    waits beside the pool's queue, where `max_connections` bounds it. (Not by a ConnectionLimiter: the requests are kept
    here anyway, so there is nothing to count; and that limit, an attribute of the server's, may change at any time.)

    Args:
        let_in: accepts some requests; for the serving thread, when there are some.
    """

    def __init__(self, server: Served, let_in: Callable[[], object]) -> None:
        self.server = server
        self.throttles = LogThrottles()
        self.acceptor = RequestAcceptor(server, self, self.throttles, let_in)
        self.handler: Any = None  # makes the handlers; see `set_handler`
        self.converses = True  # handlers keep their threads between two messages of a client
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)  # a request is over
        self.idle = threading.Event()  # nobody serves
        self.idle.set()
        # Below: guarded by the lock. `owner` and `stopping` are also read, and `stopping` set, without it.
        self.requests: set[Request] = set()
        self.owner: int | None = None  # the identifier of the serving thread
        self.stopping = False
        self.closed = False
        self.orphaned = False  # this is a forked child, and the server is the parent's
        self.pool: Pool | None = None
        self.loop: EventLoop | None = None  # from when it is served first
        lifecycle.after_fork(self._forget_threads)

    def set_handler(self, handler: Any) -> None:
        """Have `handler` make the handlers."""
        self.handler = handler
        self.converses = not can_wait(handler)

    # -- from any thread --------------------------------------------------------------------------------------------

    def take(self, sock: Any, address: Any) -> None:
        """Begin with a request.

        Raises:
            PoolClosed, PoolBroken, RuntimeError: the pool runs nothing more; the socket is still the caller's.
        """
        request = Request(self, self.server, sock, address, polled=self.owner is not None)
        with self.lock:
            refused = self.closed
            if not refused:
                self.requests.add(request)
        if refused:
            self.dismiss(sock)
        elif not request.waits():
            try:
                self._submit(request)
            except BaseException:
                self.forget(request)
                raise
        elif self.owner == threading.get_ident():
            self._wait(request)
        else:
            self.give_back(request)

    def dismiss(self, sock: Any) -> None:
        """Close a socket that does not stay; in a forked child this copy alone, for the client is the parent's."""
        if self.orphaned:
            Request(self, self.server, sock, None, polled=False).abandon()
        else:
            self.server.shutdown_request(sock)

    def give_back(self, request: Request) -> None:
        """Have a request wait for its client."""
        with self.lock:
            taken = not self.closed
            if taken:
                self._event_loop().post_coalesced(partial(self._wait, request))
        if not taken:
            request.leave()

    def hand_over(self, request: Request) -> None:
        """Give a request to the pool; it is over if that takes no more."""
        try:
            self._submit(request)
        except Exception as error:
            try:
                if not (self.closed and isinstance(error, PoolClosed)):  # or the server closes at this very time
                    self.server.handle_error(request.sock, request.address)
            finally:
                request.leave()

    def _submit(self, request: Request) -> None:
        pool = self._open_pool()
        request.task = task = pool.options(name=type(self.server).__name__)._task_made(request.run, (), {})
        dispatcher_of(pool).enter_later(task, "block")
        task.add_done_callback(request.settled)
        if self.converses and request.converses():
            self._tell_if_all_converse(pool)

    def _tell_if_all_converse(self, pool: Pool) -> None:
        """Say that every thread is in a conversation, so that clients which wait for one do not look forgotten."""
        dispatcher = dispatcher_of(pool)
        if not dispatcher.free_threads() and (throttle := self.throttles.of("talk")).begins():
            said = "%s: %s taken by conversations, so others wait (max_workers)%s"
            log(_log, logging.WARNING, said, self, all_of(dispatcher.workers.max_workers, "thread"), throttle.rest)

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

    def forget(self, request: Request) -> None:
        """A request is over."""
        request.task = None
        with self.lock:
            self.requests.discard(request)
            if self.acceptor.resume():
                self._wake()
            self.changed.notify_all()

    def has_room(self) -> bool:
        """Whether one more request may come in; if not, the serving thread is woken when one may."""
        most = checks.integer("max_connections", self.server.max_connections, least=1)
        with self.lock:
            self.acceptor.full = full = len(self.requests) >= most
        if full and (throttle := self.throttles.of("full")).begins():
            said = "%s: %s taken, so others wait (max_connections)%s"
            log(_log, logging.WARNING, said, self, all_of(most, "place"), throttle.rest)
        return not full

    def wait_for_room(self, timeout: float | None) -> bool:
        """Block until one more request may come in; return False if it took longer than `timeout` seconds."""
        acceptor = self.acceptor
        with self.changed:
            if acceptor.resume_at:
                self.changed.wait(max(0.0, acceptor.resume_at - clock.now()))
                acceptor.resume_at = 0.0
        if self.has_room():
            return True
        with self.changed:
            return self.changed.wait_for(lambda: len(self.requests) < self.server.max_connections, timeout)

    def accepted(self) -> None:
        """Somebody was let in, so the next pause is a short one again."""
        self.acceptor.backoff.reset()

    def is_deaf(self) -> bool:
        """Whether nobody can be let in any more."""
        return self.acceptor.is_deaf()

    def hold_off(self, error: OSError) -> None:
        """Accept nothing for a while, unless nobody will be let in any more."""
        if not self.orphaned and (self.owner is None or not self.acceptor.is_deaf()):
            self.acceptor.pause(error)

    def tell_failed_handshake(self, request: Request, error: OSError) -> None:
        """Log a client's failure to shake hands, one line a reason."""
        if (throttle := self.throttles.of("handshake", *reason_of(error))).begins():
            said = "%s: TLS handshake with %s failed: %s%s"
            log(_log, logging.WARNING, said, self, request.address, error, throttle.rest)

    def _wake(self) -> None:
        """Wake the serving thread; with the lock held, so that nobody closes the loop meanwhile."""
        if self.loop is not None:
            self.loop.wake()

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
                self.acceptor.unwatch(self._event_loop())
                self._event_loop().turn(0.0)  # whose request has come already is served
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
            if self.loop is None:
                self.loop = EventLoop(str(self))
            elif self.loop.inbox:  # Ctrl-C left it so
                self.loop.wake()
            self.acceptor.deaf = False
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
        self.acceptor.unwatch(self._event_loop())
        with self.lock:
            self.owner = None
            self.stopping = False
            if not self.closed:
                self.idle.set()
                return
        self._empty()
        self._close_loop()
        self.idle.set()

    def _turn(self, interval: float) -> None:
        """Wait until there is something to do, and do it; then let in who has knocked."""
        acceptor = self.acceptor
        resume_at = acceptor.watch(self._event_loop(), self.has_room)
        self._event_loop().turn(min(clock.now() + interval, resume_at))
        if acceptor.knocked and not self.stopping:
            acceptor.let_in()

    def _event_loop(self) -> EventLoop:
        return cast(EventLoop, self.loop)

    def _wait(self, request: Request) -> None:
        """Wait for a request's client."""
        if self.closed:
            request.leave()
            return
        loop, fd = self._event_loop(), request.fileno()
        stranger = loop.sources.get(fd)
        if isinstance(stranger, Request):  # somebody has closed its socket behind our back: the number was given anew
            self.stop_waiting(stranger)
            stranger.leave()
        try:
            loop.add(fd, request, request.wants)
        except (OSError, ValueError):  # the handler will see
            self.hand_over(request)
            return
        request.fd = fd
        if (due := request.patience_ends()) < inf:
            loop.timers.look_at(request, due, loop.now)

    def stop_waiting(self, request: Request) -> None:
        """Do not wait for a request's client any more; from here on the poller knows nothing of its descriptor."""
        fd, request.fd = request.fd, -1
        self._event_loop().timers.forget(request)
        self._event_loop().remove(fd, request.wants)

    # -- the end ----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Have the serving thread end, and wait for that unless this is it; then from a signal handler, too."""
        self.stopping = True
        if self.owner == threading.get_ident():
            self._event_loop().wake()
            return
        with self.lock:
            self._wake()
        self.idle.wait()

    def close(self, timeout: float | None) -> None:
        """Take nothing more, and end what waits; in the serving thread, which ends, or else here.

        Args:
            timeout: seconds to wait for the serving thread, which a hook may keep; None: as long as it takes.
        """
        with self.lock:
            closed, self.closed, self.acceptor.deaf = self.closed, True, True
            owner = self.owner
            if owner is not None:
                self.stopping = True
            self._wake()
        if owner not in (None, threading.get_ident()):
            self.idle.wait(timeout)
            return
        if owner is not None:
            self._empty()  # and the loop is closed when the serving ends
        elif not closed and self.loop is not None:
            self._empty()
            self._close_loop()

    def _empty(self) -> None:
        """End what waits, or was to wait."""
        loop = self._event_loop()
        self.acceptor.unwatch(loop)
        for request in [source for source in loop.sources.values() if isinstance(source, Request)]:
            self.stop_waiting(request)
            request.leave()
        loop.run_posted()

    def _close_loop(self) -> None:
        with self.lock:
            self._event_loop().close()

    def drain(self, deadline: float | None) -> None:
        """Wait until all requests are over; cut those that are not by the deadline."""
        timeout = None if deadline is None else max(0.0, deadline - clock.now())
        with self.changed:
            if self.changed.wait_for(lambda: not self.requests, timeout):
                return
            left = list(self.requests)
        for request in left:
            task = request.task
            if task is None or not task.cancel():
                request.cut()
        # They may still run because they are stuck in a log handler, which is not to keep us as well.
        what = counted(len(left), "request is cut off, for it still runs", "requests are cut off, for they still run")
        said = "%s: %s after drain_timeout=%s s"
        teller = Teller()
        teller.tell(partial(log, _log, logging.WARNING, said, self, what, self.server.drain_timeout))
        teller.quiet(LAST_WORDS)

    def _forget_threads(self) -> None:
        """In a forked child, have no requests: they are the parent's, and their clients are to notice nothing.

        If a thread serves in the parent, nobody does here any more. A server that was not served yet can be, as is done
        in several processes that share a listener. The request of the thread that has forked keeps its socket until its
        handler returns, as in ThreadingMixIn.
        """
        self.lock = threading.Lock()  # another thread may have had the old one
        self.throttles.forget_threads()
        self.changed = threading.Condition(self.lock)
        self.idle = threading.Event()
        self.idle.set()
        served, self.owner = self.owner is not None, None
        self.stopping = self.closed = self.acceptor.deaf = served or self.closed
        self.orphaned = served or self.orphaned
        requests = list(self.requests)
        self.requests.clear()
        self.acceptor.resume()
        if self.loop is not None:
            self.loop.forget_threads()
            self.loop = self.loop if served else None
        here = current_request()
        for request in requests:
            request.orphaned = True
            if request is not here:
                request.abandon()
        listener = getattr(self.server, "socket", None)
        if served and isinstance(listener, socket.socket) and listener.type == socket.SOCK_STREAM:
            listener.close()  # datagrams' handlers answer through it

    def close_pool(self, wait: bool) -> None:
        """Close the server's own pool, and wait until its threads have ended if nothing runs any more."""
        with self.lock:
            pool, self.pool = self.pool, None
            busy = bool(self.requests)
        if pool is not None and pool is not self.server.pool:
            pool.shutdown(wait=wait and not busy)

    def threads(self) -> list[threading.Thread]:
        """Return the threads that handle a request."""
        with self.lock:
            return [thread for request in self.requests if (thread := request.thread) is not None]
