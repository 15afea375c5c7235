"""Aside: tasks of a pool that wait beside its order, until their rate lets them begin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from treadle._base.words import pass_on
from treadle._tasks.future import RUNNING
from treadle._tasks.scoped import ScopedTask

if TYPE_CHECKING:
    from treadle._dispatch.dispatcher import Dispatcher, Task

__all__ = ["Aside"]


class Aside:
    """Where tasks go that came to a thread before their rate allowed (see `treadle._tasks.rate`).

    They take up room as those in the order do. While there are any, a pool that was closed keeps a thread.
    """

    __slots__ = ("dispatcher", "keys", "put_first", "tasks")

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self.put_first: Callable[[Task], object] = dispatcher.kept.put_first
        # Guarded by the dispatcher's lock.
        self.tasks: dict[Task, None] = {}
        self.keys: Counter[object] = Counter()  # how many of each key

    def park(self, task: Task) -> bool:
        """Keep a task that was not admitted by its rate, unless it was called since; False if it is no such task.

        The lock is held: so who calls a task finds it here afterwards, or it is found here that it was called. Nor is
        one kept that a worker waits for: that had come to run it, and would have if no thread had asked its rate then.
        """
        if not isinstance(task, ScopedTask) or task._rate is None:
            return False
        if task._wanted:
            task._skip_rate()
        if task._rate is None or task._rate.has_called(task):
            self.put_first(task)
            return True
        self.keys[task._options.key] += 1  # first, for it may raise
        self.tasks[task] = None
        self.dispatcher.make_room()
        task._rate.arm()
        return True

    def beside(self, task: Task) -> int:
        """How many tasks with the key of `task` are here; the lock is held."""
        return self.keys[task._options.key]

    def leave(self, task: Task) -> bool:
        """Let a task go that is cancelled or run elsewhere; False if it is not here. The lock is held."""
        if task not in self.tasks:
            return False
        self._remove(task)
        dispatcher = self.dispatcher
        dispatcher.admission.let_in(dispatcher.staff.free())
        dispatcher.staff.nudge()
        self._end()
        return True

    def resume(self, task: Task) -> None:
        """Put a task back in the order, for its rate has called it."""
        dispatcher, why = self.dispatcher, None
        with dispatcher.lock:
            if task in self.tasks:
                self._remove(task)
                try:
                    self.put_first(task)
                except BaseException as error:  # of its key: the task fails, and not who is to call the next one
                    pass_on(error)
                    task._state, why = RUNNING, error
                    dispatcher.cancelled += 1
                else:
                    dispatcher.staff.summon(task, keep=True)
                self._end()
        if why is not None:
            dispatcher.give_up(task, why)

    def evict(self, newcomer: Task) -> Iterator[Task]:
        """Remove and yield the task to give up for a newcomer: the oldest, of its key if that has any."""
        of_key = self.beside(newcomer) > 0
        for task in self.tasks:
            if not of_key or task._options.key == newcomer._options.key:
                self._remove(task)
                yield task
                return

    def clear(self) -> None:
        """Forget all; the lock is held."""
        self.tasks.clear()
        self.keys.clear()

    def _remove(self, task: Task) -> None:
        del self.tasks[task]
        try:
            self.keys[task._options.key] -= 1
            if not self.keys[task._options.key]:
                del self.keys[task._options.key]
        except BaseException as error:  # of a key that worked once
            pass_on(error)
        self.dispatcher.make_room()

    def _end(self) -> None:
        """Let the threads of a closed pool go that were kept for what was here."""
        if self.dispatcher.closed is not None and not self.tasks:
            self.dispatcher.staff.wake_all()
