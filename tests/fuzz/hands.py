"""Hands: a pool that is played on a stage; as much of one as the server asks for."""

from __future__ import annotations

import random
from collections import deque
from threading import RLock
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from treadle.errors import PoolClosed
from treadle.orders import Fifo

if TYPE_CHECKING:
    from fuzz.stage import Stage

__all__ = ["Hands"]


class Hands:
    """Workers that run tasks, and idle tasks when there are none; these are preempted for a task as in a real pool.

    They are their own dispatcher, and its workers.
    """

    def __init__(self, stage: Stage, dice: random.Random, workers: int) -> None:
        self.stage = stage
        self.dice = dice
        self.max_workers = workers
        self.workers = self
        self.name = "hands"
        self.lock = RLock()  # held over no step of a script
        self.ended = 0
        self.tasks: deque[Any] = deque()
        self.idle_tasks: deque[Any] = deque()
        self.running: list[Any] = []  # of these
        self.idle = 0
        self.refuses = 0.0  # how often it does
        self.closed: str | None = None
        self.broken = None
        self.order = Fifo()
        for number in range(workers):
            stage.add(f"worker-{number}", self._work)

    # -- what the server calls -------------------------------------------------------------------------------------

    def is_ours(self) -> bool:
        """Whether this is a worker's thread."""
        me = self.stage.me()
        return me is not None and me.name.startswith("worker")

    @property
    def has_more(self) -> bool:
        """Whether a task waits that a free thread would take."""
        return bool(self.tasks)

    def free_threads(self) -> int:
        """How many tasks could be taken at once."""
        return self.idle

    def add_idle(self, task: Any) -> bool:
        """Take an idle task in."""
        self.stage.step()
        if self.closed:
            raise PoolClosed(self.name, "shutdown")
        self.idle_tasks.append(task)
        return not self.tasks and self.idle > 0

    def idle_is_lost(self, task: Any) -> None:
        """Note that the worker of an idle task is tied up in it."""
        self.idle_is_over(task)

    def idle_is_over(self, task: Any) -> None:
        """Note that an idle task is over."""
        self.stage.step()
        if task in self.running:
            self.running.remove(task)
        self.stage.step()

    def enter_later(self, task: Any, when_full: str) -> bool:
        """Take a task in."""
        self.stage.step()
        if self.closed or (self.refuses and self.dice.random() < self.refuses):
            error = PoolClosed(self.name, "shutdown") if self.closed else RuntimeError("can't start new thread")
            task._refuse(error)
            raise error
        self.tasks.append(task)
        if len(self.tasks) > self.idle and self.running:
            self.preempt_one()
        self.stage.step()
        return True

    # -- what happens to it ----------------------------------------------------------------------------------------

    def preempt_one(self) -> None:
        """Call a worker back from its idle task."""
        self.running.pop().preempt()

    def cancel_one(self) -> None:
        """Drop a task that has not begun."""
        if self.tasks:
            index = self.dice.randrange(len(self.tasks))
            task = self.tasks[index]
            del self.tasks[index]
            task._abandon(None)

    def close(self, *, cancel: bool) -> None:
        """Take no more; workers end when there is nothing left."""
        self.closed = "shutdown"
        self.idle_tasks.clear()
        while self.running:
            self.preempt_one()
        while cancel and self.tasks:
            self.cancel_one()

    def _work(self) -> None:
        while True:
            self.idle += 1
            self.stage.wait(lambda: bool(self.tasks or self.idle_tasks or self.closed), what="work")
            self.idle -= 1
            if self.tasks:
                task = self.tasks.popleft()
                if task._invoke():
                    self.tasks.append(task)
            elif self.idle_tasks:
                task = self.idle_tasks.popleft()
                self.running.append(task)
                task._invoke()
            elif self.closed:
                return
            self.stage.step()


class OtherTask(SimpleNamespace):
    """A task that has nothing to do with the server."""

    def _invoke(self) -> bool:
        self.do()
        return False

    def _refuse(self, error: BaseException) -> None:
        pass

    def _abandon(self, why: BaseException | None) -> None:
        pass
