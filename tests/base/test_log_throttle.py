"""LogThrottle and LogThrottles: one in so many seconds is told, with how many were not."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from treadle._base import log_throttle as module
from treadle._base.log_throttle import MOST, LogThrottle, LogThrottles, kind_of


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    time = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module, "clock", SimpleNamespace(now=lambda: time.now))
    return time


def test_one_event_in_so_many_seconds_is_told_with_how_many_were_left_out(time: SimpleNamespace) -> None:
    throttle = LogThrottle(10.0)
    told = []
    for time.now in (0.0, 9.0, 9.5, 10.0, 12.0, 30.0, 50.0):
        if throttle.begins():
            told.append((time.now, throttle.rest))
    more = " ({} more like it since the last such line)"
    assert told == [(0.0, ""), (10.0, more.format(2)), (30.0, more.format(1)), (50.0, "")]
    assert throttle.count == 7


def test_a_few_events_are_told_one_by_one_and_those_of_a_flood_are_not(time: SimpleNamespace) -> None:
    throttle = LogThrottle(10.0, burst=3)
    told = []
    for time.now in (0.0, 1.0, 2.0, 3.0, 4.0, 11.0, 11.5, 12.0, 13.0):
        if throttle.begins():
            told.append((time.now, throttle.rest))
    assert told == [
        (0.0, ""),
        (1.0, ""),
        (2.0, ""),
        (11.0, " (2 more like it since the last such line)"),
        (11.5, ""),
        (12.0, ""),
    ]


def test_a_kind_has_the_burst_that_is_said_first(time: SimpleNamespace) -> None:
    throttles = LogThrottles(10.0)
    assert [throttles.of("a", "x", burst=2).begins() for _ in range(4)] == [True, True, False, False]
    assert [throttles.of("a", "y").begins() for _ in range(2)] == [True, False]


def test_events_of_many_threads_are_all_counted_and_one_is_told() -> None:
    throttle = LogThrottle(1e6)
    told: list[bool] = []

    def happen() -> None:
        told.extend(throttle.begins() for _ in range(1000))

    threads = [threading.Thread(target=happen) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert throttle.count == 4000
    assert sum(told) == 1


def test_each_kind_is_told_apart_up_to_a_bound_beyond_which_they_share_one(time: SimpleNamespace) -> None:
    throttles = LogThrottles(10.0)
    assert [throttles.of("a", "x", 1).begins() for _ in range(3)] == [True, False, False]
    assert throttles.of("a", "y", 1).begins()
    assert throttles.of("b", "x", 1).begins()
    assert sum(throttles.of("many", number).begins() for number in range(1000)) == MOST + 1
    known = [throttles.of("many", number) for number in range(1000)]
    assert len(set(map(id, known))) == MOST + 1, "the first ones are still told apart"
    assert throttles.of("b", "z").begins()
    time.now += 10.0
    assert throttles.of("many", "new").begins()  # those that are over make room
    assert throttles.of("a", "x", 1).begins()
    assert throttles.of("a", "x", 1).rest == " (2 more like it since the last such line)"
    assert sum(map(len, throttles._tables.values())) <= 2 * MOST


def raised(zero: int, text: str) -> BaseException:
    try:
        if text:
            int(text)
        1 // zero
    except (ValueError, ZeroDivisionError) as error:
        return error
    raise AssertionError


def test_errors_are_alike_that_are_of_one_type_and_raised_by_one_line() -> None:
    assert kind_of(raised(0, "")) == kind_of(raised(0, ""))
    assert kind_of(raised(0, "x")) == kind_of(raised(0, "y"))
    assert kind_of(raised(0, "")) != kind_of(raised(0, "x"))
    assert kind_of(ValueError()) == kind_of(ValueError("never raised"))
