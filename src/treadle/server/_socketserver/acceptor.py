"""RequestAcceptor: when requests are let in, one listener's: while there is room, and the system has what it takes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from treadle._base import clock
from treadle._base.log_throttle import LogThrottles
from treadle._base.words import log
from treadle.server._accept.backoff import Backoff
from treadle.server._loop.event_loop import EventLoop
from treadle.server._loop.poller import READ
from treadle.server._loop.readiness import has_ended

if TYPE_CHECKING:
    from _typeshed import HasFileno

__all__ = ["RequestAcceptor"]

_log = logging.getLogger("treadle.server")


class RequestAcceptor:
    """Watches the listener while requests may come in. For the serving thread, but for `full` and `resume_at`.

    Args:
        listener: the server; its `fileno` is -1 when it is closed.
        owner: what the log calls it.
        let_in: accepts some requests.

    Attributes:
        full: the listener is not watched until a request is over. [the manager's lock]
        resume_at: when to accept again, after the system was out of something. [the manager's lock]
        deaf: the listener lets nobody in any more.
    """

    def __init__(
        self, listener: HasFileno, owner: object, throttles: LogThrottles, let_in: Callable[[], object]
    ) -> None:
        self.listener = listener
        self.owner = owner
        self.let_in = let_in
        self.backoff = Backoff(owner, throttles)
        self.full = False
        self.resume_at = 0.0
        self.deaf = False
        self.fd = -1  # the listener's descriptor, while it is watched
        self.knocked = False  # somebody waits to be let in

    def watch(self, loop: EventLoop, has_room: Callable[[], bool]) -> float:
        """Watch the listener if requests may come in; return when to look again, unless told sooner."""
        self.knocked = False
        if clock.now() < (resume_at := self.resume_at):
            self.unwatch(loop)
            return resume_at
        self.resume_at = 0.0
        fd = self.listener.fileno()
        if fd < 0:
            self.is_deaf()
        if fd < 0 or self.deaf or not has_room():
            self.unwatch(loop)
        elif self.fd < 0:
            loop.add(fd, self, READ)
            self.fd = fd
        return inf

    def unwatch(self, loop: EventLoop) -> None:
        """Do not watch the listener."""
        fd, self.fd = self.fd, -1
        if loop.sources.get(fd) is self:  # else it was closed behind our back, and the number is a client's by now
            loop.remove(fd, READ)

    def attend(self, event: int) -> None:
        """Note that somebody waits: others, whose descriptors are free by then, have their turn first."""
        self.knocked = True

    def is_deaf(self) -> bool:
        """Whether nobody can be let in any more, for somebody has closed the listener, or shut it down; say so once."""
        if not self.deaf and has_ended(self.listener.fileno()):
            self.deaf = True
            said = "%s: somebody has closed its socket, or shut it down, so nobody is let in any more"
            log(_log, logging.ERROR, said, self.owner)
        return self.deaf

    def pause(self, error: OSError) -> None:
        """Accept nothing for a while, or until a request is over: it would fail at once again."""
        self.backoff.tell(error)
        self.resume_at = clock.now() + self.backoff.next()

    def resume(self) -> bool:
        """Go on, for a request is over, and with it what there was too little of; return whether nobody was let in."""
        paused = self.full or self.resume_at > 0.0
        self.full, self.resume_at = False, 0.0
        return paused
