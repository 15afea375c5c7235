"""Shedding: what becomes of waiting tasks that an order gives up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal, cast

from treadle._base import clock
from treadle._base.words import log
from treadle._tasks.future import PENDING, RUNNING
from treadle.errors import Shed
from treadle.orders._order import hook_of

if TYPE_CHECKING:
    from treadle._dispatch.dispatcher import Dispatcher, Task

__all__ = ["Shedding"]

Reason = Literal["too_old", "discarded"]  # of a Shed

_log = logging.getLogger("treadle")


@contextmanager
def _logged() -> Iterator[None]:
    """Log what a callback or an observer raises that would end a thread; Ctrl-C is raised, for it is the caller's."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        log(_log, logging.ERROR, "a callback of a task that was shed raised", error=error)


class Shedding:
    """Takes tasks that will not run out of the order, under the lock, and tells who waits for them, without it."""

    __slots__ = ("count", "dispatcher", "stale", "standing")

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self.count = 0  # tasks given up so far
        self.standing = False  # whether callers that submit are to look for such tasks as well
        self.stale: Callable[[], Sequence[Task]] | None = hook_of(dispatcher.kept, "stale")

    def evict(self, newcomer: Task) -> Task | None:
        """Claim the task that is given up for `newcomer`, to be abandoned; the lock is held."""
        dispatcher = self.dispatcher
        aside, blocks = dispatcher.aside, dispatcher.admission.blocks
        with suppress(IndexError):
            while dispatcher.tasks and not (blocks is not None and blocks(newcomer) and aside.beside(newcomer)):
                victims = self.claim([cast("Task", dispatcher.kept.evict(newcomer))])
                if victims:
                    return victims[0]
        return next(iter(self.claim(aside.evict(newcomer))), None)

    def pick(self) -> list[Task]:
        """Claim the tasks that the order gives up now, to be shed with no lock held; the lock is held."""
        if self.stale is None:
            return []
        victims = self.claim(self.stale())
        self.look()
        if victims:
            self.dispatcher.admission.let_in()
        return victims

    def take_over(self, stale: Iterable[Task]) -> list[Task]:
        """Claim those that are alive, for a worker that will tell them, and leave the rest to others; as `claim`."""
        victims = self.claim(stale)
        self.look()
        self.dispatcher.after_claim()
        return victims

    def look(self) -> None:
        """Note whether the queue stands; the lock is held.

        While it does, whoever submits sheds too, so that those who offer too much do that work, rather than the threads
        that are short. At ten times what eight threads could do, these came to 0.9 of it while they shed alone.
        """
        standing = self.dispatcher.kept.standing
        if standing is not self.standing:
            self.standing = standing
            self.dispatcher.make_room()

    def claim(self, stale: Iterable[Task]) -> list[Task]:
        """Claim those that are alive, of tasks that the order gave up; the lock is held."""
        dispatcher, victims = self.dispatcher, []
        for task in stale:
            if task._state == PENDING:
                task._state = RUNNING
                self.count += not task._silent
                victims.append(task)
            else:
                dispatcher.dead -= 1
        return victims

    def shed(self, victims: list[Task], reason: Reason = "too_old") -> None:
        """Fail tasks that were claimed, emptying the list; no lock is held, for whoever waits for them is told."""
        dispatcher, fatal = self.dispatcher, None
        victims.reverse()
        while victims:
            task = victims.pop()
            error = self.error_for(task, reason)
            try:
                try:
                    dispatcher.notify_observers("shed", task, error)
                finally:
                    task._drop(error)
            except BaseException as raised:  # of a callback that would end the thread: the others are told before
                fatal = raised
        if fatal is not None:
            raise fatal

    def shed_by_caller(self, victims: list[Task]) -> None:
        """As `shed`, by a caller whose own task is in, and that is to be told so, whatever callbacks raise."""
        with _logged():
            self.shed(victims)

    def discard(self, victim: Task) -> None:
        """As `shed_by_caller`, a task that was evicted for the caller's."""
        with _logged():
            self.shed([victim], "discarded")

    def error_for(self, task: Task, reason: Reason) -> Shed:
        """Return the error that says that `task` was given up."""
        return Shed(self.dispatcher.name, task.name, clock.now() - task._submitted, reason, key=task._options.key)

    def claim_all(self) -> list[Task]:
        """Claim all that waits, for it will not run; the lock is held."""
        dispatcher = self.dispatcher
        victims = [task for task in (*dispatcher.tasks, *dispatcher.aside.tasks) if task._state == PENDING]
        for task in victims:
            task._state = RUNNING
        dispatcher.aside.clear()
        dispatcher.purge()
        return victims
