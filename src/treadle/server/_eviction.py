"""Eviction: how room is made for a new client, by closing the connection that has been idle for longest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from heapq import nsmallest
from operator import itemgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from treadle.server._serving.driver import Driver
    from treadle.server._transport.connection import ClientConnection

__all__ = ["Eviction"]

SHARE = 64  # of the idle connections, one in so many is found by a search for the longest idle; a guess


class Eviction:
    """Finds the connection that has been idle for longest, in whichever event loop, and has that close it.

    For the leader of the first event loop, who accepts. The others' connections are not its own: what it sees of them
    may be out of date, so they look again.
    """

    def __init__(self, drivers: Sequence[Driver]) -> None:
        self.drivers = drivers
        self._longest_idle: list[
            tuple[float, Driver, ClientConnection]
        ] = []  # found by the last search, the longest last

    def evict(self, then: Callable[[], object], spared: set[ClientConnection] | None = None) -> None:
        """Close that connection, if any is idle; then have the first event loop's leader call `then`, perhaps at once.

        But for those that are `spared`, whose message was found in the kernel.
        """
        spared = set() if spared is None else spared
        while self._longest_idle or self._search(spared):
            active, driver, conn = self._longest_idle.pop()
            if conn.active != active or not conn.idle():
                continue
            if driver is self.drivers[0]:
                if not conn.is_silent():
                    spared.add(conn)
                    continue
                driver.io.close(conn, "evicted")
                break
            driver.loop.post(partial(self._evict_there, driver, conn, active, then, spared))
            return
        then()

    def _evict_there(
        self,
        driver: Driver,
        conn: ClientConnection,
        active: float,
        then: Callable[[], object],
        spared: set[ClientConnection],
    ) -> None:
        """Close `conn` if it is still idle, else look for another one. Called by the leader of `driver`."""
        if conn.active == active and conn.idle() and conn.is_silent():
            driver.io.close(conn, "evicted")
            self.drivers[0].loop.post(then)
        else:  # without it: it would be found again, and again
            spared.add(conn)
            self.drivers[0].loop.post(partial(self.evict, then, spared))

    def _search(self, spared: set[ClientConnection]) -> bool:
        """Find the longest idle; False: none is. It costs a look at each, so it is made for several evictions.

        If some were `spared`, all are found, for the next may be spared as well.
        """
        idle = [
            (conn.active, driver, conn)
            for driver in self.drivers
            for conn in driver.io.connections()
            if conn.idle() and conn not in spared
        ]
        most = len(idle) if spared else 1 + len(idle) // SHARE
        self._longest_idle = nsmallest(most, idle, key=itemgetter(0))[::-1] if idle else []
        return bool(idle)
