"""Options: a view of a pool whose tasks are submitted with other options."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from orders.lifo import Keyed, Lifo
from treadle import Pool, Rate
from treadle._options import rate_of, traits_for
from treadle._traits import PLAIN
from treadle.errors import PoolFull, Shed
from treadle.orders import Fair, Fifo, Priority

PATIENCE = 30.0


def test_what_the_order_does_not_look_at_is_refused() -> None:
    assert traits_for(Fifo(), None, 0, None) is PLAIN
    assert traits_for(Priority(), "a", 3, None) == ("a", 3, None)
    assert traits_for(Fair(), None, 0, "") == (None, 0, "")
    with pytest.raises(
        ValueError, match=r"priority=3 has no effect in a pool whose order is Fair; make it with Pool\(order='priority'"
    ):
        traits_for(Fair(), None, 3, None)
    with pytest.raises(ValueError, match=r"key=0 has no effect .*order='fair'"):
        traits_for(Fifo(), None, 0, 0)


def test_an_order_of_the_users_looks_at_what_it_says() -> None:
    class Both(Lifo):
        looks_at = frozenset({"key", "priority"})

    assert traits_for(Both(), None, 5, "k") == (None, 5, "k")
    assert traits_for(Keyed(), None, 0, "k") == (None, 0, "k")
    assert traits_for(Lifo(), "name", 0, None) == ("name", 0, None)
    with pytest.raises(
        ValueError, match=r"priority=5 has no effect .* whose order is Keyed; .* 'priority' in its `look"
    ):
        traits_for(Keyed(), None, 5, "k")
    with pytest.raises(ValueError, match="key='k' has no effect in a pool whose order is Lifo"):
        traits_for(Lifo(), None, 0, "k")


@pytest.mark.parametrize("priority", [1001, -1001])
def test_priorities_have_bounds(priority: int) -> None:
    with pytest.raises(ValueError, match=rf"priority={priority}: priority must be -1000 to 1000"):
        traits_for(Priority(), None, priority, None)


@pytest.mark.parametrize("priority", [0.0, False])
def test_a_priority_has_to_be_an_integer_even_if_it_is_nothing(priority: Any) -> None:
    with pytest.raises(TypeError, match=r"priority=.*; allowed: an integer, -1000 to 1000"):
        traits_for(Priority(), None, priority, None)


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
        traits_for(Fair(), None, 0, [])  # type: ignore[arg-type]  # that is the point


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
        view = pool.options(name="weft", priority=2, when_full="caller_runs", block_timeout=1.5)
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
