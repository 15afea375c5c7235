"""Clocks in place of the machine's: one that stands still until it is told to go on, and one that leaps."""

from __future__ import annotations

from threading import Event
from time import monotonic
from types import ModuleType
from typing import TYPE_CHECKING

from treadle._base import clock
from treadle._base import timer as alarm
from treadle._pool import submit as submitter

if TYPE_CHECKING:
    import pytest

__all__ = ["FakeClock", "LeapingClock"]

READERS: tuple[ModuleType, ...] = (clock, submitter)  # it keeps a name of its own for it, on the path of every task


class FakeClock:
    """Monotonic time that passes only when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, start: float = 1000.0) -> None:
        self.time = start
        for module in READERS:
            monkeypatch.setattr(module, "now", self.now)

    def now(self) -> float:
        """Return the time, in seconds."""
        return self.time

    def pass_(self, seconds: float) -> None:
        """Let time pass."""
        self.time += seconds


class LeapingClock:
    """The machine's time, which leaps when a test says so: deadlines pass at the moment that it chooses.

    The timers' thread is told. Who sleeps until a deadline is not, and sleeps on.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead = 0.0
        for module in READERS:
            monkeypatch.setattr(module, "now", self.now)

    def now(self) -> float:
        """Return the time, in seconds."""
        return monotonic() + self._ahead

    def leap(self, seconds: float) -> None:
        """Have that much time pass at once, and the timers' thread look what is due."""
        self._ahead += seconds
        looks = Event()
        alarm.TIMERS.call_at(0.0, looks.set)
        assert looks.wait(30)
