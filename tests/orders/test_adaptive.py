"""Adaptive: first in, first out; under standing delay newest first, and the rest is shed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clocks import FakeClock
from orders.tasks import task_of
from treadle.orders import Adaptive


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch)


def put(order: Adaptive, clock: FakeClock, count: int = 1) -> list[Any]:
    tasks = [task_of(submitted=clock.now()) for _ in range(count)]
    for task in tasks:
        order.put(task)
    return tasks


def take(order: Adaptive) -> tuple[list[Any], Any]:
    """What is shed, and what is taken, when a worker comes."""
    return list(order.stale()), order.take() if order.ready else None


def test_while_the_head_is_in_time_it_is_first_in_first_out_and_nothing_is_shed(clock: FakeClock) -> None:
    order = Adaptive(target=0.005, interval=0.1)
    for _ in range(1000):  # a hundred times the interval, and never empty
        tasks = put(order, clock, 3)
        clock.pass_(0.004)
        assert [take(order) for _ in range(2)] == [([], tasks[0]), ([], tasks[1])]
        order.purge(lambda task: False)


def test_a_burst_that_is_over_within_the_interval_is_served_whole(clock: FakeClock) -> None:
    order = Adaptive(target=0.005, interval=0.1)
    tasks = put(order, clock, 90)
    for task in tasks:
        assert take(order) == ([], task)
        clock.pass_(0.001)


def test_when_the_head_was_late_for_an_interval_the_newest_runs_and_the_late_are_shed(clock: FakeClock) -> None:
    order = Adaptive(target=0.005, interval=0.1)
    order.threads = 2
    old = put(order, clock, 10)
    clock.pass_(0.006)
    assert take(order) == ([], old[0])
    clock.pass_(0.101)
    fresh = put(order, clock, 3)
    assert take(order) == (old[1:], fresh[2])
    assert take(order) == ([], fresh[1])


def test_as_many_of_the_newest_as_there_are_threads_are_kept_however_old(clock: FakeClock) -> None:
    order = Adaptive(target=0.005, interval=0.0)
    order.threads = 4
    old = put(order, clock, 10)
    clock.pass_(1.0)
    assert take(order) == ([], old[0])
    clock.pass_(1.0)
    assert take(order) == (old[1:6], old[9])
    assert list(order.tasks) == old[6:9]


def test_when_it_has_been_empty_it_is_first_in_first_out_again(clock: FakeClock) -> None:
    order = Adaptive(target=0.005, interval=0.1)
    for _ in range(3):
        put(order, clock)
        clock.pass_(0.2)
    take(order)
    clock.pass_(0.2)
    take(order)
    assert not order.tasks
    clock.pass_(100.0)
    fresh = put(order, clock, 3)
    assert [take(order) for _ in fresh] == [([], task) for task in fresh]


def test_a_queue_that_stood_lately_stands_again_after_a_short_delay(clock: FakeClock) -> None:
    order = Adaptive(target=0.005, interval=0.1)
    put(order, clock, 5)
    clock.pass_(0.2)
    take(order)
    clock.pass_(0.2)
    take(order)
    while order.tasks:
        take(order)
    late = put(order, clock, 5)
    clock.pass_(0.006)
    assert take(order) == ([], late[0])
    clock.pass_(0.006)  # much less than the interval
    assert take(order) == (late[1:4], late[4])


STEPS = st.lists(st.one_of(st.integers(1, 5), st.sampled_from([0.0, 0.001, 0.01, 0.2])), max_size=80)


@given(steps=STEPS, threads=st.integers(1, 4))
def test_only_late_tasks_are_shed_from_the_old_end_and_never_the_last_ones(steps: list[Any], threads: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = FakeClock(patch)
        order = Adaptive(target=0.005, interval=0.1)
        order.threads = threads
        model: list[Any] = []
        for step in steps:
            if isinstance(step, int):
                model += put(order, clock, step)
            else:
                clock.pass_(step)
            shed, taken = take(order)
            assert shed == model[: len(shed)]
            assert all(clock.now() - task._submitted > order.target for task in shed)
            model = model[len(shed) :]
            if shed:
                assert len(model) >= threads
            if taken is not None:
                assert taken is model[-1] or not (shed or order.standing)
                assert taken in (model[0], model[-1])
                model.remove(taken)
            assert list(order.tasks) == model


def test_what_goes_on_later_goes_behind_the_others(clock: FakeClock) -> None:
    order = Adaptive()
    first, second = put(order, clock, 2)
    order.put_again(again := task_of(submitted=clock.now()))
    assert [order.take(), order.take(), order.take()] == [first, second, again]
    put(order, clock, 2)
    order.standing = True
    order.put_again(again)
    assert order.tasks[0] is again  # behind, where the newest comes first


@pytest.mark.parametrize("arguments", [{"target": -1}, {"interval": "1"}, {"target": float("inf")}])
def test_bad_arguments_are_named(arguments: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(arguments))):
        Adaptive(**arguments)
