"""Timers: against a plain model, a dictionary of due times."""

from __future__ import annotations

import random
from math import inf

import pytest

from treadle.server.timers import SLACK, Timers


class Timed:
    def __init__(self) -> None:
        self.due = inf

    def attend(self, event: int) -> None:
        """Not called here."""


@pytest.mark.parametrize("seed", range(20))
def test_it_tells_of_what_is_due_and_of_nothing_else(seed: int) -> None:
    dice = random.Random(seed)
    timers, model, now = Timers(10.0), dict[Timed, float](), 0.0
    for _ in range(500):
        step = dice.randrange(4)
        timed = dice.choice([*model, Timed()]) if model else Timed()
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
            now += dice.uniform(0, 5)
            told = list(timers.expired(now))
            assert sorted(map(id, told)) == sorted(id(timed) for timed, due in model.items() if due <= now)
            for expired in told:
                del model[expired]  # type: ignore[arg-type]  # a Timed of ours
        assert timers.next <= min(model.values(), default=inf)
        assert {timed: timed.due for timed in model} == model


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


def test_those_due_come_in_their_order_and_may_forget_each_other() -> None:
    timers, first, second = Timers(100.0), Timed(), Timed()
    timers.look_at(second, 2.0, 0.0)
    timers.look_at(first, 1.0, 0.0)
    assert timers.next == 1.0
    told = timers.expired(5.0)
    assert next(told) is first
    timers.forget(second)
    assert list(told) == []
