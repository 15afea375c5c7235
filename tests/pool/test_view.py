"""Options: a view of a pool whose tasks are submitted with other options."""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest

import treadle
from orders.lifo import Keyed, Lifo
from treadle import Pool, PoolView, Rate, TaskGroup, deadline
from treadle._pool.submit import WhenFull
from treadle._pool.view import options_for
from treadle._tasks.options import PLAIN, TaskOptions
from treadle._tasks.rate import rate_of
from treadle.errors import DeadlineExceeded, PoolFull, Shed
from treadle.orders import Fair, Fifo, Priority

PATIENCE = 30.0


def test_what_the_order_does_not_look_at_is_refused() -> None:
    assert options_for(Fifo(), None, 0, None) is PLAIN
    assert options_for(Priority(), "a", 3, None) == TaskOptions("a", 3, None)
    assert options_for(Fair(), None, 0, "") == TaskOptions(None, 0, "")
    with pytest.raises(
        ValueError, match=r"priority=3 has no effect in a pool whose order is Fair; make it with Pool\(order='priority'"
    ):
        options_for(Fair(), None, 3, None)
    with pytest.raises(ValueError, match=r"key=0 has no effect .*order='fair'"):
        options_for(Fifo(), None, 0, 0)


def test_an_order_of_the_users_looks_at_what_it_says() -> None:
    class Both(Lifo):
        looks_at = frozenset({"key", "priority"})

    assert options_for(Both(), None, 5, "k") == TaskOptions(None, 5, "k")
    assert options_for(Keyed(), None, 0, "k") == TaskOptions(None, 0, "k")
    assert options_for(Lifo(), "name", 0, None) == TaskOptions("name", 0, None)
    with pytest.raises(
        ValueError, match=r"priority=5 has no effect .* whose order is Keyed; .* 'priority' in its `look"
    ):
        options_for(Keyed(), None, 5, "k")
    with pytest.raises(ValueError, match="key='k' has no effect in a pool whose order is Lifo"):
        options_for(Lifo(), None, 0, "k")


@pytest.mark.parametrize("priority", [1001, -1001])
def test_priorities_have_bounds(priority: int) -> None:
    with pytest.raises(ValueError, match=rf"priority={priority}: priority must be -1000 to 1000"):
        options_for(Priority(), None, priority, None)


@pytest.mark.parametrize("priority", [0.0, False])
def test_a_priority_has_to_be_an_integer_even_if_it_is_nothing(priority: Any) -> None:
    with pytest.raises(TypeError, match=r"priority=.*; allowed: an integer, -1000 to 1000"):
        options_for(Priority(), None, priority, None)


def test_tasks_that_are_held_back_leave_free_threads_to_other_keys() -> None:
    gate, inside = threading.Event(), threading.Event()
    with Pool(2, queue_size=0, when_full="reject", order=Fair(max_running=1)) as pool:
        a, b = pool.options(key="a"), pool.options(key="b")
        a.submit(lambda: inside.set() or gate.wait(PATIENCE))  # type: ignore[func-returns-value]  # it is falsy
        assert inside.wait(PATIENCE)
        with pytest.raises(PoolFull):
            a.submit(int)  # a thread is free, but not for that key
        assert b.submit(abs, -1).result(PATIENCE) == 1
        gate.set()


def test_a_key_has_to_be_hashable() -> None:
    with pytest.raises(TypeError, match=r"key=\[\] cannot be a key: unhashable type: 'list'; allowed: "):
        options_for(Fair(), None, 0, [])  # type: ignore[arg-type]  # that is the point


def test_a_rate_is_a_rate_everywhere_and_a_number_is_told_so() -> None:
    shared = Rate(5)
    assert rate_of(None) is None
    assert rate_of(shared) is shared
    words = r"rate=2 is int; allowed: a treadle\.Rate, which is made once and shared .*, as in Rate\(2\); or None"
    with Pool(1) as pool:
        takers: list[Any] = [rate_of, lambda rate: Pool(1, rate=rate), lambda rate: pool.options(rate=rate)]
        for take in takers:
            with pytest.raises(TypeError, match=words):
                take(2)
    with pytest.raises(TypeError, match=r"rate=0\.5 is float; .*, as in Rate\(0\.5\)"):
        rate_of(0.5)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError, match=r"rate='2' is str; .*, as in Rate\(2\)"):
        rate_of("2")  # type: ignore[arg-type]  # that is the point


def test_a_view_submits_maps_and_runs_with_the_pools_own_threads() -> None:
    with Pool(2, order="priority", name="loom") as pool:
        view = pool.options(name="weft", priority=2, block_timeout=1.5, deadline=PATIENCE)
        assert view.submit(abs, -1).name == "weft"
        assert list(view.map(abs, [-1, -2])) == [1, 2]
        assert asyncio.run(view.run(abs, -3)) == 3
        assert pool.snapshot().threads <= 2
        assert "name='weft', priority=2" in repr(view)
        with pytest.raises(TypeError, match="fn=3"):
            view.submit(3)  # type: ignore[arg-type]  # that is the point


def test_most_urgent_items_of_a_map_come_before_what_waited() -> None:
    done: list[Any] = []
    gate, inside = threading.Event(), threading.Event()
    with Pool(1, order="priority") as pool:
        pool.submit(lambda: inside.set() or gate.wait(PATIENCE))  # type: ignore[func-returns-value]  # it is falsy
        assert inside.wait(PATIENCE)
        late = pool.submit(done.append, "late")
        results = pool.options(priority=9).map(done.append, range(3))
        gate.set()
        list(results)
        late.result(PATIENCE)
    assert done == [0, 1, 2, "late"]


def test_a_key_at_its_ceiling_waits_alone_or_is_refused_with_its_name() -> None:
    gate, inside = threading.Event(), threading.Event()
    with Pool(1, order=Fair(max_waiting=1)) as pool:
        pool.submit(lambda: inside.set() or gate.wait(PATIENCE))  # type: ignore[func-returns-value]  # it is falsy
        assert inside.wait(PATIENCE)
        a, b = pool.options(key="a"), pool.options(key="b", when_full="reject")
        first = a.submit(abs, -1)
        blocked = threading.Thread(target=a.submit, args=(abs, -2))
        blocked.start()
        while pool.snapshot().blocked == 0:
            threading.Event().wait(0.005)
        other = b.submit(abs, -3)  # not held up by the one that waits
        with pytest.raises(PoolFull, match="full for key 'b'") as caught:
            b.submit(abs, -4)
        assert caught.value.key == "b"
        newest = pool.options(key="b", when_full="discard_oldest").submit(abs, -5)
        assert isinstance(other.exception(0), Shed)
        gate.set()
        blocked.join(PATIENCE)
        assert (first.result(PATIENCE), newest.result(PATIENCE)) == (1, 5)


# -- what a view is made of -------------------------------------------------------------------------------------------


def settings_of(view: PoolView) -> tuple[Any, ...]:
    """Return what the view's tasks are submitted with."""
    options = (*view._task_options,)
    return view._task_when_full, view._task_block_timeout, view._task_deadline, view._task_rate, options


def test_a_view_of_a_view_keeps_what_it_does_not_change() -> None:
    rate = Rate(1e6)
    with Pool(1, order="priority") as pool:
        first = pool.options(name="a", priority=3, rate=rate, deadline=PATIENCE, block_timeout=2.0)
        assert settings_of(first) == ("block", 2.0, PATIENCE, rate, TaskOptions("a", 3, None))
        assert settings_of(first.options()) == settings_of(first)
        assert settings_of(first.options(name="b")) == ("block", 2.0, PATIENCE, rate, TaskOptions("b", 3, None))
        assert settings_of(first.options(priority=0)) == ("block", 2.0, PATIENCE, rate, TaskOptions("a", 0, None))
        assert settings_of(first.options(block_timeout=1)) == ("block", 1.0, PATIENCE, rate, TaskOptions("a", 3, None))
        none = first.options(deadline=math.inf, block_timeout=math.inf)
        assert settings_of(none) == ("block", None, None, rate, TaskOptions("a", 3, None))
        assert settings_of(first) == ("block", 2.0, PATIENCE, rate, TaskOptions("a", 3, None))
        assert first.options().options().pool is pool
    with Pool(1, order="fair", when_full="reject", rate=rate) as pool:
        assert settings_of(pool.options()) == ("reject", None, None, rate, TaskOptions(None, 0, None))
        assert settings_of(pool.options(key="a").options(name="x"))[-1] == TaskOptions("x", 0, "a")


def test_a_chained_view_submits_with_all_of_its_options() -> None:
    with Pool(1, order="priority") as pool:
        view = pool.options(name="a").options(priority=3).options(deadline=PATIENCE)
        future = view.submit(treadle.time_left)
        assert (future.name, future._options.priority) == ("a", 3)
        left = future.result(PATIENCE)
        assert left is not None
        assert 0 < left <= PATIENCE


@pytest.mark.parametrize("policy", ["reject", "caller_runs", "discard_oldest"])
def test_a_time_to_wait_for_room_is_refused_where_nobody_waits_for_room(policy: WhenFull) -> None:
    words = rf"block_timeout=1 has no effect where the policy is '{policy}'.*when_full='block'"
    with Pool(1, when_full=policy) as pool:
        with pytest.raises(ValueError, match=words):
            pool.options(block_timeout=1)
        with pytest.raises(ValueError, match=words):
            pool.options(when_full="block").options(when_full=policy, block_timeout=1)
        assert settings_of(pool.options(when_full="block", block_timeout=1))[:2] == ("block", 1.0)


def test_a_time_to_wait_for_room_goes_with_the_policy() -> None:
    with Pool(1) as pool:
        view = pool.options(block_timeout=1).options(when_full="reject")
        assert settings_of(view)[:2] == ("reject", None)
        assert settings_of(view.options(when_full="block"))[:2] == ("block", None)


# -- deadlines --------------------------------------------------------------------------------------------------------


WAYS: dict[str, Callable[[PoolView], float | None]] = {
    "submit": lambda view: view.submit(treadle.time_left).result(PATIENCE),
    "map": lambda view: next(view.map(lambda _: treadle.time_left(), [1])),
    "run": lambda view: asyncio.run(view.run(treadle.time_left)),
    "group": lambda view: in_group(view),
}


def in_group(view: PoolView) -> float | None:
    with TaskGroup(view) as group:
        future = group.submit(treadle.time_left)
    return future.result(0)


@pytest.mark.parametrize("context", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_each_task_of_a_view_has_the_views_deadline(way: str, context: bool) -> None:
    ask = WAYS[way]
    with Pool(1, context=context) as pool:
        left = ask(pool.options(deadline=500))
        assert left is not None
        assert 400 < left <= 500
        assert ask(pool.options()) is None
        assert ask(pool.options(deadline=None)) is None
        assert ask(pool.options(deadline=math.inf)) is None


@pytest.mark.parametrize(("around", "own"), [(100, 500), (500, 100), (100, None)])
@pytest.mark.parametrize("way", WAYS)
def test_of_the_views_deadline_and_the_one_around_it_the_nearer_one_holds(
    way: str, around: float, own: float | None
) -> None:
    with Pool(1) as pool, treadle.deadline(around):
        left = WAYS[way](pool.options(deadline=own))
        assert left is not None
        assert 0 < left <= 100
        assert treadle.time_left() is not None  # and outside of the submit nothing has changed
    assert treadle.time_left() is None


LATE: dict[str, Callable[[PoolView, Callable[[int], object]], object]] = {
    "submit": lambda view, fn: view.submit(fn, 1).result(PATIENCE),
    "map": lambda view, fn: next(view.map(fn, [1])),
    "run": lambda view, fn: asyncio.run(view.run(fn, 1)),
}


@pytest.mark.parametrize("way", LATE)
def test_a_task_that_is_late_fails_and_never_begins_if_it_has_not(way: str) -> None:
    """Each from its own submission: those that are submitted later have their own time."""
    ran: list[int] = []
    gate, inside = threading.Event(), threading.Event()
    with Pool(1) as pool:
        pool.submit(lambda: inside.set() or gate.wait(PATIENCE))  # type: ignore[func-returns-value]  # it is falsy
        assert inside.wait(PATIENCE)
        view = pool.options(deadline=0.01)
        with pytest.raises(DeadlineExceeded, match=r"0\.01 s"):
            LATE[way](view, ran.append)
        gate.set()
        assert view.options(deadline=PATIENCE).submit(abs, -1).result(PATIENCE) == 1
    assert ran == []


def test_each_item_of_a_map_has_the_deadline_from_when_it_is_read() -> None:
    """Else a long map could not be given one; and an item that is late is no end of the others."""

    def work(number: int) -> int:
        if number == 1:
            treadle.sleep(PATIENCE)  # until it is late
        return number

    with Pool(1) as pool:
        results = pool.options(deadline=1.0).map(work, range(3), buffersize=1)
        assert next(results) == 0
        with pytest.raises(DeadlineExceeded):
            next(results)
        assert next(results) == 2


def test_who_waits_for_room_waits_no_longer_than_the_deadline() -> None:
    gate, inside = threading.Event(), threading.Event()
    with Pool(1, queue_size=0) as pool:
        pool.submit(lambda: inside.set() or gate.wait(PATIENCE))  # type: ignore[func-returns-value]  # it is falsy
        assert inside.wait(PATIENCE)
        with pytest.raises(DeadlineExceeded):
            pool.options(deadline=0.01).submit(int)
        with pytest.raises(DeadlineExceeded):
            pool.options(deadline=0).submit(int)
        assert pool.snapshot().blocked == 0
        gate.set()


@pytest.mark.parametrize("pool", [3, None, Pool, concurrent.futures.ThreadPoolExecutor])
def test_a_view_is_of_a_pool(pool: Any) -> None:
    with pytest.raises(TypeError, match=r"allowed: a treadle\.Pool"):
        PoolView(pool)
    with Pool(1) as made, pytest.raises(TypeError, match=r"is PoolView; allowed: a treadle\.Pool"):
        PoolView(made.options())  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("rest", ["raised", "told"])
def test_an_item_that_is_late_at_once_is_late_where_its_result_is_taken(rest: str) -> None:
    """Not where `map` is called, as whoever else's time is up: which of the two it were would be a matter of luck."""
    with Pool(1) as pool:
        view = pool.options(deadline=0)
        if rest == "told":
            assert [type(outcome.error) for outcome in view.outcomes(abs, [1, 2])] == [DeadlineExceeded] * 2
        results = view.map(abs, [1, 2])
        for _ in range(2):
            with pytest.raises(DeadlineExceeded):
                next(results)
        assert list(results) == []
        with deadline(0), pytest.raises(DeadlineExceeded):
            view.map(abs, [1])
