"""Crew: long-lived workers that drain a channel."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from treadle._base import checks
from treadle._base.words import counted, show, type_name
from treadle._dispatch import lifecycle
from treadle._flow.channel import Channel
from treadle._pool.pool import Pool
from treadle._pool.submit import dispatcher_of
from treadle._tasks.call import name_of
from treadle._tasks.contexts import copier
from treadle._tasks.scope import unscoped
from treadle.errors import ChannelFull

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Crew", "CrewSnapshot"]

T = TypeVar("T")

_log = logging.getLogger("treadle")
_here = threading.local()  # .crew and .tally, in the thread of a crew's worker


@dataclass(frozen=True)
class CrewSnapshot:
    """What a crew does at this instant. Each number is exact; they are read one after the other.

    Attributes:
        name: the crew's name.
        workers: threads that drain the channel; 0 once it is closed and empty and all have ended.
        busy: workers inside the handler.
        waiting: items in the channel.
        handled: items whose handler returned.
        failed: items whose handler raised.
        closed: whether the channel takes no more items.
    """

    name: str
    workers: int
    busy: int
    waiting: int
    handled: int
    failed: int
    closed: bool


class _Tally:
    """The counts of one worker, written by its thread alone: so nothing is locked, and none is lost."""

    __slots__ = ("depth", "failed", "handled", "running")

    def __init__(self) -> None:
        self.running = True
        self.depth = 0  # handlers under way in this thread; more than 1: a handler that put into a full channel
        self.handled = 0
        self.failed = 0


class Crew(Generic[T]):
    """Call `handler` with each item of a channel, on `workers` threads that start at once and stay.

    All methods may be called from any thread. A worker survives whatever a handler raises, SystemExit too, which in a
    thread could not end the process anyway: the item counts as failed, and `on_error` or the log is told. A worker ends
    when the channel is closed and empty. Each item is handled in a fresh copy of the context in which the crew was
    made, so that context variables set for one item are not seen by the next. A `deadline` or a group around the place
    where it was made is not the crew's, which may outlive it.

    A worker never waits for its own crew: a handler that calls `put` when the channel is full handles that item itself,
    at once, inside the call; and one that calls `join` does not wait. (A handler that puts into the channel directly,
    or into another crew whose handlers put into this one, can wait for ever.)

    As a context manager it closes at the end of the block and waits until all is handled. After Ctrl-C, in the block or
    during that wait, it drops the items that wait, and does not wait for the handlers that run. A crew that is not
    closed when Python exits is closed then, and its items are handled. In a forked child it is closed and empty.

    Args:
        handler: called with one item; what it returns is not used.
        workers: how many threads, 1 or more.
        channel: what to drain: a Channel, or the capacity of a new one. None: a new one of the usual capacity.
        name: what logs and snapshots call the crew; its threads are called `<name>-<n>`. None: "crew".
        on_error: called, in the worker, with the item and what the handler raised. None: that is logged, with its
            traceback, by the logger "treadle".

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or out of range.
        RuntimeError: not all threads can be started, or Python is exiting.
    """

    def __init__(
        self,
        handler: Callable[[T], object],
        workers: int,
        *,
        channel: Channel[T] | int | None = None,
        name: str | None = None,
        on_error: Callable[[T, BaseException], object] | None = None,
    ) -> None:
        checks.blocking("handler", handler)
        if on_error is not None:
            checks.blocking("on_error", on_error)
        workers = checks.integer("workers", workers, least=1)
        self._name = "crew" if name is None else checks.text("name", name)
        self._handler = handler
        self._on_error = on_error
        self._channel = self._channel_from(channel)
        self._context = unscoped()
        self._copy = copier(self._context)
        self._tallies = tuple(_Tally() for _ in range(workers))
        # All threads are started here, or this raises: a drain loop that waited for a thread would never run.
        self._pool = Pool(workers, min_workers=workers, queue_size=workers, name=self._name)
        dispatcher_of(self._pool).pool = None  # it is none that a handler could use
        lifecycle.before_exit(self._leave, self._forget_threads)
        for tally in self._tallies:
            self._context.run(self._pool.submit, self._drain, tally)
        self._pool.shutdown(wait=False)

    def _channel_from(self, channel: Channel[T] | int | None) -> Channel[T]:
        if isinstance(channel, Channel):
            return channel
        if channel is None:
            return Channel(name=self._name)
        if isinstance(channel, bool) or not hasattr(channel, "__index__"):
            raise TypeError(f"channel={show(channel)} is {type_name(channel)}; allowed: a Channel, a capacity, or None")
        return Channel(checks.integer("channel", channel, least=1), name=self._name)

    @property
    def name(self) -> str:
        """What logs and snapshots call the crew."""
        return self._name

    @property
    def channel(self) -> Channel[T]:
        """The channel that the workers drain."""
        return self._channel

    def put(self, item: T, timeout: float | None = None) -> None:
        """Give the crew an item, when there is room for it in the channel.

        Called by a handler of this crew when there is none, it handles the item itself, at once.

        Args:
            item: what the handler is called with.
            timeout: seconds, 0 or more, to wait for room; None: no limit.

        Raises:
            ChannelFull: there was no room within `timeout`.
            ChannelClosed: the crew is closed.
        """
        if getattr(_here, "crew", None) is not self:
            self._channel.put(item, timeout)
            return
        checks.seconds("timeout", timeout)
        with contextlib.suppress(ChannelFull):
            self._channel.put_nowait(item)
            return
        self._handle(item, _here.tally)

    def close(self, *, discard: bool = False) -> list[T]:
        """Take no more items. The workers handle what is left, then end. Waits for nothing; may be called again.

        Args:
            discard: whether to drop what is left instead.

        Returns:
            The items that were dropped, the oldest first; empty unless `discard`.
        """
        return self._channel.close(discard=discard)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the workers have ended, which they do when the channel is closed and empty.

        Args:
            timeout: seconds, 0 or more; None: no limit.

        Returns:
            Whether they have. False at once if a handler of this crew asks, for its worker has not.

        Raises:
            TypeError, ValueError: `timeout` is not a number of seconds.
            PoolDeadlock: a task of a pool asks, and a handler waits for that very task.
        """
        timeout = checks.seconds("timeout", timeout)
        return getattr(_here, "crew", None) is not self and lifecycle.join(dispatcher_of(self._pool), timeout)

    def snapshot(self) -> CrewSnapshot:
        """Return what the crew does at this instant."""
        return CrewSnapshot(
            name=self._name,
            workers=sum(tally.running for tally in self._tallies),
            busy=sum(tally.depth > 0 for tally in self._tallies),
            waiting=len(self._channel),
            handled=sum(tally.handled for tally in self._tallies),
            failed=sum(tally.failed for tally in self._tallies),
            closed=self._channel.closed,
        )

    def __repr__(self) -> str:
        now = self.snapshot()
        return (
            f"<Crew {now.name!r}: {now.busy}/{now.workers} workers busy, {now.waiting} waiting, {now.handled} handled, "
            f"{now.failed} failed{', closed' if now.closed else ''}>"
        )

    def __enter__(self) -> Crew[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Drain. After Ctrl-C, in the block or while draining: drop what waits, and do not wait for what runs."""
        try:
            self._end(interrupted=issubclass(type(error), KeyboardInterrupt))
            self._pool.__exit__(kind, error, traceback)  # waits for the threads, unless it was Ctrl-C
        except KeyboardInterrupt:
            self._end(interrupted=True)
            raise

    def _end(self, *, interrupted: bool) -> None:
        dropped = self.close(discard=interrupted)
        if dropped:
            what = counted(len(dropped), "waiting item was", "waiting items were")
            _log.warning("crew %r: interrupted; %s dropped", self._name, what)

    def _leave(self) -> None:
        """Close, because Python exits: or the workers would wait for ever for items."""
        self.close()

    def _forget_threads(self) -> None:
        """In a forked child, be closed and empty: the workers stayed in the parent, and the items are theirs."""
        self._channel = Channel(name=self._name)
        self._channel.close()
        for tally in self._tallies:
            tally.running = False

    # -- in the workers -------------------------------------------------------------------------------------------

    def _drain(self, tally: _Tally) -> None:
        """Handle items until the channel is closed and empty."""
        _here.crew, _here.tally = self, tally
        channel = self._channel
        try:
            for item in channel:
                self._handle(item, tally)
                del item  # or it would live on while this worker waits for the next
                if channel is not self._channel:  # the handler has forked, and returned here in the child
                    return
        finally:
            tally.running = False

    def _handle(self, item: T, tally: _Tally) -> None:
        """Call the handler; never raises."""
        tally.depth += 1
        try:
            self._copy().run(self._handler, item)
            tally.handled += 1
        except BaseException as error:
            tally.failed += 1
            self._report(item, error)
        finally:
            tally.depth -= 1

    def _report(self, item: T, error: BaseException) -> None:
        with contextlib.suppress(BaseException):  # a log handler that raises must not cost a worker
            if self._on_error is None:
                _log.error(
                    "crew %r: handler %s failed; its worker goes on", self._name, name_of(self._handler), exc_info=error
                )
                return
            try:
                self._on_error(item, error)
            except BaseException:  # its traceback shows `error` too, as the context
                _log.exception("crew %r: on_error failed; its worker goes on", self._name)
