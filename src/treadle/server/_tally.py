"""Tally: how many connections were closed, cut, and turned away, and why."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from typing import Any

from treadle._base.log_throttle import LogThrottle
from treadle._base.words import log
from treadle.server._accept.reception import REFUSED
from treadle.server._transport.causes import cause_of, is_of_phase

__all__ = ["Tally"]

_log = logging.getLogger("treadle.server")

LIMITS = {
    "handshake_timeout": logging.WARNING,
    "read_timeout": logging.WARNING,
    "write_timeout": logging.WARNING,
    "handler_timeout": logging.WARNING,
    "min_read_rate": logging.WARNING,
    "min_write_rate": logging.WARNING,
    "evicted": logging.WARNING,
    "idle_timeout": logging.INFO,
}  # what cuts connections, and how it is logged


class Tally:
    """Counts what became of one server's connections. Safe to use from any thread, and from a signal handler.

    Attributes:
        cut: by the end of a stop.
        closed: in all, cut or not.
        rejected: clients behind proxies that were turned away.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards all of them; a signal handler may look while it is held
        self.cut = 0
        self.closed = 0
        self.rejected = 0
        self._closed_by: Counter[str] = Counter()
        self._lines = {limit: LogThrottle() for limit in LIMITS}

    def add_cut(self, count: int) -> None:
        """So many connections were cut at the end of a stop."""
        with self._lock:
            self.cut += count

    def add_closed(self, why: str) -> None:
        """A connection is closed for `why`; "": in order."""
        with self._lock:
            if why == REFUSED:
                self.rejected += 1
            else:
                self.closed += 1
                if why:
                    self._closed_by[cause_of(why)] += 1

    def tell_cut(self, peer: Any, why: str, *, in_header: bool) -> None:
        """Log a connection that was cut: the first of many by the same limit, so that none looks like a hang."""
        told = why in LIMITS or is_of_phase(why)
        if told and (throttle := self._lines.setdefault(why, LogThrottle())).begins():
            by = f"{why}, for its PROXY header is not complete" if in_header else why
            said = "%s: cut by %s; those that follow soon are only counted%s"
            log(_log, LIMITS.get(why, logging.WARNING), said, peer, by, throttle.rest)
        else:
            log(_log, logging.DEBUG, "%s: cut: %s", peer, why)

    def causes(self) -> dict[str, int]:
        """Return how many connections were closed by which limit or fault."""
        with self._lock:
            return dict(self._closed_by)

    def forget_threads(self) -> None:
        """In a forked child, have a lock of its own: another thread may have had the old one."""
        self._lock = threading.RLock()
