"""Pool: a bounded number of threads, and a bounded number of tasks that wait for them."""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import copy_context
from functools import partial
from threading import Semaphore, Thread
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from treadle._base import checks, clock
from treadle._base.late import Late, import_whole
from treadle._base.locks import defer, locked
from treadle._base.threads import check_unpatched
from treadle._base.words import is_a, show, type_name
from treadle._dispatch import lifecycle
from treadle._dispatch.dispatcher import Dispatcher
from treadle._dispatch.work import work
from treadle._dispatch.worker import ThreadSetup
from treadle._pool.passage import ShutdownLock, looks_open
from treadle._pool.submit import POLICIES, Submitter, WhenFull
from treadle._tasks.future import Future
from treadle._tasks.options import PLAIN
from treadle._tasks.rate import Rate, rate_of
from treadle.errors import PoolClosed
from treadle.orders import Order, OrderName
from treadle.orders._named import order_named

if TYPE_CHECKING:
    from types import TracebackType

    from treadle import events
    from treadle._base import limit as limits
    from treadle._pool import aio, snapshot, view, work_queue
    from treadle._pool.mapping import outcome, results
    from treadle._tasks import observers as watching
else:  # what a feature needs is imported where that begins, or where the hints of its types are asked for
    aio, snapshot, view = Late("treadle._pool.aio"), Late("treadle._pool.snapshot"), Late("treadle._pool.view")
    work_queue, watching = Late("treadle._pool.work_queue"), Late("treadle._tasks.observers")
    outcome, results = Late("treadle._pool.mapping.outcome"), Late("treadle._pool.mapping.results")
    events, limits = Late("treadle.events"), Late("treadle._base.limit")

__all__ = ["Pool"]

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
I = TypeVar("I")  # noqa: E741  # of an item
Self = TypeVar("Self", bound="Pool")

# What the methods need. A signal handler, or a finalizer, that calls one in the midst of its import would find half of
# it: so it comes with the first pool, and not with the first call.
METHODS = ("treadle._pool.view", "treadle._pool.snapshot")

_numbers = itertools.count()

if TYPE_CHECKING:
    told = property
else:

    class told(property):  # it is used as `property` is
        """What a pool tells. A subclass may have an attribute of its own of that name: the standard pool has none."""

        def __get__(self, pool: Any, owner: Any = None) -> Any:
            own = () if pool is None else vars(pool)
            name = self.fget.__name__
            return own[name] if name in own else super().__get__(pool, owner)

        def __set__(self, pool: Any, value: object) -> None:
            if type(pool) is Pool:
                super().__set__(pool, value)  # raises
            vars(pool)[self.fget.__name__] = value


class Pool(Submitter, ThreadPoolExecutor):
    """Run calls on at most `max_workers` threads, with at most `queue_size` of them waiting.

    A drop-in `concurrent.futures.ThreadPoolExecutor`: it is one by name, so that asyncio and others accept it, and
    shares none of its machinery. All methods may be called from any thread. A task may use its own pool: one that
    submits to its full pool, or asks for the result of a task that has not begun, runs that task itself, so even a pool
    of one thread cannot wait for itself.

    Args:
        max_workers: the ceiling on threads, 1 or more. None: processors + 4, at most 32, as in the standard library.
        thread_name_prefix: threads are called `<prefix>_<n>`. Empty, or None: see `name`.
        initializer: called in each new thread with `initargs`; if it raises, the pool is broken. The context variables
            that it sets, decimal's and numpy's settings among them, hold for the tasks of its thread: see `context`.
        initargs: its arguments; None: none.
        queue_size: the ceiling on tasks that wait because no thread is free, 0 or more. 0: a task is taken only if a
            thread is free for it. None: no ceiling.
        when_full: what `submit` does at that ceiling. "block": blocks until there is room (not for callers that hold a
            lock which tasks or their callbacks need). "reject": raises PoolFull. "caller_runs": runs the task in the
            calling thread. "discard_oldest": drops the task that has waited longest, which fails
            with Shed.
        order: in which order waiting tasks run: "fifo", "priority", "fair", "adaptive", or an object (see
            `treadle.orders`).
        limit: a ceiling on tasks that run at once which finds itself, below `max_workers`; see
            `treadle.ConcurrencyLimit`. None: `max_workers` is the ceiling.
        rate: how many tasks may begin in so many seconds: a `treadle.Rate`, which pools and views may share. None: no
            limit.
        min_workers: threads that are started at once and stay when idle, 0 to `max_workers`.
        idle_timeout: seconds, 0 or more, after which a thread without work ends. None: never.
        thread_lifespan: called in each new thread, after `initializer`; returns a context manager, which is entered
            there, and left in the same thread when that ends, for whatever reason: where each thread opens a connection
            of its own, say, and closes it. If it raises before or when it is entered, the pool is broken; when it is
            left, that is logged. Context variables that it sets hold as those of `initializer`. Until it is left, the
            thread counts as one of the `max_workers`, and `shutdown` waits for it. After Ctrl-C, and in a forked child,
            threads' lifespans may not be left.
        context: whether a task runs in a copy of its submitter's `contextvars` context, as it is at `submit`. Variables
            that are not set there are as `initializer` has set them in the thread; a decimal context that equals
            `decimal.DefaultContext` counts as not set. Values are shared, as everywhere with `contextvars`, but for
            those that the standard library changes in place: its own decimal context each task has, and its own filters
            of `warnings` where Python keeps them in the context. False: a task runs in its thread's own context, which
            tasks share, as in the standard library's pool.
        name: what errors, logs and snapshots call the pool; its threads are called `<name>-<n>`.
            None: `thread_name_prefix`, else `ThreadPoolExecutor-<number>`, as in the standard library.
        observers: told what happens to each task (see `treadle.events.Observer`).

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or out of range.
        RuntimeError: `min_workers` threads cannot be started.
        PatchedTooLate: threads have become greenlets since treadle was imported.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str | None = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] | None = (),
        *,
        queue_size: int | None = 1000,
        when_full: WhenFull = "block",
        order: OrderName | Order = "fifo",
        limit: limits.ConcurrencyLimit | None = None,
        rate: Rate | None = None,
        min_workers: int = 0,
        idle_timeout: float | None = 60.0,
        thread_lifespan: Callable[[], AbstractContextManager[object]] | None = None,
        context: bool = True,
        name: str | None = None,
        observers: Iterable[events.Observer] = (),
    ) -> None:
        # ThreadPoolExecutor.__init__ is not called: nothing of its machinery is used.
        check_unpatched()
        for module in METHODS:
            import_whole(module)
        if max_workers is None:
            max_workers = min(32, (os.cpu_count() or 1) + 4)
        thread_name_prefix = checks.text("thread_name_prefix", "" if thread_name_prefix is None else thread_name_prefix)
        if name is None:
            name = thread_name_prefix or f"ThreadPoolExecutor-{next(_numbers)}"
            prefix = f"{name}_"
        else:
            prefix = f"{thread_name_prefix}_" if thread_name_prefix else f"{checks.text('name', name)}-"
        if initializer is not None:
            checks.blocking("initializer", initializer)
        if thread_lifespan is not None:
            checks.factory("thread_lifespan", thread_lifespan)
        self._task_when_full = checks.one_of("when_full", when_full, POLICIES)
        self._task_context = checks.boolean("context", context)
        max_workers = checks.integer("max_workers", max_workers, least=1)
        min_workers = checks.integer("min_workers", min_workers, least=0)
        if min_workers > max_workers:
            raise ValueError(
                f"min_workers={min_workers} is more than max_workers={max_workers}; allowed: 0 to {max_workers}"
            )
        if limit is not None and not is_a(limit, limits.ConcurrencyLimit):
            raise TypeError(f"limit={show(limit)} is {type_name(limit)}; allowed: a treadle.ConcurrencyLimit, or None")
        gradient = None if limit is None else limits.gradient_of(limit)
        if gradient is not None:
            gradient.check_free(max_workers)
        self._task_block_timeout, self._task_options, self._task_rate = None, PLAIN, rate_of(rate)
        self._task_vetted = checks.Vetted()
        given = () if initargs is None else initargs
        setup = ThreadSetup(
            work,
            prefix,
            checks.seconds("idle_timeout", idle_timeout),
            initializer,
            checks.several("initargs", given, "an iterable of arguments, as in ('app.db', 30)"),
            thread_lifespan,
        )
        self._task_dispatcher = Dispatcher(
            name=name,
            setup=setup,
            min_workers=min_workers,
            queue_size=checks.integer_or_none("queue_size", queue_size, least=0),
            observers=() if type(observers) is tuple and not observers else watching.observers_in(observers),
            limit=gradient,
            # Last: they are taken from now on, and any argument above may be wrong.
            order=order_named(order),
            max_workers=max_workers if gradient is None else gradient.serve(max_workers),
        )
        self._task_entrance = self._task_dispatcher.entrance
        # Called by the standard library's `submit` (see `passage`); set here, because subclasses override it to
        # start threads of their own.
        self._adjust_thread_count = lambda: None  # type: ignore[method-assign]
        self._task_dispatcher.pool = weakref.ref(self)
        lifecycle.register(self._task_dispatcher)
        # A pool that is dropped without shutdown() runs what it accepted, and its threads end.
        weakref.finalize(self, defer, self._task_dispatcher.drop).atexit = False
        self._task_dispatcher.warm_up()

    # -- running calls --------------------------------------------------------------------------------------------

    @overload  # type: ignore[override]  # of the standard library's, which takes anything
    def map(
        self,
        fn: Callable[[A], T],
        iterable: Iterable[A],
        /,
        *,
        timeout: float | None = ...,
        chunksize: int = ...,
        buffersize: int | None = ...,
        ordered: bool = ...,
    ) -> results.Results[T]: ...
    @overload
    def map(
        self,
        fn: Callable[[A, B], T],
        iterable: Iterable[A],
        iterable2: Iterable[B],
        /,
        *,
        timeout: float | None = ...,
        chunksize: int = ...,
        buffersize: int | None = ...,
        ordered: bool = ...,
    ) -> results.Results[T]: ...
    @overload
    def map(
        self,
        fn: Callable[[A, B, C], T],
        iterable: Iterable[A],
        iterable2: Iterable[B],
        iterable3: Iterable[C],
        /,
        *,
        timeout: float | None = ...,
        chunksize: int = ...,
        buffersize: int | None = ...,
        ordered: bool = ...,
    ) -> results.Results[T]: ...
    @overload
    def map(
        self,
        fn: Callable[..., T],
        iterable: Iterable[Any],
        iterable2: Iterable[Any],
        iterable3: Iterable[Any],
        iterable4: Iterable[Any],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = ...,
        chunksize: int = ...,
        buffersize: int | None = ...,
        ordered: bool = ...,
    ) -> results.Results[T]: ...
    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        ordered: bool = True,
    ) -> results.Results[T]:
        """Return an iterator over `fn(*items)` for the items of `iterables`, taken together as `zip` does.

        The input is read in the thread that calls `map` and then `next`, and so far ahead of the results taken as
        `buffersize` says. An item that raises does so where its result is taken, with a note that says which item it
        was, and the iteration goes on. Closing the iterator, or dropping it once `next` was called, cancels what has
        not begun.

        Without a `buffersize` every item runs, as in the standard library, whether or not, and whenever, results are
        taken: if `next` is not called soon, a worker reads on until it is, and results are kept, or thrown away if the
        iterator was dropped; and `shutdown`, the end of a `with` block, and the interpreter when it exits, read the
        rest. So endless input is fine in a loop that takes the results, and is closed when it ends; dropped, or when
        the pool is shut down, such a map never ends. With a `buffersize` nothing is read but for the results taken.

        Args:
            fn: called with one item of each iterable.
            iterables: the input; give a `buffersize` if it may be endless.
            timeout: seconds from now in which every result must be there; less than 0 is as 0; None: no limit.
            chunksize: how many items a thread runs before it looks whether other tasks wait for it, 1 or more.
            buffersize: how many items may be read and not yet taken as results, 1 or more. None: while results are
                taken, as many as may wait in the pool (`queue_size`), but at least two a thread.
            ordered: whether results come in the order of the input, or as they are ready.

        Returns:
            An iterator with a `close` method. It is for one thread at a time.

        Raises:
            TypeError, ValueError: an argument is of the wrong type, or out of range.
            PoolFull, PoolClosed, PoolBroken: as `submit`.

        `next` raises TimeoutError when `timeout` has passed, what `fn` or an iterable raised (RuntimeError for
        StopIteration of `fn`, see PEP 479), Shed for an item that the pool dropped, CancelledError for one that it did
        not run, or not read, because it was shut down with `cancel_futures`, and PoolClosed for what a map with a
        `buffersize` had not read at a shutdown. What an iterable raises while nobody holds the iterator is logged.
        """
        submit = self._task_submit()
        return view.begin_map(view.PoolView(self), fn, iterables, timeout, chunksize, buffersize, ordered, submit)

    def outcomes(
        self,
        fn: Callable[[I], T],
        iterable: Iterable[I],
        *,
        buffersize: int | None = None,
        ordered: bool = False,
    ) -> results.Results[outcome.Outcome[I, T]]:
        """Return an iterator over what comes of `fn(item)` for each item: as `map`, but no item's error is raised.

        Each item has one Outcome, with the item, and what `fn` returned for it, or raised, or why it was not called: it
        was shed, or refused, its deadline had passed, or the pool was closed with `cancel_futures`.

        Args:
            fn: called with one item.
            iterable: the input; give a `buffersize` if it may be endless.
            buffersize: how many items may be read and not yet taken as outcomes, 1 or more. None: as for `map`.
            ordered: whether outcomes come in the order of the input, or as they are ready.

        Returns:
            An iterator with a `close` method. It is for one thread at a time. Dropping and closing it is as for `map`.

        Raises:
            TypeError, ValueError: an argument is of the wrong type, or out of range.
            PoolFull, PoolClosed, PoolBroken: as `submit`.

        `next` raises what `iterable` raised, once the outcomes before are taken, DeadlineExceeded or Cancelled if the
        caller itself should stop, and PoolClosed or CancelledError for what was not read at a shutdown, as for `map`.
        """
        submit = self._task_submit()
        return view.begin_map(view.PoolView(self), fn, (iterable,), None, 1, buffersize, ordered, submit, outcomes=True)

    def _task_submit(self) -> Callable[..., Any] | None:
        """Return `submit` if somebody has replaced it: each call passes through it, as in the standard library."""
        replaced = type(self).submit is not Submitter.submit or "submit" in vars(self)
        return self.submit if replaced else None

    async def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn(*args, **kwargs)` on a thread of the pool, and await its result.

        Waiting for room never blocks the event loop; so where the policy is "caller_runs", which would, it waits.
        Cancelling the await cancels the task if it has not begun, and asks it to stop if it runs (see
        `treadle.should_stop`).

        Raises:
            asyncio.CancelledError: the await was cancelled, and for no other reason.
            Shed: the pool dropped the task, for another one, or because it had waited too long.
            PoolClosed: the pool was closed before the task began, or was there.
            concurrent.futures.CancelledError: the task's future was cancelled, by whoever found it, say, in what
                `shutdown` returned. It is no asyncio.CancelledError.
            RuntimeError: `fn` raised StopIteration, which no coroutine may raise (PEP 479), or asyncio.CancelledError.
            And as `submit`, and whatever else `fn` raises.
        """
        call = view.PoolView(self).run(fn, *args, **kwargs)
        self = None  # type: ignore[assignment]  # a traceback that is kept would hold the pool through this frame
        return await call

    def options(
        self,
        *,
        priority: int | None = None,
        key: Hashable = None,
        rate: Rate | None = None,
        deadline: float | None = None,
        block_timeout: float | None = None,
        when_full: WhenFull | None = None,
        name: str | None = None,
    ) -> view.PoolView:
        """Return a view of this pool whose tasks are submitted with other options; light, and with the same threads.

        Args:
            priority: how urgent they are, -1000 to 1000, higher first; for orders that look at it, as "priority" does.
                None: 0.
            key: whose they are, such as a customer's number, any hashable value; for orders that look at it, as
                "fair" does.
            rate: how many of them may begin in so many seconds: a `treadle.Rate`, which is made once, and shared by all
                views that are given it; None: the pool's.
            deadline: seconds, 0 or more, that each of them has from its submission, as if that stood in a `with
                treadle.deadline(...)` block; of this one and others around it the nearer one holds. None: none of its
                own.
            block_timeout: seconds, 0 or more, to wait for room; then PoolFull is raised. Only where the policy is
                "block". None: no limit.
            when_full: the policy, see the class; None: the pool's.
            name: what logs and snapshots call the tasks; None: the name of their function.

        Returns:
            An executor with `submit`, `map`, `run`, and `options` for more of them.

        Raises:
            TypeError, ValueError: an argument is of the wrong type, or out of range, or has no effect: the pool's order
                does not look at it, or the policy never waits.
        """
        return view.PoolView(self).options(
            priority=priority,
            key=key,
            rate=rate,
            deadline=deadline,
            block_timeout=block_timeout,
            when_full=when_full,
            name=name,
        )

    def resize(self, max_workers: int) -> None:
        """Change the ceiling on threads while the pool runs.

        Threads beyond it end as soon as they are free; those that are missing start when tasks wait. In a pool with a
        `limit` it is the upper bound of that. May be called from any thread, tasks included.

        Args:
            max_workers: the new ceiling, 1 or more, and no less than `min_workers`.

        Raises:
            TypeError, ValueError: it is of the wrong type, or out of range.
        """
        max_workers = checks.integer("max_workers", max_workers, least=1)
        least = self._task_dispatcher.workers.min_workers
        if max_workers < least:
            raise ValueError(f"max_workers={max_workers} is less than min_workers={least}")
        self._task_dispatcher.resize(max_workers)

    # -- ending ---------------------------------------------------------------------------------------------------

    def shutdown(  # type: ignore[override]  # returns what is left
        self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None
    ) -> tuple[Future[Any], ...]:
        """Take no more tasks, and end the threads when what was accepted is done. It may be called again.

        Unless `cancel_futures`, the input of maps of which every item is to run (see `map`) is read to its end, in this
        thread; what is left of it after `timeout` is read by the workers.

        Args:
            wait: whether to wait until the threads have ended. A task of the pool that calls this does not wait, for it
                would wait for itself.
            cancel_futures: whether to cancel what has not begun.
            timeout: seconds to wait at most, none left if negative; None: as long as it takes. What is left then goes
                on, and is logged.

        Returns:
            The futures of tasks that were not done yet; empty when nothing is left. Callers that were waiting for room
            get PoolClosed.

        Raises:
            TypeError, ValueError: `timeout` is of the wrong type, or out of range.
            PoolDeadlock: a task of another pool calls this, and one of this pool waits for that very task. The pool is
                closed.
        """
        timeout = checks.time_left("timeout", timeout)
        deadline = None if timeout is None else clock.now() + timeout
        dispatcher = self._task_dispatcher
        wait = wait and not dispatcher.is_inside()
        dispatcher.close("shutdown", cancel=cancel_futures)
        try:
            dispatcher.read_maps(deadline, wait=wait)
        finally:
            dispatcher.leave_maps()
        left = None if deadline is None else max(0.0, deadline - clock.now())
        if wait and not lifecycle.join(dispatcher, left):
            snapshot.report_undone(dispatcher, cast(float, timeout))
        if dispatcher.broken is not None:  # meanwhile, and who is to tell of it may not have come to that
            dispatcher.break_down()
        return snapshot.undone(dispatcher)

    async def aclose(self, *, cancel_futures: bool = False, timeout: float | None = None) -> tuple[Future[Any], ...]:
        """As `shutdown`, for coroutines: wait until what was accepted is done, without blocking the event loop.

        Cancelling the await ends only that: the pool takes no more tasks, and goes on with those that it has.

        Args:
            cancel_futures: whether to cancel what has not begun.
            timeout: seconds to wait at most, none left if negative; None: as long as it takes. What is left then goes
                on, and is logged.

        Returns:
            As `shutdown`. A task of the pool that awaits this does not wait, for it would wait for itself.

        Raises:
            TypeError, ValueError: `timeout` is of the wrong type, or out of range.
            RuntimeError: no thread can be started to wait in; the pool is not closed.
        """
        timeout = checks.time_left("timeout", timeout)
        # The thread that waits is none of the pool's; and what nobody asks for, a subclass's `shutdown` need not take.
        asked: dict[str, Any] = {"wait": not self._task_dispatcher.is_inside()}
        if cancel_futures:
            asked["cancel_futures"] = cancel_futures
        if timeout is not None:
            asked["timeout"] = timeout
        close = partial(copy_context().run, self.shutdown, **asked)
        return await aio.call(close, f"{self._task_dispatcher.name}-aclose")

    async def __aenter__(self: Self) -> Self:
        """As `__enter__`."""
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Drain without blocking the event loop, also if the block was cancelled. Cancelled again: leave it draining.

        After KeyboardInterrupt, as `__exit__`.
        """
        if isinstance(error, KeyboardInterrupt):
            self.__exit__(kind, error, traceback)  # waits for nothing
        else:
            await self.aclose()

    def __enter__(self: Self) -> Self:
        """Return the pool.

        Raises:
            PoolClosed: it was shut down.
        """
        if self._task_dispatcher.closed is not None:
            raise PoolClosed(self._task_dispatcher.name, self._task_dispatcher.closed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Drain. After Ctrl-C, in the block or while draining: cancel what waits, and do not wait for what runs."""
        try:
            if not issubclass(type(error), KeyboardInterrupt):
                self.shutdown(wait=True)  # spelled out, as in the standard library: a subclass may have another default
        except KeyboardInterrupt:
            self._task_dispatcher.abandon()
            raise
        if issubclass(type(error), KeyboardInterrupt):
            self._task_dispatcher.abandon()

    # -- looking --------------------------------------------------------------------------------------------------

    @told
    def name(self) -> str:
        """What errors, logs and snapshots call the pool."""
        return self._task_dispatcher.name

    @told
    def max_workers(self) -> int:
        """The ceiling on threads, as it was given, or set by `resize`; what a `limit` has found is that's `current`."""
        return self._task_dispatcher.max_workers

    @told
    def closed(self) -> bool:
        """Whether the pool takes no more tasks: it was shut down, or is broken, or Python is exiting."""
        return self._task_dispatcher.closed is not None or self._task_dispatcher.broken is not None

    def snapshot(self) -> events.PoolSnapshot:
        """Return what the pool does at this instant."""
        return snapshot.snapshot_of(self._task_dispatcher)

    def stacks(self) -> str:
        """Return, as text to print or log, what each thread runs at this instant: task, seconds, and its stack.

        For finding out what a pool is stuck in.
        """
        return snapshot.stacks_of(self._task_dispatcher)

    def __repr__(self) -> str:
        now = snapshot.snapshot_of(self._task_dispatcher)
        state = ", broken" if self._task_dispatcher.broken is not None else ", closed" if now.closed else ""
        return f"<Pool {now.name!r}: {now.busy}/{now.max_workers} threads busy, {now.waiting} waiting{state}>"

    # -- for those who look into a ThreadPoolExecutor -------------------------------------------------------------

    # They are made when they are read. What has an effect when it is set in the standard library's has the same here.

    @property
    def _threads(self) -> set[Thread]:  # type: ignore[override]  # read-only here
        threads, _ = locked(self._task_dispatcher.lock, self._task_dispatcher.workers.threads)
        return set(threads)

    @property
    def _broken(self) -> str | bool:  # type: ignore[override]  # read-only here
        broken = self._task_dispatcher.broken
        return False if broken is None or looks_open(self._task_dispatcher) else str(broken)

    if not TYPE_CHECKING:  # to type checkers they are the attributes that the base class has

        @property
        def _max_workers(self) -> int:
            return self._task_dispatcher.workers.max_workers

        @_max_workers.setter
        def _max_workers(self, max_workers: int) -> None:
            Pool.resize(self, max_workers)

        @property
        def _shutdown(self) -> bool:
            return self._task_dispatcher.closed is not None and not looks_open(self._task_dispatcher)

        @_shutdown.setter
        def _shutdown(self, shutdown: bool) -> None:
            if shutdown:
                self._task_dispatcher.close("shutdown", cancel=False)
                self._task_dispatcher.leave_maps()
            elif self._shutdown:
                raise AttributeError(f"pool {self._task_dispatcher.name!r} is closed and stays so; make a new Pool")

        @property
        def _thread_name_prefix(self) -> str:
            return self._task_dispatcher.setup.prefix[:-1]  # without what stands before the number

        @_thread_name_prefix.setter
        def _thread_name_prefix(self, prefix: str) -> None:
            self._task_dispatcher.setup.prefix = f"{prefix}_"

        @property
        def _initializer(self) -> Callable[..., object] | None:
            return self._task_dispatcher.setup.initializer

        @_initializer.setter
        def _initializer(self, initializer: Callable[..., object] | None) -> None:
            if initializer is not None:
                checks.blocking("initializer", initializer)
            self._task_dispatcher.setup.initializer = initializer

        @property
        def _initargs(self) -> tuple[Any, ...]:
            return self._task_dispatcher.setup.initargs

        @_initargs.setter
        def _initargs(self, initargs: tuple[Any, ...]) -> None:
            self._task_dispatcher.setup.initargs = initargs

        @property
        def _work_queue(self) -> work_queue.WorkQueue:
            return work_queue.WorkQueue(self._task_way())

        @_work_queue.setter
        def _work_queue(self, queue: object) -> None:
            raise AttributeError(
                f"the queue of a Pool cannot be replaced, here by {queue!r}; "
                "make it with Pool(queue_size=...) for another ceiling, or Pool(order=...) for another order"
            )

        @property
        def _idle_semaphore(self) -> Semaphore:
            return Semaphore(len(self._task_entrance.idle))  # its value is what others ask for

        @property
        def _shutdown_lock(self) -> ShutdownLock:
            return ShutdownLock(self._task_way())

        @property
        def _task_pool(self) -> Pool:
            return self  # as a view has it

    @staticmethod
    def _resolve_work_item_task(fn: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
        """What the standard library's `submit` puts into an item since Python 3.14."""
        return fn, args, kwargs
