"""map: the results of a function over items that are read as they are needed.

A future, a queue entry and two wake-ups for each item would cost ten times what the item itself costs here. Instead:

    consumer --reads ahead--> job.waiting --turn: a worker claims an item, runs it, stores what came of it--> consumer

The consumer (the thread that calls `map` and `next`) alone reads the input. A *turn* is a task of the pool that runs
items of the job one after another; there is one at first, and each one that begins and leaves items waiting offers
another to the pool, up to one a thread. So that a long map does not hold its threads against the tasks behind it, a
turn goes back to the end of the queue after each chunk if others wait. Turns are admitted, ordered and bounded as all
tasks are.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from treadle import clock
from treadle.calls import Unseen
from treadle.errors import PoolClosed
from treadle.job import NONE_YET, RETURNED, Item, Job
from treadle.scope import checkpoint

if TYPE_CHECKING:
    from treadle.dispatch import Dispatcher

__all__ = ["MapIterator", "Results", "read_ahead"]

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

    def __init__(
        self, pool: object, job: Job, rows: Iterator[tuple[Any, ...]], ahead: int, timeout: float | None
    ) -> None:
        self._pool = pool  # so that `for x in Pool().map(...)` keeps its pool, as long as there is input
        self._job = job
        self._ordered = job.ordered
        self._rows: Iterator[tuple[Any, ...]] | None = rows
        self._ahead = ahead
        # Refilled by half, for a wake-up each item would cost more than the item; but never so late that a thread
        # idles.
        self._low = max(ahead // 2, min(ahead - 1, 2 * job.dispatcher.staff.max_workers))
        ends = [None if timeout is None else clock.now() + timeout, None if job.scope is None else job.scope.deadline]
        self._deadline = min((end for end in ends if end is not None), default=None)
        self._window: deque[Item] = deque()  # read, not taken, in the order of the input
        self._outstanding = 0  # items read and not taken, when we last looked;
        self._span = 0  # results to take until we look again,
        self._left = 0  # and those of them that are left
        self._begun = False
        self._failure: BaseException | None = None  # what the input raised; raised after the results before it
        job.dispatcher.admission.check_open()
        self._read_ahead()

    def __iter__(self) -> MapIterator[T]:
        return self

    def __next__(self) -> T:
        if not self._left:
            self._refill()
        if self._ordered:
            item = self._window[0]
            if not item.outcome:
                self._wait(item)
            self._window.popleft()
        else:
            if not self._job.results:
                self._wait(None)
            item = self._job.results.popleft()
        self._left -= 1
        value, item.value = item.value, None  # the worker may hold the item for a while yet
        if item.outcome == RETURNED:
            return value  # type: ignore[no-any-return]  # cast() would be a call
        try:
            raise value.see() if isinstance(value, Unseen) else value
        finally:
            value = None  # the traceback holds this frame: no cycle through it

    def close(self) -> None:
        """Cancel what has not begun, and end the iteration. It may be called again."""
        self._begun = False
        self._job.close()
        self._window.clear()
        self._outstanding = self._span = self._left = 0
        self._rows = self._pool = self._failure = None

    def _refill(self) -> None:
        """Read more of the input, as far as allowed, and count the results to take until the next time."""
        self._begun = True  # and False again when it is closed
        self._outstanding -= self._span
        self._span = 0
        if self._rows is not None:
            self._read_ahead()
        if not self._outstanding:
            failure = self._failure
            self.close()
            raise StopIteration if failure is None else failure
        self._span = self._left = self._outstanding - (
            0 if self._rows is None else min(self._low, self._outstanding - 1)
        )

    def _read_ahead(self) -> None:
        """Read items until as many as allowed are under way."""
        job, window, rows = self._job, self._window, cast("Iterator[tuple[Any, ...]]", self._rows)
        waiting, ordered, observed = job.waiting, job.ordered, job.observed
        wanted = job.dispatcher.staff.max_workers  # turns; no more are offered once the pool had no room for one
        try:
            if job.dispatcher.closed is not None:
                raise PoolClosed(job.dispatcher.name, job.dispatcher.closed)
            for row in islice(rows, self._ahead - self._outstanding):
                item = Item()
                item.args = row
                item.outcome = NONE_YET
                self._outstanding += 1
                if ordered:
                    window.append(item)
                if observed:
                    item.args = (item, *row)
                    job.dispatcher.announce("submitted", cast(Any, item), name=job.name)
                waiting.append(item)
                if job.turns < wanted:
                    if job.turns == 0:
                        self._begin_turn()
                    elif not job.offer_turn():
                        wanted = 1
                        if job.turns == 0:  # the last of the others was dropped meanwhile, and left the items to ours
                            self._begin_turn()
        except Exception as error:
            if not self._begun and self._outstanding <= 1:  # the first item was refused, or there was none
                raise
            self._rows = self._pool = None
            self._failure = error
        except BaseException:  # Ctrl-C, which may have come between any two lines
            self.close()
            raise
        if self._outstanding < self._ahead:
            self._rows = self._pool = None

    def _begin_turn(self) -> None:
        """Submit a turn. If it is refused, so is the map at its start; later, the items raise it that it was to run."""
        try:
            self._job.begin_turn()
        except Exception:
            if not self._begun and self._outstanding <= 1:
                raise

    def _wait(self, item: Item | None) -> None:
        if not self._job.wait(item, self._deadline):
            self.close()
            checkpoint()
            if self._job.scope is not None:  # who takes the results may have left its block
                self._job.scope.check()
            raise TimeoutError("the results of map were not there in time; what had not begun was cancelled")

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # One that nobody iterated over was, as in the standard library, called for its effects. And when Python is
        # taken apart, pools are closed, and globals may be gone.
        if getattr(self, "_begun", False) and not is_finalizing():
            self._job.close()


def read_ahead(dispatcher: Dispatcher) -> int:
    """Return how many items are read ahead of the results taken, where the caller does not say."""
    queue_size = dispatcher.queue_size
    return UNBOUNDED_AHEAD if queue_size is None else max(queue_size, 2 * dispatcher.staff.max_workers)
