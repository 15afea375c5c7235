"""Feed: the input of one map, and who reads it.

A map without a `buffersize` is to run every item, as in the standard library, whether anybody takes the results or not;
and while somebody does, it is to hold no more of them than the pool may hold tasks. So its input changes hands:

    map() reads a first window -> the consumer, who has begun to take results, reads as they are taken
                               -> a worker, if nobody has begun after PATIENCE seconds, until somebody does
                               -> whoever closes the pool, as soon as it is closed; a worker reads what is left then

A consumer nearly always begins at once, in the thread that called `map`, and the input may be bound to that thread, as
a database's cursor is; so a worker does not come in between. Where a `buffersize` was given, the consumer reads alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import CancelledError
from itertools import islice, takewhile
from threading import RLock
from typing import TYPE_CHECKING, Any, cast

from treadle._base import clock
from treadle._base.locks import is_held
from treadle._base.timer import TIMERS, TimerHandle
from treadle._base.words import counted, traceback_of
from treadle._dispatch import deadlock
from treadle._dispatch.worker import current_worker
from treadle._pool.door import Door
from treadle._tasks.scope import HERE
from treadle._tasks.unretrieved import Unretrieved
from treadle.errors import WorkerLost

if TYPE_CHECKING:
    from contextvars import Context

    from treadle._dispatch.dispatcher import Dispatcher
    from treadle._tasks.call import NoContext
    from treadle._tasks.scope import Scope

__all__ = ["Feed"]

PATIENCE = 0.1  # seconds in which a consumer may begin; a guess: long for a thread that goes on, short for who waits


class _Others:
    """Who reads beside the consumer: workers, once nobody has come for the results in time, or the pool was closed."""

    __slots__ = ("context", "late", "left", "timer")

    def __init__(self) -> None:
        self.context: Context | NoContext | None = None  # which they read in, once one has
        self.late = False  # nobody had begun to take results after PATIENCE
        self.left = False  # the pool was closed before all was read
        self.timer: TimerHandle | None = None  # until then

    def cancel_timer(self) -> None:
        """Do not wait for the consumer any longer: it has come, or nobody need read."""
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()


class Feed(ABC):
    """The rows that a map is still to read. A map adds to it what becomes of a row.

    One thread at a time reads: it holds `reading`, and no other lock, for the input is the user's. What the pool's
    lock does not guard is safe because each side first writes and then looks: a consumer that begins writes `begun`,
    and then reads; a worker, once it holds `reading`, looks whether that was written.
    """

    __slots__ = (
        "ahead",
        "begun",
        "closed",
        "context",
        "count",
        "dispatcher",
        "door",
        "dropped",
        "eager",
        "errand",
        "failure",
        "fresh",
        "inherited",
        "name",
        "others",
        "reading",
        "rows",
        "scope",
    )

    def __init__(
        self,
        dispatcher: Dispatcher,
        rows: Iterator[Any],
        *,
        name: str,
        ahead: int,
        eager: bool,
        context: Context | NoContext,
        scope: Scope | None,
    ) -> None:
        self.dispatcher = dispatcher
        self.door = Door(dispatcher)  # of the view that map was called on, which sets its own
        self.name = name  # of the function
        self.ahead = ahead  # how many rows may be read and not taken as results, while these are taken
        self.eager = eager  # whether every item is to run, also if nobody takes results
        self.context = context  # in which map was called
        self.scope = scope  # whose end is the map's, too
        self.errand = deadlock.Errand(f"the input of map({name})")  # of whoever reads
        self.reading = RLock()  # held by whoever reads; it guards the next five
        self.rows: Iterator[Any] | None = rows  # None once there is nothing more to read
        self.count = 0  # rows read so far
        self.failure: Unretrieved | BaseException | None = None  # of the input; raised after the results before it
        self.others = _Others()
        self.fresh = True  # map() has not returned
        self.begun = False  # somebody takes results
        self.dropped = False  # nobody ever will
        self.closed = False  # the map is over
        self.inherited = False  # in a forked child: map() was called in the parent, which runs every item

    def described(self, what: str) -> str:
        """Return the repr of `what` is iterated over to get what became of the rows."""
        closed = ", closed" if self.closed else ""
        return f"<{what} of map({self.name}): {counted(self.count, 'item')} read{closed}>"

    # -- what a map does with the rows ----------------------------------------------------------------------------

    @abstractmethod
    def take(self, rows: Iterator[Any], *, consuming: bool) -> None:
        """Read the rows, hand each to the pool, and then count it; `reading` is held. `consuming`: the consumer reads.

        It raises what the input raises, and that the first row of a new map was refused.
        """

    @abstractmethod
    def carry_on(self) -> None:
        """Have a worker call `read_on` soon, whether the pool has room or not: the map was accepted."""

    @abstractmethod
    def room(self) -> int:
        """Return how many rows may be read now by others than the consumer; `reading` is held."""

    @abstractmethod
    def wait_for_room(self, timeout: float | None) -> bool:
        """Wait until there is some; False if `timeout` seconds passed first. Nothing is held: others may read."""

    # -- the consumer ---------------------------------------------------------------------------------------------

    def read(self, upto: int, taken: int) -> int:
        """Read, for the consumer, until there were `upto` rows in all; return how many there were.

        If somebody else reads now, it waits for that only if all results were taken: the other may wait for a task
        that waits for the consumer.

        Raises:
            PoolDeadlock: the other could never end.
        """
        reading = self.reading
        try:
            turn = reading.acquire(False) or (self.count == taken and self._wait_to_read(reading, None))
            if turn and self.rows is not None:
                over = self.door.dropping or (self.door.closed and not self.eager)
                if over and not self.fresh:  # a new map is refused as its first item is, if there is one
                    self._refuse_rest(self.rows)
                else:
                    self._read(max(0, upto - self.count), consuming=True)
            return self.count
        finally:
            if is_held(reading):
                reading.release()

    def stand_by(self) -> None:
        """See that what is left is read, for map() returns."""
        self.fresh = False
        if self.rows is None or not self.eager:
            return
        self.dispatcher.add_input(self)
        if self.door.closed:  # and who closed it did not know of this map
            self.leave()
            return
        try:
            self.others.timer = TIMERS.call_at(clock.now() + PATIENCE, self._nobody_came)
        except RuntimeError:  # can't start new thread
            self._nobody_came()

    def begin(self) -> None:
        """Note that the results are taken."""
        self.begun = True
        self.others.cancel_timer()

    def drop(self) -> None:
        """Note that nobody will take results. Every item runs nevertheless."""
        self.dropped = True

    def end(self) -> None:
        """Read nothing more."""
        self.rows = None
        self.dispatcher.forget_input(self)
        self.others.cancel_timer()

    def take_failure(self) -> BaseException | None:
        """Return what the input raised, to whoever deals with it; from now on it is not lost any more."""
        failure, self.failure = self.failure, None
        return failure.see() if type(failure) is Unretrieved else cast("BaseException | None", failure)

    def close(self) -> None:
        """End the map; whoever reads at this moment sees it when that is done."""
        self.closed = True
        self.end()
        self.take_failure()  # the consumer does not want to know

    # -- the others -----------------------------------------------------------------------------------------------

    def is_left(self) -> bool:
        """Whether a worker is to read."""
        return self.others.left or (self.others.late and not self.begun)

    def leave(self) -> None:
        """Have the workers read what is left, for the pool was closed."""
        self.others.cancel_timer()
        if not self.others.left:
            self.others.left = True
            self.carry_on()

    def carry_on_if_left(self) -> None:
        """As `carry_on`, if there is anything left to the workers."""
        if self.is_left() and self.rows is not None and not self.is_over():
            self.carry_on()

    def read_on(self) -> bool:
        """Read some rows in a worker; False if there is nothing to read for it, or another thread does that now."""
        reading = self.reading
        if not self.is_left() or is_held(reading):
            return False
        try:
            if not reading.acquire(False) or self.rows is None or not self.is_left():
                return False
            if self.is_over():
                self.give_up()
                return False
            self._read_inside(final=self.others.left)
        except BaseException as error:  # a worker outlives whatever it runs
            self._fail(error)
        finally:
            if is_held(reading):
                reading.release()
        return True

    def read_to_end(self, deadline: float | None, *, wait: bool) -> None:
        """Read all that is left, in the thread that closes the pool, as far as it comes until `deadline`, on the clock.

        If somebody else reads now, `wait` for that, or leave it alone.

        Raises:
            PoolDeadlock: the other could never end.
        """
        reading = self.reading
        if is_held(reading):  # it is the input that closes the pool
            return
        left = None
        while True:
            if deadline is not None:
                left = max(0.0, deadline - clock.now())
            try:
                if not (self._wait_to_read(reading, left) if wait else reading.acquire(False)):
                    return
                if self.rows is None or self.is_over():
                    return
                if left != 0:
                    self._read_inside()
            finally:
                if is_held(reading):
                    reading.release()
            if left == 0 or not self.wait_for_room(left if wait else 0):
                break
        self.carry_on_if_left()  # a worker that came meanwhile has left it to us

    def give_up(self) -> None:
        """Have nobody but the consumer read any more: what is read would not run."""
        if self.dropped:
            self.end()
            return
        self.dispatcher.forget_input(self)
        self.others.cancel_timer()

    def forget_readers(self) -> None:
        """In a forked child, leave the input to the parent; a consumer may go on here, unless a thread was reading it.

        That stayed in the parent, in the middle of the input. One that has forked there is this one, and sees.
        """
        self.inherited = True
        if is_held(self.reading):
            return
        if not self.reading.acquire(False):
            self.rows = None
            self.failure = WorkerLost(None, f"map({self.name})", "the process forked")
        self.reading = RLock()

    def _nobody_came(self) -> None:
        self.others.late = True
        self.carry_on_if_left()

    def is_over(self) -> bool:
        """Whether what is read would not run."""
        return (
            self.inherited
            or self.door.dropping
            or self.dispatcher.broken is not None
            or (self.scope is not None and self.scope.over() is not None)
        )

    def _wait_to_read(self, reading: RLock, timeout: float | None) -> bool:
        """Take `reading` when nobody else reads any more; False if `timeout` seconds passed first."""
        return deadlock.wait(reading, current_worker(), lambda: [self.errand], timeout)

    # -- reading; `reading` is held -------------------------------------------------------------------------------

    def _read_inside(self, *, final: bool = True) -> None:
        """Read as much as there is room for, in the context of who called map."""
        others = self.others
        if others.context is None:
            others.context = self.context.copy()
        others.context.run(lambda: self._read(self.room(), consuming=False, final=final))

    def _read(self, most: int, *, consuming: bool, final: bool = True) -> None:
        """Read `most` rows, if there are as many. What the input raises ends that; if not `final`, for this thread."""
        before, rows = self.count, self.rows
        outer = HERE.reading
        if self.eager and not self.fresh:
            HERE.reading = (*outer, self.dispatcher, self.door)
        try:
            window: Iterator[Any] = islice(() if rows is None else rows, most)
            if not consuming:
                window = takewhile(lambda _: not self.inherited, window)  # the input may fork
            with self.errand:
                self.take(window, consuming=consuming)
        except BaseException as error:
            # Ctrl-C is the program's; whatever else the input raises is for the consumer.
            kind = type(error)
            mere = issubclass(kind, Exception) or not (consuming or issubclass(kind, KeyboardInterrupt))
            if not mere or (self.fresh and self.count == 0):  # the first row was refused, or there was none
                raise
            self._fail(error, final=final)
        else:
            if self.count > before:  # it was not the input that failed, but the thread
                self.take_failure()
            if self.count - before < most:
                self.end()
        finally:
            HERE.reading = outer

    def _fail(self, error: BaseException, *, final: bool = True) -> None:
        """Read nothing more, for the input, or the pool, raised `error`.

        If it is not `final`, another thread tries again: the input may be bound to the one that called map, as a
        database's cursor is. If there is nothing more for that either, the error stands.
        """
        # Without the frames of ours, which hold the map, and with it the error.
        trace = traceback_of(error)
        below = trace and trace.tb_next
        BaseException.with_traceback(error, below and below.tb_next)
        self.take_failure()
        cancelled = issubclass(type(error), CancelledError)  # which is nothing to be logged
        self.failure = error if cancelled else Unretrieved(f"reading the input of map({self.name})", error)
        if final:
            self.end()
        else:
            self.others.late = False

    def _refuse_rest(self, rows: Iterator[Any]) -> None:
        """Find out whether there is anything left to read; if so, it is too late for that."""
        try:
            with self.errand:
                left = next(rows, self) is not self
            if left:
                self.failure = CancelledError() if self.door.dropping else self.door.refusal()
        except Exception as error:
            self.failure = error
        self.end()
