"""Alarm: calls functions at given times."""

from __future__ import annotations

import logging
import os
import threading

import pytest

from clocks import FakeClock
from treadle import clock
from treadle.alarm import Alarm

PATIENCE = 30.0


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch)


@pytest.fixture
def alarm(monkeypatch: pytest.MonkeyPatch) -> Alarm:
    """An alarm without a thread: it is rung by hand."""
    monkeypatch.setattr("treadle.alarm.start_thread", lambda target, name: threading.current_thread())
    return Alarm()


def test_bells_ring_in_the_order_of_their_times_when_these_have_come(alarm: Alarm, still: FakeClock) -> None:
    rang: list[int] = []
    for seconds in (3, 1, 2):
        alarm.set(still.now() + seconds, lambda seconds=seconds: rang.append(seconds))  # type: ignore[misc]
    assert alarm.ring_due() == 0
    still.pass_(2)
    assert alarm.ring_due() == 2
    still.pass_(1)
    alarm.ring_due()
    assert rang == [1, 2, 3]


def test_a_muted_bell_does_not_ring_and_may_be_muted_again(alarm: Alarm, still: FakeClock) -> None:
    rang: list[int] = []
    bell = alarm.set(still.now() + 1, lambda: rang.append(1))
    alarm.mute(bell)
    alarm.mute(bell)
    still.pass_(2)
    assert alarm.ring_due() == 0
    assert not rang


def test_bells_that_are_set_and_muted_do_not_pile_up(alarm: Alarm, still: FakeClock) -> None:
    kept = [alarm.set(still.now() + 60, int) for _ in range(10)]
    for _ in range(10_000):
        alarm.mute(alarm.set(still.now() + 60, int))
        assert len(alarm._bells) <= 2 * (len(kept) + 64) + 1
    still.pass_(60)
    assert alarm.ring_due() == len(kept)


def test_a_bell_that_raises_is_logged_and_the_next_one_rings(
    alarm: Alarm, still: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    rang: list[int] = []

    def fail() -> None:
        raise ValueError("from a bell")

    alarm.set(still.now(), fail)
    alarm.set(still.now(), lambda: rang.append(1))
    with caplog.at_level(logging.ERROR, "treadle"):
        assert alarm.ring_due() == 2
    assert rang == [1]
    assert "from a bell" in caplog.text


def test_its_thread_rings_and_ends_when_there_is_nothing_more_to_do() -> None:
    alarm, rang = Alarm(), threading.Event()
    alarm.set(clock.now() + 3600, int)
    early = alarm.set(clock.now() + 0.01, rang.set)  # before the one that it sleeps for
    assert rang.wait(PATIENCE)
    assert early.ring is None
    for bell in list(alarm._bells):
        alarm.mute(bell)
    thread = alarm._thread
    assert thread is not None
    alarm.set(clock.now(), int)  # so that it looks
    thread.join(PATIENCE)
    assert not thread.is_alive()
    again = threading.Event()
    alarm.set(clock.now(), again.set)
    assert again.wait(PATIENCE)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform cannot fork")
def test_nothing_of_the_parents_rings_after_a_fresh_start(alarm: Alarm, still: FakeClock) -> None:
    bell = alarm.set(still.now(), int)
    alarm._start_afresh()  # as in a forked child
    assert bell.ring is None
    assert alarm.ring_due() == 0
