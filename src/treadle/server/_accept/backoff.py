"""Backoff: how long nothing is accepted when the system is out of something, or does what nobody foresaw."""

from __future__ import annotations

import logging

from treadle._base.log_throttle import LogThrottles
from treadle._base.words import log

__all__ = ["FIRST_PAUSE", "LONGEST_PAUSE", "Backoff"]

_log = logging.getLogger("treadle.server")

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # seconds; Go's and Tomcat's


class Backoff:
    """The pauses between tries to accept: each twice as long as the one before, and the first anew after a success.

    Args:
        owner: who fails to accept, as `str` has it; for the log.
        throttles: what keep the log short.
    """

    def __init__(self, owner: object, throttles: LogThrottles) -> None:
        self.owner = owner
        self.throttles = throttles
        self.pause = FIRST_PAUSE  # seconds; the next

    def reset(self) -> None:
        """Begin anew, for a try succeeded."""
        self.pause = FIRST_PAUSE

    def grown(self) -> bool:
        """Whether the last try failed as well."""
        return self.pause > FIRST_PAUSE

    def next(self) -> float:
        """Return how many seconds to pause now."""
        pause = self.pause
        self.pause = min(pause * 2, LONGEST_PAUSE)
        return pause

    def tell(self, error: OSError) -> None:
        """Say, once in a while, why nothing is accepted for now."""
        if (throttle := self.throttles.of("accept", error.errno)).begins():
            what, every = error.strerror or error, f"{FIRST_PAUSE:g} to {LONGEST_PAUSE:g} s"
            said = "%s: cannot accept: %s; trying again every %s%s"
            log(_log, logging.ERROR, said, self.owner, what, every, throttle.rest)
