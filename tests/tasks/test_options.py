"""treadle._tasks.options: what options give a task, shared by all tasks of a view."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from contextlib import suppress
from time import sleep
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle import Pool, Rate
from treadle._base import locks
from treadle._base.locks import is_held
from treadle._pool.submit import WhenFull
from treadle._tasks.options import PLAIN, KeySlot, TaskOptions, _slots, slot_of
from treadle.errors import PoolFull, Shed
from treadle.orders import Fair, Priority
from treadle.orders._fair import KEPT, SPARE


def test_plain_has_no_name_no_urgency_and_no_key() -> None:
    assert (PLAIN.name, PLAIN.priority, PLAIN.key) == (None, 0, None)
    assert TaskOptions() == PLAIN


@given(st.none() | st.text(), st.integers(), st.none() | st.integers() | st.text())
def test_traits_are_equal_if_all_three_are_and_can_be_keys(name: str | None, priority: int, key: Any) -> None:
    options = TaskOptions(name, priority, key)
    assert options == TaskOptions(name=name, priority=priority, key=key)
    assert hash(options) == hash(TaskOptions(name, priority, key))
    assert options != TaskOptions(name, priority + 1, key)
    assert (options == PLAIN) is (name is None and priority == 0 and key is None)


def test_traits_cannot_be_changed() -> None:
    """All tasks of a view have the same object."""
    with pytest.raises(AttributeError):
        PLAIN.priority = 3  # type: ignore[misc]  # that is the point


def test_a_task_without_options_is_plain() -> None:
    with Pool(1) as pool:
        assert pool.submit(int)._options is PLAIN
        assert pool.options().submit(int)._options == PLAIN


def test_all_tasks_of_a_view_share_what_the_options_say() -> None:
    with Pool(1, order=Priority()) as pool:
        view = pool.options(name="page", priority=7)
        first, second = view.submit(int), view.submit(int)
        assert first._options == TaskOptions("page", 7, None)
        assert first._options is second._options
    with Pool(1, order=Fair()) as pool:
        assert pool.options(key=("a", 1)).submit(int)._options == TaskOptions(None, 0, ("a", 1))


class Moody:
    """A key that can be hashed until it cannot."""

    broken = False

    def __hash__(self) -> int:
        if self.broken:
            raise ValueError("cannot be hashed any more")
        return 1


def test_a_key_that_fails_once_it_was_given_harms_nobody_as_it_goes() -> None:
    """Whoever gives the next key lets go of what nobody has any more."""
    before, key = len(_slots), Moody()
    options = TaskOptions(key=key)
    assert TaskOptions(key=key).slot is options.slot
    key.broken = True
    del options
    gc.collect()
    assert TaskOptions(key="another").key == "another"
    assert len(_slots) <= before + 1
    with pytest.raises(ValueError, match="cannot be hashed any more"):
        TaskOptions(key=key)


# -- what stands for a key under a lock -------------------------------------------------------------------------------


@given(st.integers(0, 5), st.integers(0, 5))
def test_keys_that_are_equal_share_a_slot_and_others_do_not(one: int, other: int) -> None:
    first, second, third = TaskOptions(key=one), TaskOptions(key=float(other)), TaskOptions(key=("x", one))
    assert (first.slot is second.slot) is (one == other)
    assert (first.key, second.key) == (one, other)
    assert third.slot is TaskOptions(key=("x", one)).slot is not first.slot
    assert TaskOptions("name", 3, one).slot is slot_of(one) is first.named("other").slot is first.copy().slot
    assert slot_of(None) is PLAIN.slot


def test_a_key_that_cannot_be_one_raises_what_it_raises() -> None:
    class Unkind:
        def __hash__(self) -> int:
            raise LookupError("of the key")

    with pytest.raises(LookupError, match="of the key"):
        slot_of(Unkind())
    with pytest.raises(TypeError):
        slot_of([])  # type: ignore[arg-type]  # that is the point


def test_threads_that_ask_at_once_get_the_same_slot() -> None:
    for number in range(200):
        together, slots = threading.Barrier(3), list[KeySlot]()

        def ask(together: threading.Barrier = together, slots: list[KeySlot] = slots, number: int = number) -> None:
            together.wait(30)
            slots.append(slot_of(("at once", number)))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(set(slots)) == 1


def test_slots_of_keys_that_nobody_has_go_away() -> None:
    before = len(_slots)
    for number in range(2000):
        TaskOptions(key=("nobody has it", number))
        assert len(_slots) <= before + 2
    gc.collect()
    slot_of("who comes next")
    assert len(_slots) <= before + 1


def test_an_order_keeps_the_slots_of_few_keys_that_have_no_tasks() -> None:
    before = len(_slots)
    with Pool(1, order=Fair(max_running=2)) as pool:
        for number in range(1000):
            assert pool.options(key=("of a pool", number)).submit(abs, -1).result(30) == 1
        gc.collect()
        slot_of("who comes next")
        assert len(_slots) <= before + KEPT + SPARE + 5


class Key:
    """A key that notes whether any of treadle's locks is held by who hashes or compares it."""

    calls = 0
    held = 0

    def __init__(self, name: str) -> None:
        self.name = name

    def _note(self) -> None:
        Key.calls += 1
        living = [reference() for reference in list(locks._locks)]
        Key.held += any(lock is not None and is_held(lock) for lock in living)

    def __hash__(self) -> int:
        self._note()
        return 1  # so that they are compared, too

    def __eq__(self, other: object) -> bool:
        self._note()
        return isinstance(other, Key) and self.name == other.name


FAIR: dict[str, Callable[[], Fair]] = {
    "plain": Fair,
    "weights": lambda: Fair({Key("a"): 2, Key("b"): 3}),
    "max_running": lambda: Fair(max_running={Key("a"): 1, ...: 2}),
    "max_waiting": lambda: Fair(max_waiting={Key("a"): 2, ...: 3}),
    "priorities": lambda: Fair({Key("a"): 2}, max_running=1, max_waiting=3, order="priority"),
    "an order of the user's": lambda: Fair(max_running=1, max_waiting=3, order=lambda: Priority(age=3)),
}


@pytest.mark.parametrize("fair", FAIR)
@pytest.mark.parametrize("when_full", ["block", "reject", "discard_oldest", "caller_runs"])
@pytest.mark.parametrize("rate", [None, Rate(300)])
def test_no_lock_is_held_when_a_key_is_hashed_or_compared(fair: str, when_full: WhenFull, rate: Rate | None) -> None:
    Key.calls = Key.held = 0
    with Pool(2, queue_size=4, order=FAIR[fair](), when_full=when_full, rate=rate) as pool:
        for number in range(40):
            view = pool.options(key=Key("abc"[number % 3]))
            with suppress(PoolFull):
                future = view.submit(sleep, 0.001)
                if number % 5 == 0:
                    future.cancel()
            with suppress(PoolFull, Shed):
                if number % 7 == 0:
                    list(view.map(abs, range(3)))
        pool.snapshot()
        with suppress(PoolFull):
            pool.submit(lambda: view.submit(abs, -1).result(30) if when_full == "block" else None)
        pool.resize(1)
        pool.shutdown(cancel_futures=True)
    assert Key.calls > 0
    assert Key.held == 0


def test_keys_that_are_equal_and_not_the_same_are_one_to_the_order() -> None:
    gate = threading.Event()
    with Pool(2, order=Fair(max_running={Key("a"): 1})) as pool:
        running = pool.options(key=Key("a")).submit(gate.wait, 30)
        waiting = pool.options(key=Key("a")).submit(abs, -1)
        assert pool.options(key=Key("b")).submit(abs, -2).result(30) == 2
        assert not waiting.done()
        gate.set()
        assert (running.result(30), waiting.result(30)) == (True, 1)
