"""Limit: a ceiling on tasks in flight that finds itself, from how long they take."""

from __future__ import annotations

from treadle import checks

__all__ = ["Limit"]

SMOOTHING = 0.2  # how much of each step is taken
GROWTH = 4.0  # tasks in flight that are tried on top; the queue that is allowed to form in front of whatever is shared
WINDOW = 600  # runs over which the usual run time is averaged
WARM_UP = 10  # runs over which it is averaged at first
DECAY = 0.95  # by which it falls at a run that took less than half of it

# The constants are those of Netflix's.


class Limit:
    """Lets as many tasks run at once as what they share can serve: a database, an API, a disk.

    Each task's run time is compared with the usual one. While it is no longer than `tolerance` times that, the ceiling
    rises, as long as at least half of it is used; when it is longer, tasks queue up somewhere behind, and the ceiling
    falls in proportion, to a half at most at a time. So when the backend slows down, the pool does not pile up more
    work on it, and the queue in front of the pool, with its bounds and its order, is where tasks wait; and when it
    recovers, the ceiling follows.

    Give it to one pool, `Pool(64, limit=Limit())`, whose `max_workers` is then its upper bound. A server that is given
    such a pool has its handlers limited likewise.

    Source: the gradient limit of Netflix's concurrency-limits (Gradient2Limit).

    Args:
        initial: the ceiling at first, `least` or more; None: 20, or the pool's `max_workers` if that is less.
        least: the ceiling never falls below it, 1 or more.
        tolerance: how many times the usual run time is still taken for usual, 1 or more.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or out of range.
    """

    __slots__ = ("_ceiling", "_initial", "_runs", "_usual", "least", "most", "tolerance")

    def __init__(self, initial: int | None = None, *, least: int = 1, tolerance: float = 1.5) -> None:
        self.least = checks.integer("least", least, least=1)
        self._initial = None if initial is None else checks.integer("initial", initial, least=self.least)
        self.tolerance = checks.number("tolerance", tolerance, least=1)
        self.most = 0  # that its pool allows; 0 until it has one
        self._ceiling = 0.0
        self._usual = 0.0  # seconds that a run takes, averaged
        self._runs = 0

    @property
    def ceiling(self) -> int:
        """How many tasks may run at once now; 0 before it has a pool."""
        return int(self._ceiling)

    def serve(self, most: int) -> int:
        """Begin to limit a pool of `most` threads; return the ceiling.

        Raises:
            ValueError: it has a pool already, or `most` is less than `least`.
        """
        if self.most:
            raise ValueError(f"limit={self!r} limits another pool; give each pool a limit of its own")
        self.change(most)
        self._ceiling = float(min(20 if self._initial is None else self._initial, most))
        return self.ceiling

    def change(self, most: int) -> int:
        """Have the ceiling bounded by `most` from now on; return it.

        Raises:
            ValueError: `most` is less than `least`.
        """
        if most < self.least:
            raise ValueError(f"max_workers={most} is less than the limit's least={self.least}")
        self.most = most
        self._ceiling = min(self._ceiling, float(most))
        return self.ceiling

    def learn(self, seconds: float, in_flight: int) -> int:
        """Take note of a run that took `seconds`, beside `in_flight` others and itself; return the ceiling.

        Not thread-safe: the pool calls it with its lock held.
        """
        self._runs += 1
        window = min(self._runs, WARM_UP) if self._runs <= WARM_UP else WINDOW
        self._usual += (seconds - self._usual) / window
        if self._usual > 2 * seconds:  # it has recovered
            self._usual *= DECAY
        if in_flight * 2 < self._ceiling:  # it is not what holds anybody up
            return self.ceiling
        gradient = max(0.5, min(1.0, self.tolerance * self._usual / seconds)) if seconds > 0 else 1.0
        wanted = self._ceiling * gradient + GROWTH
        self._ceiling += (wanted - self._ceiling) * SMOOTHING
        self._ceiling = max(float(self.least), min(float(self.most), self._ceiling))
        return self.ceiling

    def __repr__(self) -> str:
        return f"Limit({self.ceiling} at once, {self.least} to {self.most or 'any'})"
