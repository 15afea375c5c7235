"""Admission: how a task gets into a pool, and what happens when there is no room for it."""

from __future__ import annotations

import logging
import sys
from _thread import allocate_lock
from asyncio import _get_running_loop
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, cast

from treadle._base import clock
from treadle._base.timer import run_later
from treadle._base.words import log_first, pass_on
from treadle._dispatch import deadlock
from treadle._dispatch.worker import current_worker
from treadle._tasks.future import CANCELLED_AND_NOTIFIED, PENDING, RUNNING
from treadle._tasks.scope import HERE, current, task_here
from treadle._tasks.scoped import ScopedTask
from treadle.errors import PoolClosed, PoolFull
from treadle.orders._order import hook_of

if TYPE_CHECKING:
    from _thread import LockType

    from treadle._dispatch.dispatcher import Dispatcher, Task
    from treadle._tasks.scope import Scope

__all__ = ["AT_EXIT", "Admission"]

_log = logging.getLogger("treadle")

BEYOND = (
    "pool %r is full; an event loop must not wait for room, so what its thread submits is taken beyond the bound; "
    "await pool.run(...) instead, or hold a semaphore around to_thread"
)

AT_EXIT = "interpreter shutdown"  # after what a pool is closed when the interpreter exits; the standard library's words


class WaitingSubmitter:
    """A caller that waits for room. The caller of `run` sleeps in its event loop and has no gate."""

    __slots__ = ("gate", "refusal")

    def __init__(self, *, blocking: bool) -> None:
        self.gate: LockType | None = None
        self.refusal: BaseException | None = None
        if blocking:
            self.gate = allocate_lock()
            self.gate.acquire()

    def wake(self) -> None:
        """Let the caller go on, if it sleeps."""
        if self.gate is not None:
            self.gate.release()


class Admission:
    """The way in, for all that is not plain (for that see Submitter.submit). The dispatcher's lock guards the fields.

    Callers that wait for room enter in the order they came. Whoever makes room puts the first one's task in the order,
    and then wakes the caller; so nobody overtakes, and the bound is exact. Whoever turns a caller away claims its task
    in the same breath: a task that is pending and was handed over is found here, in the order, beside it, or out in a
    stranger's hands, for whoever cancels it counts it out of there (see Dispatcher.leave).
    """

    __slots__ = ("blocks", "dispatcher", "entrants", "holds", "limit", "rejected", "takers")

    def __init__(self, dispatcher: Dispatcher, queue_size: int | None) -> None:
        self.dispatcher = dispatcher
        self.limit = sys.maxsize if queue_size is None else queue_size
        self.entrants: OrderedDict[Task, WaitingSubmitter] = OrderedDict()
        self.rejected = 0
        self.takers: list[LockType] = []  # gates of strangers that wait to take a task out (see WorkQueue)
        # Whether the order has no room for a task; and whether it would hold it back, though a thread were free.
        self.blocks: Callable[[Task], bool] | None = None if hook_of(dispatcher.kept, "full") is None else self.is_full
        self.holds: Callable[[Task], bool] | None = hook_of(dispatcher.kept, "holds")

    def enter(self, task: Task, when_full: str, timeout: float | None = None) -> None:
        """Admit `task`, or do what `when_full` says, unless that would hold up an event loop, whose thread this is.

        Then the task is taken beyond the bound: what makes room may need that very loop.

        Raises:
            PoolFull, PoolClosed, PoolBroken: the task was not taken, and will not run.
            RuntimeError: no thread could be started, and none lives; or the interpreter exits.
            PatchedTooLate: none could be started, for threads are greenlets now.
        """
        victim = entrant = full = None
        stale: list[Task] = []
        beyond = False
        would_block = when_full == "caller_runs" or (when_full == "block" and timeout != 0)
        on_loop = would_block and _get_running_loop() is not None
        try:
            self.dispatcher.notify_observers("submitted", task)
            with self.dispatcher.lock:
                late = self.check_open(task)
                roomy, stale = self.make_way(task)
                if roomy or late:
                    self.admit(task)
                    when_full = ""
                elif on_loop:
                    beyond = True
                    self.admit(task)
                    when_full = ""
                elif when_full == "block" and not self.dispatcher.is_ours():
                    entrant = self.queue_up(task, blocking=True)
                elif when_full == "discard_oldest" and (victim := self.dispatcher.shedding.evict(task)) is not None:
                    self.admit(task)
                elif when_full in ("caller_runs", "block"):  # a worker never waits for its own pool
                    task._state = RUNNING
                    self.dispatcher.inline += not task._silent
                    when_full = "caller_runs"
                else:
                    full = self.full(task)
            if full is not None:
                raise full()
        except Exception as error:
            self.refuse(task, error)
            raise
        except BaseException as error:  # Ctrl-C
            self.recover(task, error, told=True)
            raise
        finally:
            self.dispatcher.shedding.shed_by_caller(stale)
            if victim is not None:  # also if its room was for nothing, as where the order does not take the newer one
                self.dispatcher.shedding.discard(victim)
        if beyond:
            log_first(self.dispatcher.told, BEYOND, _log, logging.WARNING, BEYOND, self.dispatcher.name)
        if when_full == "caller_runs":
            self.dispatcher.run_here(task)
        elif entrant is not None:
            self.wait_for_room(task, entrant, timeout)

    def enter_later(self, task: Task, when_full: str) -> bool:
        """Admit `task` without blocking: at once, or, if the policy is to wait or to run, when there is room.

        Returns:
            True if it is in, False if it waits for room. `give_up` takes it out again.

        Raises:
            As `enter`.
        """
        if when_full in ("reject", "discard_oldest"):
            self.enter(task, when_full)
            return True
        self.dispatcher.notify_observers("submitted", task)
        stale: list[Task] = []
        try:
            with self.dispatcher.lock:
                self.check_open()
                entered, stale = self.make_way(task)
                if entered:
                    self.admit(task)
                else:
                    self.queue_up(task, blocking=False)
        except Exception as error:
            self.refuse(task, error)
            raise
        finally:
            self.dispatcher.shedding.shed_by_caller(stale)
        if isinstance(task, ScopedTask):
            task._enter()
        return entered

    def offer(self, task: Task) -> bool:
        """Admit `task`, a turn of a map, if there is room now."""
        with self.dispatcher.lock:
            if not self.dispatcher.dropping and self.dispatcher.broken is None and self.has_room(task):
                with suppress(RuntimeError):  # no thread can be started
                    self.admit(task)
                    return True
            return False

    def give_up(self, task: Task, waited: float, scope: Scope | None = None) -> Exception | None:
        """Stop waiting for room, for time is up, or `scope` is over; the task is claimed. None: too late, it is in."""
        with self.dispatcher.lock:
            if self.entrants.pop(task, None) is None:
                return None
            task._state = RUNNING
            full = self.full(task, waited)
        error = (None if scope is None else scope.over(task_here())) or full()
        self.refuse(task, error)
        return error

    def check_open(self, task: Task | None = None) -> bool:
        """Raise unless `task` is taken; return whether it is though the pool was closed. The lock is held.

        What belongs to a map that was accepted before is let in, and what its input submits, whether there is room or
        not: nobody else comes any more.
        """
        dispatcher = self.dispatcher
        if dispatcher.broken is not None:
            raise dispatcher.why_broken()
        if dispatcher.closed is None:
            return False
        if not dispatcher.dropping and task is not None and (task._silent or dispatcher in HERE.reading):
            return True
        if dispatcher.closed == AT_EXIT:  # a plain RuntimeError, for those who look for the standard library's
            raise RuntimeError(str(PoolClosed(dispatcher.name, AT_EXIT)))
        raise PoolClosed(dispatcher.name, dispatcher.closed)

    def has_room(self, task: Task) -> bool:
        """Whether `task` may wait, or a worker is free to take it; the lock is held."""
        dispatcher = self.dispatcher
        blocked = self.blocks is not None and self.blocks(task)
        if not blocked and len(dispatcher.tasks) + len(dispatcher.aside.tasks) < self.limit:
            return True
        if dispatcher.dead:
            dispatcher.purge()
            blocked = self.blocks is not None and self.blocks(task)
        if blocked:
            return False
        free = 0 if self.holds is not None and self.holds(task) else dispatcher.staff.free()
        return len(dispatcher.tasks) + len(dispatcher.aside.tasks) < self.limit + free

    def make_way(self, task: Task) -> tuple[bool, list[Task]]:
        """Whether `task` may wait, and what is to be shed now, with no lock held; the lock is held."""
        shedding = self.dispatcher.shedding
        roomy = not shedding.standing and self.has_room(task)
        stale = [] if roomy else shedding.pick()
        return roomy or self.has_room(task), stale

    def is_full(self, task: Task) -> bool:
        """Whether the order has no room for `task`; the lock is held."""
        return self.dispatcher.kept.full(task, self.dispatcher.aside.beside(task))

    def admit(self, task: Task) -> None:
        """Put `task` in the order and see that a worker comes; the lock is held."""
        task._state = PENDING  # a turn of a map is not, until here, so that nobody cancels or claims it before
        self.dispatcher.put(task)
        self.dispatcher.staff.summon(task)
        if self.takers:
            self.takers.pop().release()

    def queue_up(self, task: Task, *, blocking: bool) -> WaitingSubmitter:
        """Let the caller of `task` wait for room; the lock is held."""
        entrant = WaitingSubmitter(blocking=blocking)
        task._state = PENDING
        self.entrants[task] = entrant
        return entrant

    def wait_for_room(self, task: Task, entrant: WaitingSubmitter, timeout: float | None) -> None:
        """Block until `task` is in, refused, or `timeout` seconds have passed."""
        gate, worker, scope = cast("LockType", entrant.gate), current_worker(), current()
        try:
            if scope is None:
                came = deadlock.wait(gate, worker, lambda: [task], timeout)
            else:
                caller = task_here()
                with scope.waking(lambda: self.stop_waiting(task, scope.over(caller))):
                    came = deadlock.wait(gate, worker, lambda: [task], scope.left(timeout))
        except BaseException:  # Ctrl-C: a submit that raises must not run its task later
            if not task.cancel() and entrant.refusal is not None:
                self.refuse(task, entrant.refusal)
            raise
        if not came:
            error = self.give_up(task, timeout or 0.0, scope)
            if error is not None:
                raise error
        if entrant.refusal is not None:
            self.refuse(task, entrant.refusal)
            raise entrant.refusal

    def full(self, task: Task, waited: float = 0.0) -> Callable[[], PoolFull]:
        """Return what makes the error that there is no room for `task`, which shows its key; the lock is held."""
        of_key = self.blocks is not None and self.blocks(task)
        waiting = self.dispatcher.waiting()
        return lambda: PoolFull(
            self.dispatcher.name,
            task.name,
            queue_size=self.dispatcher.queue_size,
            waiting=waiting,
            waited=waited,
            key=task._options.key,
            of_key=of_key,
        )

    def stop_waiting(self, task: Task, error: Exception | None) -> None:
        """Let the caller of `task` wait for room no longer, and have it raise `error`, for it was asked to stop."""
        with self.dispatcher.lock:
            entrant = self.entrants.pop(task, None)
            if entrant is not None:
                task._state = RUNNING
                entrant.refusal = error
                entrant.wake()

    def wait_for_task(self, timeout: float | None) -> None:
        """Block until a task waits, the pool is closed, or `timeout` seconds have passed."""
        dispatcher, gate = self.dispatcher, allocate_lock()
        gate.acquire()
        try:
            with dispatcher.lock:
                if dispatcher.waiting() or dispatcher.closed is not None:
                    return
                self.takers.append(gate)
                dispatcher.make_room()  # for none: in the plain way nobody is told of a task
            gate.acquire(True, -1 if timeout is None else timeout)
        finally:
            with dispatcher.lock:
                if gate in self.takers:
                    self.takers.remove(gate)
                dispatcher.make_room()

    def let_in(self, free: int = 0) -> None:
        """Admit callers that wait for the room there is, and for `free` threads; the lock is held."""
        while self.entrants and (waiting := self.dispatcher.waiting()) < self.limit + free:
            task = self.first_in_line(to_run=waiting >= self.limit)
            if task is None:
                return
            entrant = self.entrants.pop(task)
            task._submitted = clock.now()  # that it waits since
            try:
                self.dispatcher.put(task)
            except BaseException as error:  # of a key's __hash__ or __eq__: its caller is told, not who made the room
                pass_on(error)
                task._state = RUNNING
                entrant.refusal = error
                if entrant.gate is None:
                    run_later(partial(self.turn_away, task, error))
            entrant.wake()

    def first_in_line(self, *, to_run: bool) -> Task | None:
        """Return the first task whose caller may come in; if `to_run`, one that a free thread may take."""
        for task in self.entrants:
            try:
                held = to_run and self.holds is not None and self.holds(task)
                kept_out = held or (self.blocks is not None and self.blocks(task))
            except BaseException as error:  # of its key: so it is not put in the order either, and its caller is told
                pass_on(error)
                kept_out = False
            if not kept_out:
                return task
        return None

    def leave(self, task: Task) -> bool:
        """Let a caller's task go that waits for room, for it is cancelled or run elsewhere; the lock is held."""
        entrant = self.entrants.pop(task, None)
        if entrant is None:
            return False
        entrant.wake()
        return True

    def take_back(self, task: Task) -> None:
        """Undo a submit; the lock is held."""
        if task._state == PENDING:
            task._state = CANCELLED_AND_NOTIFIED
            task._forget_call()
            self.dispatcher.leave(task)

    def recover(self, task: Task, error: BaseException, *, told: bool = False) -> None:
        """Refuse a task whose submit Ctrl-C, or another exception, ended at any line; unless it has begun.

        Args:
            task: not admitted, admitted, or whatever became of it since.
            error: what the submit is to raise.
            told: whether observers know of it; they do if it was admitted.
        """
        dispatcher = self.dispatcher
        dispatcher.release_if_held()
        with dispatcher.lock:
            undone = task._state == PENDING
            admitted = undone and (task in self.entrants or task in dispatcher.tasks)
            if admitted:
                self.take_back(task)
            dispatcher.staff.nudge()
        if admitted or (undone and told):
            self.refuse(task, error)
        elif task.done():  # taken back
            task._keep_name()

    def refuse(self, task: Task, error: BaseException) -> None:
        """Count and notify_observers a task that was not taken; no lock is held."""
        with self.dispatcher.lock:
            self.rejected += not task._silent
        try:
            self.dispatcher.notify_observers("rejected", task, error)
        finally:
            task._refuse(error)

    def turn_away(self, task: Task, error: BaseException) -> None:
        """Refuse a task whose caller does not sleep here, but awaits it; no lock is held."""
        try:
            self.refuse(task, error)
        finally:
            task._drop(error)

    def refuse_all(self, why: Callable[[], Exception]) -> list[Task]:
        """MapTask away the callers that wait, each with an error of its own, which it raises; the lock is held.

        Returns:
            Claimed, the tasks of those that do not sleep.
        """
        late = []
        while self.entrants:
            task, entrant = self.entrants.popitem(last=False)
            task._state = RUNNING
            entrant.refusal = why()
            if entrant.gate is None:
                late.append(task)
            entrant.wake()
        return late
