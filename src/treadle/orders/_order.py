"""Order: what a pool asks of the object that holds its waiting tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any, Literal, Protocol

__all__ = [
    "Handles",
    "Hands",
    "Look",
    "Order",
    "OrderName",
    "Own",
    "RareHandles",
    "Task",
    "handles_of",
    "hook_of",
    "own",
    "put_in_place",
]

Look = Literal["priority", "key"]
OrderName = Literal["fifo", "priority", "fair", "adaptive"]


class Task(Protocol):
    """A waiting task, as an order sees it; every `treadle.Future` is one.

    An order reads it, keeps it, and gives it back, and that very object: tasks are told apart by identity.
    """

    @property
    def priority(self) -> int:
        """How urgent it is, higher is more; 0 if `Pool.options` did not say."""

    @property
    def key(self) -> Hashable:
        """Whose it is; None if `Pool.options` did not say."""

    @property
    def name(self) -> str:
        """What logs and snapshots call it."""

    @property
    def submitted(self) -> float:
        """Since when it waits, in seconds on the clock of `time.monotonic`."""

    def done(self) -> bool:
        """Return whether it has ended, and need not run any more: it was cancelled, say."""


class Order(ABC):
    """Holds a pool's waiting tasks, and says which is next. Subclass it for an order of your own.

    An order has no lock: every call is made with the pool's lock held. So none may block, or call the pool or its
    futures, and an order serves one pool only. Nor is it called in the middle of a call: what a signal handler, or a
    destructor, submits there is put when that is over.

    It holds what was put until that is taken, evicted, stale or purged. Tasks that were cancelled or run elsewhere stay
    in it as well: the pool knows them when they are taken, and has them purged when they are many.

    What it may rely on: it is asked to `take` only while `ready()` is true. What the pool relies on: that no method
    raises, but `evict`; that `take`, `evict` and `stale` give out what was put and not given out since; and that `len`
    counts that. Where it is not so, nobody knows which tasks there are: the pool is broken, all that waits fails with
    PoolBroken, whose cause tells why, and the log has it once.

    Attributes:
        looks_at: what the order looks at, of "priority" and "key": all else is refused by `Pool.options`. By the key a
            server tells it which client's a message is. Nothing, unless you say so: `looks_at = frozenset({"key"})`.
        threads: the pool's ceiling on threads, set by the pool, and again whenever it changes.
    """

    looks_at: frozenset[Look] = frozenset()
    threads: int = 1

    @abstractmethod
    def put(self, task: Task, /) -> None:
        """Add a task."""

    @abstractmethod
    def take(self) -> Task:
        """Remove and return the task to run next."""

    @abstractmethod
    def evict(self, newcomer: Task, /) -> Task:
        """Remove and return the task to give up for a newcomer, in a full pool whose policy is "discard_oldest".

        Raises:
            IndexError: there is none; so the newcomer is refused.
        """

    @abstractmethod
    def purge(self, keep: Callable[[Task], bool], /) -> None:
        """Drop every task that `keep` refuses, leaving the others in their order."""

    @abstractmethod
    def __len__(self) -> int:
        """Return how many tasks it holds."""

    @abstractmethod
    def ready(self) -> bool:
        """Return whether there is a task that may be taken: whether it holds any, unless it holds some back.

        The pool looks when a task is put and when one has ended, at no other time.
        """

    def put_again(self, task: Task, /) -> None:
        """Add a task that was taken, and is to go on later: a map's, that lets others have its thread. As `put`."""
        self.put(task)

    def put_first(self, task: Task, /) -> None:
        """Add a task that was taken and could not begin, for its rate did not let it, and may now. As `put`.

        It has waited for its turn already, and as it is here it waits a second time.
        """
        self.put(task)

    def stale(self) -> Sequence[Task]:
        """Remove and return the tasks to shed, which fail with Shed. None.

        It is asked before each `take`, in a full pool, and while `standing` is true before each `put` as well.
        """
        return ()

    @property
    def standing(self) -> bool:
        """Whether callers that submit are to look for `stale` tasks too. No."""
        return False

    def full(self, task: Task, beside: int, /) -> bool:
        """Return whether there is no room for `task`, whatever the pool's `queue_size`. There is.

        Args:
            task: that would come now.
            beside: how many tasks with its key wait outside the order, for their rate.
        """
        return False

    def holds(self, task: Task, /) -> bool:
        """Return whether `task`, if it came now, would be held back though a thread were free. It would not."""
        return False

    def holders(self, task: Task, /) -> Collection[Task]:
        """Return the tasks, of those taken, of which one has to end before `task` may be taken. None.

        By them a wait that could never end is known.
        """
        return ()

    def ended(self, task: Task, /) -> None:  # noqa: B027  # it may be overridden, and need not
        """Note that a task that was taken has run, does not run, or is about to be put back. Nothing."""


class Hands(Protocol):
    """Whoever takes a task: the worker that is to run it."""

    task: Any


class _Hands:
    """Those of a caller that takes a task for itself."""

    __slots__ = ("task",)

    task: Any


class Handles:
    """What is used for every task, looked up once, and so that it takes no Python frame where it need not."""

    __slots__ = ("give", "line", "put", "ready", "tasks")

    def __init__(
        self, tasks: Any, ready: object, put: Callable[[Any], object], give: Callable[[Any], object], line: Any = None
    ) -> None:
        self.tasks = tasks  # what the order holds, with its length
        self.ready = ready  # true as long as there is a task that may be taken
        self.put = put
        self.give = give  # `Own._give`
        self.line = line  # what is given from its left end, if that is all there is to it


class RareHandles:
    """What is used for few tasks, and after an exception."""

    __slots__ = ("drop", "idle", "mend", "shed", "victim")

    def __init__(self, order: Own) -> None:
        self.victim: Callable[[Any], Any]
        self.drop: Callable[[Any], object]
        self.shed: Callable[[Callable[[Any], object]], object]
        self.mend: Callable[[], object]
        self.idle: tuple[object, ...]
        self.victim, self.drop, self.shed, self.mend, self.idle = order._rare_handles()


class Own(Order):
    """An order of treadle's own, whose containers may be used in the place of its methods.

    An exception may come between any two lines that call something (see `treadle._base.locks`). So a task that leaves
    is in somebody's hands before it leaves, and what follows from where the tasks are can be found anew.

    So may a signal handler, or a finalizer, that puts a task, and takes none out: what it gives up is left as a
    tombstone.
    """

    _tasks: Any
    _ready: Any  # `_tasks` itself, unless some are held back
    _sound = True  # False where it calls what is somebody else's
    _purged: deque[Any] | None = None  # what is being purged,
    _unseen = 0  # and how many at its left end are still to be looked at

    def __len__(self) -> int:
        return len(self._tasks)

    def ready(self) -> bool:
        """Return whether there is a task that may be taken."""
        return bool(self._ready)

    @abstractmethod
    def _give(self, hands: Hands, /) -> None:
        """Move the next task into `hands`: there first, and then away from here."""

    def take(self) -> Any:
        """Remove and return the task to run next."""
        if not self._tasks:
            raise IndexError("no task waits")
        hands = _Hands()
        self._give(hands)
        return hands.task

    @abstractmethod
    def _victim(self, newcomer: Any) -> Any:
        """Return the task to give up for a newcomer, which is to be dropped next; IndexError if there is none."""

    @abstractmethod
    def _drop(self, victim: Any) -> None:
        """Remove what `_victim` returned."""

    def evict(self, newcomer: Task, /) -> Any:
        """Remove and return the task to give up for a newcomer."""
        victim = self._victim(newcomer)
        self._drop(victim)
        return victim

    def _shed(self, claim: Callable[[Any], object]) -> None:
        """Remove the tasks to shed, each after `claim` was called with it."""

    def _purge(self, line: deque[Any], keep: Callable[[Any], bool]) -> None:
        """Drop what `keep` refuses from a deque, so that at any time each of the others is in it."""
        unseen, left = len(line), 0
        self._purged, self._unseen = line, unseen
        while unseen:
            if not line:  # looked at here: a signal handler that waits for those that take them may come as this loops
                break
            task = line[0]
            kept = keep(task)
            # No exception comes between these lines.
            self._unseen = unseen = unseen - 1
            if line and line[0] is task:
                del line[0]
                if kept:
                    line += [task]
                    left += 1
        if len(line) > left:  # what a signal handler has put meanwhile came last
            line.rotate(left - len(line))

    def _mend_purge(self) -> None:
        """After an exception: put those back in their order that a purge has not come to."""
        line, unseen = self._purged, self._unseen
        self._purged, self._unseen = None, 0
        if line is not None and unseen:
            line.rotate(len(line) - unseen)

    def _mend(self) -> None:
        """Find anew what follows from where the tasks are."""
        self._mend_purge()

    def _handles(self) -> Handles:
        return Handles(self._tasks, self._ready, self.put, self._give)

    def _rare_handles(self) -> tuple[Any, ...]:
        return self._victim, self._drop, self._shed, self._mend, self._idle()

    def _idle(self) -> tuple[object, ...]:
        """Return those of its functions that have nothing to say, as it was set up."""
        return ()


def handles_of(order: Own) -> Handles:
    """Return what is used of `order` for every task."""
    return order._handles()


def own(order: Order) -> Own | None:
    """Return `order` if all of it is treadle's own; None if any of it may be somebody else's, as in a subclass."""
    return order if isinstance(order, Own) and Own in type(order).__bases__ and order._sound else None


def hook_of(order: Order, name: str) -> Any:
    """Return the method of that name; None if it has nothing to say, so that nobody need call it for every task."""
    method = getattr(order, name)
    function = getattr(method, "__func__", method)
    idle = function is getattr(Order, name) or (isinstance(order, Own) and function in RareHandles(order).idle)
    return None if idle else method


def put_in_place(tasks: deque[Any], task: Any) -> None:
    """Put a task that was taken before its time back among others in the order of their submission.

    It is one of the oldest: only a few may come before it, which were taken before it and put back likewise. Where the
    clock is too coarse to tell, those are known by their rate.
    """
    place, time = 0, task.submitted
    while place < len(tasks):  # a signal handler may add some, at the other end
        other = tasks[place]
        tied = other.submitted == time and getattr(other, "_rate", None) is not None
        if not tied and other.submitted >= time:
            break
        place += 1
    tasks.insert(place, task)
