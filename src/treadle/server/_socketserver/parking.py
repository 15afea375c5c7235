"""Parking: the requests of a `socketserver` server that wait for their client, and its listener, in one poller."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING

from treadle._base import clock
from treadle.server._loop.poller import READ, new_poller
from treadle.server._loop.timers import Timers

if TYPE_CHECKING:
    from treadle.server._socketserver.request import Request

__all__ = ["Parking", "ended"]

CAN_POLL = hasattr(select, "poll")


class Parking:
    """Which descriptors are polled, and for whom. For the serving thread alone, but for `wake`."""

    def __init__(self) -> None:
        self.poller = new_poller()
        self.visits: dict[int, Request] = {}
        self.timers = Timers(inf)
        self.listener = -1  # the listener's descriptor, while it is polled
        self.knocked = False  # somebody waits to be accepted

    def wake(self) -> None:
        """Have `ready` end its wait. From any thread, and from a signal handler."""
        self.poller.wake()

    def ready(self, until: float) -> Iterator[tuple[Request, int]]:
        """Wait for somebody, at most until the clock says `until`; give visits, still parked, and their events."""
        poller = self.poller
        self.knocked = False
        for fd, event in poller.poll(max(0.0, until - clock.now())):
            if fd == poller.waker.fd:
                poller.waker.clear()
            elif (visit := self.visits.get(fd)) is not None:  # looked up now: it may have gone since `poll` returned
                yield visit, event or READ
            elif fd == self.listener:
                self.knocked = True

    def late(self) -> Iterator[Request]:
        """Give the visits, still parked, whose deadline has passed."""
        yield from self.timers.expired(clock.now())  # type: ignore[misc]  # all that is timed here are visits

    def look(self, visit: Request) -> int:
        """Return what a parked visit, whose deadline has passed, is ready for nevertheless; 0: nothing."""
        if CAN_POLL:
            poll = select.poll()
            poll.register(visit.fd, select.POLLIN if visit.wants == READ else select.POLLOUT)
            ready = bool(poll.poll(0))
        else:
            reading, writing = ([visit.fd], []) if visit.wants == READ else ([], [visit.fd])
            ready = any(select.select(reading, writing, [], 0))
        return visit.wants if ready else 0

    def add(self, visit: Request, due: float) -> None:
        """Poll a visit's socket, with a deadline; nobody else may be parked under its descriptor.

        Raises:
            OSError, ValueError: it is closed, or cannot be polled.
        """
        fd = visit.descriptor()
        self.poller.add(fd, visit.wants)
        visit.fd = fd
        self.visits[fd] = visit
        if due < inf:
            self.timers.look_at(visit, due, clock.now())

    def remove(self, visit: Request) -> None:
        """Take a visit out; from here on the poller knows nothing of its descriptor."""
        fd, visit.fd = visit.fd, -1
        del self.visits[fd]
        self.timers.forget(visit)
        self._forget(fd, visit.wants)

    def watch(self, listener: int) -> None:
        """Poll the listener."""
        if self.listener < 0:
            self.poller.add(listener, READ)
            self.listener = listener

    def unwatch(self) -> None:
        """Do not poll the listener."""
        fd, self.listener = self.listener, -1
        if fd >= 0 and fd not in self.visits:  # if it was closed behind our back, the number may be a client's by now
            self._forget(fd, READ)

    def _forget(self, fd: int, events: int) -> None:
        try:
            self.poller.remove(fd, events)
        except OSError:
            pass  # somebody has closed it behind our back, and the poller has forgotten it

    def abandon(self) -> None:
        """In a forked child, know nobody any more; the poller is the parent's, too, and is told nothing."""
        self.visits.clear()
        self.timers = Timers(inf)
        self.listener = -1
        with suppress(OSError):  # a kqueue is not inherited
            self.poller.close()

    def close(self) -> None:
        """Let the poller go. Nobody is parked."""
        self.poller.close()


def ended(listener: int) -> bool:
    """Whether a listener is closed, or shut down: then it is "ready" for ever, and lets nobody in."""
    if listener < 0:
        return True
    if not CAN_POLL:
        return False
    poll = select.poll()
    half = getattr(select, "POLLRDHUP", 0)
    poll.register(listener, select.POLLIN | half)
    return any(event & (select.POLLHUP | select.POLLNVAL | half) for _, event in poll.poll(0))
