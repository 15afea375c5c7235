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

from _thread import allocate_lock
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, TimeoutError
from contextlib import suppress
from itertools import islice
from threading import RLock
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from treadle import clock, deadlock
from treadle.errors import PoolClosed
from treadle.futures import Bare, Future, name_of
from treadle.worker import current_worker

if TYPE_CHECKING:
    from _thread import LockType
    from contextvars import Context

    from treadle.dispatch import Dispatcher

__all__ = ["MapIterator", "start_map"]

T = TypeVar("T")

BARE = Bare()
UNBOUNDED_AHEAD = 1000  # items read ahead in a pool whose queue has no ceiling; guess: as many as the default ceiling


class _Item:
    """One call of the function: first its arguments, then what came of it. It is its own state, so no lock guards it."""

    __slots__ = ("_rare", "args", "outcome", "value")
    _silent = False  # observers are told of it
    _get_rare = Future._get_rare

    args: tuple[Any, ...] | None
    outcome: int  # NONE_YET, RETURNED or RAISED; written after `value`
    value: Any  # what was returned or raised
    _rare: Any


NONE_YET, RETURNED, RAISED = 0, 1, 2

_new = object.__new__


class Turn(Future[Any]):
    """A task that runs items of a job, one after another."""

    __slots__ = ("item", "job")
    _silent = True  # observers are told of its items instead

    job: Job
    item: _Item | None  # that it runs

    @property
    def name(self) -> str:
        """The name of the job's function."""
        return self.job.name

    def _invoke(self) -> bool:
        self._result = self._exception = None
        return self.job.work(self)

    def _forget_call(self) -> None:
        pass


class Job:
    """What the consumer and the turns of one map share.

    Items are claimed by `waiting.popleft()`, which is atomic, and belong to whoever got them. Two questions have no
    common lock, and are safe because each side first writes and then looks, so at least one of them sees the other (an
    attribute or deque is locked while it is written, also without the GIL, and that is a memory barrier):
    the consumer appends an item, then looks at `turns`; a turn that ends lowers `turns`, then looks at `waiting`;
    the consumer sets `gate`, then looks at the item; a worker writes the outcome, then looks at `gate`.
    """

    __slots__ = (
        "awaited",
        "chunksize",
        "context",
        "dispatcher",
        "fn",
        "gate",
        "live",
        "lock",
        "name",
        "ordered",
        "policy",
        "results",
        "running",
        "timeout",
        "turns",
        "waiting",
    )

    def __init__(
        self,
        dispatcher: Dispatcher,
        fn: Callable[..., Any],
        *,
        chunksize: int,
        ordered: bool,
        context: Context | Bare,
        enter: tuple[str, float | None],
        name: str | None,
    ) -> None:
        self.dispatcher = dispatcher
        self.fn = fn
        self.chunksize = chunksize
        self.ordered = ordered
        self.context = context
        self.policy, self.timeout = enter
        self.name = name or name_of(fn)
        self.waiting: deque[_Item] = deque()  # read, not claimed
        self.results: deque[_Item] = deque()  # done, not taken; stays empty if the results are ordered
        self.lock = RLock()  # guards what follows
        self.turns = 0  # that are queued or running
        self.running = 0  # of them, running
        self.live: set[Turn] = set()  # the same, themselves
        self.gate: LockType | None = None  # the consumer sleeps here,
        self.awaited: _Item | None = None  # for this item, or, if None, for any

    # -- the consumer's side --------------------------------------------------------------------------------------

    def begin_turn(self) -> None:
        """Submit a turn by the pool's policy; it may block, run here, or be refused, and then so are the items."""
        turn = self.new_turn()
        try:
            self.dispatcher.enter(turn, self.policy, self.timeout)
        except BaseException as error:
            self.turn_over(turn, error)
            raise

    def new_turn(self) -> Turn:
        """Return a turn that has not been submitted."""
        turn = cast(Turn, self.dispatcher.new_task(self.fn, (), BARE, None, Turn))
        turn.job, turn.item = self, None
        turn.add_done_callback(self.turn_done)
        with self.lock:
            self.turns += 1
            self.live.add(turn)
        return turn

    def ready(self, item: _Item | None) -> bool:
        """Whether what the consumer waits for is there."""
        return bool(self.results) if item is None else item.outcome != NONE_YET

    def wait(self, item: _Item | None, deadline: float | None) -> bool:
        """Block until `item` is done, or, if None, any is; False when `deadline` passed first."""
        worker = current_worker()
        ours = worker is not None and worker.dispatcher is self.dispatcher
        while True:
            while ours and not self.ready(item) and self.run_one():
                pass
            with self.lock:
                gate = self.gate = allocate_lock()
                gate.acquire()
                self.awaited = item
            if self.ready(item):
                return True
            try:
                timeout = None if deadline is None else deadline - clock.now()
                came = deadlock.wait(gate, worker, lambda: self.depends_on(item), timeout, every=False)
            finally:
                with self.lock:
                    self.gate = None
            if self.ready(item):
                return True
            if not came:
                return False

    def depends_on(self, item: _Item | None) -> list[Turn]:
        """The turns of which any may bring what the consumer waits for."""
        with self.lock:
            turns = list(self.live)
        return [turn for turn in turns if item is not None and turn.item is item] or turns

    def run_one(self) -> bool:
        """Run the next item in this thread, a worker's that waits for it; False if none is left."""
        try:
            item = self.waiting.popleft()
        except IndexError:
            return False
        self.run(item)
        with self.dispatcher.lock:
            self.dispatcher.ended += 1
        return True

    def close(self) -> None:
        """Cancel what has not begun."""
        self.fail(CancelledError())
        self.results.clear()
        with self.lock:
            turns = list(self.live)
        for turn in turns:
            turn.cancel()

    # -- the workers' side ----------------------------------------------------------------------------------------

    def work(self, turn: Turn) -> bool:
        """Run items until none is left, or others wait for the thread; return whether it is to go on later."""
        dispatcher, waiting, tasks = self.dispatcher, self.waiting, self.dispatcher.tasks
        most, run, popleft = dispatcher.max_workers, self.run, waiting.popleft
        with self.lock:
            self.running += 1
        ran = left = 0
        again = False
        while waiting:
            if left == 0:
                if ran and len(tasks) > self.turns - self.running:  # others than our own turns
                    again = True
                    break
                if dispatcher.dropping:
                    self.fail(CancelledError())
                if self.turns < most and len(waiting) > self.chunksize:
                    self.offer_turn()
                left = self.chunksize
            try:
                turn.item = popleft()
            except IndexError:  # another turn was faster
                break
            run(turn.item)
            ran += 1
            left -= 1
        turn.item = None
        return self.end_turn(turn, ran, again)

    def end_turn(self, turn: Turn, ran: int, again: bool) -> bool:
        """Account for a turn that stops; return whether it goes back to the queue."""
        with self.dispatcher.lock:
            self.dispatcher.ended += ran - 1  # the turn itself counts as one
        with self.lock:
            self.running -= 1
            if again:
                return True
            self.turns -= 1
            if not self.waiting:
                self.live.discard(turn)
                return False
            self.turns += 1
            return True

    def run(self, item: _Item) -> None:
        """Make one call, and hand over what comes of it."""
        observers = self.dispatcher.observers
        if observers:
            self.dispatcher.announce("started", cast(Any, item), name=self.name)
        try:
            item.value = self.context.copy().run(self.fn, *item.args)  # type: ignore[misc]  # not run yet, so it has args
            outcome = RETURNED
        except BaseException as error:
            item.value = error
            outcome = RAISED
        item.args = None
        if observers:
            error = item.value if outcome == RAISED else None
            self.dispatcher.announce("finished", cast(Any, item), error, self.name)
        item.outcome = outcome
        if not self.ordered:
            self.results.append(item)
        if self.gate is not None:
            self.knock()
        if outcome == RAISED:
            self = item = None  # type: ignore[assignment]  # the traceback holds this frame: no cycle through it

    def offer_turn(self) -> None:
        """Let another worker help, if the pool has room for one more turn."""
        turn = self.new_turn()
        if not self.dispatcher.offer(turn):
            with self.lock:
                self.turns -= 1
                self.live.discard(turn)

    def knock(self) -> None:
        """Wake the consumer, if what it waits for is there."""
        with self.lock:
            if self.gate is not None and self.ready(self.awaited):
                self.gate.release()
                self.gate = None

    def fail(self, error: BaseException, *items: _Item) -> None:
        """Give up `items`, and all that nobody has claimed."""
        doomed = list(items)
        with suppress(IndexError):
            while True:
                doomed.append(self.waiting.popleft())
        for item in doomed:
            item.args, item.value = None, error
            item.outcome = RAISED
        if not self.ordered:
            self.results.extend(doomed)
        self.knock()
        if isinstance(error, CancelledError) and doomed:
            with self.dispatcher.lock:
                self.dispatcher.cancelled += len(doomed)
            for item in doomed if self.dispatcher.observers else ():
                self.dispatcher.announce("cancelled", cast(Any, item), name=self.name)

    def turn_done(self, turn: Future[Any]) -> None:
        """A turn was settled; unless it ended as it should, its items must not wait for ever."""
        if turn.cancelled():
            self.turn_over(cast(Turn, turn), CancelledError())
        elif (error := turn.exception()) is not None:
            self.turn_over(cast(Turn, turn), error)

    def turn_over(self, turn: Turn, error: BaseException) -> None:
        """Account for a turn that was refused, dropped or lost."""
        with self.lock:
            if turn not in self.live:
                return
            self.live.discard(turn)
            self.turns -= 1
            last = self.turns == 0
        lost = turn.item
        if lost is not None and lost.outcome == NONE_YET:
            lost.value, lost.outcome = error, RAISED
            if not self.ordered:
                self.results.append(lost)
            self.knock()
        if last:
            self.fail(error)


class MapIterator(Iterator[T], Generic[T]):
    """The results of `Pool.map`. For one thread at a time."""

    def __init__(
        self, pool: object, job: Job, rows: Iterator[tuple[Any, ...]], ahead: int, deadline: float | None
    ) -> None:
        self._pool = pool  # so that `for x in Pool().map(...)` keeps its pool, as long as there is input
        self._job = job
        self._rows: Iterator[tuple[Any, ...]] | None = rows
        self._ahead = ahead
        # Refilled by half, for a wake-up each item would cost more than the item; but never so late that a thread idles.
        self._low = max(ahead // 2, min(ahead - 1, 2 * job.dispatcher.max_workers))
        self._deadline = deadline
        self._window: deque[_Item] = deque()  # read, not taken, in the order of the input
        self._outstanding = 0  # items read and not taken, when we last looked;
        self._span = 0  # results to take until we look again,
        self._left = 0  # and those of them that are left
        self._begun = False
        self._failure: BaseException | None = None  # what the input raised; raised after the results before it
        job.dispatcher.check_open()
        self._read_ahead()

    def __iter__(self) -> MapIterator[T]:
        return self

    def __next__(self) -> T:
        if not self._left:
            self._refill()
        job = self._job
        if job.ordered:
            item = self._window[0]
            if not item.outcome:
                self._wait(item)
            self._window.popleft()
        else:
            if not job.results:
                self._wait(None)
            item = job.results.popleft()
        self._left -= 1
        value, item.value = item.value, None  # the worker may hold the item for a while yet
        if item.outcome == RETURNED:
            return value  # type: ignore[no-any-return]  # cast() would be a call
        try:
            raise value
        finally:
            value = None  # the traceback holds this frame: no cycle through it

    def close(self) -> None:
        """Cancel what has not begun, and end the iteration. It may be called again."""
        self._job.close()
        self._window.clear()
        self._outstanding = self._span = self._left = 0
        self._rows = self._pool = self._failure = None

    def _refill(self) -> None:
        """Read more of the input, as far as allowed, and count the results to take until the next time."""
        self._begun = True
        self._outstanding -= self._span
        self._span = 0
        if self._rows is not None:
            self._read_ahead()
        if not self._outstanding:
            failure = self._failure
            self.close()
            raise StopIteration if failure is None else failure
        self._span = self._left = self._outstanding - (0 if self._rows is None else min(self._low, self._outstanding - 1))

    def _read_ahead(self) -> None:
        """Read items until as many as allowed are under way."""
        job, window, rows = self._job, self._window, cast("Iterator[tuple[Any, ...]]", self._rows)
        waiting, ordered, observed = job.waiting, job.ordered, bool(job.dispatcher.observers)
        try:
            if job.dispatcher.closed is not None:
                raise PoolClosed(job.dispatcher.name, job.dispatcher.closed)
            for row in islice(rows, self._ahead - self._outstanding):
                item = _new(_Item)
                item.args = row
                item.outcome = NONE_YET
                self._outstanding += 1
                if ordered:
                    window.append(item)
                if observed:
                    job.dispatcher.announce("submitted", cast(Any, item), name=job.name)
                waiting.append(item)
                if job.turns == 0:
                    job.begin_turn()
        except Exception as error:
            if not self._begun and self._outstanding <= 1:  # the first item was refused, or there was none
                raise
            self._rows = self._pool = None
            self._failure = error
        if self._outstanding < self._ahead:
            self._rows = self._pool = None

    def _wait(self, item: _Item | None) -> None:
        if not self._job.wait(item, self._deadline):
            self.close()
            raise TimeoutError("the results of map were not there in time; what had not begun was cancelled")

    def __del__(self) -> None:
        if getattr(self, "_begun", False):  # else, as in the standard library, it was called for its effects alone
            self._job.close()


def start_map(
    pool: object,
    dispatcher: Dispatcher,
    fn: Callable[..., T],
    iterables: tuple[Iterable[Any], ...],
    *,
    timeout: float | None,
    chunksize: int,
    buffersize: int | None,
    ordered: bool,
    context: Context | Bare,
    enter: tuple[str, float | None],
    name: str | None,
) -> MapIterator[T]:
    """Begin to read and run; see `Pool.map`. `enter` is the policy and time-out of admission."""
    deadline = None if timeout is None else clock.now() + timeout
    if buffersize is None:
        queue_size = dispatcher.queue_size
        buffersize = UNBOUNDED_AHEAD if queue_size is None else max(queue_size, 2 * dispatcher.max_workers)
    job = Job(dispatcher, fn, chunksize=chunksize, ordered=ordered, context=context, enter=enter, name=name)
    return MapIterator(pool, job, zip(*iterables), buffersize, deadline)
