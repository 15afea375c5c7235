"""Options: a view of a pool whose tasks are submitted with other options than the pool's own."""

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
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from treadle import _aio as aio
from treadle import _checks as checks
from treadle._contexts import taken
from treadle._futuremap import Calls, FutureMap
from treadle._futures import Future
from treadle._job import Job
from treadle._mapping import MapIterator, Results, read_ahead
from treadle._passage import pass_through, untouched
from treadle._rate import Rate
from treadle._submitter import BARE, Submitter
from treadle._traits import PLAIN, Traits
from treadle._words import is_a, show, type_name
from treadle.orders import Order

if TYPE_CHECKING:
    from treadle._pool import Pool

__all__ = ["Options", "rate_of", "traits_for"]

P = ParamSpec("P")
T = TypeVar("T")

MOST_URGENT = 1000
CHANGING = (MutableSequence, MutableSet, MutableMapping, MappingView)  # lists, sets, dicts, and what is like them


def traits_for(order: Order, name: str | None, priority: int, key: Hashable) -> Traits:
    """Return the traits of tasks in a pool that keeps `order`.

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
    return Traits(None if name is None else checks.text("name", name), priority, key)


def rate_of(rate: Rate | None) -> Rate | None:
    """Return `rate`, if it is one; a number is none, for each view would have a bucket of its own, and limit nothing.

    Raises:
        TypeError: it is neither that nor None.
    """
    if rate is None or is_a(rate, Rate):
        return rate
    example = f"Rate({show(rate)})" if is_a(rate, (int, float)) else "Rate(2)"
    raise TypeError(
        f"rate={show(rate)} is {type_name(rate)}; allowed: a treadle.Rate, which is made once and shared by all "
        f"that are to keep to it, as in {example}; or None"
    )


def _useless(argument: str, value: object, order: Order, its_order: str = "priority") -> ValueError:
    return ValueError(
        f"{argument}={show(value)} has no effect in a pool whose order is {type_name(order)}; "
        f"make it with Pool(order={its_order!r}), or with an order that has {argument!r} in its `looks_at`"
    )


def _as_it_is(iterable: Iterable[T]) -> Iterable[T]:
    """Return what a map reads: a copy of what may be changed after the call, for which that is too late."""
    changing = is_a(iterable, CHANGING)
    return tuple(iterable) if changing else iterable


class Options(Submitter):
    """A view of a pool whose tasks are submitted with other options; made by `Pool.options`."""

    __slots__ = (
        "_task_block_timeout",
        "_task_context",
        "_task_home",
        "_task_pool",
        "_task_rate",
        "_task_traits",
        "_task_vetted",
        "_task_when_full",
    )

    def __init__(
        self, pool: Pool, *, block_timeout: float | None, when_full: str, traits: Traits, rate: Rate | None
    ) -> None:
        self._task_pool = pool
        self._task_home = pool._task_home
        self._task_context = pool._task_context
        self._task_block_timeout = block_timeout
        self._task_when_full = when_full
        self._task_traits = traits
        self._task_rate = rate
        self._task_vetted = checks.Vetted()

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        ordered: bool = True,
    ) -> Results[T]:
        """As `Pool.map`, with the view's options; `timeout` here is the results', the view's is for room."""
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
    ) -> Results[T]:
        """Check the arguments and begin, through `submit` if it is given."""
        checks.blocking("fn", fn)
        pool = self._task_pool
        timeout = checks.time_left("timeout", timeout)
        chunksize = checks.integer("chunksize", chunksize, least=1)
        buffersize = checks.integer_or_none("buffersize", buffersize, least=1)
        ahead, eager = buffersize or read_ahead(self._task_home), buffersize is None
        ordered = checks.boolean("ordered", ordered)
        rows: Iterator[tuple[Any, ...]] = zip(*(_as_it_is(each) if eager else each for each in iterables), strict=False)
        if len(iterables) > 1:  # once one has raised, rows would be paired wrongly; a generator ends then
            rows = (row for row in rows)
        context = taken() if self._task_context else BARE
        # A turn would run items as fast as it can; and each call is to pass through what others have put there.
        if submit is None and (self._task_rate is not None or not untouched(context=self._task_context)):
            submit = self.submit
        if submit is not None:
            if eager and self._task_when_full in ("reject", "discard_oldest"):  # or its own items would be in its way
                ahead = max(1, min(ahead, self._task_home.admission.limit))
            calls = Calls(
                self._task_home, submit, fn, rows, ahead=ahead, eager=eager, context=context, traits=self._task_traits
            )
            return FutureMap(calls, timeout=timeout, ordered=ordered)
        job = Job(
            self._task_home,
            fn,
            rows,
            ahead=ahead,
            eager=eager,
            chunksize=chunksize,
            ordered=ordered,
            context=context,
            enter=(self._task_when_full, self._task_block_timeout),
            traits=self._task_traits,
        )
        return MapIterator(pool, job, timeout)

    async def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """As `Pool.run`, with the view's options."""
        checks.blocking("fn", fn)
        if untouched(context=self._task_context):
            task = self._task_made(fn, args, kwargs)
            self._enter_later(task)
        else:
            task = pass_through(self, fn, args, kwargs, self._enter_later)
        outcome = aio.outcome(self._task_home, task, self._task_block_timeout)
        # The traceback of what the task raises holds this frame, and the task that. Nor is it to keep the pool.
        del self, task
        return await outcome

    def _enter_later(self, task: Future[Any]) -> None:
        """Admit a task without blocking the event loop; where the policy is "caller_runs", it waits."""
        self._task_home.admission.enter_later(task, self._task_when_full)

    def __repr__(self) -> str:
        name, priority, key = self._task_traits
        return (
            f"<Options of {self._task_pool!r}: block_timeout={self._task_block_timeout}, "
            f"when_full={self._task_when_full!r}, name={name!r}, priority={priority}, key={show(key)}, "
            f"rate={self._task_rate}>"
        )
