"""IdleTask: work that a pool's workers do when they have nothing else to do, such as leading a server.

An idle task waits beside the queue: it takes no room there, admission never refuses it, and a worker takes it up
instead of falling idle. As soon as a task waits that no worker is free for, it is preempted: the worker that does it is
as good as an idle one, and is to be back soon.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, cast

from treadle._base.words import log
from treadle._tasks.call import NoContext
from treadle._tasks.future import RUNNING, InternalTask

if TYPE_CHECKING:
    from treadle._tasks.owner import Owner
    from treadle.orders._order import Hands

__all__ = ["IdleTask", "IdleTasks"]

_log = logging.getLogger("treadle")


class _Pool(Protocol):
    def idle_is_over(self, task: IdleTask) -> None:
        """Note that `task` is over."""


class IdleTask(InternalTask):
    """One spell of such work. Override `run_idle` and `preempt`, and give it to `Dispatcher.add_idle`."""

    __slots__ = ()

    def __init__(self, owner: Owner[Any]) -> None:
        super().__init__()
        self._owner = owner
        self._context = NoContext()

    def run_idle(self) -> None:
        """Do the work, on a worker, until there is no more, or it is preempted."""
        raise NotImplementedError

    def preempt(self) -> None:
        """Make `run_idle` return soon. Called once at most, with the pool's lock held: it must not block."""
        raise NotImplementedError

    def _invoke(self) -> bool:
        self._result = self._exception = None
        try:
            self.run_idle()
        except Exception as error:
            log(_log, logging.ERROR, "idle task %s failed", self.name, error=error)
        finally:
            cast(_Pool, self._owner).idle_is_over(self)
        self._context = None
        return False


class IdleTasks:
    """Those of one pool. Every method is called with its lock held."""

    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[IdleTask] = deque()  # that nobody does
        self.running: list[IdleTask] = []  # that workers do, and that were not preempted

    def take(self, hands: Hands) -> IdleTask | None:
        """Claim the next one, into `hands`; None if there is none."""
        if not self.waiting:
            return None
        task = self.waiting[0]
        hands.task = task
        del self.waiting[0]
        self.running += [task]
        task._state = RUNNING
        return task

    def preempt_one(self) -> None:
        """Preempt the one that began last, if there is one still."""
        if self.running:
            task = self.running[-1]
            del self.running[-1]
            task.preempt()

    def is_over(self, task: IdleTask) -> None:
        """Note that a worker does `task` no more, or can be called back from it no more."""
        if task in self.running:
            self.running.remove(task)

    def clear(self) -> None:
        """Forget all."""
        self.waiting.clear()
        self.running.clear()
