"""The pools that are measured, each behind the same few calls, used in the way its own documentation shows.

A peer that is not installed, or has no such operation, says why by raising Unavailable.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing.pool
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from time import perf_counter_ns
from typing import Any

import treadle

WORKERS = 4

Function = Callable[..., Any]


class Unavailable(Exception):
    """The peer cannot be measured here; the message says why."""


def module(name: str) -> Any:
    """Import a peer's package."""
    try:
        return import_module(name)
    except ImportError:
        raise Unavailable("not installed") from None


class Peer:
    """One pool of WORKERS threads. Each operation returns when all of its work is done.

    Args:
        room: how many tasks have to fit into its queue at once, if that has a bound; None: leave its default.
    """

    name = ""
    package: str | None = None  # whose version is recorded; None: part of Python
    shared = True  # whether several threads may submit at once

    def __init__(self, room: int | None = None) -> None:
        pass

    def submit_all(self, fn: Function, count: int) -> None:
        """Submit `count` calls, then ask for each result."""
        raise Unavailable("has no submit")

    def map(self, fn: Function, count: int) -> list[Any]:
        """Return `fn(n)` for n in range(count)."""
        raise Unavailable("has no map")

    def one_by_one(self, fn: Function, count: int) -> list[int]:
        """Submit a call and wait for it, `count` times; return the nanoseconds that each took."""
        raise Unavailable("has no submit")

    def submit_only(self, fn: Function, count: int) -> list[Any]:
        """Submit `count` calls and return what stands for their results; for those that have to wait."""
        raise Unavailable("has no submit that returns at once")

    def close(self) -> None:
        """End the threads."""


class ExecutorPeer(Peer):
    """Anything with the standard library's interface."""

    executor: concurrent.futures.Executor

    def submit_all(self, fn: Function, count: int) -> None:
        submit = self.executor.submit
        for future in [submit(fn) for _ in range(count)]:
            future.result()

    def map(self, fn: Function, count: int) -> list[Any]:
        return list(self.executor.map(fn, range(count)))

    def one_by_one(self, fn: Function, count: int) -> list[int]:
        submit, times = self.executor.submit, []
        for _ in range(count):
            start = perf_counter_ns()
            submit(fn).result()
            times.append(perf_counter_ns() - start)
        return times

    def submit_only(self, fn: Function, count: int) -> list[Any]:
        submit = self.executor.submit
        return [submit(fn) for _ in range(count)]

    def close(self) -> None:
        self.executor.shutdown()


class Standard(ExecutorPeer):
    """What every ratio is to."""

    name = "concurrent.futures"

    def __init__(self, room: int | None = None) -> None:
        self.executor = concurrent.futures.ThreadPoolExecutor(WORKERS)


class StandardAgain(Standard):
    """The same once more: how far its ratio is from 1 is what the machine adds of its own."""

    name = "concurrent.futures, again"


class Treadle(ExecutorPeer):
    """With its defaults: a queue with a bound, and each task in a copy of its submitter's context."""

    name = "treadle"
    package = "treadle"

    def __init__(self, room: int | None = None) -> None:
        self.executor = treadle.Pool(WORKERS) if room is None else treadle.Pool(WORKERS, queue_size=room)


class TreadleInChunks(Treadle):
    """Items handed over in as many pieces as multiprocessing makes of them unasked: four for each worker."""

    name = "treadle, in chunks"

    def map(self, fn: Function, count: int) -> list[Any]:
        return list(self.executor.map(fn, range(count), chunksize=-(-count // (4 * WORKERS))))


class MultiprocessingThreads(Peer):
    """Its map hands items over in chunks unasked: four for each worker."""

    name = "multiprocessing.pool.ThreadPool"

    def __init__(self, room: int | None = None) -> None:
        self.pool = multiprocessing.pool.ThreadPool(WORKERS)

    def submit_all(self, fn: Function, count: int) -> None:
        submit = self.pool.apply_async
        for result in [submit(fn) for _ in range(count)]:
            result.get()

    def map(self, fn: Function, count: int) -> list[Any]:
        return self.pool.map(fn, range(count))

    def one_by_one(self, fn: Function, count: int) -> list[int]:
        submit, times = self.pool.apply_async, []
        for _ in range(count):
            start = perf_counter_ns()
            submit(fn).get()
            times.append(perf_counter_ns() - start)
        return times

    def submit_only(self, fn: Function, count: int) -> list[Any]:
        submit = self.pool.apply_async
        return [submit(fn) for _ in range(count)]

    def close(self) -> None:
        self.pool.close()
        self.pool.join()


class Pebble(Peer):
    """Its schedule returns futures of the standard library."""

    name = "pebble.ThreadPool"
    package = "pebble"

    def __init__(self, room: int | None = None) -> None:
        self.pool = module("pebble").ThreadPool(max_workers=WORKERS)

    def submit_all(self, fn: Function, count: int) -> None:
        submit = self.pool.schedule
        for future in [submit(fn) for _ in range(count)]:
            future.result()

    def map(self, fn: Function, count: int) -> list[Any]:
        return list(self.pool.map(fn, range(count)).result())

    def one_by_one(self, fn: Function, count: int) -> list[int]:
        submit, times = self.pool.schedule, []
        for _ in range(count):
            start = perf_counter_ns()
            submit(fn).result()
            times.append(perf_counter_ns() - start)
        return times

    def submit_only(self, fn: Function, count: int) -> list[Any]:
        submit = self.pool.schedule
        return [submit(fn) for _ in range(count)]

    def close(self) -> None:
        self.pool.close()
        self.pool.join()


class Joblib(Peer):
    """One Parallel kept open, as its manual advises for repeated calls; it batches small tasks of its own accord."""

    name = "joblib (threading)"
    package = "joblib"

    def __init__(self, room: int | None = None) -> None:
        self.joblib = module("joblib")
        self.parallel = self.joblib.Parallel(n_jobs=WORKERS, backend="threading").__enter__()

    def map(self, fn: Function, count: int) -> list[Any]:
        call = self.joblib.delayed(fn)
        return list(self.parallel(call(n) for n in range(count)))

    def close(self) -> None:
        self.parallel.__exit__(None, None, None)


class LoopPeer(Peer):
    """Threads that belong to an event loop. Each operation is one run of a loop; its start, a millisecond, is counted.

    A subclass imports the library and makes its group of tasks; the calls are alike.
    """

    shared = False
    library: Any

    def group(self) -> Any:
        """Return the context manager under which tasks are started."""
        raise NotImplementedError

    def submit_all(self, fn: Function, count: int) -> None:
        self.library.run(self._all, fn, count)

    async def _all(self, fn: Function, count: int) -> None:
        limiter, run_sync = self.library.CapacityLimiter(WORKERS), self.library.to_thread.run_sync

        async def call() -> None:
            await run_sync(fn, limiter=limiter)

        async with self.group() as group:
            for _ in range(count):
                group.start_soon(call)

    def one_by_one(self, fn: Function, count: int) -> list[int]:
        return list(self.library.run(self._one_by_one, fn, count))

    async def _one_by_one(self, fn: Function, count: int) -> list[int]:
        limiter, run_sync = self.library.CapacityLimiter(WORKERS), self.library.to_thread.run_sync
        times = []
        for _ in range(count):
            start = perf_counter_ns()
            await run_sync(fn, limiter=limiter)
            times.append(perf_counter_ns() - start)
        return times


class Anyio(LoopPeer):
    """On asyncio, its default."""

    name = "anyio.to_thread"
    package = "anyio"

    def __init__(self, room: int | None = None) -> None:
        self.library = module("anyio")
        module("anyio.to_thread")

    def group(self) -> Any:
        return self.library.create_task_group()


class Trio(LoopPeer):
    """Its threads come from a cache that belongs to the process."""

    name = "trio.to_thread"
    package = "trio"

    def __init__(self, room: int | None = None) -> None:
        self.library = module("trio")

    def group(self) -> Any:
        return self.library.open_nursery()


PEERS: tuple[type[Peer], ...] = (Standard, Treadle, StandardAgain, MultiprocessingThreads, Pebble, Joblib, Anyio, Trio)


@contextmanager
def opened(kind: type[Peer], room: int | None = None) -> Iterator[Peer]:
    """Make a peer, and end its threads afterwards."""
    peer = kind(room)
    try:
        yield peer
    finally:
        peer.close()
