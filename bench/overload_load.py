"""What threads can do, and how pools are asked for more: in an open loop, which waits for nobody."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter, sleep
from typing import Any

from overload_tally import Tally, Values, punctuality

from treadle.errors import PoolFull, Shed

THREADS = 8
TASK = 0.008  # seconds that a task takes
PATIENCE = 60.0  # seconds that a pool's threads may take to start
TICK = 0.0005  # seconds that the open loop sleeps at least: to wake for each of 10,000 tasks a second is itself a load

Submit = Callable[..., "Future[Any]"]
Rows = dict[str, Values]  # by who was measured, and at what: as in `adaptive@5x`


@dataclass(frozen=True)
class Settings:
    """How much of everything.

    Attributes:
        seconds: of each load that are counted; the `warmup` seconds before are not.
        loads: what is offered, as multiples of capacity.
        flood: tasks that one tenant always has waiting.
        before, slowed, recovered: seconds that the backend is in each of these states; the last `settled` are counted.
        depths: how many tasks wait where the cost of an order is measured.
        passed: tasks at least that pass through an order for that, `slices` times in a round; twice
            where more than that wait.
        connections: of clients.
    """

    seconds: float = 1.5
    warmup: float = 0.5
    loads: tuple[float, ...] = (0.8, 1.5, 2.0, 5.0, 10.0)
    flood: int = 10_000
    before: float = 1.5
    slowed: float = 2.5
    recovered: float = 2.0
    settled: float = 1.0
    depths: tuple[int, ...] = (1, 100, 100_000)
    passed: int = 20_000
    slices: int = 5
    connections: int = 300


QUICK = Settings(
    seconds=0.2,
    warmup=0.1,
    loads=(0.8, 5.0),
    flood=200,
    before=0.2,
    slowed=0.3,
    recovered=0.2,
    settled=0.1,
    depths=(1, 100),
    passed=200,
    slices=1,
    connections=20,
)


def turned(names: Iterable[str], number: int) -> list[str]:
    """Return the names in an order that moves on by one each round, so that nobody always follows the same one."""
    names = list(names)
    shift = number % len(names)
    return names[shift:] + names[:shift]


def task() -> None:
    """What is to be done: it blocks, as a query would."""
    sleep(TASK)


def warm(executor: Executor) -> None:
    """Have all threads started."""
    together = threading.Barrier(THREADS + 1)
    for _ in range(THREADS):
        executor.submit(together.wait, PATIENCE)
    together.wait(PATIENCE)


@contextmanager
def loaded(executor: Executor) -> Iterator[None]:
    """Load `executor` in this block; what is not begun at its end is cancelled."""
    gc.collect()
    try:
        yield
    finally:
        executor.shutdown(cancel_futures=True)


def capacity(seconds: float) -> float:
    """Return how many tasks a second are done by THREADS threads that need no pool, in about so many seconds."""
    times, together = max(1, round(seconds / TASK)), threading.Barrier(THREADS + 1)

    def work() -> None:
        together.wait(PATIENCE)
        for _ in range(times):
            task()

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    together.wait(PATIENCE)
    start = perf_counter()
    for thread in threads:
        thread.join()
    return times * THREADS / (perf_counter() - start)


def note(tally: Tally, due: float, future: Future[Any]) -> None:
    """Note what became of a task; called when it is done. Those cancelled at the end are not answered."""
    at = perf_counter()
    try:
        error = future.exception()
    except CancelledError:
        return
    if error is None:
        tally.answers.append((due, at))
    elif isinstance(error, Shed):
        tally.refusals.append((due, at))
    else:
        raise error


def submit_due(submit: Submit, fn: Callable[[], object], tally: Tally, due: float) -> None:
    """Submit a task that was due at `due`, and have noted what becomes of it."""
    try:
        future = submit(fn)
    except PoolFull:
        tally.refusals.append((due, perf_counter()))
    else:
        future.add_done_callback(partial(note, tally, due))


def offer(send: Callable[[float], object], rate: float, begin: float, end: float) -> list[float]:
    """Call `send(due)` at fixed instants, `rate` a second, whatever became of the calls before.

    Who is late catches up, and the instant at which a call was due does not change; what is due after `end`, or was not
    done by then, is left out.

    Returns:
        How many seconds late each call was.
    """
    late = list[float]()
    while (due := begin + len(late) / rate) < end:
        ahead = due - perf_counter()
        if ahead > 0:
            sleep(max(ahead, TICK))
        now = perf_counter()
        if now >= end:
            break
        late.append(now - due)
        send(due)
    return late


def open_loop(submit: Submit, rate: float, settings: Settings) -> Callable[[], Values]:
    """Offer `rate` tasks a second; return what counts them, to be called when nothing of it runs any more.

    Beside what is counted of tasks: how punctual the loop was.
    """
    tally, begin = Tally(), perf_counter()
    counted, end = begin + settings.warmup, begin + settings.warmup + settings.seconds
    late = offer(partial(submit_due, submit, task, tally), rate, begin, end)
    return lambda: {**tally.values(counted, end), **punctuality(late, end - begin)}
