"""Pollers: how the leader waits for all connections at once.

epoll on Linux, kqueue on BSD and macOS, `selectors` elsewhere.

All are level-triggered: what is not served now is reported again, so a leader may drop the rest of what it was told at
any time, and its successor is told of it.
"""

from __future__ import annotations

import select
import selectors
import socket
from collections import deque
from contextlib import suppress
from threading import Lock
from typing import Any, Protocol

from treadle._base.threads import GREENLETS, check_unpatched, made_anew

__all__ = ["READ", "WRITE", "EpollPoller", "KqueuePoller", "Poller", "SelectorPoller", "new_poller", "renew_waker"]

READ, WRITE = (
    1,
    4,
)  # EPOLLIN and EPOLLOUT, so that epoll's events need no translation; an error or an end counts as READ
NOTHING: list[tuple[int, int]] = []

# Has what the platform has. Who waits in what gevent puts in its place lets other greenlets run; but where threads are
# threads nevertheless, no other one can wake it there.
_select: Any = select if GREENLETS else made_anew(select)


class Waker:
    """A descriptor that is readable once `wake` was called, until `clear` is."""

    def __init__(self) -> None:
        self.reader, self.writer = socket.socketpair()
        self.reader.setblocking(False)
        self.writer.setblocking(False)
        self.fd = self.reader.fileno()

    def wake(self) -> None:
        """Make it readable; from any thread, and from a signal handler."""
        try:
            self.writer.send(b"\0")
        except OSError:
            pass  # full, so it is readable; or closed, so nobody waits

    def clear(self) -> bool:
        """Make it unreadable; False: that cannot be done, for somebody has shut it down, or closed one end."""
        try:
            return bool(self.reader.recv(4096))
        except BlockingIOError:  # somebody was faster
            return True
        except OSError:
            return False

    def close(self) -> None:
        """Close it."""
        for sock in (self.reader, self.writer):
            with suppress(OSError):  # it is closed already
                sock.close()


class Poller(Protocol):
    """What the leader asks of a poller. One thread polls at a time; all else may be called from any thread."""

    waker: Waker  # what `wake` makes readable; it is reported like any other descriptor

    def add(self, fd: int, events: int) -> None:
        """Watch a descriptor that is not watched; `events` is READ, WRITE or both."""

    def change(self, fd: int, before: int, events: int) -> None:
        """Watch `fd`, watched for `before`, for `events`."""

    def remove(self, fd: int, before: int) -> None:
        """Watch `fd` no more; it is still open, unless somebody has closed it behind our back."""

    def poll(self, timeout: float, /) -> list[tuple[int, int]]:
        """Wait until something is ready or `timeout` seconds have passed; return descriptors and events."""
        return NOTHING

    def wake(self) -> None:
        """Make `poll`, the one under way or the next, return at once."""

    def close(self) -> None:
        """Let the poller's own descriptors go."""


class EpollPoller:
    """Linux's epoll. `poll` is epoll's own, for it is called for every message, so the waker is reported as well."""

    def __init__(self) -> None:
        self.waker = Waker()
        self._epoll = _select.epoll()
        self.poll = self._epoll.poll
        self._epoll.register(self.waker.fd, READ)

    def add(self, fd: int, events: int) -> None:
        """Watch a descriptor that is not watched."""
        self._epoll.register(fd, events)

    def change(self, fd: int, before: int, events: int) -> None:
        """Watch `fd` for `events` instead."""
        self._epoll.modify(fd, events)

    def remove(self, fd: int, before: int) -> None:
        """Watch `fd` no more."""
        with suppress(OSError):  # somebody has closed it behind our back, and so epoll has forgotten it
            self._epoll.unregister(fd)

    def wake(self) -> None:
        """Make `poll` return."""
        self.waker.wake()

    def close(self) -> None:
        """Let the descriptors go."""
        with suppress(OSError):  # somebody has closed it behind our back
            self._epoll.close()
        self.waker.close()


class KqueuePoller:
    """The kqueue of BSD and macOS: one filter for reading and one for writing."""

    def __init__(self) -> None:
        self.waker = Waker()
        self._kqueue = _select.kqueue()
        self.add(self.waker.fd, READ)

    def add(self, fd: int, events: int) -> None:
        """Watch a descriptor that is not watched."""
        self.change(fd, 0, events)

    def change(self, fd: int, before: int, events: int) -> None:
        """Watch `fd`, watched for `before`, for `events`."""
        wanted = []
        for event, kind in ((READ, _select.KQ_FILTER_READ), (WRITE, _select.KQ_FILTER_WRITE)):
            if (before ^ events) & event:
                flag = _select.KQ_EV_ADD if events & event else _select.KQ_EV_DELETE
                wanted.append(_select.kevent(fd, kind, flag))
        if wanted:
            self._kqueue.control(wanted, 0, 0)

    def remove(self, fd: int, before: int) -> None:
        """Watch `fd` no more."""
        self.change(fd, before, 0)

    def poll(self, timeout: float, /) -> list[tuple[int, int]]:
        """Wait for events; return descriptors and events."""
        told = self._kqueue.control(None, 1024, timeout)
        return [(event.ident, READ if event.filter == _select.KQ_FILTER_READ else WRITE) for event in told]

    def wake(self) -> None:
        """Make `poll` return."""
        self.waker.wake()

    def close(self) -> None:
        """Let the descriptors go."""
        with suppress(OSError):  # somebody has closed it behind our back
            self._kqueue.close()
        self.waker.close()


class SelectorPoller:
    """poll() or select(), as `selectors` has it, for every other platform.

    Neither can be changed while a thread waits in it, so changes are noted and made by the thread that polls, which is
    woken for them if it sleeps.
    """

    def __init__(self) -> None:
        self.waker = Waker()
        kind = getattr(selectors, "PollSelector", selectors.SelectSelector)
        self._selector: selectors.BaseSelector = kind()
        self._lock = Lock()  # guards the two below
        self._changes: deque[tuple[int, int, int]] = deque()
        self._sleeping = False
        self._selector.register(self.waker.fd, selectors.EVENT_READ)

    def add(self, fd: int, events: int) -> None:
        """Watch a descriptor that is not watched."""
        self.change(fd, 0, events)

    def change(self, fd: int, before: int, events: int) -> None:
        """Watch `fd`, watched for `before`, for `events`."""
        with self._lock:
            self._changes.append((fd, before, events))
            sleeping = self._sleeping
        if sleeping:
            self.wake()

    def remove(self, fd: int, before: int) -> None:
        """Watch `fd` no more."""
        self.change(fd, before, 0)

    def poll(self, timeout: float, /) -> list[tuple[int, int]]:
        """Wait for events; return descriptors and events."""
        with self._lock:
            while self._changes:
                self._make(*self._changes.popleft())
            self._sleeping = True
        try:
            told = self._selector.select(timeout)
        except (OSError, ValueError):  # select(): one was closed behind our back; whoever tries to use it finds out
            told = [(key, key.events) for key in list(self._selector.get_map().values())]
        with self._lock:
            self._sleeping = False
        return [
            (key.fd, (READ if events & selectors.EVENT_READ else 0) | (WRITE if events & selectors.EVENT_WRITE else 0))
            for key, events in told
        ]

    def _make(self, fd: int, before: int, events: int) -> None:
        wanted = (selectors.EVENT_READ if events & READ else 0) | (selectors.EVENT_WRITE if events & WRITE else 0)
        if not before:
            self._selector.register(fd, wanted)
        elif not wanted:
            self._selector.unregister(fd)
        else:
            self._selector.modify(fd, wanted)

    def wake(self) -> None:
        """Make `poll` return."""
        self.waker.wake()

    def close(self) -> None:
        """Let the descriptors go."""
        self._selector.close()
        self.waker.close()


def renew_waker(poller: Poller) -> None:
    """Give `poller` another waker, for the one it has would be readable for ever. For the leader."""
    poller.remove(poller.waker.fd, READ)
    poller.waker.close()  # before there is another: if it was closed behind our back, that one may have its number
    poller.waker = Waker()
    poller.add(poller.waker.fd, READ)


def new_poller() -> Poller:
    """Return the best poller that the platform has.

    Raises:
        PatchedTooLate: threads have become greenlets, all of which would stand still while one waits in it.
    """
    check_unpatched()
    if hasattr(_select, "epoll"):
        return EpollPoller()
    return KqueuePoller() if hasattr(_select, "kqueue") else SelectorPoller()
