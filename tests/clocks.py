"""A clock that stands still until it is told to go on, in place of the machine's."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from treadle import clock, submitter

if TYPE_CHECKING:
    import pytest

__all__ = ["FakeClock"]

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
