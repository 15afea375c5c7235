"""Keeper: whose connection ends when: by a deadline, to make room, or because the server stops."""

from __future__ import annotations

import socket
from heapq import nsmallest
from math import inf
from operator import itemgetter
from typing import TYPE_CHECKING

from treadle.server.connection import Connection, Phase
from treadle.server.deadlines import GRACE, Deadlines

if TYPE_CHECKING:
    from treadle.server.lane import Lane

__all__ = ["Keeper"]

AT_LEAST = 0.001  # seconds until something is looked at again that was due just now
SHARE = 64  # of the idle connections, one in so many is found by a search for the longest idle; a guess


class Keeper:
    """Ends one lane's connections. For the leader alone."""

    def __init__(self, lane: Lane, deadlines: Deadlines) -> None:
        self.lane = lane
        self.deadlines = deadlines
        self._longest_idle: list[tuple[float, Connection]] = []  # found by the last search, the longest last

    def expire(self, now: float) -> None:
        """Look at everything whose time has come."""
        for timed in self.lane.timers.expired(now):
            if type(timed) is not Connection:
                timed.attend(0)  # a listener that paused, or an alarm
                continue
            if timed.phase is Phase.OPEN and not timed.busy and timed.cutter.held and not timed.begun:
                timed.begun, timed.calm = timed.active, False  # half a message came behind a whole one
            end, why = self.deadlines.of(timed)
            if end <= now:
                self.cut(timed, why)
                end = max(self.deadlines.of(timed)[0], now + AT_LEAST)
            if timed.phase is not Phase.CLOSED and timed.due == inf:  # else it was hastened just now
                self.lane.timers.look_at(timed, end, now)

    def cut(self, conn: Connection, why: str) -> None:
        """End a connection whose time is over."""
        service = self.lane.service
        if why in ("max_age", "the server stops"):
            conn.last = True
            service.settle(conn)
        elif why == "handler_timeout":
            self.disown(conn, why)
        elif conn.out:
            service.abort(conn, why)
        else:
            service.close(conn, "" if why == "linger" else why)

    def evict(self) -> bool:
        """Close the connection that has been idle for longest; False if none is idle."""
        while True:
            while self._longest_idle:
                active, conn = self._longest_idle.pop()
                if conn.active == active and conn.idle():
                    self.lane.service.close(conn, "evicted")
                    return True
            # The search costs a look at every connection, so it is made for several evictions to come.
            idle = [(conn.active, conn) for conn in self.lane.connections() if conn.idle()]
            if not idle:
                return False
            self._longest_idle = nsmallest(1 + len(idle) // SHARE, idle, key=itemgetter(0))[::-1]

    def disown(self, conn: Connection, why: str) -> None:
        """Cut a connection whose handler runs in another thread; it is closed when that returns."""
        try:
            conn.sock.shutdown(socket.SHUT_RDWR)  # the client knows at once, and the handler when it reads or writes
        except OSError:
            pass
        conn.error = why  # all else in it is the other thread's
        conn.handled = 0.0

    def drain(self) -> None:
        """Read what has come so far, have it handled, and close each connection when nothing is under way in it."""
        lane = self.lane
        with lane.lock:
            lane.draining = True
        self.deadlines.drained_at = min(self.deadlines.drained_at, lane.now)
        for conn in lane.connections():
            conn.calm = False
            lane.timers.hasten(conn, lane.now + GRACE)
            if conn.phase is Phase.OPEN and not conn.busy and not conn.out:
                lane.ready.append(conn)

    def cut_all(self, why: str) -> int:
        """Cut every connection, also those whose handler runs; return how many there were."""
        left = self.lane.connections()
        for conn in left:
            if conn.busy:
                self.disown(conn, why)
            else:
                self.lane.service.abort(conn, why)
        return len(left)
