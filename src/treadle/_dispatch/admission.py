"""Admission: whether a task gets into a pool, and what is to happen when there is no room for it."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from treadle._base.locks import closed_latch
from treadle._tasks.future import InternalTask
from treadle._tasks.scope import HERE
from treadle.errors import PoolFull

if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable

    from treadle._dispatch.queue import TaskQueue
    from treadle._dispatch.state import Claims, State, Task
    from treadle._dispatch.workers import Workers

__all__ = ["Admission", "Verdict", "WaitingSubmitter"]


class Verdict(Enum):
    """What is to become of a task that is submitted."""

    ENTER = auto()  # into the order, where a worker comes for it
    ENTER_BEYOND = auto()  # as that, beyond the bound: an event loop must not wait
    START_THREAD = auto()  # first; then ask again
    WAIT = auto()  # for room
    RUN_HERE = auto()  # in the thread that submits it
    REFUSE = auto()  # there is no room


class WaitingSubmitter:
    """A caller that waits for room. The caller of `run` sleeps in its event loop and has no latch."""

    __slots__ = ("latch", "refusal")

    def __init__(self, *, blocking: bool) -> None:
        self.latch: LockType | None = closed_latch() if blocking else None
        self.refusal: BaseException | None = None


class Admission:
    """Decides; the dispatcher acts. Every method is called with the pool's lock held, and calls the order alone."""

    __slots__ = ("_queue", "_state", "_workers", "limit", "queue_size", "takers", "waiting")

    def __init__(self, state: State, queue: TaskQueue, workers: Workers, queue_size: int | None) -> None:
        self._state = state
        self._queue = queue
        self._workers = workers
        self.queue_size = queue_size
        self.limit: float = float("inf") if queue_size is None else queue_size
        self.waiting: dict[
            Task, WaitingSubmitter
        ] = {}  # callers that wait for room, by their task; the first came first
        self.takers: list[LockType] = []  # latches of strangers that wait to take a task out (see WorkQueue)

    # -- whether a task may enter -----------------------------------------------------------------------------------

    def refusal(self, task: Task, reader: object) -> Exception | None:
        """Return why the pool takes no more; None if it takes `task`.

        What belongs to a map that was accepted before is let in, and what its input submits to `reader`, the
        dispatcher: nobody else comes any more.
        """
        state = self._state
        if state.broken is not None:
            return state.why_broken()
        if state.closed is None or self.is_late(task, reader):
            return None
        return state.why_closed()

    def is_late(self, task: Task, reader: object) -> bool:
        """Return whether `task` is taken though the pool was closed."""
        state = self._state
        if state.closed is None or state.dropping:
            return False
        return isinstance(task, InternalTask) or reader in HERE.reading

    def judge(self, task: Task, when_full: str, *, on_loop: bool, inside: bool, claims: Claims) -> Verdict:
        """Return what is to become of `task`; what is shed to make room for it is claimed.

        Args:
            task: a task that the pool takes, if there is room.
            when_full: the policy.
            on_loop: whether the caller is an event loop, which must not wait.
            inside: whether it is one of the pool's workers, which never waits for its own pool.
            claims: where that is noted.
        """
        queue = self._queue
        if queue.standing or not self.has_room(task):
            if not self._state.inside:
                queue.claim_stale(claims)
            if not self.has_room(task):
                return self._when_full(task, when_full, on_loop=on_loop, inside=inside, claims=claims)
        return Verdict.ENTER

    def _when_full(self, task: Task, when_full: str, *, on_loop: bool, inside: bool, claims: Claims) -> Verdict:
        if when_full == "discard_oldest":
            discard = self._queue.claim_victim_inside if self._state.inside else self._queue.claim_victim
            return Verdict.ENTER if discard(task, claims) else Verdict.REFUSE
        if when_full == "reject":
            return Verdict.REFUSE
        if when_full == "later":  # its caller goes on, and does not run it
            return Verdict.WAIT
        if on_loop or self._state.inside:
            return Verdict.ENTER_BEYOND
        return Verdict.RUN_HERE if inside or when_full == "caller_runs" else Verdict.WAIT

    def has_room(self, task: Task) -> bool:
        """Return whether `task` may wait, or a worker is free to take it. Tombstones are purged if that may help."""
        queue = self._queue
        if self._is_roomy(task, 0):
            return True
        if queue.tombstones and not self._state.inside:
            queue.purge()
            self._state.attention = True  # they are to be let go
        if queue.is_full_for(task):
            return False
        return self._is_roomy(task, 0 if queue.holds is not None and queue.holds(task) else self._workers.free())

    def _is_roomy(self, task: Task, free: int) -> bool:
        queue = self._queue
        return len(queue.tasks) + len(queue.throttled) < self.limit + free and not queue.is_full_for(task)

    def wants_thread(self, task: Task) -> bool:
        """Return whether one more thread is to be started before `task` enters."""
        queue, workers = self._queue, self._workers
        if not workers.may_grow() or len(queue.tasks) - queue.tombstones < workers.coming():
            return False
        return queue.holds is None or not queue.holds(task)  # or it waits until a task ends that is running

    def full(self, task: Task, waited: float = 0.0) -> Callable[[], PoolFull]:
        """Return what makes the error that there is no room for `task`, with no lock held, for that shows its key."""
        of_key, waiting = self._queue.is_full_for(task), self._queue.waiting()
        name, queue_size = self._state.name, self.queue_size
        return lambda: PoolFull(
            name, task.name, queue_size=queue_size, waiting=waiting, waited=waited, key=task.key, of_key=of_key
        )

    # -- callers that wait for room -----------------------------------------------------------------------------------

    def next_submitter(self, free: int = 0) -> Task | None:
        """Return the task of the first caller for which there is room, or one of `free` threads, if any."""
        queue = self._queue
        waiting = queue.waiting()
        if not self.waiting or waiting >= self.limit + free:
            return None
        if queue.holds is None and not queue.may_be_full:
            for task in self.waiting:  # no copy, as there may be many
                return task
        for task in list(self.waiting):
            held = waiting >= self.limit and queue.holds is not None and queue.holds(task)
            if not held and not queue.is_full_for(task):
                return task
        return None

    def let_go(self, task: Task) -> None:
        """Let the caller of `task` wait no longer."""
        # No exception comes before the call, which is the last of them.
        if task in self.waiting:
            latch = self.waiting[task].latch
            del self.waiting[task]
            if latch is not None:
                latch.release()

    def tell_taker(self) -> None:
        """Let a stranger go on who waits for a task."""
        if self.takers:
            latch = self.takers[-1]
            del self.takers[-1]
            latch.release()

    def mend(self) -> None:
        """After an exception that came between any two lines: let those go whose tasks are in, or claimed."""
        held = set(self._queue.tasks) if self.waiting else ()
        for task in list(self.waiting):
            if task._state != "PENDING" or task in held:
                self.let_go(task)
