"""Burst: one log line for a run of like events."""

from __future__ import annotations

from treadle import clock

__all__ = ["Burst"]


class Burst:
    """Tells the first of a run of like events from those that follow it closely, and counts them all.

    Args:
        quiet: seconds without an event after which the next one begins another run.
    """

    def __init__(self, quiet: float) -> None:
        self.quiet = quiet
        self.count = 0
        self._last: float | None = None

    def begins(self) -> bool:
        """Count an event; return whether it is the first of a run."""
        last, self._last = self._last, clock.now()
        self.count += 1
        return last is None or self._last - last >= self.quiet
