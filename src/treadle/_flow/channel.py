"""Channel: a bounded queue between threads that can be closed."""

from __future__ import annotations

import threading
from _thread import allocate_lock
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from treadle._base import checks, clock
from treadle._base.words import counted
from treadle._tasks.scope import checkpoint, current
from treadle.errors import ChannelClosed, ChannelEmpty, ChannelFull

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Channel"]

T = TypeVar("T")

_NOTHING: Any = type("Nothing", (), {"__repr__": lambda self: "NOTHING"})()  # None is a legal item

WAITING, SERVED, REFUSED, CALLED_OFF = "waiting", "served", "refused", "called off"


class _Turn(Generic[T]):
    """A put or a get that waits in line: what it brings or was given, and the lock that it sleeps on.

    WAITING -> SERVED   its item went in, or an item came out for it; it is no longer in line
    WAITING -> REFUSED  the channel was closed; it is no longer in line
    WAITING -> CALLED_OFF  whoever waits should stop, see `treadle._tasks.scope`; it is no longer in line
    """

    __slots__ = ("began", "item", "state", "wake")

    def __init__(self, item: T) -> None:
        self.began = clock.now()
        self.item = item
        self.state = WAITING
        self.wake = allocate_lock()  # released once, when the state changes
        self.wake.acquire()


class Channel(Generic[T]):
    """Carry items from threads that put to threads that get, first in, first out, with at most `capacity` in between.

    All methods may be called from any thread, and those that do not wait also from a signal handler. Whoever waits is
    served in turn: an item goes straight to the get that has waited longest, and the room that a get makes straight to
    the put that has waited longest, so no wake-up can be lost and nobody can be overtaken. Any object may be an item,
    None too. Iterating takes items until the channel is closed and empty; several threads may iterate over one channel.

    Ctrl-C ends a put or get of the main thread, waiting or not. A get that is interrupted takes no item: if it had one
    already, that goes back to the head, even if the channel is one over its capacity until the next get. Of a put that
    is interrupted it is not known whether its item went in. A forked child must not use its parent's channels.

    As a context manager it is closed at the end of the block, and what it holds can still be taken.

    Args:
        capacity: the most items that wait between put and get, 1 or more; then put waits. None: no limit.
        name: what errors call it; None: "channel".

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or out of range.
    """

    # While gets wait there is no item, and while puts wait there is no room, or else somebody would have been served.
    #
    # Python looks for signals after calls and at jumps back, so lines that only move and delete are never cut in two by
    # Ctrl-C. Each change of state below is such a run of lines, and a call comes last. The lock is re-entrant so that a
    # signal handler or a finalizer, which may come in at a call, can use the very channel that it interrupted.

    def __init__(self, capacity: int | None = 1000, *, name: str | None = None) -> None:
        self._capacity = None if capacity is None else checks.integer("capacity", capacity, least=1)
        self._limit = float("inf") if self._capacity is None else self._capacity
        self._name = "channel" if name is None else checks.text("name", name)
        self._lock = threading.RLock()  # guards all that follows
        self._items: deque[T] = deque()
        self._getters: deque[_Turn[T]] = deque()  # each is given its item
        self._putters: deque[_Turn[T]] = deque()  # each brings its item
        self._closed = False

    @property
    def name(self) -> str:
        """What errors call the channel."""
        return self._name

    @property
    def capacity(self) -> int | None:
        """The most items that wait; None: no limit."""
        return self._capacity

    @property
    def closed(self) -> bool:
        """Whether the channel takes no more items. It may still hold some."""
        return self._closed

    def __len__(self) -> int:
        return len(self._items)

    def __bool__(self) -> bool:
        """Return True, also when it is empty: `if channel` tells a channel from None."""
        return True

    def __repr__(self) -> str:
        limit = "unbounded" if self._capacity is None else f"capacity {self._capacity}"
        return f"<Channel {self._name!r}: {counted(len(self), 'item')}, {limit}{', closed' if self._closed else ''}>"

    # -- putting --------------------------------------------------------------------------------------------------

    def put(self, item: T, timeout: float | None = None) -> None:
        """Append `item`, when there is room.

        Args:
            item: any object.
            timeout: seconds, 0 or more, to wait for room; None: no limit.

        Raises:
            ChannelFull: there was no room within `timeout`.
            DeadlineExceeded, Cancelled: the caller should stop (see `treadle.deadline`); the item did not go in.
            ChannelClosed: the channel is closed, or was while this waited; the item did not go in.
            TypeError, ValueError: `timeout` is not a number of seconds.
        """
        seconds = checks.seconds("timeout", timeout)
        turn: _Turn[T] | None = None
        try:
            with self._lock:
                if self._place(item):
                    return
                if seconds == 0:
                    raise self._full(0)
                turn = _Turn(item)
                self._putters.append(turn)
            self._wait(turn, self._putters, seconds)
        except BaseException:
            self._leave(turn, self._putters)
            raise
        if turn.state == REFUSED:
            raise self._no_more(turn)
        if turn.state in (WAITING, CALLED_OFF):
            checkpoint()  # its own time may not be what is up
            raise self._full(seconds)

    def put_nowait(self, item: T) -> None:
        """Append `item` if there is room now; as `put` with a timeout of 0.

        Raises:
            ChannelFull: there is none.
            ChannelClosed: the channel is closed.
        """
        self.put(item, 0)

    def _place(self, item: T) -> bool:
        """Give `item` to the first get in line, or keep it; False if there is no room. The lock is held."""
        room = len(self._items) < self._limit
        if self._closed:
            raise self._no_more(None)
        if self._getters:
            turn = self._getters[0]
            turn.item = item
            turn.state = SERVED
            del self._getters[0]
            turn.wake.release()
            return True
        if room:
            self._items.append(item)
        return room

    # -- getting --------------------------------------------------------------------------------------------------

    def get(self, timeout: float | None = None) -> T:
        """Take the first item, when there is one.

        Args:
            timeout: seconds, 0 or more, to wait for an item; None: no limit.

        Returns:
            The item that was put before all others here.

        Raises:
            ChannelEmpty: no item came within `timeout`.
            DeadlineExceeded, Cancelled: the caller should stop (see `treadle.deadline`); no item was taken.
            ChannelClosed: the channel is closed, and has no item left.
            TypeError, ValueError: `timeout` is not a number of seconds.
        """
        seconds = checks.seconds("timeout", timeout)
        turn: _Turn[T] | None = None
        item: T = _NOTHING
        try:
            with self._lock:
                if self._items:
                    item = self._items[0]
                    del self._items[0]
                    self._let_in()
                elif self._closed:
                    raise self._none_left(None)
                elif seconds == 0:
                    raise self._empty(0)
                else:
                    turn = _Turn(_NOTHING)
                    self._getters.append(turn)
            if turn is not None:
                self._wait(turn, self._getters, seconds)
                item = turn.item
            if item is not _NOTHING:
                return item  # inside the `try`: an item in hand is given back until the very end
        except BaseException:
            self._give_back(item, turn)
            raise
        checkpoint()
        raise self._none_left(turn) if turn is not None and turn.state == REFUSED else self._empty(seconds)

    def get_nowait(self) -> T:
        """Take the first item if there is one now; as `get` with a timeout of 0.

        Raises:
            ChannelEmpty: there is none.
            ChannelClosed: the channel is closed, and has no item left.
        """
        return self.get(0)

    def __iter__(self) -> Channel[T]:
        return self

    def __next__(self) -> T:
        try:
            return self.get()
        except ChannelClosed:
            raise StopIteration from None

    def _let_in(self) -> None:
        """Move the item of the first put in line into the room that a get has made. The lock is held."""
        if len(self._items) < self._limit and self._putters:
            turn = self._putters[0]
            turn.state = SERVED
            del self._putters[0]
            try:
                self._items.append(turn.item)
            finally:  # Ctrl-C after the call above must not leave that put asleep
                turn.wake.release()

    def _give_back(self, item: T, turn: _Turn[T] | None) -> None:
        """Undo a get that was interrupted: leave the line, and put what it took back to the head."""
        self._leave(turn, self._getters)
        if turn is not None:
            item = turn.item
        with self._lock:
            if item is _NOTHING:
                return
            if self._getters:
                heir = self._getters[0]
                heir.item = item
                heir.state = SERVED
                del self._getters[0]
                heir.wake.release()
            else:
                self._items.appendleft(item)

    # -- waiting and ending ---------------------------------------------------------------------------------------

    def _wait(self, turn: _Turn[T], line: deque[_Turn[T]], seconds: float | None) -> None:
        """Sleep until `turn` is served or refused; after `seconds` leave the line. The one place where threads wait."""
        scope = current()
        if scope is None:
            came = turn.wake.acquire(timeout=-1 if seconds is None else seconds)
        else:
            seconds = scope.left(seconds)
            with scope.waking(lambda: self._call_off(turn, line)):
                came = turn.wake.acquire(timeout=-1 if seconds is None else seconds)
        if not came:
            self._leave(turn, line)

    def _call_off(self, turn: _Turn[T], line: deque[_Turn[T]]) -> None:
        """Let `turn` wait no longer."""
        with self._lock:
            if turn.state == WAITING and turn in line:
                turn.state = CALLED_OFF
                line.remove(turn)
                turn.wake.release()

    def _leave(self, turn: _Turn[T] | None, line: deque[_Turn[T]]) -> None:
        """Take `turn` out of `line`, unless it was served or refused just now."""
        with self._lock:
            if turn is not None and turn.state == WAITING and turn in line:
                line.remove(turn)

    def close(self, *, discard: bool = False) -> list[T]:
        """Take no more items. Puts that wait get ChannelClosed; gets take what is left, then get ChannelClosed.

        It may be called again, by any thread.

        Args:
            discard: whether to drop what is left.

        Returns:
            The items that were dropped, the oldest first; empty unless `discard`.
        """
        checks.boolean("discard", discard)
        with self._lock:
            self._closed = True
            for line in (self._putters, self._getters):
                while line:
                    turn = line[0]
                    turn.state = REFUSED
                    del line[0]
                    turn.wake.release()
            dropped = list(self._items) if discard else []
            if discard:
                self._items.clear()
            return dropped

    def __enter__(self) -> Channel[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- errors ---------------------------------------------------------------------------------------------------

    def _full(self, seconds: float | None) -> ChannelFull:
        return ChannelFull(self._name, cast(int, self._capacity), seconds or 0.0)

    def _empty(self, seconds: float | None) -> ChannelEmpty:
        return ChannelEmpty(self._name, self._capacity, seconds or 0.0)

    def _no_more(self, turn: _Turn[T] | None) -> ChannelClosed:
        return ChannelClosed(self._name, self._capacity, _waited(turn))

    def _none_left(self, turn: _Turn[T] | None) -> ChannelClosed:
        return ChannelClosed(self._name, self._capacity, _waited(turn), empty=True)


def _waited(turn: _Turn[Any] | None) -> float:
    """Return the seconds since `turn` began to wait."""
    return 0.0 if turn is None else clock.now() - turn.began
