"""What every order owes a pool, whichever it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clocks import FakeClock
from orders.lifo import Lifo
from orders.tasks import Hands, task_of
from treadle import Future, Pool
from treadle._base import clock
from treadle.orders import Adaptive, Fair, Fifo, Order, Priority, Task
from treadle.orders._guard import HOOKS
from treadle.orders._order import Own, hook_of

KINDS: list[Callable[[], Own]] = [
    Fifo,
    Priority,
    Fair,
    Adaptive,
    lambda: Fair({1: 2.5}, max_running=2, max_waiting=3),
]
STEPS = st.lists(st.tuples(st.sampled_from(["put", "take", "evict", "purge"]), st.integers(0, 3)), max_size=60)


@pytest.mark.parametrize("kind", KINDS)
@given(steps=STEPS)
def test_what_goes_in_comes_out_once_and_the_length_is_right(kind: Callable[[], Any], steps: list[Any]) -> None:
    order = kind()
    inside: set[Any] = set()
    for number, (step, value) in enumerate(steps):
        if step == "put":
            task = task_of(priority=value, key=value, submitted=float(number))
            order.put(task)
            inside.add(task)
        elif step == "take" and order.ready():
            task = order.take()
            inside.remove(task)
            if value:
                order.ended(task)
        elif step == "evict" and order._tasks:
            inside.remove(order.evict(task_of(key=value)))
        elif step == "purge":
            order.purge(lambda task, value=value: task.key != value)
            inside = {task for task in inside if task.key != value}
        assert len(order) == len(inside)
        assert set(order._tasks) == inside
        assert bool(inside) >= order.ready()


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_nothing_to_evict_in_an_empty_one(kind: Callable[[], Any]) -> None:
    with pytest.raises(IndexError):
        kind().evict(task_of())


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_how_many_wait(kind: Callable[[], Any]) -> None:
    order = kind()
    order.put(task_of())
    assert "1 waiting" in repr(order)


# Else hypothesis makes them about five long, and little ever meets.
LONG_STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "put", "put", "take", "evict", "purge"]), st.integers(0, 3)),
    min_size=30,
    max_size=100,
)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_taken_before_its_time_runs_before_what_came_after_it(
    kind: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those among each other as they came, in whatever order they may begin."""
    FakeClock(monkeypatch)
    order = kind()
    tasks = [task_of(submitted=1000.0 + number / 1000, name=str(number)) for number in range(8)]
    for task in tasks[:6]:
        order.put(task)
    early = [order.take() for _ in range(2)]
    for task in early:
        order.ended(task)
    for task in tasks[6:]:
        order.put(task)
    for task in early if isinstance(order, Adaptive) else reversed(early):
        order.put_first(task)
    taken = []
    while order.ready():
        taken.append(order.take())
        order.ended(taken[-1])
    assert [task.name for task in taken] == [task.name for task in tasks]
    order.put_first(early[0])
    assert (len(order), order.take()) == (1, early[0])


@pytest.mark.parametrize("kind", KINDS)
@given(steps=LONG_STEPS)
def test_of_equals_the_first_comes_first_whatever_was_evicted_or_purged(
    kind: Callable[[], Any], steps: list[Any]
) -> None:
    """For `purge` leaves the others in their order, and `evict` gives up the oldest."""
    order = kind()
    inside: list[Any] = []

    def is_first_of_its_equals(task: Any) -> bool:
        return task is next(other for other in inside if other._options == task._options)

    for number, (step, value) in enumerate(steps):
        if step == "put":
            order.put(task := task_of(priority=value, key=value, submitted=float(number)))
            inside.append(task)
        elif step == "take" and order.ready():
            task = order.take()
            assert is_first_of_its_equals(task)
            inside.remove(task)
        elif step == "evict" and inside:
            task = order.evict(task_of(key=value))
            assert is_first_of_its_equals(task)
            inside.remove(task)
        elif step == "purge" and inside:
            doomed = inside.pop(value % len(inside))
            order.purge(lambda task, doomed=doomed: task is not doomed)


@pytest.mark.parametrize("kind", KINDS)
@given(steps=LONG_STEPS)
def test_what_the_pool_has_kept_of_it_stays_true(kind: Callable[[], Own], steps: list[Any]) -> None:
    """A pool asks once for `tasks`, `ready`, `put` and `give`, for they are needed for every task."""
    order, hands = kind(), Hands()
    handles = order._handles()
    tasks, ready, line = handles.tasks, handles.ready, handles.line
    for step, value in steps:
        if step == "put":
            handles.put(task_of(priority=value, key=value))
        elif step == "take" and ready:
            first = next(iter(tasks))
            handles.give(hands)
            assert line is None or hands.task is first, "what is given is the left end of the line, if there is one"
        elif step == "evict" and tasks:
            order.evict(task_of(key=value))
        elif step == "purge":
            order.purge(lambda task, value=value: task.key == value)  # type: ignore[misc]  # a default
        now = order._handles()
        assert (now.tasks is tasks, now.ready is ready, now.line is line) == (True, True, True)
        assert line is None or line is tasks
        assert order.ready() == bool(ready)
        assert len(order) == len(tasks) == len(list(tasks))


# -- orders of a user's own -------------------------------------------------------------------------------------------


def test_a_future_is_a_task_that_can_only_be_read() -> None:
    with Pool(1, order=Fair(order="priority")) as pool:
        before = clock.now()
        future = pool.options(name="mine", key="k", priority=3).submit(abs, -1)
        task: Task = future
        assert (task.name, task.key, task.priority) == ("mine", "k", 3)
        assert before <= task.submitted <= clock.now()
        assert future.result(30) == 1
        assert task.done()
        plain: Task = pool.submit(abs, -1)
        assert (plain.name, plain.key, plain.priority) == ("abs", None, 0)
    for name in ("name", "key", "priority", "submitted"):
        with pytest.raises(AttributeError):
            setattr(task, name, 1)


def test_a_future_that_was_made_by_hand_can_be_put_in_an_order_too() -> None:
    """For tests of orders."""
    for kind in KINDS:
        order = kind()
        order.put(task := Future[int]())
        assert order.take() is task


@pytest.mark.parametrize("missing", ["put", "take", "evict", "purge", "__len__", "ready"])
def test_what_every_order_has_to_have_cannot_be_left_out(missing: str) -> None:
    methods = {name: lambda *_: 0 for name in ("put", "take", "evict", "purge", "__len__", "ready") if name != missing}
    with pytest.raises(TypeError, match=rf"abstract method.*{missing}"):
        type("Partial", (Order,), methods)()


def test_what_an_order_need_not_have_does_nothing() -> None:
    order = Lifo()
    task = task_of()
    order.put_again(task)
    order.put_first(task_of())
    assert len(order) == 2
    assert (list(order.stale()), order.standing, order.full(task, 5), order.holds(task)) == ([], False, False, False)
    order.ended(task)
    assert list(order.holders(task)) == []
    assert order.looks_at == frozenset()


def test_only_what_was_overridden_is_asked() -> None:
    class Sheds(Lifo):
        def stale(self) -> list[Task]:
            return []

    assert [hook_of(Lifo(), name) for name in HOOKS] == [None] * 5
    assert [name for name in HOOKS if hook_of(Sheds(), name)] == ["stale"]
    assert [name for name in HOOKS if hook_of(Fair(), name)] == []
    assert [name for name in HOOKS if hook_of(Fair(max_running=2), name)] == ["holds", "holders", "ended"]
    assert [name for name in HOOKS if hook_of(Fair(max_waiting={"a": 2}), name)] == ["full"]


def test_an_override_is_asked_in_a_subclass_of_an_order_that_has_nothing_to_say() -> None:
    seen: list[Task] = []

    class Told(Fair):
        def ended(self, task: Task) -> None:
            super().ended(task)
            seen.append(task)

    with Pool(1, order=Told()) as pool:
        future = pool.submit(abs, -1)
        assert future.result(30) == 1
    assert seen == [future]


@pytest.mark.parametrize("kind", [Adaptive, Fair, Fifo, Priority])
def test_users_see_nothing_but_what_an_order_is(kind: type[Order]) -> None:
    """In help(), and on objects."""
    with Pool(1, order=kind()) as pool:
        order = pool._task_dispatcher.order
        public = {name for name in dir(order) if not name.startswith("_")}
    assert public == {name for name in dir(Order) if not name.startswith("_")}
