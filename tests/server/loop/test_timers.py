"""Timers: against a plain model, a dictionary of due times."""

from __future__ import annotations

import gc
import random
import sys
import weakref
from math import inf

import pytest

from treadle.server._loop.timers import SLACK, Entry, Timers


class Timed:
    def __init__(self) -> None:
        self.due = inf
        self.entry: Entry | None = None

    def attend(self, event: int) -> None:
        """Not called here."""


@pytest.mark.parametrize("seed", range(20))
def test_it_tells_of_what_is_due_and_of_nothing_else(seed: int) -> None:
    dice = random.Random(seed)
    timers, model, now = Timers(10.0), dict[Timed, float](), 0.0
    crowd = [Timed() for _ in range(12)]  # few, so that they come back while entries of their past are still there
    for _ in range(500):
        step = dice.randrange(4)
        timed = dice.choice(crowd)
        if step == 0 and timed not in model:
            due = now + dice.uniform(0, 30)
            timers.look_at(timed, due, now)
            model[timed] = min(due, now + 10.0)
        elif step == 1:
            due = now + dice.uniform(0, 30)
            timers.hasten(timed, due)
            model[timed] = min(due, model.get(timed, inf))
        elif step == 2:
            timers.forget(timed)
            model.pop(timed, None)
        else:
            now = min(model.values(), default=now) if dice.random() < 0.2 else now + dice.uniform(0, 5)
            told = list(timers.expired(now))
            assert all(timed.due == inf for timed in told)  # so it can be looked at, or hastened, again
            assert sorted(map(id, told)) == sorted(id(timed) for timed, due in model.items() if due <= now)
            for expired in told:
                del model[expired]  # type: ignore[arg-type]  # a Timed of ours
            assert timers.next > now  # or the leader would spin
        assert timers.next <= min(model.values(), default=inf)
        assert timers.next == min((due for due, _, _ in timers.heap), default=inf)
        assert {timed: timed.due for timed in model} == model
        assert timers.dead == len(timers.heap) - len(model)


def test_what_is_looked_at_again_and_again_has_one_entry() -> None:
    timers, timed = Timers(1.0), Timed()
    timers.look_at(timed, 100.0, 0.0)
    for now in range(1, 50):
        for expired in timers.expired(now):
            timers.look_at(expired, 100.0, now)
        assert len(timers.heap) == 1


def test_the_dead_are_swept_out() -> None:
    timers = Timers(100.0)
    for _ in range(10_000):
        timed = Timed()
        timers.look_at(timed, 50.0, 0.0)
        timers.forget(timed)
        assert len(timers.heap) <= 2 * SLACK + 2
    assert list(timers.expired(1000.0)) == []


def test_what_is_forgotten_or_hastened_is_not_held_by_its_old_entries() -> None:
    """A client's state may be large, and entries stay for as long as the longest time-out."""
    timers, timed = Timers(100.0), Timed()
    alive = weakref.ref(timed)
    gc.disable()
    try:
        timers.look_at(timed, 50.0, 0.0)
        timers.hasten(timed, 40.0)
        timers.forget(timed)
        del timed
        if not getattr(sys, "_is_gil_enabled", lambda: True)():
            gc.collect()
        assert alive() is None
        assert timers.dead == len(timers.heap) == 2
    finally:
        gc.enable()


def test_a_sweep_costs_no_more_than_it_frees() -> None:
    timers, crowd = Timers(100.0), [Timed() for _ in range(200)]
    for number, timed in enumerate(crowd):
        timers.look_at(timed, 50.0 - number / 10, 0.0)
    sizes = []
    for timed in reversed(crowd):  # the nearest first
        timers.forget(timed)
        sizes.append(len(timers.heap))
    rest = 99 - SLACK - 1  # after the second sweep; so few of them are not worth another
    assert sizes == [200] * 100 + [99] * (SLACK + 1) + [rest] * (rest + 1)
    assert timers.next == 50.0 - (rest - 1) / 10


def test_a_sweep_leaves_the_order_as_it_was() -> None:
    timers, crowd = Timers(1000.0), [Timed() for _ in range(200)]
    dice = random.Random(1)
    for timed in crowd:
        timers.look_at(timed, dice.uniform(0, 500), 0.0)
    for timed in crowd[:110]:
        timers.forget(timed)
    assert len(timers.heap) < 200
    left = {timed: timed.due for timed in crowd[110:]}
    assert timers.next == min(left.values())
    assert list(timers.expired(500.0)) == sorted(left, key=lambda timed: left[timed])


def test_hastening_adds_an_entry_only_if_it_brings_the_end_nearer_and_is_swept() -> None:
    timers, timed = Timers(100.0), Timed()
    timers.look_at(timed, 50.0, 0.0)
    for due in (50.0, 60.0):
        timers.hasten(timed, due)
        assert (timed.due, len(timers.heap)) == (50.0, 1)
    for step in range(10_000):
        timers.hasten(timed, 49.0 - step / 1000)
        assert len(timers.heap) <= 2 * SLACK + 2
    assert list(timers.expired(49.0)) == [timed]


def test_those_due_come_in_their_order_and_may_forget_each_other() -> None:
    timers, first, second = Timers(100.0), Timed(), Timed()
    timers.look_at(second, 2.0, 0.0)
    timers.look_at(first, 1.0, 0.0)
    assert timers.next == 1.0
    told = timers.expired(5.0)
    assert next(told) is first
    timers.forget(second)
    assert list(told) == []
