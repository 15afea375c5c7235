"""Options: what tasks may be submitted with, and the view of a pool that has others than the pool's own."""

from __future__ import annotations

from collections.abc import (
    Callable,
    Hashable,
    Iterable,
    Iterator,
    MappingView,
    MutableMapping,
    MutableSequence,
    MutableSet,
)
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from treadle._base import checks, clock
from treadle._base.late import Late
from treadle._base.locks import locked
from treadle._base.words import is_a, show, type_name
from treadle._dispatch.worker import tasks_here
from treadle._pool.door import Door, Shut
from treadle._pool.mapping.job import Job
from treadle._pool.mapping.outcome import Outcome
from treadle._pool.mapping.results import MapIterator, OutcomeIterator, Results, read_ahead
from treadle._pool.mapping.submitted import Calls, FutureMap, FutureOutcomes
from treadle._pool.passage import pass_through, untouched
from treadle._pool.submit import BARE, POLICIES, Submitter, WhenFull, settings_of
from treadle._pool.wait import wait as wait_for
from treadle._tasks.contexts import taken
from treadle._tasks.future import Future, options_of
from treadle._tasks.options import PLAIN, TaskOptions
from treadle._tasks.rate import Rate, rate_of
from treadle._tasks.scope import Scope, current, within
from treadle.orders import Order

if TYPE_CHECKING:
    from types import TracebackType

    from treadle import Pool  # the public face: the two know each other
    from treadle._pool import aio
    from treadle._pool.submit import Settings

if not TYPE_CHECKING:
    aio = Late("treadle._pool.aio")

__all__ = ["PoolView", "begin_map", "options_for"]

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
I = TypeVar("I")  # noqa: E741  # of an item

MOST_URGENT = 1000
CHANGING = (MutableSequence, MutableSet, MutableMapping, MappingView)  # lists, sets, dicts, and what is like them


def options_for(order: Order, name: str | None, priority: int, key: Hashable) -> TaskOptions:
    """Return the options of tasks in a pool that keeps `order`.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or out of range, or `order` does not look at it.
    """
    if name is None and type(priority) is int and priority == 0 and key is None:
        return PLAIN
    priority = checks.integer("priority", priority, least=-MOST_URGENT, most=MOST_URGENT)
    try:
        hash(key)
    except Exception as error:
        why = show(error) if type(error) is not TypeError else error
        raise TypeError(f"key={show(key)} cannot be a key: {why}; allowed: a number, a string, a tuple") from None
    if priority != 0 and "priority" not in order.looks_at:
        raise _useless("priority", priority, order)
    if key is not None and "key" not in order.looks_at:
        raise _useless("key", key, order, "fair")
    return TaskOptions(None if name is None else checks.text("name", name), priority, key)


def _useless(argument: str, value: object, order: Order, its_order: str = "priority") -> ValueError:
    return ValueError(
        f"{argument}={show(value)} has no effect in a pool whose order is {type_name(order)}; "
        f"make it with Pool(order={its_order!r}), or with an order that has {argument!r} in its `looks_at`"
    )


def _as_it_is(iterable: Iterable[T]) -> Iterable[T]:
    """Return what a map reads: a copy of what may be changed after the call, for which that is too late."""
    changing = is_a(iterable, CHANGING)
    return tuple(iterable) if changing else iterable


class _Begun:
    """Gives the iterator of an iterable, which is asked for it once, and at once.

    Who reads a part of the input asks what it reads from for its iterator, and so does the next one. That of the user's
    may have none, or begin anew with each; `zip`, or `chain`, around this has, and goes on after an error.
    """

    def __init__(self, iterable: Iterable[Any]) -> None:
        self.iterator = iter(iterable)

    def __iter__(self) -> Iterator[Any]:
        return self.iterator


class PoolView(Submitter, Executor):
    """A pool, seen with other options for the tasks that are submitted through it; made by `Pool.options`.

    It is light, may be kept, and has the pool's threads and queue. It is a `concurrent.futures.Executor`, for whatever
    takes one: `loop.run_in_executor(pool.options(key=customer), work)`. All methods may be called from any thread.

    Such consumers end with `shutdown`, which is why a view has one of its own: it ends the view, and waits for the
    view's tasks; the pool, and its other views, go on.
    """

    __slots__ = (
        "_task_block_timeout",
        "_task_context",
        "_task_deadline",
        "_task_dispatcher",
        "_task_door",
        "_task_entrance",
        "_task_options",
        "_task_pool",
        "_task_rate",
        "_task_vetted",
        "_task_when_full",
    )

    def __init__(self, pool: Pool) -> None:
        if not (is_a(pool, ThreadPoolExecutor) and hasattr(pool, "_task_dispatcher")):
            raise TypeError(f"pool={show(pool)} is {type_name(pool)}; allowed: a treadle.Pool")
        self._set_up(pool, settings_of(pool))

    def _set_up(self, pool: Any, settings: Settings, deadline: float | None = None) -> None:
        self._task_pool = pool
        (
            self._task_dispatcher,
            self._task_entrance,
            self._task_context,
            self._task_when_full,
            self._task_block_timeout,
            options,
            self._task_rate,
        ) = settings
        self._task_options = options.copy()  # an object of its own, by which its tasks are found
        self._task_deadline = deadline  # seconds from the submission of a task
        self._task_door = Door(self._task_dispatcher)
        self._task_vetted = checks.Vetted()

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
    ) -> PoolView:
        """Return another view of the same pool, with these options in the place of this one's; as `Pool.options`.

        What is not given, or None, stays as it is here; but a `block_timeout` goes with the policy "block". A
        `deadline` or `block_timeout` of `math.inf` is none again. To shut one of the two views down is nothing to the
        other.

        Raises:
            TypeError, ValueError: as `Pool.options`.
        """
        policy = self._task_when_full if when_full is None else checks.one_of("when_full", when_full, POLICIES)
        patience = checks.seconds("block_timeout", block_timeout)
        if block_timeout is None and policy == "block":
            patience = self._task_block_timeout
        elif block_timeout is not None and policy != "block":
            raise ValueError(
                f"block_timeout={show(block_timeout)} has no effect where the policy is {policy!r}, which waits for no "
                "room; give when_full='block' with it, or leave it out"
            )
        allowed = self._task_deadline if deadline is None else checks.seconds("deadline", deadline)
        before = self._task_options
        options = options_for(
            self._task_dispatcher.order,
            before.name if name is None else name,
            before.priority if priority is None else priority,
            before.key if key is None else key,
        )
        rate = self._task_rate if rate is None else rate_of(rate)
        dispatcher, entrance, context = self._task_dispatcher, self._task_entrance, self._task_context
        view = object.__new__(PoolView if allowed is None else _Timed)
        view._set_up(self._task_pool, (dispatcher, entrance, context, policy, patience, options, rate), allowed)
        return view

    @property
    def pool(self) -> Pool:
        """The pool that this is a view of."""
        return cast("Pool", self._task_pool)

    @property
    def max_workers(self) -> int:
        """The pool's ceiling on threads."""
        return self._task_dispatcher.max_workers

    @property
    def closed(self) -> bool:
        """Whether the view takes no more tasks: it was shut down, or the pool takes none."""
        return self._task_door.closed or self._task_dispatcher.broken is not None

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
    ) -> Results[T]: ...
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
    ) -> Results[T]: ...
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
    ) -> Results[T]: ...
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
    ) -> Results[T]: ...
    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        ordered: bool = True,
    ) -> Results[T]:
        """As `Pool.map`, with the view's options; `timeout` is for all the results, as there.

        A `deadline` of the view's is each item's own, from when it is read and handed to the pool, as if it were
        submitted by itself: so the time that it waits there counts. Where more are read ahead than can be done in
        time, give a `buffersize`. An item that was late raises DeadlineExceeded, and the iteration goes on.
        """
        return self._map(fn, iterables, timeout, chunksize, buffersize, ordered, None)

    def _map(
        self,
        fn: Callable[..., T],
        iterables: tuple[Iterable[Any], ...],
        timeout: float | None,
        chunksize: int,
        buffersize: int | None,
        ordered: bool,
        submit: Callable[..., Any] | None,
        *,
        outcomes: bool = False,
    ) -> Results[Any]:
        """Check the arguments and begin, through `submit` if it is given; return results, or `outcomes`."""
        self._task_door.check_open()
        checks.blocking("fn", fn)
        pool = self._task_pool
        timeout = checks.time_left("timeout", timeout)
        chunksize = checks.integer("chunksize", chunksize, least=1)
        buffersize = checks.integer_or_none("buffersize", buffersize, least=1)
        ahead, eager = buffersize or read_ahead(self._task_dispatcher), buffersize is None
        ordered = checks.boolean("ordered", ordered)
        columns = [_Begun(_as_it_is(each) if eager else each) for each in iterables]
        rows: Iterator[tuple[Any, ...]] = zip(*columns, strict=False)
        if len(columns) > 1:  # once one has raised, rows would be paired wrongly; a generator ends then
            rows = (row for row in rows)
        context = taken() if self._task_context else BARE
        # A turn would run items as fast as it can, and under one deadline; and each call is to pass through what others
        # have put there.
        timed = self._task_rate is not None or self._task_deadline is not None
        if submit is None and (timed or not untouched(context=self._task_context)):
            submit = self.submit
        if submit is not None:
            if eager and self._task_when_full in ("reject", "discard_oldest"):  # or its own items would be in its way
                ahead = int(max(1, min(ahead, self._task_dispatcher.admission.limit)))
            calls = Calls(
                self._task_dispatcher,
                submit,
                fn,
                rows,
                ahead=ahead,
                eager=eager,
                context=context,
                options=self._task_options,
                outcomes=outcomes,
            )
            calls.door = self._task_door
            return (FutureOutcomes if outcomes else FutureMap)(calls, timeout=timeout, ordered=ordered)
        job = Job(
            self._task_dispatcher,
            fn,
            chain(columns[0]) if len(columns) == 1 else rows,
            spread=len(columns) != 1,
            ahead=ahead,
            eager=eager,
            chunksize=chunksize,
            ordered=ordered,
            context=context,
            enter=(self._task_when_full, self._task_block_timeout),
            options=self._task_options,
            outcomes=outcomes,
        )
        job.door = self._task_door
        return (OutcomeIterator if outcomes else MapIterator)(pool, job, timeout)

    def outcomes(
        self,
        fn: Callable[[I], T],
        iterable: Iterable[I],
        *,
        buffersize: int | None = None,
        ordered: bool = False,
    ) -> Results[Outcome[I, T]]:
        """As `Pool.outcomes`, with the view's options."""
        return self._map(fn, (iterable,), None, 1, buffersize, ordered, None, outcomes=True)

    async def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """As `Pool.run`, with the view's options."""
        self._task_door.check_open()
        checks.blocking("fn", fn)
        task = self._submit_later(fn, args, kwargs)
        outcome = aio.outcome(self._task_dispatcher, task, self._task_block_timeout)
        # The traceback of what the task raises holds this frame, and the task that. Nor is it to keep the pool.
        del self, task
        return await outcome

    def _submit_later(self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[T]:
        """Submit a call without blocking the event loop."""
        if not untouched(context=self._task_context):
            return pass_through(self._task_way(self._enter_later), fn, args, kwargs)  # type: ignore[no-any-return]
        task = self._task_made(fn, args, kwargs)
        self._enter_later(task)
        return task

    def _enter_later(self, task: Future[Any]) -> None:
        """Admit a task without blocking the event loop; where the policy is "caller_runs", it waits."""
        self._task_dispatcher.enter_later(task, self._task_when_full)

    # -- ending ---------------------------------------------------------------------------------------------------

    def shutdown(  # type: ignore[override]  # returns what is left, as Pool.shutdown
        self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None
    ) -> tuple[Future[Any], ...]:
        """Take no more tasks through this view, and wait for those that came through it. The pool goes on.

        So a view may be given to whoever shuts down the executor that it was given. It may be called again. Views
        that were made of this one are others. The input of the view's maps is dealt with as by `Pool.shutdown`.

        Args:
            wait: whether to wait until its tasks, and the items of its maps, are done. A task of the view that calls
                this does not wait, for it would wait for itself; one of the pool's runs what has not begun.
            cancel_futures: whether to cancel what has not begun of them.
            timeout: seconds to wait at most, none left if negative; None: as long as it takes.

        Returns:
            The futures of the view's tasks that were not done yet; empty when nothing is left. They go on. A task that
            another thread submits at this very moment, or runs itself ("caller_runs"), may be missed.

        Raises:
            TypeError, ValueError: `timeout` is of the wrong type, or out of range.
            DeadlineExceeded, Cancelled: the caller's deadline passed, or it was asked to stop, before they were done.
            PoolDeadlock: the wait could never end. In all three cases the view is shut.
        """
        timeout = checks.time_left("timeout", timeout)
        end = None if timeout is None else clock.now() + timeout
        wait = wait and not any(self._is_mine(task) for task in tasks_here())
        self._task_door.shut(cancel=cancel_futures)
        self._task_vetted = Shut(self._task_door)
        feeds = [feed for feed in self._task_dispatcher.inputs() if feed.door is self._task_door]
        if cancel_futures:
            for feed in feeds:
                feed.give_up()
            for task in self._undone():
                task.cancel()
        else:
            try:
                for feed in feeds:
                    feed.read_to_end(end, wait=wait)
            finally:
                for feed in feeds:
                    feed.leave()
        while wait and (tasks := self._undone()):
            left = None if end is None else max(0.0, end - clock.now())
            if wait_for(tasks, left).not_done:
                break
        return self._undone()

    def _undone(self) -> tuple[Future[Any], ...]:
        """Return the view's tasks that run, wait, or are about to be let in."""
        tasks = locked(self._task_dispatcher.lock, self._task_dispatcher.everything)
        return tuple(task for task in tasks if self._is_mine(task) and not task.done())

    def _is_mine(self, task: Future[Any]) -> bool:
        """Whether the task came through this view."""
        return options_of(task).belong_to(self._task_options)

    def __enter__(self) -> PoolView:
        """Return the view.

        Raises:
            PoolClosed: it was shut down, or the pool was.
        """
        if self.closed:
            raise self._task_door.refusal()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Shut the view down, and wait. After Ctrl-C: cancel what waits of it, and do not wait for what runs."""
        interrupted = issubclass(type(error), KeyboardInterrupt)
        self.shutdown(wait=not interrupted, cancel_futures=interrupted)

    # -- looking --------------------------------------------------------------------------------------------------

    @property
    def _max_workers(self) -> int:
        """What Dask, among others, looks at."""
        return self._task_dispatcher.workers.max_workers

    def __repr__(self) -> str:
        name, priority, key, _ = self._task_options
        return (
            f"<PoolView of {self._task_pool!r}: block_timeout={self._task_block_timeout}, "
            f"when_full={self._task_when_full!r}, name={name!r}, priority={priority}, key={show(key)}, "
            f"rate={self._task_rate}, deadline={self._task_deadline}{', closed' if self.closed else ''}>"
        )


class _Timed(PoolView):
    """A view whose tasks have a deadline."""

    __slots__ = ()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As `Pool.submit`, under the deadline."""
        if self._task_vetted.known() is not fn or fn is None:
            self._task_vetted.check("fn", fn)
        return self._submit_timed(self._task_enter, fn, args, kwargs)

    def _submit_later(self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[T]:
        return self._submit_timed(self._enter_later, fn, args, kwargs)

    def _submit_timed(
        self, enter: Callable[[Future[Any]], None], fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[T]:
        """Submit a call, whose task `enter` admits, under the deadline."""
        scope = Scope(current(), self._task_deadline)
        if not untouched(context=self._task_context):
            return within(scope, pass_through, self._task_way(enter), fn, args, kwargs)
        task = within(scope, self._task_made, fn, args, kwargs)
        try:
            within(scope, enter, task)
            return task
        except BaseException as error:  # Ctrl-C, perhaps, when it was in
            self._task_dispatcher.take_back(task, error)
            raise
        finally:
            del task  # as in `submit`


begin_map = PoolView._map
