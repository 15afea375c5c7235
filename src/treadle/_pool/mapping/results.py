"""map: the results of a function over items that are read as they are needed.

A future, a queue entry and two wake-ups for each item would cost ten times what the item itself costs here. Instead:

    consumer --reads ahead--> job.waiting --turn: a worker claims an item, runs it, stores what came of it--> consumer

The consumer (the thread that calls `map` and `next`) reads the input; where nobody takes results, others do (see
`feed`). A *turn* is a task of the pool that runs items of the job one after another. Whoever reads an item
submits a turn if there is none, and else offers the pool one more, up to one a thread, which it takes if it has room;
and so does each turn that has more than a chunk before it. So that a long map does not hold its threads against the
tasks behind it, a turn goes back to the end of the queue after each chunk if others wait. Turns are admitted, ordered
and bounded as all tasks are; one that is to read on when none is left is let in whether there is room or not, as one
that goes back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, TimeoutError
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from treadle._base import clock
from treadle._base.late import Late
from treadle._base.locks import defer
from treadle._base.words import note
from treadle._pool.mapping.job import NOT_YET, Failure, Item, Job
from treadle._pool.mapping.outcome import Outcome
from treadle._tasks.scope import HERE, checkpoint
from treadle._tasks.unretrieved import Unretrieved
from treadle.errors import TreadleError

if TYPE_CHECKING:
    import copy

    from treadle._dispatch.dispatcher import Dispatcher

if not TYPE_CHECKING:
    copy = Late("copy")

__all__ = ["MapIterator", "OutcomeIterator", "Results", "as_in_generator", "read_ahead"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

UNBOUNDED_AHEAD = 1000  # items read ahead in a pool whose queue has no ceiling; guess: as many as the default ceiling


class Results(Protocol[T_co]):
    """What `map` returns: an iterator that can be closed, for one thread at a time."""

    def __iter__(self) -> Results[T_co]:
        """Return itself."""

    def __next__(self) -> T_co:
        """Return the next result, or raise what its call raised."""

    def close(self) -> None:
        """Cancel what has not begun, and end the iteration. It may be called again."""


class MapIterator(Iterator[T], Generic[T]):
    """The results of `Pool.map`. For one thread at a time."""

    def __init__(self, pool: object, job: Job, timeout: float | None) -> None:
        self._pool = pool  # so that `for x in Pool().map(...)` keeps its pool, as long as there is input
        self._job = job
        self._ordered = job.ordered
        # Refilled by half, for a wake-up each item would cost more than the item; but never so late that a thread
        # idles.
        self._low = max(job.ahead // 2, min(job.ahead - 1, 2 * job.dispatcher.workers.max_workers))
        ends = [None if timeout is None else clock.now() + timeout, None if job.scope is None else job.scope.deadline]
        self._deadline = min((end for end in ends if end is not None), default=None)
        self._window = job.window
        self._taken = 0  # results that were taken when we last looked how many items were read;
        self._span = 0  # results to take until we look again,
        self._left = 0  # and those of them that are left
        if job.dispatcher not in HERE.reading:  # or it belongs to the input of a map that was accepted before
            job.dispatcher.check_open()
        self._read()
        job.stand_by()

    def __iter__(self) -> MapIterator[T]:
        return self

    def __next__(self) -> T:
        if not self._left:
            self._refill()
        if self._ordered:
            item = self._window[0]
            if item.value is NOT_YET:
                self._wait(item)
                return self.__next__()  # what a task raises that is run here leads to this frame: it is to hold nothing
            self._left -= 1  # before it is taken: Ctrl-C comes as a call returns
            self._window.popleft()
        else:
            if not self._job.results:
                self._wait(None)
                return self.__next__()
            self._left -= 1
            item = self._job.results.popleft()
        value, item.value = item.value, None  # the worker may hold the item for a while yet
        if type(value) is not Failure:
            return value  # type: ignore[no-any-return]  # cast() would be a call
        try:
            return self._failed(item, value)
        finally:
            value = None  # the traceback holds this frame: no cycle through it

    def _failed(self, item: Item, failure: Failure) -> T:
        """Raise what an item has raised, or why it did not run."""
        error = failure.error
        try:
            if type(error) is not Unretrieved:
                error = own_copy(cast(BaseException, error))
                note(error, f"in item {item.number} of map({self._job.name})")
            raise as_in_generator(error.see() if type(error) is Unretrieved else cast(BaseException, error))
        finally:
            del error, failure  # the traceback holds this frame: no cycle through it

    def close(self) -> None:
        """Cancel what has not begun, and end the iteration. It may be called again."""
        self._job.close()
        self._left = 0
        self._pool = None

    def _refill(self) -> None:
        """Read more of the input, as far as allowed, and count the results to take until the next time."""
        job = self._job
        if job.closed:
            raise StopIteration
        if not job.begun:
            job.begin()
        self._taken += self._span
        self._span = 0
        outstanding = self._read() - self._taken
        if not outstanding:
            failure = job.take_failure()
            self.close()
            try:
                raise StopIteration if failure is None else failure
            finally:
                del failure  # the traceback holds this frame: no cycle through it
        self._span = self._left = outstanding - (0 if job.rows is None else min(self._low, outstanding - 1))

    def _read(self) -> int:
        """Read items until as many as allowed are under way; return how many were read in all."""
        job = self._job
        try:
            count = job.read(self._taken + job.ahead, self._taken)
        except BaseException:  # it is refused; or Ctrl-C, which may have come between any two lines
            self.close()
            raise
        if job.rows is None:
            self._pool = None
        return count

    def _wait(self, item: Item | None) -> None:
        if not self._job.wait(item, self._deadline):
            self.close()
            checkpoint()
            if self._job.scope is not None:  # who takes the results may have left its block
                self._job.scope.check()
            raise TimeoutError("the results of map were not there in time; what had not begun was cancelled")

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # When Python is taken apart, pools are closed, and globals may be gone.
        job = getattr(self, "_job", None)
        if job is None or is_finalizing():
            return
        # One that nobody began was, as in the standard library, called for its effects.
        defer(job.close if job.begun else job.drop)

    def __repr__(self) -> str:
        return self._job.described("Results")


class OutcomeIterator(MapIterator[Outcome[Any, Any]]):
    """The outcomes of `Pool.outcomes`. For one thread at a time."""

    def _failed(self, item: Item, failure: Failure) -> Outcome[Any, Any]:
        error = failure.error
        seen = error.see() if type(error) is Unretrieved else own_copy(cast(BaseException, error))
        return Outcome(failure.argument, None, seen)

    def _wait(self, item: Item | None) -> None:
        """Wait as long as the caller may. Once the call's own deadline has passed, what has not begun fails for it."""
        job = self._job
        while not job.wait(item, self._deadline):
            try:
                checkpoint()  # the caller's own time is up
            except BaseException:
                self.close()
                raise
            error = None if job.scope is None else job.scope.over()
            if error is not None:
                self._deadline = None
                job.fail(error)

    def __repr__(self) -> str:
        return self._job.described("Outcomes")


def own_copy(error: BaseException) -> BaseException:
    """Return the error of treadle's that tells of one item, where the same tells of many; else the error itself.

    Each of them adds to its traceback when it is raised, and to its notes.
    """
    if not issubclass(type(error), (TreadleError, CancelledError)):
        return error
    twin = error.__copy__() if isinstance(error, TreadleError) else copy.copy(error)
    object.__setattr__(twin, "__cause__", error.__cause__)
    return twin


def as_in_generator(error: BaseException) -> BaseException:
    """Return what `next` is to raise for `error`: StopIteration would end the caller's loop as if all were done.

    Source: PEP 479; the standard library's `map` returns a generator.
    """
    if not issubclass(type(error), StopIteration):
        return error
    stopped = RuntimeError("generator raised StopIteration")
    stopped.__cause__ = error
    return stopped


def read_ahead(dispatcher: Dispatcher) -> int:
    """Return how many items are read ahead of the results taken, where the caller does not say."""
    queue_size = dispatcher.admission.queue_size
    return UNBOUNDED_AHEAD if queue_size is None else max(queue_size, 2 * dispatcher.workers.max_workers)
