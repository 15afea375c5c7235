"""Levels: tasks that are known to be slow never hold all threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clocks import FakeClock
from orders.lifo import Keyed, Lifo
from orders.tasks import task_of
from treadle import Future, Pool
from treadle._pool.submit import dispatcher_of
from treadle._tasks.future import CANCELLED_AND_NOTIFIED
from treadle.errors import Shed
from treadle.orders import Fair, Levels, Priority
from treadle.orders._levels import RECENT, SLOWEST

PATIENCE = 30.0

NAMED = ["fifo", "priority", "fair", "adaptive"]
MAKERS: list[Any] = [*NAMED, Lifo]


def levels(order: Any = "fifo", *, threads: int, reserve: int = 1, waiting: dict[int, int]) -> Levels:
    """Return them in a pool of so many threads, with so many tasks of each level."""
    made = Levels(order, reserve=reserve)
    made.threads = threads
    for level, count in waiting.items():
        for number in range(count):
            made.put(task_of(level=level, key=number, name=f"{level}.{number}"))
    return made


def taken(order: Levels) -> list[Any]:
    """Take what may be taken; return it."""
    tasks = []
    while order.ready():
        tasks.append(order.take())
    return tasks


def counts(tasks: list[Any]) -> list[int]:
    return [sum(task.level == level for task in tasks) for level in range(SLOWEST + 1)]


@pytest.mark.parametrize("order", MAKERS)
@pytest.mark.parametrize(
    ("threads", "reserve", "most"),
    [(8, 1, 7), (8, 3, 5), (8, 0, 8), (2, 1, 1), (1, 1, 1), (3, 9, 1)],
)
def test_slow_tasks_hold_all_threads_but_the_reserve_and_quick_ones_any(
    order: Any, threads: int, reserve: int, most: int
) -> None:
    made = levels(order, threads=threads, reserve=reserve, waiting={0: 20, 1: 20})
    assert counts(taken(made)) == [20, most, 0]
    assert len(made) == 20 - most


def test_the_slowest_leave_one_reserve_more_while_others_are_slow_or_were_within_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = FakeClock(monkeypatch)
    made = levels(threads=8, waiting={2: 20})
    alone = taken(made)
    assert counts(alone) == [0, 0, 7]
    for task in alone:
        made.ended(task)
    made.put(task_of(level=1))
    together = taken(made)
    assert counts(together) == [0, 1, 6]
    for task in together:
        made.ended(task)
    clock.pass_(RECENT * 0.9)
    assert not made.is_to_look()
    recent = taken(made)
    assert counts(recent) == [0, 0, 6]
    assert made.is_to_look()
    assert not made.look_is_due(clock.now() + RECENT * 0.05)
    clock.pass_(RECENT * 0.2)
    assert made.look_is_due(clock.now())
    assert not made.is_to_look()
    assert counts(taken(made)) == [0, 0, 1]


def test_levels_have_turns_so_that_each_has_as_much_time() -> None:
    made = levels(threads=99, waiting={1: 22, 2: 3})
    assert [made.take().level for _ in range(25)] == [1, 2, *[1] * 9, 1, 2, *[1] * 9, 1, 2, 1]
    made.put(task_of(level=0))
    made.put(task_of(level=2))
    assert [made.take().level for _ in range(2)] == [0, 2]  # who had none has not saved up any turns
    with pytest.raises(IndexError):
        made.take()


@pytest.mark.parametrize("order", MAKERS)
def test_what_has_ended_gives_its_place_back_once(order: Any) -> None:
    made = levels(order, threads=2, waiting={1: 3})
    (first,) = taken(made)
    assert not made.ready()
    for _ in range(2):
        made.ended(first)
    made.ended(task_of(level=1))  # which never was here
    (second,) = taken(made)
    assert second is not first


def test_a_task_that_is_cancelled_before_it_is_taken_holds_no_place() -> None:
    made = levels(threads=2, waiting={})
    dead, alive = task_of(level=1), task_of(level=1)
    made.put(dead)
    made.put(alive)
    dead._state = CANCELLED_AND_NOTIFIED
    assert taken(made) == [dead, alive]


def test_a_task_that_is_put_back_is_of_the_level_that_it_has_then() -> None:
    made = levels(threads=2, waiting={1: 1, 2: 1})
    (task,) = taken(made)
    made.ended(task)
    task.level = 0
    made.put_again(task)
    assert made.take() is task
    assert made.take().level == 2


def test_a_task_that_others_began_holds_a_place_until_it_has_ended_unless_it_is_done() -> None:
    made = levels(threads=3, waiting={1: 9})
    leader = task_of()
    made.hold(leader, 1)
    (other,) = taken(made)
    made.ended(leader)
    assert len(taken(made)) == 1
    made.hold(leader, 0)
    made.ended(other)
    assert len(taken(made)) == 1
    over: Future[Any] = Future()
    over.set_result(None)
    made.hold(over, 1)
    assert over not in made._taken


def test_more_threads_let_more_slow_ones_run_and_a_larger_reserve_fewer() -> None:
    made = levels(threads=2, waiting={1: 20})
    assert len(taken(made)) == 1
    made.threads = 8
    assert len(taken(made)) == 6
    made.threads = 2
    assert not made.ready()
    made.threads = 12
    made.reserve = 4
    assert len(taken(made)) == 1
    assert made.threads == 12
    assert made.reserve == 4


def test_orders_of_the_levels_know_how_many_threads_they_have() -> None:
    made = levels("adaptive", threads=8, reserve=2, waiting={})
    assert [level.order.threads for level in made._levels] == [8, 6, 6]


@pytest.mark.parametrize("order", MAKERS)
def test_a_full_queue_discards_from_the_longest_level_of_equals_from_the_slowest(order: Any) -> None:
    made = levels(order, threads=2, waiting={0: 2, 1: 5, 2: 3})
    assert [made.evict(task_of(level=2)).level for _ in range(6)] == [1, 1, 2, 1, 2, 1]


@pytest.mark.parametrize("order", MAKERS)
def test_what_is_purged_is_gone_from_every_level(order: Any) -> None:
    made = levels(order, threads=9, waiting={0: 3, 1: 3, 2: 3})
    made.purge(lambda task: task.name.endswith(".1"))
    assert sorted(task.name for task in taken(made)) == ["0.1", "1.1", "2.1"]


def test_each_level_keeps_its_order() -> None:
    made = Levels(Priority)
    made.threads = 9
    assert made.looks_at == {"priority"}
    for level in (0, 1):
        for priority in (1, 3, 2):
            made.put(task_of(level=level, priority=priority))
    assert [(task.level, task.priority) for task in taken(made)] == [(0, 3), (1, 3), (0, 2), (0, 1), (1, 2), (1, 1)]


def test_adaptive_sheds_each_level_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch)
    made = Levels("adaptive")
    made.threads = 2
    old = [task_of(level=2, submitted=clock.now()) for _ in range(5)]
    for task in old:
        made.put(task)
    for _ in range(2):
        clock.pass_(1.0)
        made.put(task_of(level=0, submitted=clock.now()))
        shed = made.stale()
    assert made.standing
    assert shed == old[:4]
    assert len(made) == 3


def test_what_holds_a_slow_task_back_is_known() -> None:
    made = levels(threads=2, waiting={1: 1})
    assert not levels(threads=2, waiting={}).holds(task_of(level=1))
    assert made.holds(task_of(level=1))  # behind the one that waits
    assert not made.holds(task_of(level=0))
    assert made.holders(task_of(level=1)) == []
    running = taken(made)
    assert made.holders(task_of(level=1)) == made.holders(task_of(level=2)) == running
    assert made.holders(task_of()) == []


def test_ceilings_of_the_order_hold_within_a_level() -> None:
    made = Levels(lambda: Fair(max_running=1, max_waiting=2))
    made.threads = 9
    first, second = task_of(level=1, key="a"), task_of(level=1, key="a")
    made.put(first)
    assert not made.full(task_of(level=1, key="a"), 0)
    made.put(second)
    assert made.full(task_of(level=1, key="a"), 0)
    assert not made.full(task_of(level=2, key="a"), 0)
    assert taken(made) == [first]
    assert made.holds(task_of(level=1, key="a"))
    assert made.holders(second) == [first]
    made.ended(first)
    assert taken(made) == [second]


@given(steps=st.lists(st.tuples(st.sampled_from(["put", "take", "end"]), st.integers(0, SLOWEST)), max_size=80))
def test_ceilings_hold_whatever_comes(steps: list[tuple[str, int]]) -> None:
    made = levels(threads=4, waiting={})
    waiting, running = 0, list[Any]()
    for step, number in steps:
        if step == "put":
            made.put(task_of(level=number))
            waiting += 1
        elif step == "take" and made.ready():
            running.append(made.take())
            waiting -= 1
        elif step == "end" and running:
            made.ended(running.pop(number % len(running)))
        slow = [task for task in running if task.level]
        assert len(slow) <= 3
        assert len(made) == waiting
    for task in running:
        made.ended(task)
    while made.ready():
        made.ended(made.take())
    assert len(made) == 0


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Levels(Lifo()), TypeError),  # type: ignore[arg-type]
        (lambda: Levels(7), TypeError),  # type: ignore[arg-type]
        (lambda: Levels("lifo"), ValueError),  # type: ignore[arg-type]
        (lambda: Levels(reserve=-1), ValueError),
        (lambda: Levels(lambda: "fifo" and 7), TypeError),  # type: ignore[arg-type, return-value]
    ],
)
def test_what_is_no_order_is_refused(make: Callable[[], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


def test_one_order_for_all_levels_is_refused() -> None:
    order = Lifo()
    with pytest.raises(ValueError, match="another pool"):
        Levels(lambda: order)


def test_it_says_what_it_holds() -> None:
    made = levels(threads=2, waiting={0: 1, 2: 2})
    taken(made)
    assert repr(made) == "Levels(Fifo, reserve=1, 0 + 0 + 1 waiting, 1 slow taken)"


# -- in a pool ----------------------------------------------------------------------------------------------------


class Gated(Future[Any]):
    """A task of a level that waits at a gate, as a server's would in a slow handler."""

    __slots__ = ("gate", "level", "ran")

    def __init__(self, pool: Pool, level: int, gate: threading.Event, ran: threading.Semaphore) -> None:
        super().__init__()
        self.level, self.gate, self.ran = level, gate, ran
        self._owner = dispatcher_of(pool)
        self._context = task_of()._context

    def _invoke(self) -> bool:
        self._result = self._exception = None
        self.ran.release()
        assert self.gate.wait(PATIENCE)
        self._context = None
        return False


def enter(pool: Pool, level: int, gate: threading.Event, ran: threading.Semaphore) -> Gated:
    task = Gated(pool, level, gate, ran)
    task._submitted = 0.0
    dispatcher_of(pool).enter_later(task, "reject")
    return task


@pytest.mark.parametrize("order", [*MAKERS, Keyed])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_pool_runs_quick_tasks_beside_slow_ones_that_fill_their_threads(order: Any, workers: int) -> None:
    gate, ran = threading.Event(), threading.Semaphore(0)
    with Pool(workers, order=Levels(order)) as pool:
        slow = [enter(pool, 1, gate, ran) for _ in range(3 * workers)]
        for _ in range(max(1, workers - 1)):
            assert ran.acquire(timeout=PATIENCE)
        if workers > 1:
            for _ in range(3):
                assert pool.submit(int).result(PATIENCE) == 0
        assert not ran.acquire(blocking=False)
        gate.set()
        for each in slow:
            each.result(PATIENCE)
    assert dispatcher_of(pool).order._taken == {}  # type: ignore[attr-defined]


def test_in_a_pool_that_is_resized_more_slow_ones_run_at_once() -> None:
    gate, ran = threading.Event(), threading.Semaphore(0)
    with Pool(2, order=Levels()) as pool:
        slow = [enter(pool, 1, gate, ran) for _ in range(6)]
        assert ran.acquire(timeout=PATIENCE)
        pool.resize(5)
        for _ in range(3):
            assert ran.acquire(timeout=PATIENCE)
        assert not ran.acquire(blocking=False)
        assert slow[-1].cancel()
        gate.set()
        for each in slow[:-1]:
            each.result(PATIENCE)


def test_a_full_pool_discards_of_the_slow_ones_that_wait() -> None:
    gate, ran = threading.Event(), threading.Semaphore(0)
    with Pool(2, order=Levels(), queue_size=2, when_full="discard_oldest") as pool:
        slow = [enter(pool, 1, gate, ran) for _ in range(3)]
        assert ran.acquire(timeout=PATIENCE)
        quick = [Gated(pool, 0, gate, ran) for _ in range(2)]
        for each in quick:
            each._submitted = 0.0
            dispatcher_of(pool).enter_later(each, "discard_oldest")
        gate.set()
        with pytest.raises(Shed):
            slow[1].result(PATIENCE)
        for each in (slow[0], slow[2], *quick):
            each.result(PATIENCE)
