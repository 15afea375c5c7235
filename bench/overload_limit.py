"""A backend that slows down and recovers, behind a pool with an adaptive limit and behind one without."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from heapq import heapreplace
from math import inf
from statistics import mean
from time import perf_counter, sleep

from overload_load import TASK, THREADS, Rows, Settings, loaded, offer, submit_due, turned
from overload_tally import Tally, Values

import treadle

WORKERS = 64
ABLE = THREADS / TASK  # calls a second that the backend can do
SLOWER = 10  # times
OFFERED = 1.2  # of what the backend can do
WITHIN = 0.3  # seconds to answer: a call takes 80 ms while the backend is slow

LIMITS: dict[str, Callable[[], treadle.ConcurrencyLimit | None]] = {
    "limit": treadle.ConcurrencyLimit,
    "without": lambda: None,
}


class Backend:
    """Serves as many calls at once as it has slots, in their order; the others queue up in it.

    So the more calls there are, the longer each takes. Each call is told when its turn will be over, and sleeps until
    then: no slot is handed from thread to thread, which would cost what is not the backend's.

    Args:
        slow: from when until when a call takes SLOWER times as long.
    """

    def __init__(self, slow: tuple[float, float]) -> None:
        self.slow = slow
        self.lock = threading.Lock()  # guards what follows
        self.free = [0.0] * THREADS  # a heap: when each slot has done what it was given
        self.inside = 0
        self.seen: list[tuple[float, int]] = []  # instants at which a call came, and how many there were then

    def call(self) -> None:
        """Be served."""
        with self.lock:
            now = perf_counter()
            self.inside += 1
            self.seen.append((now, self.inside))
            start = max(now, self.free[0])
            over = start + TASK * (SLOWER if self.slow[0] <= start < self.slow[1] else 1)
            heapreplace(self.free, over)
        sleep(over - now)
        with self.lock:
            self.inside -= 1

    def in_flight(self, begin: float, end: float) -> float:
        """Return how many calls there were at once, on average over those that came from `begin` until `end`."""
        return mean([inside for at, inside in self.seen if begin <= at < end] or [0])


def limit(settings: Settings, number: int) -> Rows:
    """Slow the backend down tenfold for a while: what is answered in time, and how much it is given to do at once."""
    rows = Rows()
    for name in turned(LIMITS, number):
        pool = treadle.Pool(WORKERS, limit=LIMITS[name](), order="adaptive", when_full="reject")
        states = through(pool, settings)
        states["recovered"]["to before"] = states["recovered"]["rate"] / (states["before"]["rate"] or inf)
        rows.update({f"{name}@{state}": values for state, values in states.items()})
    return rows


def through(pool: treadle.Pool, settings: Settings) -> dict[str, Values]:
    """Offer `pool` more than the backend can do, before it slows down, while it is slow, and after."""
    tally, begin = Tally(), perf_counter()
    slow = begin + settings.before
    recovered = slow + settings.slowed
    end = recovered + settings.recovered
    backend = Backend((slow, recovered))
    with loaded(pool):
        offer(partial(submit_due, pool.submit, backend.call, tally), OFFERED * ABLE, begin, end)
    states = {"before": (slow, ABLE), "slowed": (recovered, ABLE / SLOWER), "recovered": (end, ABLE)}
    return {state: _state(backend, tally, until, could, settings) for state, (until, could) in states.items()}


def _state(backend: Backend, tally: Tally, until: float, could: float, settings: Settings) -> Values:
    """Return what was done in the last seconds of a state in which the backend could do `could` calls a second."""
    since = until - settings.settled
    values = tally.values(since, until, WITHIN)
    return {"kept": values["rate"] / could, "in flight": backend.in_flight(since, until), **values}
