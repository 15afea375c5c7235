"""Fair: one key's tasks after another's, so that nobody can crowd out the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from math import inf
from typing import Any, Literal, TypeVar, cast

from treadle._base import checks
from treadle._base.words import counted, is_a, show, type_name
from treadle._tasks.future import PENDING, Future, key_slot_of
from treadle._tasks.options import KeySlot, slot_of
from treadle.orders._counted import Counted
from treadle.orders._fifo import Fifo
from treadle.orders._order import Hands, Look, Order, Own, RareHandles, Task, handles_of, hook_of, own
from treadle.orders._priority import Priority

__all__ = ["Fair"]

T = TypeVar("T")

# Making a queue takes longer than a turn.
KEPT = 64  # keys beyond which those without tasks are forgotten
SPARE = 64  # queues of forgotten ones that are kept for other keys

_NAMED: dict[str, Callable[[], Order]] = {"fifo": Fifo, "priority": Priority}
_UNASKED = ("stale", "full", "holds", "holders", "ended")  # what an order may have, and one of a single key may not


class _Flow:
    """The tasks of one key."""

    __slots__ = (
        "credit",
        "give",
        "inner",
        "key",
        "line",
        "listed",
        "most_running",
        "order",
        "put",
        "running",
        "waiting",
        "weight",
    )

    key: KeySlot
    weight: float
    most_running: float

    def __init__(self, order: Order) -> None:
        inner = own(order)
        self.order = order
        self.inner = inner  # the same, if it is treadle's own
        self.waiting: Any
        self.put: Callable[[Any], object]
        self.give: Callable[[Any], object]
        self.line: Any = None  # what is given from its left end, if that is all there is to it
        if inner is None:
            self.waiting, self.put, self.give = order, order.put, partial(_give_of, order)
        else:
            handles = handles_of(inner)
            self.waiting, self.put, self.give, self.line = handles.tasks, handles.put, handles.give, handles.line
        self.credit: float = 0  # tasks that it may still run in this round, less than one of them left over
        self.listed = False  # among those that have tasks waiting and may run one
        self.running = 0  # of its tasks, that were taken; counted only where `max_running` is set


class _Ceiling:
    """How many tasks of one key there may be: as many for each, or for each as many as a mapping says."""

    __slots__ = ("bounds", "of", "others")

    def __init__(self, name: str, value: int | Mapping[Any, int | None] | None) -> None:
        by_key = _by_key(name, value, checks.integer_or_none)
        others = by_key.pop(..., None)
        self.others = inf if others is None else others
        self.of = {slot_of(key): inf if most is None else most for key, most in by_key.items()}
        self.bounds = self.others < inf or bool(self.of)  # whether there is any

    def __getitem__(self, key: KeySlot) -> float:
        return self.of.get(key, self.others) if self.of else self.others


def _by_key(name: str, value: Any, check: Callable[..., T]) -> dict[Any, T]:
    """Return the numbers of a mapping, checked; of a number alone, that of all keys."""
    if not is_a(value, Mapping):
        return {...: check(name, value, least=1)}
    return {key: check(f"{name}[{show(key)}]", number, least=1) for key, number in value.items()}


class Fair(Own):
    """Deficit round robin: in each round every key that waits runs one task, or as many as its weight says.

    A task's key, say the customer it is run for, is given by `pool.options(key=...)`; None if none is given. However
    many tasks one key has waiting, another key's first task waits at most one round: one task for each key that waits
    (or their weights). A part of a task that a weight leaves over is carried to the next round, as long as tasks wait.

    Keys are served by number of tasks, not by how long they take; where some are slow, bound the threads a key may
    hold with `max_running`, and one that is stuck cannot take the pool with it (a bulkhead). At a full queue,
    "discard_oldest" discards the oldest task of the key that has most waiting, or of the newcomer's key where that is
    at `max_waiting`.

    Within one key the first that came is the first to run. With `order="priority"` it is the most urgent, and the least
    urgent is the one to be discarded: so nobody's urgent tasks wait behind their own others, nor before anybody else's.

    Source: Shreedhar and Varghese, "Efficient Fair Queueing using Deficit Round Robin", SIGCOMM 1995, with a task as
    the unit of cost.

    Args:
        weights: for some keys, how many tasks they run in a round, 1 or more, whole or not; 1 for all others.
        max_running: the ceiling on threads that run tasks of one key, 1 or more; None: none of its own. Tasks that run
            inside other tasks, because a thread of the pool waits for them, are not counted.
        max_waiting: the ceiling on waiting tasks of one key, 1 or more; None: none of its own. What happens there is
            the pool's `when_full`.
        order: what makes the order of one key's tasks: "fifo", "priority", or what returns a new and empty one whenever
            it is called, such as `lambda: Priority(age=10)`. It is called with the pool's lock held. What it makes
            serves one key at a time, and is asked for no more than every order has to have, and `put_first`.

    Each of the first three may be a mapping of keys and numbers, in which `...` stands for all keys that are not in it:
    `max_running={"reports": 1, ...: 4}`. Without that they weigh 1, and have no ceiling of their own.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or out of range.
    """

    _tasks: Counted

    def __init__(
        self,
        weights: Mapping[Any, float] | None = None,
        *,
        max_running: int | Mapping[Any, int | None] | None = None,
        max_waiting: int | Mapping[Any, int | None] | None = None,
        order: Literal["fifo", "priority"] | Callable[[], Order] = "fifo",
    ) -> None:
        if weights is not None and not is_a(weights, Mapping):
            raise TypeError(f"weights={show(weights)} is {type_name(weights)}; allowed: a dict of keys and numbers")
        by_key = _by_key("weights", weights or {}, checks.number)
        self._weight_of_others = by_key.pop(..., 1)
        self._weights = {slot_of(key): weight for key, weight in by_key.items()}
        self._max_running = _Ceiling("max_running", max_running)
        self._max_waiting = _Ceiling("max_waiting", max_waiting)
        self._make = _maker(order)
        first = _made(self._make)
        self.looks_at = frozenset[Look]({"key"}) | first.looks_at
        self._sound = any(self._make is kind for kind in _NAMED.values())
        self._counts = self._max_running.bounds  # whether it knows which tasks run
        self._tasks = Counted(lambda: chain.from_iterable([flow.waiting for flow in list(self._flows.values())]))
        self._flows: dict[KeySlot, _Flow] = {}  # that have tasks waiting, or counted as running, and a few others
        self._spare = [_Flow(first)]  # a few that are free for any key
        self._ready: deque[_Flow] = deque()  # that have tasks waiting and may run one; the first has its turn
        self._taken: dict[Task, _Flow] = {}  # tasks that run, and count

    def _idle(self) -> tuple[object, ...]:
        idle: tuple[object, ...] = () if self._counts else (Fair.ended, Fair.holds, Fair.holders)
        return idle if self._max_waiting.bounds else (*idle, Fair.full)

    def put(self, task: Task, /) -> None:
        """Add a task."""
        flow = self._flows.get(key_slot_of(task)) or self._new_flow(key_slot_of(task))
        self._tasks.append(None)
        flow.put(task)
        if not flow.listed and flow.running < flow.most_running:
            flow.listed = True
            flow.credit = flow.weight
            self._ready.append(flow)

    def _new_flow(self, key: KeySlot) -> _Flow:
        flow = self._spare.pop() if self._spare else _Flow(_made(self._make))
        flow.key = key
        flow.weight = self._weights.get(key, self._weight_of_others) if self._weights else self._weight_of_others
        flow.most_running = self._max_running[key]
        if key in self._flows:  # a signal handler was faster
            return self._flows[key]
        self._flows[key] = flow
        return flow

    def put_first(self, task: Task, /) -> None:
        """Add a task that was taken before its time: before those of its key that came after it.

        And with the turn that it has taken for nothing: at once, if it is the only one of its key.
        """
        flow = self._flows.get(key_slot_of(task)) or self._new_flow(key_slot_of(task))
        self._tasks.append(None)
        flow.order.put_first(task)
        if len(flow.waiting) > 1:
            flow.credit += 1
        elif not flow.listed and flow.running < flow.most_running:
            flow.listed = True
            flow.credit = flow.weight
            self._ready.appendleft(flow)

    def _give(self, hands: Hands, /) -> None:
        """Move the next task of the key whose turn it is into `hands`."""
        flow = self._ready[0]
        line = flow.line
        task: Future[Any]
        if line:  # as `Fifo._give`, for a frame less
            hands.task = task = line[0]
            del line[0]
        else:
            flow.give(hands)
            task = hands.task
        del self._tasks[-1]
        if task._state is PENDING:  # others were run elsewhere, or cancelled, and take no turn
            flow.credit -= 1
            if self._counts:
                flow.running += 1
                self._taken[task] = flow
        if not flow.waiting or flow.running >= flow.most_running:
            flow.listed = False
            self._ready.popleft()
            if not flow.waiting and not flow.running and len(self._flows) > KEPT:
                self._forget(flow)
        elif flow.credit < 1:
            flow.credit += flow.weight
            self._ready.rotate(-1)

    def _victim(self, newcomer: Task) -> Task:
        """Return a task of the key that has most waiting, or of the newcomer's, if that is full."""
        flow = self._flows.get(key_slot_of(newcomer))
        if flow is None or not self.full(newcomer, 0):
            flow = max(list(self._flows.values()), key=lambda flow: len(flow.waiting), default=None)
        if flow is None or not flow.waiting:
            raise IndexError("no task waits")
        return flow.order.evict(newcomer) if flow.inner is None else RareHandles(flow.inner).victim(newcomer)

    def _drop(self, victim: Task) -> None:
        flow = self._flows[key_slot_of(victim)]
        if flow.inner is not None:
            RareHandles(flow.inner).drop(victim)
        del self._tasks[-1]
        self._leave_if_empty(flow)

    def purge(self, keep: Callable[[Task], bool], /) -> None:
        """Drop every task that `keep` refuses."""
        for flow in list(self._flows.values()):
            flow.order.purge(keep)
            self._leave_if_empty(flow)
        self._count()

    def _count(self) -> None:
        self._tasks.recount(lambda: sum([len(flow.waiting) for flow in list(self._flows.values())]))

    def _mend(self) -> None:
        for flow in list(self._flows.values()):
            if flow.inner is not None:
                RareHandles(flow.inner).mend()
            flow.running = sum(its is flow for its in list(self._taken.values()))
        self._count()
        self._list_anew()
        while len(self._ready) != sum(map(self._may_run_one, list(self._flows.values()))):
            self._list_anew()  # a signal handler has put some meanwhile

    def _list_anew(self) -> None:
        """Find anew which keys have tasks that may run."""
        known = [flow for flow in list(self._ready) if self._flows.get(flow.key) is flow]
        flows = list(self._flows.values())
        listed = dict.fromkeys(flow for flow in (*known, *flows) if self._may_run_one(flow))
        for flow in flows:
            flow.listed = flow in listed
        self._ready.clear()
        self._ready.extend(listed)

    def _may_run_one(self, flow: _Flow) -> bool:
        return bool(flow.waiting) and flow.running < flow.most_running

    def _leave_if_empty(self, flow: _Flow) -> None:
        if not flow.waiting:
            if flow.listed:
                flow.listed = False
                self._ready.remove(flow)
            if not flow.running:
                self._forget(flow)

    def _forget(self, flow: _Flow) -> None:
        if flow.waiting or flow.running:  # a signal handler has put one just now
            return
        del self._flows[flow.key]
        if len(self._spare) < SPARE:
            self._spare.append(flow)

    def ended(self, task: Task, /) -> None:
        """Note that a task that was taken has run."""
        flow = self._taken.get(task)
        if flow is None:
            return
        del self._taken[task]
        flow.running -= 1
        if not flow.waiting:
            if not flow.running:
                self._forget(flow)
        elif not flow.listed and flow.running < flow.most_running:
            flow.listed = True
            if flow.credit >= 1:  # its turn is not over
                self._ready.appendleft(flow)
            else:
                flow.credit += flow.weight
                self._ready.append(flow)

    def full(self, task: Task, beside: int, /) -> bool:
        """Return whether the key of `task`, which has so many waiting elsewhere, has no room for one more."""
        flow = self._flows.get(key_slot_of(task))
        return (0 if flow is None else len(flow.waiting)) + beside >= self._max_waiting[key_slot_of(task)]

    def holds(self, task: Task, /) -> bool:
        """Return whether `task`, if it came now, would have to wait for others of its key."""
        flow = self._flows.get(key_slot_of(task))
        return flow is not None and len(flow.waiting) + flow.running >= flow.most_running

    def holders(self, task: Task, /) -> list[Task]:
        """Return the tasks of which one has to end before `task` may run; none, if it may."""
        flow = self._flows.get(key_slot_of(task))
        if flow is None or flow.running < flow.most_running:
            return []
        return [taken for taken in list(self._taken) if self._taken.get(taken) is flow]

    def __repr__(self) -> str:
        keys = sum(1 for flow in list(self._flows.values()) if flow.waiting)
        return f"Fair({len(self._tasks)} waiting, of {counted(keys, 'key')})"


def _give_of(order: Order, hands: Hands) -> None:
    hands.task = order.take()


def _maker(order: object) -> Callable[[], Order]:
    """Return what makes the order of one key's tasks."""
    if is_a(order, str):
        return _NAMED[checks.one_of("order", order, _NAMED)]
    if is_a(order, Order) or not callable(order):
        name = type_name(order)
        raise TypeError(
            f"order={show(order)} is {name}, and each key needs an order of its own; allowed: 'fifo', 'priority', or "
            "what makes one, as in Fair(order=Priority) or Fair(order=lambda: Priority(age=10))"
        )
    return cast("Callable[[], Order]", order)


def _made(make: Callable[[], Order]) -> Order:
    """Return an order that `make` makes, which can be one of a single key.

    Raises:
        TypeError, ValueError: it cannot.
    """
    order = make()
    if not is_a(order, Order):
        raise TypeError(f"order={show(make)} made {show(order)}, which is no treadle.orders.Order")
    if len(order):
        raise ValueError(f"order={show(make)} made {show(order)}, which holds tasks; make a new one at each call")
    unasked = [name for name in _UNASKED if hook_of(order, name) is not None]
    if unasked:
        raise ValueError(
            f"order={show(make)} made {show(order)}, which has {', '.join(unasked)}: what nobody would ask it for; "
            "allowed are orders without, such as Fifo and Priority"
        )
    return order
