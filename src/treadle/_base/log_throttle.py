"""LogThrottle: one log line for many like events; LogThrottles: one for each kind of them."""

from __future__ import annotations

from threading import Lock
from types import TracebackType

from treadle._base import clock

__all__ = ["LogThrottle", "LogThrottles", "kind_of"]

QUIET = 10.0  # seconds from an event that is told in which like ones are only counted; a guess
MOST = 64  # kinds of events that are told apart; a guess


class LogThrottle:
    """Says which of many like events are told, one in so many seconds, and counts them all. For any thread.

    Args:
        quiet: seconds, from an event that is told, in which the others are only counted.
        burst: how many are told in that time, 1 or more: each of a few, and not all of a flood.

    Attributes:
        count: events so far.
        left_out: of them, those between the one that is told now and the one that was told before.
    """

    def __init__(self, quiet: float = QUIET, burst: int = 1) -> None:
        self.quiet = quiet
        self.burst = burst
        self.count = 0
        self.left_out = 0
        self._lock = Lock()  # guards all of them
        self._untold = 0
        self._told: float | None = None  # when the first of a burst was
        self._more = 0  # that may be told beside that one

    def begins(self) -> bool:
        """Count an event; return whether it is to be told, with `rest` behind it."""
        now = clock.now()
        with self._lock:
            self.count += 1
            if self._told is None or now - self._told >= self.quiet:
                self._told, self._more = now, self.burst
            if not self._more:
                self._untold += 1
                return False
            self._more -= 1
            self.left_out, self._untold = self._untold, 0
            return True

    @property
    def rest(self) -> str:
        """What the line that tells of an event ends with: how many before it were left out; "" for none."""
        return f" ({self.left_out} more like it since the last such line)" if self.left_out else ""

    def is_over(self, now: float) -> bool:
        """Whether the next event would be told."""
        return self._told is None or now - self._told >= self.quiet


class LogThrottles:
    """A LogThrottle for each kind of event, in several tables. For any thread.

    In each table `MOST` kinds are told apart, as long as they are on; those beyond share one.

    Args:
        quiet: as for LogThrottle.
    """

    def __init__(self, quiet: float = QUIET) -> None:
        self.quiet = quiet
        self._lock = Lock()  # guards the tables
        self._tables: dict[str, dict[tuple[object, ...], LogThrottle]] = {}

    def of(self, table: str, *kind: str | int | None, burst: int = 1) -> LogThrottle:
        """Return the LogThrottle of a kind; it has the `burst` that is said first."""
        now = clock.now()
        with self._lock:
            throttles = self._tables.setdefault(table, {})
            if kind not in throttles and len(throttles) >= MOST:
                over = next((known for known, throttle in throttles.items() if throttle.is_over(now)), None)
                if over is None:
                    kind = ()
                else:
                    del throttles[over]
            return throttles.setdefault(kind, LogThrottle(self.quiet, burst))

    def forget_threads(self) -> None:
        """In a forked child, begin anew: another thread may have had a lock."""
        self._lock = Lock()
        self._tables = {}


def kind_of(error: BaseException) -> tuple[int, str, int]:
    """Return what errors have in common that are alike: their type, and the line that raised them."""
    traceback: TracebackType | None = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return id(type(error)), "", 0
    return id(type(error)), traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
