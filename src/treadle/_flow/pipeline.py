"""Pipeline: items flow through stages, each on threads of its own, with bounded channels in between.

    source --1 thread--> channel --> stage: `workers` threads --> channel --> ... --> channel --> you

Every thread waits when the channel before it is empty or the one behind it is full: that is the back-pressure, and it
reaches back to the source.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from threading import Condition, Lock
from typing import Any, Generic, Never, TypeVar, overload

from treadle._base import checks
from treadle._base.words import brief, note, show, type_name
from treadle._dispatch import lifecycle
from treadle._flow.channel import Channel
from treadle._pool.pool import Pool
from treadle._pool.submit import dispatcher_of
from treadle._tasks.contexts import copier, taken
from treadle._tasks.scope import current, unscoped
from treadle.errors import ChannelClosed, WorkerLost

__all__ = ["Pipeline"]

_log = logging.getLogger("treadle")

In = TypeVar("In")
Out = TypeVar("Out")
S = TypeVar("S")
T = TypeVar("T")
Entry = tuple[int, Any]  # an item and its number in the source


class Unstaged:
    """What goes into a pipeline without stages, and comes out: anything. For type checkers; there is no such object."""


@dataclass(frozen=True)
class _Stage:
    function: Callable[[Any], Any]
    workers: int
    capacity: int | None
    name: str


class Pipeline(Generic[In, Out]):
    """Pass items through one function after another, each on `workers` threads of its own.

        for page in Pipeline().stage(fetch, workers=8).stage(parse).run(urls):
            ...

    A pipeline is a plan, which never changes: `stage` returns a longer one, `run` may be called any number of times,
    and each run has its own threads. All methods may be called from any thread.

    Args:
        name: what logs call it; its threads are called `<name>-<stage>-<n>` and `<name>-source-0`. None: "pipeline".

    Raises:
        TypeError: `name` is not a string.
    """

    def __init__(self: Pipeline[Unstaged, Unstaged], *, name: str | None = None) -> None:
        self._name = "pipeline" if name is None else checks.text("name", name)
        self._stages: tuple[_Stage, ...] = ()

    @overload
    def stage(
        self: Pipeline[Unstaged, Unstaged],
        function: Callable[[S], T],
        *,
        workers: int = ...,
        capacity: int | None = ...,
        name: str | None = ...,
    ) -> Pipeline[S, T]: ...
    @overload
    def stage(
        self,
        function: Callable[[Out], T],
        *,
        workers: int = ...,
        capacity: int | None = ...,
        name: str | None = ...,
    ) -> Pipeline[In, T]: ...
    def stage(
        self, function: Callable[[Any], Any], *, workers: int = 1, capacity: int | None = 16, name: str | None = None
    ) -> Pipeline[Any, Any]:
        """Return a pipeline with one more stage at its end, which turns each item into `function(item)`.

        Args:
            function: called with one item, in a fresh copy of the context in which `run` was called.
            workers: how many threads call it, 1 or more: at most so many items are in it at once.
            capacity: how many results may wait behind it, 1 or more, for the next stage, for the consumer, or (in an
                ordered run) for the result of a slower item before them. None: no limit. (16 is a guess.)
            name: what logs and threads call the stage; None: its position, from 1.

        Raises:
            TypeError, ValueError: an argument is of the wrong type, or out of range.
        """
        checks.blocking("function", function)
        stage = _Stage(
            function,
            checks.integer("workers", workers, least=1),
            None if capacity is None else checks.integer("capacity", capacity, least=1),
            str(len(self._stages) + 1) if name is None else checks.text("name", name),
        )
        longer: Pipeline[Any, Any] = Pipeline(name=self._name)
        longer._stages = (*self._stages, stage)
        return longer

    @overload
    def run(self, source: Iterable[In], *, ordered: bool = ...) -> Generator[Out, None, None]: ...
    @overload  # behind a first stage of whose items a checker knows nothing
    def run(
        self: Pipeline[Never, Out], source: Iterable[Any], *, ordered: bool = ...
    ) -> Generator[Out, None, None]: ...
    @overload
    def run(
        self: Pipeline[Unstaged, Unstaged], source: Iterable[T], *, ordered: bool = ...
    ) -> Generator[T, None, None]: ...
    def run(self, source: Iterable[Any], *, ordered: bool = True) -> Generator[Any, None, None]:
        """Return an iterator over the results of the last stage.

        Nothing starts before its first `next`. Then `source` is read in one thread, of the run's own, ahead of the
        results taken by at most 2 and the sum of `workers + capacity` over the stages.

        A deadline under which `run` was called bounds the run, and one under which `next` is called bounds that: the
        run is stopped, and the consumer gets DeadlineExceeded.

        What a stage or the source raises (SystemExit too) stops the run: nothing more is read or begun, what is under
        way is dropped, and the consumer's `next` raises it at once and once; calls that still run end by themselves,
        and if they raise too, that is logged. After it, as after the last result, the iterator is exhausted.

        Closing or dropping the iterator early stops the run, and waits for the calls under way, of stages and of the
        source. After Ctrl-C it stops and waits for nothing. When Python exits, runs that were left are stopped, and the
        stages' calls under way waited for. In a forked child, `next` of a run that has begun raises WorkerLost.

        A task that takes the results, in a pool that the stages or the source wait for, can wait for ever if no other
        thread of that pool is free: what a run waits for is not seen where deadlocks are found.

        Args:
            source: any iterable, endless or not. `iter` is called here, and `next` in the run's thread.
            ordered: whether every stage, and the consumer, gets the items in the order of the source, or as they are
                ready. Either way a stage of several threads works on several items at once.

        Returns:
            A generator, for one thread at a time. Its `next` raises RuntimeError when not all threads can be started.

        Raises:
            TypeError: `source` cannot be iterated, or `ordered` is not a bool.
        """
        checks.boolean("ordered", ordered)
        try:
            items = iter(source)
        except TypeError:
            raise TypeError(f"source={show(source)} is {type_name(source)}; allowed: an iterable") from None
        return _Run(self._name, self._stages, items, ordered=ordered).results()

    def __repr__(self) -> str:
        stages = "".join(
            f" -> {stage.name} (workers {stage.workers}, capacity {stage.capacity})" for stage in self._stages
        )
        return f"<Pipeline {self._name!r}: source{stages}>"


class _InOrder:
    """A bounded channel whose entries are taken in the order of their numbers, in whatever order they are put.

    A put waits until its number is less than `capacity` away from the next to be taken. It cannot wait for ever:
    entries are worked on in order too, so somebody already has the one that is taken next, and its put never waits.
    """

    def __init__(self, capacity: int | None) -> None:
        self._limit = float("inf") if capacity is None else capacity
        self._lock = Lock()  # guards all that follows
        self._came = Condition(self._lock)  # the next entry is here
        self._room = Condition(self._lock)
        self._entries: dict[int, Any] = {}
        self._next = 0
        self._closed = False

    def put(self, entry: Entry) -> None:
        """Add `entry`, when there is room for its number. Raises ChannelClosed."""
        number, value = entry
        with self._when(self._room, lambda: self._closed or number < self._next + self._limit):
            if self._closed:
                raise ChannelClosed("in order")
            self._entries[number] = value
            if number == self._next:
                self._came.notify()

    def __iter__(self) -> Iterator[Entry]:
        return self

    def __next__(self) -> Entry:
        with self._when(self._came, lambda: self._closed or self._next in self._entries):
            if self._next not in self._entries:
                raise StopIteration
            entry = (self._next, self._entries.pop(self._next))
            self._next += 1
            self._room.notify_all()  # one certain number has room now, and nobody knows which thread holds it
            if self._next in self._entries:
                self._came.notify()
            return entry

    @contextmanager
    def _when(self, condition: Condition, reached: Callable[[], bool]) -> Iterator[None]:
        """Wait until it is so, then hold the lock; raise if the caller should stop before."""
        with self._lock:
            if reached():
                yield
                return
        scope = current()
        with nullcontext() if scope is None else scope.waking(self._wake), self._lock:
            if scope is None:
                condition.wait_for(reached)
            else:
                condition.wait_for(lambda: reached() or scope.over(), scope.left())
                if not reached():
                    scope.check()
            yield

    def _wake(self) -> None:
        with self._lock:
            self._came.notify_all()
            self._room.notify_all()

    def close(self, *, discard: bool = False) -> None:
        """As `Channel.close`."""
        dropped: dict[int, Any] = {}  # to be let go of with no lock held: destructors are the user's
        with self._lock:
            self._closed = True
            if discard:
                dropped, self._entries = self._entries, dropped
        self._wake()


def _pass_on(entry: Entry, channel: Channel[Entry] | _InOrder) -> bool:
    """Put `entry` into `channel`; False when that was closed, because the run was stopped."""
    try:
        channel.put(entry)
    except ChannelClosed:
        return False
    return True


class _Run:
    """One pass of a source through the stages.

    Channel 0 lies between the source and the first stage, channel k behind stage k. Each is closed by whoever ends last
    before it, so that the end of the source travels to the consumer; stopping closes and empties all of them, which
    wakes every thread of the run.
    """

    def __init__(self, name: str, stages: tuple[_Stage, ...], source: Iterator[Any], *, ordered: bool) -> None:
        self._name = name
        self._stages = stages
        self._source = source
        self._copy = copier(taken())  # of the context of the run
        self._channels: list[Channel[Entry] | _InOrder] = [Channel(1)]
        self._channels += [_InOrder(stage.capacity) if ordered else Channel(stage.capacity) for stage in stages]
        self._pools: list[Pool] = []  # the source's is the first
        self._lock = Lock()  # guards the following
        self._working = [stage.workers for stage in stages]  # threads that have not ended
        self._stopped = False
        self._error: BaseException | None = None  # for the consumer to raise
        self._left = False  # Python exits, and the run goes with it

    def results(self) -> Generator[Any, None, None]:
        """Run, and yield what comes out; see Pipeline.run."""
        try:
            self._start()
            outlet = self._channels[-1]
            for _, value in outlet:
                yield value
                del value  # or it would live on while the consumer waits for the next
                if outlet is not self._channels[-1]:
                    raise WorkerLost(None, self._name, "the process forked")
            self._raise_error()
            self._join()
        except GeneratorExit:
            if not self._left:  # else Python is being taken apart: there is nothing to call any more
                self.stop()
                self._join()
                self._log_error()
            raise
        except BaseException as error:
            self.stop()
            self._take_error()  # which nobody will raise, and whose traceback leads to the run
            self._abandon(everything=issubclass(type(error), KeyboardInterrupt))
            raise

    def stop(self) -> None:
        """Wake every thread of the run, to end when its present call does. Waits for nothing."""
        with self._lock:
            self._stopped = True
        for channel in self._channels:
            channel.close(discard=True)

    def _leave(self) -> None:
        """Stop, because Python exits."""
        self._left = True
        self.stop()
        self._abandon(everything=False)

    def _forget_threads(self) -> None:
        """In a forked child, be stopped, with locks that no thread of the parent's has."""
        self._lock = Lock()
        self._stopped = True
        self._channels = [Channel() for _ in self._channels]
        for channel in self._channels:
            channel.close()

    def _start(self) -> None:
        lifecycle.before_exit(self._leave, self._forget_threads)
        # Every thread is started before anything is read, or this raises: a stage without threads would stop all
        # others.
        for name, workers in [("source", 1), *((stage.name, stage.workers) for stage in self._stages)]:
            pool = Pool(workers, min_workers=workers, queue_size=workers, name=f"{self._name}-{name}")
            dispatcher_of(pool).pool = None  # it is none that a stage could use
            self._pools.append(pool)
        self._submit(self._pools[0], self._read)
        for number, stage in enumerate(self._stages):
            for _ in range(stage.workers):
                self._submit(self._pools[number + 1], self._work, number)
        for pool in self._pools:
            pool.shutdown(wait=False)

    def _submit(self, pool: Pool, loop: Callable[..., object], *args: object) -> None:
        """Have a thread run a loop, under the deadline that `run` was called under: but begin it will.

        As a task under that deadline it might not, and nobody would close the channels; and where the first `next` is
        called is nothing to it.
        """
        context = self._copy()
        unscoped().run(lambda: pool.submit(context.run, loop, *args))

    def _join(self) -> None:
        for pool in self._pools:
            pool.shutdown()

    def _abandon(self, *, everything: bool) -> None:
        """Let Python exit without waiting for the source, which may block for ever; or for any thread."""
        for pool in self._pools if everything else self._pools[:1]:
            dispatcher_of(pool).abandon()
        for pool in self._pools:
            pool.shutdown(wait=False)

    def _read(self) -> None:
        """Put the items of the source into the first channel."""
        try:
            numbers = itertools.count()
            for item in self._source:  # not enumerate(), which holds on to the last item while it waits for the next
                if not _pass_on((next(numbers), item), self._channels[0]):
                    return
                del item
        except BaseException as error:
            self._fail(error, "source")
        finally:
            self._channels[0].close()

    def _work(self, number: int) -> None:
        """Be one thread of a stage."""
        stage = self._stages[number]
        try:
            for position, value in self._channels[number]:
                try:
                    result = self._copy().run(stage.function, value)
                except BaseException as error:
                    note(error, f"in stage {stage.name} of pipeline {self._name!r}, item {position}: {brief(value)}")
                    raise
                del value
                # The stage may fork, and in the child find other channels than before.
                if not _pass_on((position, result), self._channels[number + 1]):
                    return
                del result
        except BaseException as error:
            self._fail(error, stage.name)
        finally:
            with self._lock:
                self._working[number] -= 1
                last = not self._working[number]
            if last:
                self._channels[number + 1].close()

    def _fail(self, error: BaseException, where: str) -> None:
        """Stop the run for the first error; log any other, which nobody will raise."""
        with self._lock:
            first = not self._stopped
            if first:
                self._stopped, self._error = True, error
        if first:
            self.stop()
        else:
            _log.error("pipeline %r: %s failed after the run was stopped", self._name, where, exc_info=error)

    def _take_error(self) -> BaseException | None:
        with self._lock:
            error, self._error = self._error, None
        return error

    def _raise_error(self) -> None:
        error = self._take_error()
        if error is not None:
            try:
                raise error
            finally:
                del error  # or its traceback and this frame would keep each other alive

    def _log_error(self) -> None:
        """Log an error that came when the consumer had already gone."""
        error = self._take_error()
        if error is not None:
            _log.error("pipeline %r: failed, and nobody took the error", self._name, exc_info=error)
