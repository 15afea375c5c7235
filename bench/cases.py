"""What is measured of a pool, and what is promised of each."""

from __future__ import annotations

import statistics
import sys
import threading
import tracemalloc
from collections.abc import Callable
from time import perf_counter

from measure import Case, Sample
from peers import WORKERS, Peer, TreadleInChunks, Unavailable

PATIENCE = 60.0  # seconds that a peer's thread may take to start, or to end what it was given


def nothing() -> None:
    """The task: it costs nothing, so that what is measured is the pool."""


def itself(number: int) -> int:
    """The function that is mapped."""
    return number


def warm(peer: Peer) -> None:
    """Have all the threads started, where a peer has threads that stay from one call to the next."""
    together = threading.Barrier(WORKERS + 1)
    try:
        peer.submit_only(together.wait, WORKERS)
    except Unavailable:
        return
    together.wait(PATIENCE)


def throughput(work: Callable[[Peer], object], count: int) -> Callable[[Peer], Sample]:
    """Return a measure: seconds a task."""

    def measure(peer: Peer) -> Sample:
        warm(peer)
        start = perf_counter()
        work(peer)
        return Sample((perf_counter() - start) / count)

    return measure


def submitters(count: int) -> Callable[[Peer], Sample]:
    """Return a measure: seconds a task when as many threads as there are workers submit and collect at once."""

    def measure(peer: Peer) -> Sample:
        if not peer.shared:
            raise Unavailable("its limit holds within one event loop")
        warm(peer)
        together, errors = threading.Barrier(WORKERS + 1), list[BaseException]()

        def work() -> None:
            together.wait(PATIENCE)
            try:
                peer.submit_all(nothing, count // WORKERS)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(WORKERS)]
        for thread in threads:
            thread.start()
        together.wait(PATIENCE)
        start = perf_counter()
        for thread in threads:
            thread.join()
        seconds = perf_counter() - start
        if errors:
            raise errors[0]
        return Sample(seconds / (count // WORKERS * WORKERS))

    return measure


def latency(count: int) -> Callable[[Peer], Sample]:
    """Return a measure: seconds from submit to result of a lone task, median and 99th percentile."""

    def measure(peer: Peer) -> Sample:
        warm(peer)
        times = peer.one_by_one(nothing, count + count // 10)[count // 10 :]
        return Sample(statistics.median(times) / 1e9, statistics.quantiles(times, n=100)[98] / 1e9)

    return measure


def memory(count: int) -> Callable[[Peer], Sample]:
    """Return a measure: bytes that a waiting task takes, its future and its place in a list included.

    All workers are held while `count` tasks are submitted, and tracemalloc counts what Python's allocators gave out.
    Resident memory would say the same of a fresh process only: here a peer would be given what another has freed.
    """

    def measure(peer: Peer) -> Sample:
        gate, held = threading.Event(), threading.Barrier(WORKERS + 1)

        def hold() -> None:
            held.wait(PATIENCE)
            gate.wait(PATIENCE)

        holders = peer.submit_only(hold, WORKERS)
        held.wait(PATIENCE)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            futures = peer.submit_only(nothing, count)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            gate.set()
        del futures, holders
        return Sample((after - before) / count)

    return measure


def cases(scale: float, *, gil: bool) -> list[Case]:
    """Return what is measured, with `scale` times the usual numbers of tasks.

    The targets of a build with a GIL are promised for Python 3.13 and later; those of one without, for throughput.
    """
    many, few = max(40, int(5_000 * scale)), max(100, int(2_000 * scale))
    modern = sys.version_info >= (3, 13)

    def target(with_gil: float, without: float | None = None) -> float | None:
        return (with_gil if gil else without) if modern else None

    return [
        Case(
            "submit_result",
            "Submit tasks that do nothing, then ask for their results",
            "tasks/s",
            throughput(lambda peer: peer.submit_all(nothing, many), many),
            target(5.0, 2.0),
        ),
        Case(
            "map",
            "Map a function over a range",
            "items/s",
            throughput(lambda peer: peer.map(itself, 4 * many), 4 * many),
            target(10.0, 2.0),
            also=(TreadleInChunks,),
        ),
        Case(
            "submitters",
            f"{WORKERS} threads at once submit tasks and take their results",
            "tasks/s",
            submitters(2 * many),
        ),
        Case("latency", "From submit to result of a lone task", "µs", latency(few), target(1.0)),
        Case("memory", "Memory of a waiting task", "bytes", memory(many), target(5.0), room=many),
    ]
