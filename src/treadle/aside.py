"""Aside: tasks of a pool that wait beside its order, until their rate lets them begin."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from treadle.governed import Governed

if TYPE_CHECKING:
    from treadle.dispatch import Dispatcher, Task

__all__ = ["Aside"]


class Aside:
    """Where tasks go that came to a thread before their rate allowed (see `treadle.rate`).

    They take up room as those in the order do. While there are any, a pool that was closed keeps its threads.
    """

    __slots__ = ("dispatcher", "tasks")

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self.tasks: dict[Task, None] = {}  # guarded by the dispatcher's lock

    def park(self, task: Task) -> bool:
        """Keep a task that was not admitted by its rate; False if it is no such task, or was called since.

        The lock is held: so who calls a task finds it here afterwards, or it is found here that it was called.
        """
        if not isinstance(task, Governed) or task._rate is None or task._rate.has_called(task):
            return False
        self.tasks[task] = None
        self.dispatcher.make_room()
        task._rate.arm()
        return True

    def leave(self, task: Task) -> bool:
        """Let a task go that is cancelled or run elsewhere; False if it is not here. The lock is held."""
        if task not in self.tasks:
            return False
        del self.tasks[task]
        dispatcher = self.dispatcher
        dispatcher.make_room()
        dispatcher.admission.let_in(dispatcher.admission.limit)
        if dispatcher.closed is not None and not self.tasks:
            dispatcher.staff.wake_all()
        return True

    def resume(self, task: Task) -> None:
        """Put a task back in the order, for its rate has called it."""
        dispatcher = self.dispatcher
        with dispatcher.lock:
            if self.leave(task):
                dispatcher.put(task)
                with suppress(RuntimeError):  # can't start new thread: another one, or the next submit, sees to it
                    dispatcher.staff.summon(task)
