"""Job: the items of one map, and the turns in which a pool's workers run them (see `treadle._pool.mapping.results`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, cast

from treadle._base import clock
from treadle._base.locks import closed_latch, locked, open_latch
from treadle._base.words import brief, traceback_of
from treadle._dispatch import deadlock
from treadle._dispatch.dispatcher import context_inside
from treadle._dispatch.worker import current_worker, lent_here
from treadle._pool.mapping.feed import Feed
from treadle._pool.mapping.outcome import Outcome
from treadle._tasks.call import NoContext, name_of
from treadle._tasks.contexts import copier
from treadle._tasks.future import RUNNING, Future, InternalTask, context_of, wait_anew
from treadle._tasks.options import TaskOptions
from treadle._tasks.scope import Scope, current
from treadle._tasks.scoped import new_task, scope_around
from treadle._tasks.unretrieved import Unretrieved
from treadle.errors import Shed, WorkerLost

if TYPE_CHECKING:
    from _thread import LockType
    from contextvars import Context

    from treadle._dispatch.dispatcher import Dispatcher

__all__ = ["NOT_YET", "Failure", "Item", "Job"]

BARE = NoContext()


class Item:
    """One call of the function: first its arguments, then what came of it."""

    __slots__ = ("_cold", "_options", "args", "number", "value")

    args: Any  # the one argument, or a tuple of them: see `Job.spread`; None once it has run
    number: int  # its place in the input
    value: Any  # NOT_YET; then what was returned, or a Failure
    _cold: Any
    _options: TaskOptions  # its job's; unset where nobody is told of it

    def belong_to(self, options: TaskOptions) -> None:
        """Be a task with these, to observers."""
        self._options = options


NOT_YET = object()


class Failure:
    """Why there is no result of an item."""

    __slots__ = ("argument", "error")

    def __init__(self, error: BaseException | Unretrieved, argument: object) -> None:
        self.error = error  # that kept it from running; Unretrieved, if it raised
        self.argument = argument  # where the outcome is to tell of it


def _telling(fn: Callable[[Any], Any]) -> Callable[[Any], Outcome[Any, Any]]:
    """Return a function that returns what `fn` does, as an outcome."""
    return lambda item: Outcome(item, fn(item), None)


class MapTask(InternalTask):
    """A task that runs items of a job, one after another."""

    __slots__ = ("item", "job")  # of which observers are told instead

    job: Job
    item: Item | None  # that it runs

    def _name_for(self, fn: Any) -> str:
        return self.job.name

    def _invoke(self) -> bool:
        self._result = self._exception = None
        return self.job.work(self)

    def _inherited(self) -> Scope | None:
        return self.job.scope

    def _overdue(self) -> float:
        scope = self.job.scope
        return 0.0 if self.item is None or scope is None else scope.overdue()

    def _after_orphan(self) -> None:
        self.job.orphan(self.item)


class Job(Feed):
    """What the consumer and the turns of one map share.

    Items are claimed by `waiting.popleft()`, which is atomic, and belong to whoever got them. Two questions have no
    common lock, and are safe because each side first writes and then looks, so at least one of them sees the other (an
    attribute or deque is locked while it is written, also without the GIL, and that is a memory barrier):
    who reads appends an item, then looks at `live`; a turn that ends leaves `live`, then looks at `waiting`;
    the consumer sets `latch`, then looks at the item; a worker writes its value, then looks at `latch`.
    """

    __slots__ = (
        "awaited",
        "chunksize",
        "enter",
        "fn",
        "keeps",
        "killed",
        "latch",
        "live",
        "observed",
        "options",
        "ordered",
        "queued",
        "results",
        "running",
        "single",
        "spread",
        "turns",
        "waiting",
        "window",
    )

    def __init__(
        self,
        dispatcher: Dispatcher,
        fn: Callable[..., Any],
        rows: Iterator[Any],
        *,
        spread: bool,
        ahead: int,
        eager: bool,
        chunksize: int,
        ordered: bool,
        context: Context | NoContext,
        enter: tuple[str, float | None],
        options: TaskOptions,
        outcomes: bool = False,
    ) -> None:
        name, scope = options.name or name_of(fn), scope_around(context)  # whose end is the items' too
        super().__init__(dispatcher, rows, name=name, ahead=ahead, eager=eager, context=context, scope=scope)
        self.observed = bool(dispatcher.observers)
        self.keeps = outcomes  # the arguments of an item that fails, or never begins
        self.fn = _telling(fn) if outcomes else fn
        self.single = not spread  # whether a row is the one argument, and not a tuple of them
        self.spread = spread or self.observed  # whether the arguments of an item are a tuple
        self.chunksize = chunksize
        self.ordered = ordered
        self.enter = enter  # the policy for its first turn, and how long that waits for room
        self.options = options
        self.window: deque[Item] = deque()  # read, not taken, in the order of the input; stays empty if they are not
        self.waiting: deque[Item] = deque()  # read, not claimed
        self.results: deque[Item] = deque()  # done, not taken; stays empty if the results are ordered
        self.live: set[MapTask] = set()  # turns that are queued or running;
        self.running: set[MapTask] = set()  # of them, running
        self.turns = self.queued = 0  # how many live, and how many of them are queued: no call for each item
        self.latch: LockType | None = None  # the consumer sleeps here,
        self.killed: WorkerLost | None = None  # of the last turn whose thread was
        self.awaited: Item | None = None  # for this item, or, if None, for any

    # -- whoever reads --------------------------------------------------------------------------------------------

    def take(self, rows: Iterator[Any], *, consuming: bool) -> None:
        """Make items of the rows, and have turns for them."""
        waiting, observed = self.waiting, self.observed
        window = None if self.dropped or not self.ordered else self.window
        wanted = self.dispatcher.workers.max_workers  # turns; no more are offered once the pool had no room for one
        for row in rows:
            item = Item()
            item.args = row
            item.value = NOT_YET
            item.number = self.count
            if window is not None:
                window.append(item)
            if observed:
                self.announce_submitted(item)
            waiting.append(item)
            if self.turns < wanted or not self.live:
                if not self.live:
                    self.begin_turn(consuming=consuming)
                elif not self.offer_turn():
                    wanted = 1
                    if not self.live:  # the last of the others was dropped meanwhile, and left the items to ours
                        self.begin_turn(consuming=consuming)
            self.count += 1
        if self.closed:  # meanwhile
            self.fail(CancelledError())

    def room(self) -> int:
        """Return enough for every thread: a worker reads more when all of these have begun."""
        return min(self.ahead, 2 * self.dispatcher.workers.max_workers * self.chunksize)

    def wait_for_room(self, timeout: float | None) -> bool:
        """Return True: items that are read take no more room than the rows that the caller has given."""
        return True

    def carry_on(self) -> None:
        """Have one more turn, which reads when nothing waits."""
        turn = self.new_turn()
        try:
            self.dispatcher.carry_on(turn)
        except Exception as error:
            self.turn_refused(turn, error)
        except BaseException as error:
            self.take_back(turn, error)
            raise

    def begin_turn(self, *, consuming: bool) -> None:
        """Have a turn for the items that wait, of which the last was the first.

        If it is refused, so are they; and if that is at the start of the map, it is raised.
        """
        if not consuming:
            self.carry_on()
            return
        try:
            self.submit_turn()
        except Exception:
            if self.fresh and self.count == 0:
                raise

    def submit_turn(self) -> None:
        """Submit a turn by the pool's policy; it may block, run here, or be refused, and then so are the items.

        After Ctrl-C nobody knows how far it came, and the consumer closes the job.
        """
        turn = self.new_turn()
        try:
            self.dispatcher.enter(turn, *self.enter)
        except Exception as error:
            self.turn_refused(turn, error)
            raise

    def new_turn(self) -> MapTask:
        """Return a turn that has not been submitted."""
        turn = cast(MapTask, new_task(self.dispatcher, self.fn, (), BARE, self.options, MapTask))
        turn.job, turn.item = self, None
        turn._state = RUNNING  # to others, until it is admitted
        turn.add_done_callback(self.turn_done)
        try:
            self.live.add(turn)
            self.count_turns()
        except BaseException:  # the thread is killed, perhaps: nobody waits for a turn that never comes
            self.forget_turn(turn)
            raise
        return turn

    def forget_turn(self, turn: MapTask) -> None:
        """Count out a turn that the pool does not have."""
        self.live.discard(turn)
        self.count_turns()

    def take_back(self, turn: MapTask, error: BaseException) -> None:
        """Take back a turn whose submit `error` ended, at whichever line; unless it has begun."""
        self.dispatcher.take_back(turn, error)
        if turn.cancelled():
            self.forget_turn(turn)

    def count_turns(self) -> None:
        """Count the turns anew, after each change; with the lock held, so the last to count sees them all."""
        locked(self.dispatcher.lock, self._count_turns)

    def _count_turns(self) -> None:
        self.turns = len(self.live)
        self.queued = self.turns - len(self.running)

    # -- the consumer ---------------------------------------------------------------------------------------------

    def ready(self, item: Item | None) -> bool:
        """Whether what the consumer waits for is there."""
        return bool(self.results) if item is None else item.value is not NOT_YET

    def wait(self, item: Item | None, deadline: float | None) -> bool:
        """Block until `item` is done, or, if None, any is; False when `deadline` passed first."""
        worker = current_worker()
        ours = worker is not None and worker.owner is self.dispatcher
        scope = current()
        while True:
            while ours and not self.ready(item) and self.run_one():
                pass
            latch, self.awaited = closed_latch(), item
            self.latch = latch
            if self.ready(item) or self.is_lost(item):
                return True
            timeout = None if deadline is None else deadline - clock.now()
            timeout = timeout if scope is None else scope.left(timeout)
            try:
                with nullcontext() if scope is None else scope.waking(self.wake):
                    came = deadlock.wait(latch, worker, lambda: self.depends_on(item), timeout, every=False)
            finally:
                self.latch = None
            if self.ready(item):
                return True
            if not came or (scope is not None and scope.over()):
                return False

    def is_lost(self, item: Item | None) -> bool:
        """Give up what the consumer waits for if a thread was killed just as it took that, which no turn tells then."""
        # In this order: a turn that has taken the item is live until that is done.
        if self.killed is None or self.waiting or self.live or self.ready(item):
            return False
        lost = Item() if item is None else item
        if item is None:
            lost.args, lost.number = (None,) if self.spread else None, self.count
            self.results.append(lost)
        self.keep_failure(lost, self.killed)
        return True

    def depends_on(self, item: Item | None) -> list[MapTask]:
        """The turns of which any may bring what the consumer waits for."""
        turns = list(self.live)
        return [turn for turn in turns if item is not None and turn.item is item] or turns

    def run_one(self) -> bool:
        """Run the next item in this thread, a worker's that waits for it; False if none is left, or is to be run."""
        if any(scope is not None and scope.over() for scope in (self.scope, current())):
            return False
        if self.dispatcher.broken is not None:
            return False
        try:
            item = self.waiting.popleft()
        except IndexError:
            return False
        failed = self.run(item)
        self.dispatcher.count_items(ended=1, failed=failed)
        return True

    def drop(self) -> None:
        """Throw away the results, as they come. That of an item goes with the item; or else a worker lets go of it."""
        super().drop()
        self.forget()

    def close(self) -> None:
        """Cancel what has not begun."""
        super().close()
        self.fail(CancelledError())
        self.forget()
        for turn in list(self.live):
            turn.cancel()

    def forget(self) -> None:
        """Hold no result, nor any that comes later, for nobody takes them."""
        self.window.clear()
        self.awaited = None  # what its item raises may lead back here
        if not self.ordered:
            self.latch = closed_latch()  # nobody sleeps there; see `notify_consumer`
            self.results.clear()  # after that: a worker hands a result over, and then looks at `latch`

    # -- the workers' side ----------------------------------------------------------------------------------------

    def work(self, turn: MapTask) -> bool:
        """Run items until none is left, or others wait for the thread; return whether it is to go on later."""
        dispatcher, waiting, tasks, scope = self.dispatcher, self.waiting, self.dispatcher.queue.tasks, self.scope
        most, chunksize, door = dispatcher.workers.max_workers, self.chunksize, self.door
        state = dispatcher.state
        fn, spread, popleft = self.called(), self.spread, waiting.popleft
        # A turn itself has a context only where it is run inside of something else, and then items need one too.
        copy = copier(context_of(turn) if isinstance(self.context, NoContext) else self.context, lent_here(dispatcher))
        hand_over = None if self.ordered else self.results.append
        self.running.add(turn)
        self.count_turns()
        ran = failed = left = 0
        again = False
        while waiting or self.read_on():
            if left == 0:
                if tasks and ran and len(tasks) > self.queued:  # others than our own turns
                    again = True
                    break
                if state.dropping or door.cancelled:  # as door.dropping, for less
                    self.fail(CancelledError())
                elif state.broken is not None:
                    self.fail(dispatcher.why_broken())
                if self.turns < most and len(waiting) > chunksize:
                    self.offer_turn()
                left = chunksize
            if scope is not None and (error := scope.over(turn)) is not None:
                self.fail(error)
            try:
                turn.item = item = popleft()
            except IndexError:  # another turn was faster, or has taken all while this one read on
                continue
            try:  # as in run(), spelled out because this is the path of every item
                item.value = copy().run(fn, *item.args) if spread else copy().run(fn, item.args)
                item.args = None
            except BaseException as error:
                self.keep(item, error)
                failed += 1
            if hand_over is not None:
                hand_over(item)
            latch = self.latch
            if latch is not None and latch.locked():  # else it was opened already
                self.notify_consumer()
            ran += 1
            left -= 1
        turn.item = item = None  # type: ignore[assignment]  # an idle worker holds no result
        return self.end_turn(turn, ran, failed, again)

    def end_turn(self, turn: MapTask, ran: int, failed: int, again: bool) -> bool:
        """Account for a turn that stops; return whether it goes back to the queue."""
        if turn not in self.live:  # the process was forked in the middle of it
            return False
        self.running.discard(turn)
        wait_anew(turn)  # if it goes on
        if not again:
            self.live.discard(turn)  # before the look: see the class
            again = bool(self.waiting)
            if again:
                self.live.add(turn)
        self.count_turns()
        self.dispatcher.count_items(ended=ran, failed=failed)
        if self.killed is not None:
            self.wake()
        return again

    def run(self, item: Item) -> bool:
        """Make one call, and hand over what comes of it; return whether it raised."""
        failed = False
        try:
            args = item.args if self.spread else (item.args,)
            item.value = context_inside(self.dispatcher, copier(self.context)()).run(self.called(), *args)
            item.args = None
        except BaseException as error:
            self.keep(item, error)
            failed = True
        if not self.ordered:
            self.results.append(item)
        self.notify_consumer()
        return failed

    def keep(self, item: Item, error: BaseException) -> None:
        """Keep what a call raised."""
        # The traceback begins in the frame of whoever made the call, which holds the item: no cycle through it.
        trace = traceback_of(error)
        BaseException.with_traceback(error, trace and trace.tb_next)  # frozen exceptions take no attribute
        where = None
        try:
            if not self.keeps:  # else the outcome has the item
                shown = ", ".join(map(brief, self.row_of(item)))
                where = f"in item {item.number} of map({self.name}): {shown}"
        finally:  # Ctrl-C may come while the item is shown
            self.keep_failure(item, Unretrieved(self.name, error, where))

    def keep_failure(self, item: Item, error: BaseException | Unretrieved) -> None:
        """Keep, of an item that has failed or will not run, what the consumer is to be told."""
        failure = Failure(error, self.row_of(item)[0] if self.keeps else None)
        item.args = None
        item.value = failure

    def row_of(self, item: Item) -> tuple[Any, ...]:
        """Return the arguments of an item that has not run, or is just running."""
        if not self.spread:
            return (item.args,)
        return item.args[1:] if self.observed else item.args  # type: ignore[no-any-return]  # cast() would be longer

    def announce_submitted(self, item: Item) -> None:
        """Tell the observers of an item that nobody else knows yet."""
        item.args = (item, item.args) if self.single else (item, *item.args)
        item.belong_to(self.options)
        try:
            self.dispatcher.notify_observers("submitted", cast(Any, item), name=self.name)
        except BaseException:  # Ctrl-C
            self.fail(CancelledError(), item)
            raise

    def called(self) -> Callable[..., Any]:
        """Return what is called with the arguments of an item; kept in the job, it might make a cycle."""
        return self.call_observed if self.observed else self.fn

    def call_observed(self, item: Item, *row: Any) -> Any:
        """Make one call, and tell the observers before and after."""
        notify_observers = self.dispatcher.notify_observers
        try:
            notify_observers("started", cast(Any, item), name=self.name)
            result = self.fn(*row)
        except BaseException as error:
            notify_observers("finished", cast(Any, item), error, self.name)
            item = None  # type: ignore[assignment]  # the traceback holds this frame
            raise
        notify_observers("finished", cast(Any, item), None, self.name)
        return result

    def offer_turn(self) -> bool:
        """Let another worker help, if the pool has room for one more turn."""
        turn = self.new_turn()
        try:
            taken = self.dispatcher.offer(turn)
            if not taken:
                self.forget_turn(turn)
        except BaseException as error:
            self.take_back(turn, error)
            raise
        return taken

    def wake(self) -> None:
        """Wake the consumer, for it should wait no longer."""
        latch = self.latch
        if latch is not None:
            open_latch(latch)

    def notify_consumer(self) -> None:
        """Wake the consumer, if what it waits for is there."""
        if self.dropped or self.closed:
            self.results.clear()
            return
        latch = self.latch
        if latch is not None and latch.locked() and self.ready(self.awaited):
            open_latch(latch)

    def fail(self, error: BaseException, *items: Item, refused: bool = False) -> None:
        """Give up `items`, and all that nobody has claimed: they were refused, or dropped."""
        doomed = list(items)
        with suppress(IndexError):
            while True:
                doomed.append(self.waiting.popleft())
        if not doomed:
            return
        try:
            self.tell_end("rejected" if refused else "shed" if isinstance(error, Shed) else "cancelled", doomed, error)
        finally:
            for item in doomed:
                self.keep_failure(item, error)
            if not self.ordered:
                self.results.extend(doomed)
            self.notify_consumer()

    def tell_end(self, what: str, doomed: list[Item], error: BaseException) -> None:
        """Count items that will not run, and tell the observers."""
        dispatcher = self.dispatcher
        dispatcher.count_items(**{what: len(doomed)})
        for item in doomed if dispatcher.observers else ():
            dispatcher.notify_observers(what, cast(Any, item), None if what == "cancelled" else error, self.name)

    def orphan(self, running: Item | None) -> None:
        """In a forked child, give up what the parent goes on with: the item that a turn runs, and all that wait."""
        self.latch = None
        self.live.clear()
        self.running.clear()
        self.turns = self.queued = 0
        doomed = [item for item in (running, *self.waiting) if item is not None and item.value is NOT_YET]
        self.waiting.clear()
        for item in doomed:
            lost = WorkerLost(None, self.name, "the process forked")
            self.keep_failure(item, lost if item is running else CancelledError())
        if not self.ordered:
            self.results.extend(doomed)

    def turn_done(self, turn: Future[Any]) -> None:
        """A turn was settled; unless it ended as it should, its items must not wait for ever."""
        if turn.cancelled():
            self.turn_over(cast(MapTask, turn), CancelledError())
        elif (error := turn.exception()) is not None:
            self.turn_over(cast(MapTask, turn), error)
        else:
            return
        self.carry_on_if_left()

    def turn_refused(self, turn: MapTask, error: Exception) -> None:
        """Account for a turn that the pool did not take."""
        if self.door.dropping:
            self.turn_over(turn, CancelledError())
        else:
            self.turn_over(turn, error, refused=True)

    def turn_over(self, turn: MapTask, error: BaseException, *, refused: bool = False) -> None:
        """Account for a turn that was refused, dropped or lost."""
        try:
            self.live.remove(turn)
        except KeyError:  # it was accounted for
            return
        self.running.discard(turn)
        self.count_turns()
        last = not self.live
        if isinstance(error, WorkerLost):
            self.killed = error
            self.wake()
        lost = turn.item
        if lost is not None and lost.value is NOT_YET:
            self.dispatcher.notify_observers("finished", cast(Any, lost), error, self.name)
            self.keep_failure(lost, error)
            if not self.ordered:
                self.results.append(lost)
            self.notify_consumer()
        if last:
            self.fail(error, refused=refused)
