"""map through `submit`, with a future for each item: for pools whose `submit` somebody has replaced.

The standard library's `map` calls `submit`, and others build on that: a subclass that wraps each call, a progress bar
that sets `pool.submit`. They get what they expect; who leaves `submit` alone gets the faster `results`.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, TimeoutError
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from treadle._base import clock
from treadle._base.locks import defer
from treadle._base.words import note
from treadle._pool.mapping.feed import Feed
from treadle._pool.mapping.outcome import Outcome, outcome_of
from treadle._pool.mapping.results import as_in_generator
from treadle._pool.wait import wait
from treadle._tasks import future as ours
from treadle._tasks.call import NoContext, name_of
from treadle._tasks.future import RUNNING
from treadle._tasks.scoped import new_task, scope_around
from treadle.errors import Cancelled, DeadlineExceeded

if TYPE_CHECKING:
    from contextvars import Context

    from treadle._dispatch.dispatcher import Dispatcher
    from treadle._tasks.options import TaskOptions
    from treadle._tasks.scope import Scope

__all__ = ["Calls", "FutureMap", "FutureOutcomes"]

T = TypeVar("T")

BARE = NoContext()

Row = tuple[Any, ...]


class Calls(Feed):
    """The calls of one map, and who submits them."""

    __slots__ = ("fn", "futures", "keeps", "lock", "mark", "numbered", "options", "pending", "submit")

    def __init__(
        self,
        dispatcher: Dispatcher,
        submit: Callable[..., Future[Any]],
        fn: Callable[..., Any],
        rows: Iterator[Row],
        *,
        ahead: int,
        eager: bool,
        context: Context | NoContext,
        options: TaskOptions,
        outcomes: bool = False,
    ) -> None:
        name, scope = options.name or name_of(fn), scope_around(context)
        super().__init__(dispatcher, rows, name=name, ahead=ahead, eager=eager, context=context, scope=scope)
        self.submit: Callable[..., Future[Any]] | None = submit  # a pool's, until there is no more input
        self.fn = fn
        self.options = options  # of the task that reads
        self.lock = Lock()  # for the next, whose methods are not all atomic
        self.futures: deque[Future[Any]] = deque()  # whose results are not taken, and will be
        self.keeps = outcomes
        self.numbered: deque[tuple[int, Any]] = deque()  # of each its number in the input; and its item, if it is kept
        # Who reads guards these, and only others than the consumer use them.
        self.pending: deque[Future[Any]] | None = None  # those that were not done when we last looked
        self.mark: Future[Any] | None = None  # the middle one of them

    def take(self, rows: Iterator[Row], *, consuming: bool) -> None:
        """Submit a call for each of the rows."""
        submit = self.submit
        if submit is None:
            return
        if consuming:
            self.pending = None
        for row in rows:
            try:
                future = submit(self.fn, *row)
            except Exception as error:
                if self.fresh and self.count == 0 and not self.is_late(error):
                    raise
                if self.door.dropping:
                    raise CancelledError from None
                if self.door.closed:
                    raise
                future = ours.Future()
                future.set_exception(error)
            if not self.dropped:
                with self.lock:
                    self.futures.append(future)
                    self.numbered.append((self.count, row[0] if self.keeps else None))
            self.count += 1
            if self.pending is not None:
                self.pending.append(future)
            if self.closed:  # meanwhile
                future.cancel()
        self.mark = self.pending[len(self.pending) // 2] if self.pending else None

    def is_late(self, error: Exception) -> bool:
        """Whether a call was refused for its own deadline, and not for that under which the map was called."""
        return issubclass(type(error), DeadlineExceeded) and (self.scope is None or self.scope.over() is None)

    def room(self) -> int:
        """Return how many calls may be submitted before one of those that were is done."""
        before = self.untaken() if self.pending is None else self.pending
        self.pending = deque(future for future in before if not future.done())
        if self.dropped:
            with self.lock:
                dropped = [*self.futures], [*self.numbered]  # to be let go of with no lock held: they are the user's
                self.futures.clear()
                self.numbered.clear()
            del dropped
        return max(0, self.ahead - len(self.pending))

    def wait_for_room(self, timeout: float | None) -> bool:
        """Wait until half of the calls are done that were not when they were looked at last."""
        mark = self.mark
        if mark is not None and not mark.done():
            with suppress(Cancelled, DeadlineExceeded):  # the caller is to wait no longer
                wait([mark], timeout)
        return mark is None or mark.done()

    def untaken(self) -> list[Future[Any]]:
        """Return the calls whose results are not taken, in the order of the input."""
        with self.lock:
            return list(self.futures)

    def taken(self, future: Future[Any]) -> tuple[int, Any]:
        """Note that the result of `future` is taken; return its number in the input, and its item if that is kept."""
        with self.lock:
            place = self.futures.index(future)
            del self.futures[place]
            entry = self.numbered[place]
            del self.numbered[place]
            return entry

    def carry_on(self) -> None:
        """Have a worker read on."""
        dispatcher = self.dispatcher
        reader = cast(Reader, new_task(dispatcher, self.fn, (), BARE, self.options, Reader))
        reader.calls = self
        reader._state = RUNNING  # to others, until it is admitted
        reader.add_done_callback(self.reader_done)
        with suppress(Exception):  # a pool that has no thread runs nothing else either
            dispatcher.carry_on(reader)

    def carry_on_later(self) -> None:
        """Have a worker read on when half of the calls are done that were submitted before the last look."""
        if self.mark is None:
            self.carry_on_if_left()
        else:
            self.mark.add_done_callback(lambda _: self.carry_on_if_left())

    def reader_done(self, reader: Future[Any]) -> None:
        """A reader was settled; if it was dropped, there has to be another."""
        if reader.cancelled() or reader.exception() is not None:
            self.carry_on_if_left()

    def end(self) -> None:
        """Read nothing more."""
        super().end()
        self.submit = None

    def forget_readers(self) -> None:
        """In a forked child; one of them may have held our lock."""
        super().forget_readers()
        self.lock = Lock()

    def close(self) -> None:
        """Cancel what has not begun."""
        super().close()
        while self.futures:
            with suppress(AttributeError):  # a `submit` that was replaced may return what is no future
                self.futures.pop().cancel()
        self.numbered.clear()


class Reader(ours.InternalTask):
    """A task that submits some calls of a map to which nobody else attends."""

    __slots__ = ("calls",)

    calls: Calls

    @property
    def name(self) -> str:
        """The name of the map's function."""
        return self.calls.name

    def _invoke(self) -> bool:
        self._result = self._exception = None
        try:
            if self.calls.read_on():
                self.calls.carry_on_later()
        finally:
            self._context = None
        return False

    def _inherited(self) -> Scope | None:
        return self.calls.scope


class FutureMap(Iterator[T], Generic[T]):
    """The results of calls that are submitted as they are needed. For one thread at a time."""

    def __init__(self, calls: Calls, *, timeout: float | None, ordered: bool) -> None:
        self._calls = calls
        self._deadline = None if timeout is None else clock.now() + timeout
        self._ordered = ordered
        self._taken = 0
        self._read()
        calls.stand_by()

    def __iter__(self) -> FutureMap[T]:
        return self

    def __next__(self) -> T:
        calls = self._calls
        if calls.closed:
            raise StopIteration
        if not calls.begun:
            calls.begin()
        if self._read() == self._taken:
            failure = calls.take_failure()
            self.close()
            try:
                raise StopIteration if failure is None else failure
            finally:
                del failure  # the traceback holds this frame: no cycle through it
        future = self._next_done()
        number, item = calls.taken(future)
        self._taken += 1
        try:
            return self._outcome_of(future, number, item)
        finally:
            del future  # the traceback holds this frame: no cycle through it

    def _outcome_of(self, future: Future[T], number: int, item: Any) -> T:
        """Return what a call returned, or raise what it raised."""
        try:
            return future.result()
        except BaseException as error:
            if not future.cancelled() and future.exception() is error:
                note(error, f"in item {number} of map({self._calls.name})")
            if not issubclass(type(error), StopIteration):
                raise
            raise as_in_generator(error) from error
        finally:
            del future  # the traceback holds this frame: no cycle through it

    def close(self) -> None:
        """Cancel what has not begun, and end the iteration. It may be called again."""
        self._calls.close()

    def _read(self) -> int:
        """Submit calls until as many as allowed are under way; return how many there were in all."""
        try:
            return self._calls.read(self._taken + self._calls.ahead, self._taken)
        except BaseException:  # it is refused; or Ctrl-C
            self.close()
            raise

    def _next_done(self) -> Future[T]:
        """Return the future whose result is next; in order that is the first, or else any that is done."""
        futures = self._calls.futures
        candidates = [futures[0]] if self._ordered else self._calls.untaken()
        for future in candidates:
            if future.done():
                return future
        left = None if self._deadline is None else max(0.0, self._deadline - clock.now())
        try:
            done = wait(candidates, left, FIRST_COMPLETED).done
        except BaseException:  # it should stop
            self.close()
            raise
        if not done:
            self.close()
            raise TimeoutError("the results of map were not there in time; what had not begun was cancelled")
        return next(future for future in candidates if future in done)

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # When Python is taken apart, pools are closed, and globals may be gone.
        calls = getattr(self, "_calls", None)
        if calls is None or is_finalizing():
            return
        # One that nobody began was, as in the standard library, called for its effects.
        defer(calls.close if calls.begun else calls.drop)

    def __repr__(self) -> str:
        return self._calls.described("Results")


class FutureOutcomes(FutureMap[Outcome[Any, Any]]):
    """The outcomes of calls that are submitted as they are needed. For one thread at a time."""

    def _outcome_of(self, future: Future[Any], number: int, item: Any) -> Outcome[Any, Any]:
        return outcome_of(item, future)

    def __repr__(self) -> str:
        return self._calls.described("Outcomes")
