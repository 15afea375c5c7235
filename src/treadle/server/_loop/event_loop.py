"""EventLoop: waits for descriptors, for times, and for what other threads post. It knows no connection and no handler.

One thread at a time runs it, its leader, and that alone touches what is not marked otherwise. A leader polls, looks up
each source that is ready in `sources`, and has it do what there is to do; `serving.driver` has the order in which.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf
from threading import Lock
from typing import Any, Protocol

from treadle._base.clock import now as clock
from treadle._base.words import log
from treadle.server._loop.poller import READ, Poller, new_poller, renew_waker
from treadle.server._loop.timers import Entry, Timers

__all__ = ["Alarm", "EventLoop", "Source"]

LONGEST = 3600.0  # seconds of one poll, at most; any finite number would do

_log = logging.getLogger("treadle.server")


class Source(Protocol):
    """What the poller watches beside connections: the waker, and listeners."""

    state: Any  # that of a connection; None: it is none

    def attend(self, event: int) -> None:
        """It is ready; called by the leader."""


class EventLoop:
    """A poller, timers, and jobs that were posted. For the leader alone, but for what is marked.

    Args:
        name: what logs call it.
        period: seconds between two looks at one source, at most; see Timers.

    Attributes:
        sources: what is watched, by descriptor.
        ready: what is to go on though the poller has nothing to tell of it; in order.
        now: the time of this turn.
        lock: guards who owns a source, and what is marked. For any thread, which must not block with it.
        draining: the loop is about to end: what is idle is closed. [lock]
        over: nobody leads it any more, once the leader has come to the end of its turn. [lock]
        unled: nor does that. [lock]
        orphaned: this is a forked child, and the loop is the parent's.
        broken: called when the poller is of no more use; ends the loop.
    """

    __slots__ = (
        "broken",
        "draining",
        "inbox",
        "lock",
        "name",
        "now",
        "orphaned",
        "over",
        "poller",
        "ready",
        "sources",
        "timers",
        "unled",
    )

    def __init__(
        self, name: str, period: float = inf, broken: Callable[[Exception], object] = lambda error: None
    ) -> None:
        self.name = name
        self.poller: Poller = new_poller()
        self.timers = Timers(period)
        self.sources: dict[int, Any] = {}
        self.ready: dict[Any, None] = {}
        self.now = clock()
        self.inbox: deque[Callable[[], object]] = deque()  # from any thread: appended to, then the poller is woken
        self.lock = Lock()
        self.draining = self.over = self.unled = self.orphaned = False
        self.broken = broken
        self.sources[self.poller.waker.fd] = Mailbox(self)

    def add(self, fd: int, source: Any, events: int) -> None:
        """Watch a descriptor for `source`, which is attended to when it is ready.

        Raises:
            OSError, ValueError: it is closed, or cannot be polled.
        """
        self.poller.add(fd, events)
        self.sources[fd] = source

    def remove(self, fd: int, events: int) -> None:
        """Watch a descriptor, watched for `events`, no more; somebody may have closed it behind our back."""
        del self.sources[fd]
        with suppress(OSError):
            self.poller.remove(fd, events)

    def turn(self, until: float = inf) -> None:
        """Wait for something to do, no longer than until the clock says `until`, and have each source do it.

        For who has no order of its own, as `serving.driver` has. An error that a source raises leaves the others for
        the next turn.
        """
        self.now = clock()
        for fd, event in self.poller.poll(min(self.patience(), max(0.0, until - self.now))):
            source = self.sources.get(fd)  # looked up now: it may have gone since `poll` returned
            if source is not None:
                source.attend(event or READ)
        self.now = clock()
        for timed in self.timers.expired(self.now):
            timed.attend(0)
        while self.inbox:  # nobody may have woken it for these; see `post_coalesced`
            self.run_posted()

    def patience(self) -> float:
        """Return the seconds until there is something to do though the poller has nothing to tell."""
        wait = self.timers.next - self.now
        return 0.0 if self.ready or wait < 0.0 else wait if wait < LONGEST else LONGEST

    def run_posted(self) -> None:
        """Run what was posted so far."""
        for _ in range(len(self.inbox)):
            try:
                self.inbox.popleft()()
            except Exception as error:  # the others are not to be forgotten over it
                self.tell_fault(error)

    def tell_fault(self, error: Exception) -> None:
        """Log a fault in treadle itself, or in what it stands on, that does not end the serving."""
        log(_log, logging.ERROR, "%s: a fault in treadle itself; serving goes on", self.name, error=error)

    def is_empty(self) -> bool:
        """Whether nothing is watched any more; but for the waker."""
        return len(self.sources) == 1

    # -- from any thread ------------------------------------------------------------------------------------------

    def post(self, job: Callable[[], object]) -> None:
        """Have the leader call `job`, which must not block. Safe with any lock held."""
        self.inbox.append(job)
        self.poller.wake()

    def post_coalesced(self, job: Callable[[], object]) -> None:
        """As `post`, but wake the leader for the first that is posted only: for who leads by `turn`, which looks again.

        For one thread at a time: of two that both found the other's there, none would wake it.
        """
        self.inbox.append(job)
        if len(self.inbox) == 1:
            self.poller.wake()

    def wake(self) -> None:
        """Have the leader end its poll."""
        self.poller.wake()

    # -- the end --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let the poller go, once nobody leads any more."""
        self.poller.close()

    def forget_threads(self) -> None:
        """In a forked child, be over. The poller is the parent's as well, so nothing may be unregistered."""
        self.lock = Lock()  # another thread may have had the old one
        self.over = self.orphaned = True
        self.inbox.clear()
        self.sources.clear()
        with suppress(OSError):  # a kqueue is not inherited
            self.poller.close()


class Mailbox:
    """The waker, as something the poller watches: it runs what was posted."""

    __slots__ = ("loop",)
    state = None

    def __init__(self, loop: EventLoop) -> None:
        self.loop = loop

    def attend(self, event: int) -> None:
        """Run what was posted."""
        loop = self.loop
        if not loop.poller.waker.clear():
            del loop.sources[loop.poller.waker.fd]
            renew_waker(loop.poller)
            loop.sources[loop.poller.waker.fd] = self
        loop.run_posted()  # also what was posted to the waker before this one


class Alarm:
    """Something to do at a certain time: `loop.timers.hasten(Alarm(do), due)`."""

    def __init__(self, do: Callable[[], object]) -> None:
        self.do = do
        self.due = inf
        self.entry: Entry | None = None

    def attend(self, event: int) -> None:
        """Do it."""
        self.do()
