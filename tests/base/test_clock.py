"""Time never goes back, and both readings are of one clock."""

from __future__ import annotations

from treadle._base import clock


def test_both_readings_are_monotonic_and_of_one_clock() -> None:
    readings = [clock.now_ns() / 1e9, clock.now(), clock.now_ns() / 1e9]
    assert readings == sorted(readings)
