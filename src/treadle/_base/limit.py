"""ConcurrencyLimit: a ceiling on tasks in flight that finds itself, from how long they take."""

from __future__ import annotations

from functools import partial
from math import sqrt
from typing import Any

from treadle._base import checks

__all__ = ["ConcurrencyLimit", "Gradient", "gradient_of"]

SMOOTHING = 0.2  # how much of each step is taken
SHORTEST = 10  # runs whose average is compared, at least; else as many as may be in flight
FEW = 6  # in flight, which are not taken to be in each other's way; the ceiling at first, where nobody says otherwise


class ConcurrencyLimit:
    """Lets as many tasks run at once as what they share can serve: a database, an API, a disk.

    The average run time of the last few tasks is compared with the lowest average seen. While it is no longer than
    `tolerance` times that, the ceiling rises, as long as at least half of it is used; when it is longer, tasks queue up
    somewhere behind, and the ceiling falls in proportion. So when the backend slows down, the pool does not pile up
    more work on it, and the queue in front of the pool, with its bounds and its order, is where tasks wait. If even few
    tasks at a time take longer than they did, that is how long they take now, and the ceiling rises from there. It
    settles at about `tolerance` times what the backend serves at once without delay, and a few more.

    Give it to one pool, `Pool(64, limit=ConcurrencyLimit())`, whose `max_workers` is then its upper bound. A server
    that is given such a pool has the messages limited likewise that wait for a thread.

    Source: the gradient limit of Netflix's concurrency-limits, with averages in the place of single runs, so that tasks
    of several kinds do not look like a backend that slows down, and without its probes, which stall the pool now and
    then.

    Its attributes may be read in any thread. A copy of it, pickled or not, has its settings, and neither its pool nor
    what it has found.

    Args:
        initial: the ceiling at first, `min_limit` or more; None: 6, or the pool's `max_workers` if that is less. The
            first tasks show how long a run takes without delay, so it should be few.
        min_limit: the ceiling never falls below it, 1 or more.
        tolerance: how many times the lowest run time is still taken for usual, 1 or more.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or out of range.
    """

    __slots__ = ("_gradient",)

    def __init__(self, initial: int | None = None, *, min_limit: int = 1, tolerance: float = 1.5) -> None:
        min_limit = checks.integer("min_limit", min_limit, least=1)
        initial = None if initial is None else checks.integer("initial", initial, least=min_limit)
        self._gradient = Gradient(initial, min_limit, checks.number("tolerance", tolerance, least=1))

    @property
    def current(self) -> int:
        """How many tasks may run at once now; 0 before it has a pool."""
        return self._gradient.ceiling

    @property
    def min_limit(self) -> int:
        """What `current` never falls below."""
        return self._gradient.min_limit

    @property
    def tolerance(self) -> float:
        """How many times the lowest run time is still taken for usual."""
        return self._gradient.tolerance

    def __reduce__(self) -> tuple[Any, ...]:
        gradient = self._gradient
        return partial(type(self), min_limit=gradient.min_limit, tolerance=gradient.tolerance), (gradient.initial,)

    def __repr__(self) -> str:
        return repr(self._gradient)


def gradient_of(limit: ConcurrencyLimit) -> Gradient:
    """Return what the pool that has `limit` asks how many tasks may run, and tells how long they took."""
    return limit._gradient


class Gradient:
    """The ceiling of one limit, and the run times that it is found from. A pool calls it with its lock held."""

    __slots__ = (
        "_ceiling",
        "_most_in_flight",
        "_runs",
        "_seconds",
        "_usual",
        "initial",
        "min_limit",
        "most",
        "tolerance",
    )

    def __init__(self, initial: int | None, min_limit: int, tolerance: float) -> None:
        self.initial = initial
        self.min_limit = min_limit
        self.tolerance = tolerance
        self.most = 0  # that its pool allows; 0 until it has one
        self._ceiling = 0.0
        self._usual: float | None = None  # the lowest average so far, in seconds
        self._runs = self._most_in_flight = 0  # since the last look
        self._seconds = 0.0

    @property
    def ceiling(self) -> int:
        """How many tasks may run at once now; 0 before it has a pool."""
        return int(self._ceiling)

    def check_free(self, most: int) -> None:
        """Check that it may begin to limit a pool of `most` threads.

        Raises:
            ValueError: it has a pool already, or `most` is less than `min_limit`.
        """
        if self.most:
            raise ValueError(f"limit={self!r} limits another pool; give each pool a limit of its own")
        self._check(most)

    def serve(self, most: int) -> int:
        """Begin to limit a pool of `most` threads; return the ceiling.

        Raises:
            ValueError: as `check_free`.
        """
        self.check_free(most)
        self.most = most
        self._ceiling = float(min(FEW if self.initial is None else self.initial, most))
        return self.ceiling

    def change(self, most: int) -> int:
        """Have the ceiling bounded by `most` from now on; return it.

        Raises:
            ValueError: `most` is less than `min_limit`.
        """
        self._check(most)
        self.most = most
        self._ceiling = min(self._ceiling, float(most))
        return self.ceiling

    def _check(self, most: int) -> None:
        if most < self.min_limit:
            raise ValueError(f"max_workers={most} is less than the limit's min_limit={self.min_limit}")

    def observe_run(self, seconds: float, in_flight: int) -> int:
        """Take note of a run that took `seconds`, beside `in_flight` others and itself; return the ceiling."""
        self._runs += 1
        self._seconds += seconds
        self._most_in_flight = max(self._most_in_flight, in_flight)
        if self._runs >= max(SHORTEST, self._ceiling):
            self._look(self._seconds / self._runs, self._most_in_flight)
            self._runs = self._most_in_flight = 0
            self._seconds = 0.0
        return self.ceiling

    def _look(self, average: float, in_flight: int) -> None:
        """Take a step, after runs that took `average` seconds, with so many in flight at most."""
        usual = average if self._usual is None else min(self._usual, average)
        if average > self.tolerance * usual and self._ceiling <= max(self.min_limit, FEW):
            usual = average  # they are not in each other's way: the backend is as slow as that
        self._usual = usual
        if in_flight * 2 < self._ceiling:  # it is not what holds anybody up
            return
        gradient = max(0.5, min(1.0, self.tolerance * usual / average)) if average > 0 else 1.0
        wanted = self._ceiling * gradient + max(1.0, sqrt(self._ceiling))
        ceiling = self._ceiling + (wanted - self._ceiling) * SMOOTHING
        self._ceiling = max(float(self.min_limit), min(float(self.most), ceiling))

    def __repr__(self) -> str:
        return f"ConcurrencyLimit({self.ceiling} at once, {self.min_limit} to {self.most or 'any'})"
