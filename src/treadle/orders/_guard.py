"""Guard: what stands between a pool and an order that is not treadle's own, and may do anything."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar

from treadle._base.words import counted, pass_on, type_name
from treadle.errors import PoolBroken
from treadle.orders import Order, Task
from treadle.orders._order import Handles, Hands, Own, hook_of, own

__all__ = ["guarded"]

T = TypeVar("T")

HOOKS = ("stale", "full", "holds", "holders", "ended")


class Breakable(Protocol):
    """What is broken when the order fails: a pool's state."""

    def break_off(self, where: str, error: BaseException) -> None:
        """Note that the order has raised `error` in `where`; the lock is held."""

    def why_broken(self) -> PoolBroken:
        """Return an error that says so."""


def guarded(order: Order, pool: Breakable) -> Own:
    """Return `order`, as a pool may use it: one of treadle's own as it is, any other behind a guard."""
    mine = own(order)
    return Guard(order, pool) if mine is None else mine


class Guard(Own):
    """Asks an order, and keeps the books of what that holds; the dispatcher's lock guards all of it.

    At the first call that raises, gives out what was not in it, or leaves the order with more or fewer tasks than the
    books have, the pool is broken: from then on the order is asked nothing, and the books say which tasks there are.

    It is called by one at a time: what a signal handler, or a finalizer, wants amid a call is done when that is over.
    """

    _tasks: dict[Task, Task]  # that the order holds

    def __init__(self, order: Order, pool: Breakable) -> None:
        self._order = order
        self._pool = pool
        self._tasks = {}
        self._failed = False
        self._amid = False  # whether a call is under way
        self._inbox: deque[Task] = deque()  # tasks that are in the books, and were put meanwhile
        self._later: deque[tuple[str, Callable[[], object]]] = deque()  # what else was left meanwhile

    def _idle(self) -> tuple[object, ...]:
        return tuple(getattr(Guard, name) for name in HOOKS if hook_of(self._order, name) is None)

    def _handles(self) -> Handles:
        return Handles(self._tasks, _Ready(self.ready), self.put, self._give)  # no field of its own: no cycle

    # -- what changes the books -----------------------------------------------------------------------------------

    def put(self, task: Task, /) -> None:
        """Add a task.

        Raises:
            PoolBroken: the order failed; `task` is not in it.
        """
        self._enter("put", self._order.put, task)

    def put_again(self, task: Task, /) -> None:
        """Add a task that is to go on later; as `put`."""
        self._enter("put_again", self._order.put_again, task)

    def put_first(self, task: Task, /) -> None:
        """Add a task that was taken before its time; as `put`."""
        self._enter("put_first", self._order.put_first, task)

    def _give(self, hands: Hands, /) -> None:
        """Move the next task into `hands`; None if the order failed."""
        try:
            self._give_out("take", self._take_one, lambda task: setattr(hands, "task", task))
        except PoolBroken:
            hands.task = None

    def stale(self) -> Sequence[Task]:
        """Remove and return the tasks to shed; none if the order failed."""
        shed: list[Task] = []
        self._shed(shed.append)
        return shed

    def _shed(self, claim: Callable[[Any], object]) -> None:
        with suppress(PoolBroken):
            self._give_out("stale", lambda: self._order.stale(), claim)

    def _victim(self, newcomer: Task) -> Task:
        """Return the task to give up, which the order has given out.

        Raises:
            IndexError: there is none.
            PoolBroken: the order failed.
        """
        victims: list[Task] = []
        self._give_out("evict", lambda: self._evict_one(newcomer), victims.append)
        return victims[0]

    def _drop(self, victim: Task) -> None:
        pass

    def purge(self, keep: Callable[[Task], bool], /) -> None:
        """Drop every task that `keep` refuses, whether the order fails at it or not."""
        self._amid = True
        try:
            for task in list(self._tasks):
                if not keep(task):
                    del self._tasks[task]
            if not self._failed:
                self._order.purge(self._tasks.__contains__)
                self._compare()
        except BaseException as error:
            self._fail("purge", error)
        finally:
            self._end()

    def _enter(self, name: str, put: Callable[[Task], object], task: Task) -> None:
        if self._failed:
            raise self._pool.why_broken()
        if self._amid:
            self._tasks[task] = task
            self._inbox.append(task)
            return
        self._amid = True
        try:
            self._tasks[task] = task
            put(task)
            self._compare()
        except BaseException as error:
            self._tasks.pop(task, None)
            self._fail(name, error)
            raise self._pool.why_broken() from error
        finally:
            self._end()

    def _end(self) -> None:
        """End a call: do what was left to be done then, and let others call the order again."""
        while self._inbox or self._later:
            call: Callable[[], object]
            if self._inbox:
                name, call = "put", partial(self._order.put, self._inbox[0])
                del self._inbox[0]
            else:
                name, call = self._later[0]
                del self._later[0]
            try:
                if not self._failed:  # else the books have the task, and it fails with the others
                    call()
            except BaseException as error:
                self._fail(name, error)
        self._amid = False

    def _mend(self) -> None:
        self._end()

    def _give_out(self, name: str, ask: Callable[[], Iterable[Task]], claim: Callable[[Task], object]) -> None:
        """Let those have the tasks that the order gives out who `claim` them: themselves, whatever equals them.

        As long as they are not claimed they are in the books, and are given back to these if the order failed.
        """
        if self._failed:
            raise self._pool.why_broken()
        self._amid = True
        try:
            out = self._given_out(name, ask)
            for found in out:
                claim(found)
                del self._tasks[found]
        finally:
            self._end()

    def _given_out(self, name: str, ask: Callable[[], Iterable[Task]]) -> dict[Task, None]:
        try:
            out: dict[Task, None] = {}
            for task in ask():
                found = self._tasks.get(task)
                if found is None or found in out:
                    raise RuntimeError(f"{type_name(task)} was given out, and is no task that was in it")
                out[found] = None
            self._compare(less=len(out))
        except BaseException as error:
            self._fail(name, error)
            raise self._pool.why_broken() from error
        return out

    def _take_one(self) -> tuple[Task]:
        return (self._order.take(),)

    def _evict_one(self, newcomer: Task) -> tuple[Task, ...]:
        try:
            return (self._order.evict(newcomer),)
        except IndexError:
            return ()

    def _compare(self, less: int = 0) -> None:
        """See that the order holds what the books have, but for `less`, and for what is to be put."""
        while True:
            left = len(self._inbox)
            held, due = len(self._order), len(self._tasks) - less - left
            if left == len(self._inbox):  # nothing has come as they were counted
                break
        if not self._failed and held != due:
            raise RuntimeError(f"its length is {held}, and it should hold {counted(due, 'task')}")

    # -- what only asks -------------------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Return whether there is a task that may be taken; amid a call whether there may be one."""
        if self._amid:
            return bool(self._tasks)
        self._amid = True
        try:  # spelled out, as it is asked several times for every task
            return not self._failed and bool(self._order.ready())
        except BaseException as error:
            self._fail("ready", error)
            return False
        finally:
            self._amid = False
            if self._inbox or self._later:
                self._end()

    @property
    def standing(self) -> bool:
        """Whether callers that submit are to look for stale tasks too."""
        return self._ask("standing", lambda: bool(self._order.standing), False)

    def full(self, task: Task, beside: int, /) -> bool:
        """Return whether there is no room for `task`."""
        return self._ask("full", lambda: bool(self._order.full(task, beside)), False)

    def holds(self, task: Task, /) -> bool:
        """Return whether `task`, if it came now, would be held back."""
        return self._ask("holds", lambda: bool(self._order.holds(task)), False)

    def holders(self, task: Task, /) -> Collection[Task]:
        """Return the tasks of which one has to end before `task` may be taken."""
        return self._ask("holders", lambda: tuple(self._order.holders(task)), ())

    def ended(self, task: Task, /) -> None:
        """Note that a task has run."""
        self._ask("ended", lambda: self._order.ended(task), None)

    @property
    def threads(self) -> int:
        """The pool's ceiling on threads."""
        return self._order.threads

    @threads.setter
    def threads(self, threads: int) -> None:
        """Tell the order."""
        self._ask("threads", lambda: setattr(self._order, "threads", threads), None)

    def _ask(self, name: str, question: Callable[[], T], otherwise: T) -> T:
        """Return what the order says; `otherwise` if it has failed, or amid a call."""
        if self._failed:
            return otherwise
        if self._amid:
            if name in ("ended", "threads"):
                self._later.append((name, question))
            return otherwise
        self._amid = True
        try:
            return question()
        except BaseException as error:
            self._fail(name, error)
            return otherwise
        finally:
            self._end()

    def _fail(self, name: str, error: BaseException) -> None:
        if not self._failed:
            self._failed = True
            self._pool.break_off(f"{type_name(self._order)}.{name}", error)
        pass_on(error)


class _Ready:
    """True while the order says that there is a task to take."""

    __slots__ = ("ask",)

    def __init__(self, ask: Callable[[], bool]) -> None:
        self.ask = ask

    def __bool__(self) -> bool:
        return self.ask()
