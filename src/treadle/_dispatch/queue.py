"""TaskQueue: where the tasks of a pool wait.

In the order, which says whose turn is next; or beside it, *throttled*, until their rate lets them begin (see
`treadle.Rate`); or *out*, with strangers who have taken them out of their turn. A task that is cancelled in the order,
or run elsewhere, stays there as a *tombstone*: it is found dead when its turn comes, and purged when they are many.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, cast

from treadle._tasks.future import PENDING, RUNNING, key_slot_of
from treadle.orders._order import RareHandles, handles_of, hook_of

if TYPE_CHECKING:
    from treadle._dispatch.state import Claims, Counts, Task
    from treadle.orders._order import Hands, Own

__all__ = ["TaskQueue"]

FEW = 64  # tombstones that are not worth a purge


class TaskQueue:
    """The tasks that wait, and what the order says of them.

    Every method is called with the pool's lock held, calls nobody but the order, and returns facts. A task changes its
    state and its place together, in lines that no exception can come between (see `treadle._base.locks`). What follows
    from both, such as how many tombstones there are, is found anew after one that came elsewhere (`mend`).

    Nor can a signal handler or a finalizer come between these, which may call the pool amid any section: it adds tasks,
    and leaves those that are over as tombstones. So what is iterated over is copied by one call of C's, and a task is
    looked at anew just before it is changed.
    """

    __slots__ = (
        "_full",
        "_keys",
        "_rare",
        "debris",
        "give",
        "holders",
        "holds",
        "line",
        "observe_end",
        "order",
        "out",
        "put",
        "ready",
        "shed",
        "standing",
        "tasks",
        "throttled",
        "tombstones",
    )

    def __init__(self, order: Own) -> None:
        self.order = order  # as it is used: behind a guard, if it is not treadle's own
        # What every task comes by, looked up once.
        self.tasks: Collection[Task]  # that the order holds
        self.ready: object  # true as long as there is one that may be taken
        self.put: Callable[[Task], object]
        self.give: Callable[[Hands], object]
        self.line: Any  # the order itself, if it is a plain deque; else None
        handles = handles_of(order)
        self.tasks, self.ready, self.put = handles.tasks, handles.ready, handles.put
        self.give, self.line = handles.give, handles.line
        self._rare = RareHandles(order)
        # What few orders have.
        self.shed = None if hook_of(order, "stale") is None else self._rare.shed
        self._full: Callable[[Task, int], bool] | None = hook_of(order, "full")
        self.holds: Callable[[Task], bool] | None = hook_of(order, "holds")
        self.holders: Callable[[Task], Collection[Task]] | None = hook_of(order, "holders")
        self.observe_end: Callable[[Task], object] | None = hook_of(order, "ended")
        self.standing = False  # whether callers that submit are to look for stale tasks as well
        self.throttled: dict[Task, None] = {}  # in the order in which they came
        self._keys: dict[object, int] = {}  # how many of each key these are
        self.out: dict[Task, object] = {}  # and a token of who has it
        self.tombstones = 0
        self.debris: list[Task] = []  # tombstones, to be let go with no lock held: they are the user's

    # -- asking -----------------------------------------------------------------------------------------------------

    def waiting(self) -> int:
        """Return how many tasks wait for a thread."""
        return len(self.tasks) - self.tombstones + len(self.throttled)

    def has(self, task: Task) -> bool:
        """Return whether `task` waits here, wherever; it may be a tombstone."""
        return task in self.throttled or task in self.out or task in self.tasks

    def everything(self) -> list[Task]:
        """Return all that waits, and tombstones."""
        return [*self.tasks, *self.throttled, *self.out]

    @property
    def may_be_full(self) -> bool:
        """Whether the order may have no room for a task though the pool has."""
        return self._full is not None

    def is_full_for(self, task: Task) -> bool:
        """Return whether the order has no room for `task`."""
        return self._full is not None and self._full(task, self._beside(task))

    def _beside(self, task: Task) -> int:
        """Return how many tasks with the key of `task` are throttled."""
        return self._keys.get(key_slot_of(task), 0)

    # -- a task's turn ----------------------------------------------------------------------------------------------

    def claim_next(self, hands: Hands) -> Task | None:
        """Claim the next task that is alive, into `hands`; None if none may run now."""
        while self.ready:
            self.give(hands)
            task: Task | None = hands.task
            if task is None:  # the order has failed
                return None
            if task._state is PENDING:
                task._state = RUNNING
                return task
            self.bury_given(task)
            hands.task = None
        return None

    def put_back(self, task: Task) -> None:
        """Have a task wait again that was claimed, and is to go on later; raise what the order raises."""
        self.order.put_again(task)
        if task._state is RUNNING:
            task._state = PENDING

    def bury_given(self, tombstone: Task) -> None:
        """As `bury`; and tell the order, which may have taken it for alive: a handler has cancelled it just then."""
        if self.observe_end is not None:
            self.observe_end(tombstone)
        self.bury(tombstone)

    def bury(self, tombstone: Task) -> None:
        """Count out a task that was given out, and is dead; it is let go of with no lock held."""
        self.tombstones -= 1
        self.debris += [tombstone]

    def look_whether_it_stands(self) -> None:
        """Note whether callers that submit are to look for stale tasks as well.

        While the queue stands they shed too, so that those who offer too much do that work, rather than the threads
        that are short. At ten times what eight threads could do, these came to 0.9 of it while they shed alone.
        """
        self.standing = self.order.standing

    # -- out of its turn --------------------------------------------------------------------------------------------

    def leave(self, task: Task, state: str, counts: Counts | None = None) -> bool:
        """Give a task that waits another state: it is cancelled, or run out of its turn; False if it is done.

        Args:
            task: the task.
            state: its new state.
            counts: where it is counted as cancelled; None: nowhere.
        """
        slot = key_slot_of(task)
        # No exception comes between these lines.
        if task._state is not PENDING and task._state is not RUNNING:
            return False
        task._state = state
        if counts is not None:
            counts.cancelled += 1
        if task in self.throttled:  # as `_unthrottle`, which would be a call
            del self.throttled[task]
            self._keys[slot] -= 1
            if not self._keys[slot]:
                del self._keys[slot]
        elif task in self.out:
            del self.out[task]
        else:
            self.tombstones += 1
        return True

    def give_back(self, task: Task) -> None:
        """Have a task wait again that was claimed out of its turn, and has not begun."""
        if task._state is PENDING:  # it was about to be claimed
            return
        if task in self.tasks:  # where it is a tombstone
            task._state = PENDING
            self.tombstones -= 1
        else:
            self.resume(task)

    def is_crowded(self) -> bool:
        """Return whether a purge costs no more than the tombstones that it frees."""
        return self.tombstones > FEW and self.tombstones * 2 > len(self.tasks)

    def purge(self, leaving: Task | None = None) -> None:
        """Drop the tombstones, and `leaving`."""
        self.debris += [task for task in list(self.tasks) if task._state is not PENDING and task is not leaving]
        self.order.purge(lambda task: task is not leaving and cast("Task", task)._state == PENDING)
        self.tombstones = 0

    def first(self) -> Task | None:
        """Return a task that waits in the order or is throttled, though its turn has not come, if there is one."""
        return next((task for task in self.everything_here() if task._state == PENDING), None)

    def take_out(self, task: Task, token: object) -> bool:
        """Take a pending task away; it waits for whoever has `token`. False: it does not wait any more."""
        slot = key_slot_of(task)
        # No exception comes between these lines: it is throttled, or out.
        self.out[task] = token
        if task in self.throttled:  # as `_unthrottle`, which would be a call
            del self.throttled[task]
            self._keys[slot] -= 1
            if not self._keys[slot]:
                del self._keys[slot]
        else:
            self.purge(task)
            if task._state != PENDING and task in self.out:  # a signal handler has ended it
                del self.out[task]
                return False
        return True

    def everything_here(self) -> list[Task]:
        """Return all that waits but for what strangers have taken out, and tombstones."""
        return [*self.tasks, *self.throttled]

    # -- tasks to give up -------------------------------------------------------------------------------------------

    def claim_stale(self, claims: Claims) -> None:
        """Claim the tasks that the order gives up now, to be shed."""
        if self.shed is not None:
            self.shed(self.claimer_of_stale(claims))
            self.look_whether_it_stands()

    def claimer_of_stale(self, claims: Claims) -> Callable[[Task], None]:
        """Return what `shed` is to call with each task that the order gives up."""

        def claim(task: Task) -> None:
            if not claims.add_waiting(task, "too_old"):
                self.bury(task)

        return claim

    def claim_victim(self, newcomer: Task, claims: Claims) -> bool:
        """Claim the task that is discarded for `newcomer`: the oldest, or as the order says. False: there is none."""
        try:
            while self.tasks and not (self.is_full_for(newcomer) and self._beside(newcomer)):
                task = cast("Task", self._rare.victim(newcomer))
                alive = claims.add_waiting(task, "discarded")
                self._rare.drop(task)
                if alive:
                    return True
                self.bury(task)
        except IndexError:
            pass
        slot = key_slot_of(newcomer) if self._beside(newcomer) else None
        return self._claim_one(list(self.throttled), slot, claims)

    def claim_victim_inside(self, newcomer: Task, claims: Claims) -> bool:
        """As `claim_victim`, in the midst of another section: what is discarded stays where it is, and is dead."""
        slot = key_slot_of(newcomer) if self.is_full_for(newcomer) else None
        return self._claim_one(self.everything_here(), slot, claims)

    def _claim_one(self, tasks: list[Task], slot: object, claims: Claims) -> bool:
        """Claim the first that waits of `tasks`, or of those with that key, to be discarded; False: there is none."""
        for task in tasks:
            if (slot is None or key_slot_of(task) is slot) and claims.add_waiting(task, "discarded"):
                if task in self.throttled:
                    self._unthrottle(task)
                else:
                    self.tombstones += 1
                return True
        return False

    # -- rates ------------------------------------------------------------------------------------------------------

    def throttle(self, task: Task) -> None:
        """Keep a claimed task that its rate did not let begin, until it is resumed."""
        slot = key_slot_of(task)
        if slot in self._keys:
            self._keys[slot] += 1
        else:
            self._keys[slot] = 1
        self.throttled[task] = None
        task._state = PENDING

    def resume(self, task: Task) -> None:
        """Put a task in the order that was throttled, or claimed, and may begin now; raise what the order raises."""
        self.order.put_first(task)
        self._unthrottle(task)
        if task._state is RUNNING:
            task._state = PENDING

    def _unthrottle(self, task: Task) -> None:
        """Let go of a task, if it is throttled."""
        slot = key_slot_of(task)
        if task in self.throttled:
            del self.throttled[task]
            self._keys[slot] -= 1
            if not self._keys[slot]:
                del self._keys[slot]

    def forget_throttled(self, task: Task) -> None:
        """Let go of a throttled task that was claimed."""
        self._unthrottle(task)

    def forget_all_throttled(self) -> None:
        """Let go of all that are throttled, which were claimed."""
        self.throttled.clear()
        self._keys.clear()

    # -- after an exception, a fork ---------------------------------------------------------------------------------

    def mend(self) -> None:
        """Find anew what follows from the tasks' states and places."""
        self._rare.mend()
        held = set(self.tasks) if self.throttled else ()
        for task in list(self.throttled):
            if task._state != PENDING or task in held:
                self.debris += [task]
                self._unthrottle(task)
        self.tombstones = sum(task._state != PENDING for task in list(self.tasks))

    def clear(self) -> None:
        """Forget all."""
        self.order.purge(lambda task: False)
        self.tombstones = 0
        for container in (self.throttled, self._keys, self.out):
            container.clear()
