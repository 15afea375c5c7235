"""Server: listeners, connections and handlers, on one pool's threads."""

from __future__ import annotations

import errno
import logging
import os
import ssl
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import inf
from types import TracebackType
from typing import Any, Self, cast

from treadle._base import checks, clock
from treadle._base.threads import start_thread
from treadle._base.words import counted, log
from treadle._dispatch import lifecycle
from treadle._pool import view as _view  # noqa: F401  # or each of several processes would import it with its pool
from treadle._pool.pool import Pool
from treadle._pool.snapshot import names_of, report_leaving, undone
from treadle._pool.submit import dispatcher_of
from treadle.errors import BindError
from treadle.orders._adaptive import Adaptive
from treadle.orders._levels import Levels
from treadle.orders._order import Order, OrderName
from treadle.server._accept.listen import Bindable, each_bind, open_listeners
from treadle.server._accept.proxy import Proxies
from treadle.server._group import EventLoopGroup, leaders_of
from treadle.server._loop.teller import Teller
from treadle.server._orphans import Orphans
from treadle.server._protocols.protocol import Protocol, check, queue_timeout_of
from treadle.server._signals import CHILD, GONE, HANGUP, HUNG_UP, LOST, ORDERS, Signals, reason
from treadle.server._snapshot import ServerSnapshot, snapshot_of
from treadle.server._transport.limits import Limits
from treadle.server._transport.observing.observer import Observer, server_observers_in

__all__ = ["Server", "order_for", "usual_reserve"]

_log = logging.getLogger("treadle.server")

DRAIN = 10.0  # seconds
GRACE = 1.0  # seconds beyond the drain that the leaders are given to end, before it is done without them
LONGEST = 3600.0  # seconds of one sleep of `run`, at most; any that the system can count would do
ENOUGH = 4  # threads for each that leads, of which one can be spared for quick messages; a guess
PATIENT = 0.1  # of the time that messages may wait, after which the newest is handled first; a guess
LAST_WORDS = 0.5  # seconds that handlers are given to notice that they were cut, and log handlers to tell it
Tls = ssl.SSLContext | Callable[[], ssl.SSLContext]


class Server:
    """Serve TCP or UNIX sockets with blocking handlers, on a bounded number of threads.

    One thread polls, reads and runs handlers inline, as an event loop would; as soon as a handler blocks, the next
    thread goes on for all other connections. Idle and half-sent connections hold no thread.

    Args:
        protocol: what turns bytes into calls: Messages(...), Session(...), or a protocol of your own (see
            treadle.server.Protocol).
        bind: where to listen: "HOST:PORT" (port 0: any free one), "[::]:PORT" (IPv6 and IPv4), "unix:PATH", "fd://N",
            "systemd", "systemd:NAME"; a bound socket, which is copied; or a sequence of these, for several.
        pool: whose threads run the handlers and lead; it is left open. None: one of its own. When all threads are busy,
            as many connections as its `queue_size` wait there, with a message each, in its `order`: "adaptive" rejects
            those that waited too long when more comes than can be done; "fair" takes turns between the addresses of
            clients, which any order that looks at keys is given. Its `when_full` is for further messages. "block", or
            "caller_runs": their connections are not read from until there is room. "reject": they are rejected, see
            `Limits.reject_messages_with`. "discard_oldest": those that waited longest are.
        max_workers: threads of a pool of its own, 1 or more; None: as for Pool. Not together with `pool`.
        reserve: threads of a pool of its own, 0 or more, that slow messages leave to others, so that quick ones never
            wait for them: those of slow kinds (see `Messages`), or, where messages have no kinds, of connections whose
            last messages were slow. That many for each thread that leads, of which there is one, and several where
            threads run Python at the same time. One thread at least is left to the slow: so of a single thread none is
            reserved. None: 1 where messages have kinds and there are 4 threads or more for each that leads, else 0.
            More are of use where one kind is slow only now and then; 0 where all messages are alike, and slow, for so
            many threads fewer do their work. Not together with `pool`, which keeps its order: slow messages may hold
            all its threads, unless it was made with `Pool(order=Levels(...))`, see `treadle.orders.Levels`. Not for a
            Session, which holds a thread to its end.
        limits: how many, how much, how long (see Limits).
        tls: an `ssl.SSLContext`, or a callable that returns one, which is called again by `reload`. None: no TLS.
        proxy: whose connections begin with a PROXY protocol header (version 1 or 2) that says who the client is: an
            address or a network, as in "10.0.0.0/8", or several; "unix" for all clients of a UNIX socket. They have to
            send it, and nobody else may. None: nobody sends one.
        observers: told what becomes of each connection and each message (see treadle.server.Observer). With any, each
            message takes a longer way through the server.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or out of range.

    All methods may be called from any thread.
    """

    def __init__(
        self,
        protocol: Protocol,
        bind: Bindable | Sequence[Bindable] = "127.0.0.1:5000",
        *,
        pool: Pool | None = None,
        max_workers: int | None = None,
        reserve: int | None = None,
        limits: Limits | None = None,
        tls: Tls | None = None,
        proxy: str | Sequence[str] | None = None,
        observers: Iterable[Observer] = (),
    ) -> None:
        check(protocol)
        if pool is not None and max_workers is not None:
            raise ValueError("both pool and max_workers are given; max_workers is for a pool of the server's own")
        if pool is not None and reserve is not None:
            raise ValueError(
                "both pool and reserve are given; give it to the pool, as in Pool(order=Levels(reserve=1))"
            )
        if pool is not None and not isinstance(pool, Pool):
            raise TypeError(f"pool={pool!r} is {type(pool).__name__}; allowed: a treadle.Pool, or None")
        if limits is not None and not isinstance(limits, Limits):
            raise TypeError(f"limits={limits!r} is {type(limits).__name__}; allowed: Limits(...)")
        self._bind = each_bind(bind)
        if isinstance(tls, ssl.SSLContext):
            _for_servers(tls, tls)
        elif tls is not None and not callable(tls):
            raise TypeError(
                f"tls={tls!r} is {type(tls).__name__}; allowed: an ssl.SSLContext, a callable that returns one, as "
                "Certificates(certfile, keyfile) is, or None"
            )
        elif tls is not None:
            checks.blocking("tls", tls)
        self.protocol = protocol
        self.limits = limits if limits is not None else Limits()
        self._proxies = None if proxy is None else Proxies(proxy)
        self._observers = server_observers_in(observers)
        self._tls = tls
        self._ends_pool = pool is None
        if reserve is not None and protocol.converse is not None:
            raise ValueError(
                f"reserve={reserve!r} has no effect on {protocol!r}: a conversation holds a thread to its end"
            )
        kinds = protocol.converse is None and getattr(protocol, "kind", None) is not None
        usual = usual_reserve(kinds, checks.integer_or_none("max_workers", max_workers, least=1))
        self._reserve = checks.integer("reserve", usual if reserve is None else reserve, least=0)
        of_level = order_for(queue_timeout_of(protocol))
        self._levels = Levels(of_level, reserve=self._reserve) if pool is None and (kinds or self._reserve) else None
        order = of_level() if callable(of_level) else of_level
        if self._levels is not None:
            order = self._levels
        self._pool = pool if pool is not None else Pool(max_workers, name=f"server-{protocol.name}", order=order)
        # Guards the state, and the deadline. A signal handler may call `stop` in the middle of another `stop`.
        self._changed = threading.Condition(threading.RLock())
        self._state = "new"  # -> "serving" -> "stopping" -> "stopped"
        self._deadline = inf  # by which what was begun is to be finished
        self._lingers = False  # its pool's threads, which have as long as it takes, have not ended yet
        self._teller = Teller()  # so that no log handler keeps us from ending
        # What the command shows: while `run` is under way, the teller calls it with a snapshot; it returns the seconds
        # until it wants the next. If it raises, that is logged, and it is not called again.
        self._watch: Callable[[ServerSnapshot], float] | None = None
        self._look_at = 0.0  # when it wants the next
        self._group: EventLoopGroup | None = None  # until it was started
        self._process: int | None = None  # that it was started in
        self._starter: int | None = None  # the thread that is about to start it
        self._signals: Signals | None = None  # while `run` is under way
        self._drain: float | None = None  # seconds that `run` was given
        self._delay = 0.0  # seconds between a signal and the stop
        self._leaves_at = inf  # when they are over
        self._broken: Exception | None = None  # what it said when somebody had closed a descriptor of its own
        self._lost = False  # all listeners were, to somebody who shut them down

    # -- beginning ------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Listen and serve, in the background.

        The server does not keep the program alive: when the main thread ends, it is stopped, as by `stop()`. To serve
        until then, wait for something in a `with` block, or call `run` instead.

        Returns:
            The server itself.

        Raises:
            BindError: the address cannot be had.
            PoolClosed, PoolBroken: the pool that it was given takes no tasks any more.
            RuntimeError: the server was started before, or no thread can be started.
            ValueError: there is no `Limits.spool_folder`.
            OSError, ssl.SSLError: what `tls` raises.
        """
        self._start()
        log(_log, logging.INFO, *self._serving())
        return self

    def _start(self) -> None:
        _check_folder(self.limits.spool_folder)
        started: Callable[[Server], object] | None = getattr(self.protocol, "started", None)
        if started is not None:
            started(self)
        with self._changed:
            if self._state != "new":
                raise RuntimeError(f"the server is {self._state}; make a new one to serve again")
            self._state = "serving"
            self._starter = threading.get_ident()
        self._process = os.getpid()
        lifecycle.after_fork(self._forget_threads)
        try:
            self._group = self._launch()
        except BaseException:
            self._over()
            self._pool_over(inf)
            raise
        finally:
            self._starter = None
        lifecycle.before_exit(self._leave, self._forget_threads)
        if self._state != "serving":  # `stop` was called meanwhile, and found nothing to stop
            self._begin_to_stop(max(0.0, self._deadline - clock.now()))
            self._wait()

    def _serving(self) -> tuple[str, str, str]:
        """Return what to log of the beginning."""
        return "serving %s on %s", self.protocol.name, str(self)

    def _launch(self) -> EventLoopGroup:
        home, when_full = dispatcher_of(self._pool), self._pool._task_when_full
        with home.lock:
            home.check_open()
        context = self._tls if self._tls is None or isinstance(self._tls, ssl.SSLContext) else _context_from(self._tls)
        listeners = open_listeners(self._bind)
        try:
            ways = (self._proxies, self._deaf, self._break, self._observers)
            group = EventLoopGroup(self.protocol, self.limits, home, self._over, when_full, *ways)
            if self._levels is not None:
                with home.lock:
                    self._levels.reserve = self._reserve * len(group.drivers)
            group.start(listeners, context)
        except BaseException:
            for listener in listeners:
                listener.close()
            raise
        return group

    # -- ending ---------------------------------------------------------------------------------------------------

    def stop(self, drain_timeout: float | None = DRAIN) -> int:
        """Stop: let in those that wait in the kernel's queue, finish what was begun, close all, and end.

        A handler that is still running after `drain_timeout` seconds goes on in its thread; its connection is shut
        down. May be called again, also to shorten the time. A handler of the server that calls it does not wait for the
        end, nor does an observer, what `start` calls, or a signal handler that interrupts it: `start` waits then. In a
        forked child it does nothing: the server is the parent's.

        Args:
            drain_timeout: seconds, 0 or more, for what was begun; None: as long as it takes.

        Returns:
            How many connections had to be cut; 0 when all ended in order.

        Raises:
            TypeError, ValueError: `drain_timeout` is not a number of seconds, nor None.
        """
        seconds = _seconds(drain_timeout)
        if self._process not in (None, os.getpid()):
            return 0
        self._begin_to_stop(seconds)
        if dispatcher_of(self._pool).is_ours() or self._starter == threading.get_ident():
            return 0
        if self._group is not None and self._group.is_ours():
            return 0
        return self._wait()

    def _begin_to_stop(self, seconds: float) -> None:
        """Begin to stop, to be done `seconds` from now, or by then already. Does not block."""
        deadline = clock.now() + seconds
        with self._changed:
            state = self._state
            if state == "serving":
                self._state = "stopping"
            self._deadline = min(self._deadline, deadline)
            self._changed.notify_all()
        if state == "new":
            self._over()
        elif self._group is not None:
            self._group.drivers[0].loop.post(partial(self._group.drain, deadline))
        self._wake()

    def _over(self) -> None:
        """Nobody is served any more; called by whoever ends it, who need not be the one that waits."""
        with self._changed:
            # First, for `run` looks at both without the lock, and is to hear signals until all has ended.
            self._lingers = self._ends_pool and self._group is not None and self._deadline == inf
            self._state = "stopped"
            self._changed.notify_all()
        self._wake()
        if self._lingers:
            try:
                start_thread(self._see_pool_end, f"{self.protocol.name}-end")
            except RuntimeError:  # no thread can be had; then the pool has a limit after all
                self._pool_ended()

    def _see_pool_end(self) -> None:
        """Close the pool, and wait for its threads without a limit; whoever waits for that may give up meanwhile."""
        try:
            cast(EventLoopGroup, self._group).quiet(inf)
            self._pool.shutdown(wait=True, cancel_futures=True)
        finally:
            self._pool_ended()

    def _pool_ended(self) -> None:
        with self._changed:
            self._lingers = False
            self._changed.notify_all()
        self._wake()

    def _wake(self) -> None:
        """Have `run` look what has changed."""
        if self._signals is not None:
            self._signals.wake()

    def _time_left(self) -> float:
        """Return the seconds until it is over, with the leaders or without them; 0 or less: it is."""
        return 0.0 if self._state == "stopped" and not self._lingers else self._deadline + GRACE - clock.now()

    def _deaf(self) -> None:
        """No listener is left. If nobody has asked for that, it ends `run`: whoever started it is to know."""
        with self._changed:
            self._lost = self._lost or self._state == "serving"
        if self._lost and self._drain is not None:
            self._begin_to_stop(self._drain)

    def _break(self, error: Exception) -> None:
        """Somebody has closed a descriptor of the server's own, which has ended all that it did."""
        with self._changed:
            first, self._broken = self._broken is None, self._broken or error
            self._deadline = min(self._deadline, clock.now())
        self._over()
        if first:
            said = "%s: nobody is served any more, for a descriptor of the server's own was closed by somebody else: %s"
            log(_log, logging.ERROR, said, self.protocol.name, error)

    def _wait(self) -> int:
        """Wait for the end; return how many connections were cut.

        Leaders log, and so they may be stuck in a log handler, all of them. After the last deadline it ends without
        them; and from then on nothing is waited for without a limit.
        """
        with self._changed:
            while (left := self._time_left()) > 0:
                self._changed.wait(None if left == inf else left)
            in_order = self._state == "stopped"
        group = self._group
        if not in_order:
            if group is not None:
                group.abandon()
            self._over()
        soon = clock.now() + LAST_WORDS
        end = self._deadline if self._deadline < inf else clock.now()  # then the pool has ended already
        until = max(soon, end + GRACE) if in_order and (group is None or not group.tally.cut) else soon
        if group is not None:
            group.join(until)
            group.quiet(until)  # while the pool has threads for it
        self._pool_over(until)
        self._teller.quiet(LAST_WORDS)  # who is left behind is told only now, and the process may end next
        return 0 if group is None else group.tally.cut

    def _pool_over(self, until: float) -> None:
        """Close the server's own pool, and wait for its threads; handlers that still run then are left behind."""
        dispatcher = dispatcher_of(self._pool)
        if not self._ends_pool or dispatcher.abandoned:  # which was told already
            return
        self._pool.shutdown(wait=False, cancel_futures=True)
        timeout = None if until == inf else max(0.0, until - clock.now())
        if not dispatcher.is_inside() and not lifecycle.join(dispatcher, timeout):
            dispatcher.state.abandoned = True  # nobody waits for them, not even at exit
            self._teller.tell(partial(self._tell_left_behind, round(timeout or 0.0, 1)))

    def _tell_left_behind(self, timeout: float) -> None:
        """Log what still runs at the end."""
        dispatcher = dispatcher_of(self._pool)
        left = undone(dispatcher)
        if not report_leaving(dispatcher, timeout) or left:
            what = counted(len(left), "handler still runs", "handlers still run")
            said = "%s: %s %g s after the stop, and left behind: %s"
            log(_log, logging.WARNING, said, self.protocol.name, what, timeout, names_of(left))

    def _leave(self) -> None:
        """Stop, because Python exits."""
        self.stop(0.0 if isinstance(getattr(sys, "last_value", None), KeyboardInterrupt) else DRAIN)

    def _forget_threads(self) -> None:
        """In a forked child, be stopped: the server is the parent's."""
        self._changed = threading.Condition(threading.RLock())  # another thread may have had the old one
        self._teller = Teller()
        self._state = "stopped"
        self._lingers = False
        if self._signals is not None:
            self._signals.leave_to_parent()

    def __enter__(self) -> Self:
        return self if self._state == "serving" else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop(0.0 if isinstance(error, KeyboardInterrupt) else DRAIN)

    # -- running ----------------------------------------------------------------------------------------------------

    def run(self, drain_timeout: float | None = DRAIN, *, drain_delay: float = 0.0) -> int:
        """Start, serve until SIGTERM or SIGINT (Ctrl-C), and stop; a second signal cuts at once.

        SIGHUP: `reload`; or stop, if it comes because the terminal is closed at which the program was started.

        From a thread other than the main one no signals are heard; `stop` ends it there. It also stops when nobody can
        come any more, for every listening socket was shut down, or closed, by somebody else. No log handler, stream or
        observer that blocks keeps it from ending in time.

        Args:
            drain_timeout: seconds, 0 or more, for what was begun; None: as long as it takes. See `stop`.
            drain_delay: seconds, 0 or more, between the signal and the stop, in which all is served as before, but
                `snapshot().state` is "leaving", and so a web server's readiness says no: for load balancers that go
                on sending clients until they see that. Another signal ends it.

        Returns:
            How many connections had to be cut.

        Raises:
            BindError: it has stopped because nobody could come any more.
            OSError: it has ended at once because a descriptor of its own was closed by somebody else (EBADF).
            As `start` and `stop`. What a signal handler of the program's own raises stops it, and is raised then.
        """
        return self._run(drain_timeout, drain_delay=drain_delay)

    def _run(
        self,
        drain_timeout: float | None,
        *,
        drain_delay: float = 0.0,
        lifeline: int | None = None,
        ends_pool: bool = False,
    ) -> int:
        """Run as the commands do.

        Args:
            drain_timeout, drain_delay: as of `run`.
            lifeline: the descriptor of a pipe whose other end the parent process holds. When that is gone, stop; while
                stopping, cut. A second signal then does not cut.
            ends_pool: whether the pool that it was given ends with it, and within its time, as one of its own does.
        """
        self._ends_pool = self._ends_pool or ends_pool
        seconds = _seconds(drain_timeout)
        self._delay = checks.duration("drain_delay", drain_delay)
        if threading.current_thread() is not threading.main_thread():
            return self._begin(seconds)._run_over()
        orphans = Orphans()
        with Signals(lifeline, children=orphans.ours) as self._signals:
            self._begin(seconds)
            obey = partial(self._obey, self._signals, seconds, lifeline, orphans)
            try:
                obey(stopping=False)
            except BaseException:  # of a signal handler of the program's own
                self._begin_to_stop(seconds)
                obey(stopping=True)
                self._wait()
                raise
            return self._run_over()

    def _obey(
        self,
        signals: Signals,
        drain_timeout: float,
        lifeline: int | None,
        orphans: Orphans,
        *,
        stopping: bool,
    ) -> None:
        """Do what signals order, and whatever else `run` does, until it is over."""
        while (left := self._time_left()) > 0:
            now, watch = clock.now(), self._watch
            if watch is not None and now >= self._look_at:
                self._look_at = inf
                self._teller.tell(partial(self._look, watch))
            if now >= self._leaves_at:
                self._leave_now(drain_timeout)
                stopping = True
            wait = min(left, self._leaves_at - now, inf if watch is None else self._look_at - now)
            try:
                number = signals.hear(None if wait == inf else min(max(0.0, wait), LONGEST))
            except OSError as error:
                if error.errno not in GONE or self._group is None:
                    raise
                self._group.lost(error)
                break
            # Whatever blocks is left to the teller: a signal is obeyed though nobody reads what is said of it.
            if number == CHILD:
                orphans.reap()
            elif number == HANGUP:
                self._teller.tell(self.reload)
            elif number in (LOST, HUNG_UP) or number in ORDERS:
                # With a parent, only it may cut, or end the delay: service managers send SIGTERM to the parent and to
                # us, and so does the parent, and these are not two orders.
                leaving = self._leaves_at < inf
                if leaving and lifeline is not None and number != LOST:
                    continue
                if not stopping and self._delay and number in ORDERS:
                    self._leaves_at, seconds, self._delay = now + self._delay, self._delay, 0.0
                    message = "%s: stopping in %g s (drain_delay); another signal stops at once"
                    self._teller.tell(partial(log, _log, logging.INFO, message, reason(number), seconds))
                    continue
                if not stopping and not (leaving and number == LOST):
                    self._leave_now(drain_timeout)
                    message = "%s: stopping; a second signal cuts at once"
                    self._teller.tell(partial(log, _log, logging.INFO, message, reason(number)))
                elif number == LOST or lifeline is None:
                    self._leave_now(0.0)
                stopping = True

    def _leave_now(self, drain_timeout: float) -> None:
        """Begin to stop, after the delay if there was one."""
        self._leaves_at = inf
        self._begin_to_stop(drain_timeout)

    def _begin(self, drain_timeout: float) -> Self:
        """Start, unless that was done and it still serves."""
        self._drain = drain_timeout
        if self._state not in ("serving", "stopping"):
            self._start()
            self._teller.tell(partial(log, _log, logging.INFO, *self._serving()))
        if self._lost:  # already
            self._begin_to_stop(drain_timeout)
        return self

    def _run_over(self) -> int:
        """Wait for the end of `run`; return what it does."""
        cut = self._wait()
        if self._broken is not None:
            what = "a descriptor of the server's own was closed by somebody else, as os.closerange does; start anew"
            raise OSError(errno.EBADF, what) from self._broken
        if self._lost:
            raise BindError(str(self), "it was shut down or closed by somebody else while it was served; start anew")
        return cut

    def _look(self, watch: Callable[[ServerSnapshot], float]) -> None:
        self._look_at = clock.now() + watch(self.snapshot())
        self._wake()

    def reload(self) -> None:
        """Ask `tls` for its context again, and have the protocol open its files anew, as an access log is.

        New handshakes use that context, connections that stand are not touched. If something fails, it is logged, and
        the old one stays in use.
        """
        again: Callable[[], object] | None = getattr(self.protocol, "reload", None)
        if again is not None:
            try:
                again()
            except Exception as error:
                log(_log, logging.ERROR, "the files of %s cannot be opened anew", self.protocol.name, error=error)
        if self._tls is None or isinstance(self._tls, ssl.SSLContext):
            what = "not used" if self._tls is None else "a context of your own"
            if again is None:
                log(_log, logging.INFO, "nothing to reload: tls is %s", what)
            return
        try:
            context = _context_from(self._tls)
        except OSError as error:  # ssl.SSLError is one; both name the file
            log(_log, logging.ERROR, "the certificates cannot be reloaded; the old ones stay in use: %s", error)
            return
        except Exception as error:
            log(_log, logging.ERROR, "the certificates cannot be reloaded; the old ones stay in use", error=error)
            return
        if self._group is not None:
            self._group.factory.context = context
        log(_log, logging.INFO, "the certificates are reloaded")

    # -- looking ----------------------------------------------------------------------------------------------------

    @property
    def address(self) -> Any:
        """Where the server listens, as the socket module gives it; if at several addresses, the first in `bind`.

        ("127.0.0.1", 5000); IPv6: ("::1", 5000, 0, 0); UNIX: a path, or, as bytes, an abstract name. `str(server)` says
        all of them in words: "127.0.0.1:5000, [::1]:5000, unix:/run/x".

        Raises:
            RuntimeError: it was not started.
        """
        if self._group is None:
            raise RuntimeError(f"the server has no address before start() has returned; it is {self._state}")
        return self._group.listeners[0].address

    @property
    def addresses(self) -> tuple[Any, ...]:
        """All the addresses where the server listens, each as `address`, in the order of `bind`; () before start()."""
        return () if self._group is None else tuple(listener.address for listener in self._group.listeners)

    def snapshot(self) -> ServerSnapshot:
        """Return what the server does at this instant."""
        state = "leaving" if self._state == "serving" and self._leaves_at < inf else self._state
        return snapshot_of(self.protocol.name, state, self._group, self._pool.snapshot())

    def __str__(self) -> str:
        where = self._bind if self._group is None else self._group.listeners
        return ", ".join(map(str, where))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.protocol!r} {self._state} on {self}>"


def usual_reserve(kinds: bool, max_workers: int | None) -> int:
    """Return how many threads slow messages leave to others, for each that leads, if nobody says so.

    Args:
        kinds: messages have kinds.
        max_workers: as of a Pool.
    """
    return int(kinds and (max_workers is None or max_workers >= ENOUGH * leaders_of(max_workers)))


def order_for(queue_timeout: float | None) -> OrderName | Callable[[], Order]:
    """Return the order of a pool whose messages may wait for so long: the newest first, once the queue stands."""
    if queue_timeout is None:
        return "fifo"
    patience = queue_timeout * PATIENT
    return partial(Adaptive, target=patience, interval=patience, shed_after=queue_timeout)


def _seconds(drain_timeout: float | None) -> float:
    seconds = checks.seconds("drain_timeout", drain_timeout)
    return inf if seconds is None else seconds


def _context_from(tls: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Return the context that `tls` makes; None, above all, must not be taken for "no TLS"."""
    context = tls()
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"tls={tls!r} returned {type(context).__name__}; allowed: an ssl.SSLContext")
    return _for_servers(context, tls)


def _for_servers(context: ssl.SSLContext, tls: object) -> ssl.SSLContext:
    """Return `context`, with which every handshake would fail if it were for clients, or made to check their names."""
    if context.protocol == ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError(
            f"tls={tls!r} makes a context for clients; make one with Certificates(certfile, keyfile), or "
            "ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)"
        )
    if context.check_hostname:
        raise ValueError(f"tls={tls!r} makes a context with check_hostname, which is for clients; set it to False")
    return context


def _check_folder(folder: str | os.PathLike[str] | None) -> None:
    """See that answers can be spooled to files there: raise ValueError if they cannot."""
    if folder is not None and not (os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)):
        raise ValueError(f"spool_folder={folder!r}; allowed: a folder that this process may write to, or None")
