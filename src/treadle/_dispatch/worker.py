"""Worker: what is known of one thread of a pool."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, Literal

from treadle._base import clock
from treadle._base.locks import closed_latch
from treadle._base.threads import at_end_of, new_thread
from treadle._tasks.future import Future, context_of
from treadle._tasks.scope import HERE

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from treadle._dispatch.state import Claims
    from treadle._tasks.contexts import Lent
    from treadle._tasks.owner import Owner

__all__ = ["FREE", "Phase", "ThreadSetup", "Worker", "current_worker", "lent_here", "tasks_here"]

Task = Future[Any]

Phase = Literal["coming", "busy", "idle", "leaving"]

FREE: tuple[Phase, Phase] = ("coming", "idle")
"""The phases in which a task may be handed over to a worker, for which it has not come yet."""


class Worker:
    """One thread of a pool, and what it has in its hands.

    The pool's lock guards `phase`, `cancelled` and `number`; the thread alone writes the rest, and snapshots read it as
    it is. Whoever claims a task for it, or ends it, notes that here before anything else, so that a thread that is
    killed between any two lines loses nothing.
    """

    __slots__ = (
        "calling",
        "cancelled",
        "claims",
        "ended",
        "expected",
        "failed",
        "gone",
        "last",
        "lent",
        "lifespan",
        "number",
        "outer",
        "owner",
        "phase",
        "since",
        "starter",
        "task",
        "thread",
        "wakeup",
    )

    def __init__(
        self,
        owner: Owner[Any],
        claims: Claims,
        main: Callable[[Worker], object],
        exited: Callable[[Worker], object],
        prefix: str,
    ) -> None:
        self.owner = owner
        self.claims = claims  # what it has claimed to be ended, and has not ended yet
        self.number = 0  # among the pool's threads, once it has a seat
        self.starter = get_ident()  # the thread that starts it
        self.wakeup = closed_latch()  # opened to wake it from idleness
        self.phase: Phase = "coming"  # until it comes for its first task; "idle" and "leaving", as there is none for it
        self.cancelled = False  # whether it is to leave at once, if ever its thread comes up
        self.expected = 0  # the thread that has started it for a task, and has not let that in; 0: none
        self.gone = False  # whether it was counted out, at its end
        self.task: Task | None = None
        self.last: Task | None = None  # the one before, while it is settled
        self.lent: Lent | None = None  # what the initializer has set in the thread's context
        self.lifespan: AbstractContextManager[object] | None = None  # entered, and not left
        self.outer: list[tuple[Task | None, float]] = []  # tasks that wait, further out in this thread, for `task`
        self.since = clock.now()
        self.ended = 0  # tasks that it has run
        self.failed = 0  # of them, those that raised
        self.calling = False  # whether the last of them is over, and its callbacks run
        self.thread = new_thread(partial(main, self), prefix)
        at_end_of(self.thread, partial(_see_to_its_end, self, exited))

    def stack(self) -> list[Task]:
        """Return the tasks that run in this thread, the innermost last."""
        tasks = [*(task for task, _ in list(self.outer)), self.task]
        return [task for task in tasks if task is not None]

    def turn(self) -> Task | None:
        """Return the outermost task that runs in this thread, and is not counted as ended; the lock is held."""
        return None if self.calling else next((task for task, _ in self.outer), self.task)


def _see_to_its_end(worker: Worker, exited: Callable[[Worker], object]) -> None:
    """Have a worker counted out whose thread ends, and was killed before it has seen to that itself."""
    if not (worker.gone or worker.cancelled):
        exited(worker)


def current_worker() -> Worker | None:
    """Return the worker whose thread this is, of whatever pool; None for a thread of nobody's."""
    worker: Worker | None = HERE.worker
    return worker


def tasks_here() -> list[Future[Any]]:
    """Return the tasks whose functions run in this thread, the innermost first."""
    worker = current_worker()
    if worker is None:
        tasks = list(HERE.tasks)
    else:
        outermost = worker.outer[0][0] if worker.outer else worker.task
        # A worker has its next task while it calls the initializer, or tells those who waited for the last one.
        tasks = [task for task in worker.stack() if task is not outermost or task is worker.last]
    # One that has run calls its callbacks.
    return [task for task in reversed(tasks) if context_of(task) is not None]


def lent_here(owner: Owner[Any]) -> Lent | None:
    """Return what its initializer has set in this thread; None if nothing, or if it is none of the pool's."""
    worker = current_worker()
    return worker.lent if worker is not None and worker.owner is owner else None


class ThreadSetup:
    """How the threads of a pool are set up, and how long they stay. Strangers may set some of it (see Pool)."""

    __slots__ = ("idle_timeout", "initargs", "initializer", "lifespan", "main", "prefix")

    def __init__(
        self,
        main: Callable[[Any, Worker], object],
        prefix: str,
        idle_timeout: float | None,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        lifespan: Callable[[], AbstractContextManager[object]] | None,
    ) -> None:
        self.main = main  # what a thread does, given the dispatcher and its worker
        self.prefix = prefix  # of the threads' names
        self.idle_timeout = idle_timeout  # seconds; None: they stay
        self.initializer = initializer
        self.initargs = initargs
        self.lifespan = lifespan
