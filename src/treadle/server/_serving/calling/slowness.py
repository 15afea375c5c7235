"""Slowness: what is known of how long messages take, by their kinds, or else by their connections.

Where the protocol does not say of what kind a message is, all messages of one connection are of one kind.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, cast

from treadle.server._serving.calling.kinds import SLOW, Kinds

if TYPE_CHECKING:
    from treadle._base.log_throttle import LogThrottles
    from treadle.server._protocols.protocol import Protocol
    from treadle.server._serving.calling.kinds import Record
    from treadle.server._serving.leadership import Lead, Leadership
    from treadle.server._transport.connection import ClientConnection

__all__ = ["PROBATION", "Slowness"]

SLOWER = 0.01  # seconds in a handler that make a connection ten times as slow
PROBATION = 8  # quick messages in a row after which a slow connection is handled inline again; a guess
QUICK = 0.0001  # seconds in a handler, on average, that are not worth a hand-over, which takes about as long


class Slowness:
    """Tells which messages of one event loop are to be handed over before they run.

    Attributes:
        kinds: what is known of each kind; None: messages have none.
        pace: seconds in a handler, of late, while all messages go to the pool.
    """

    slow_pace = SLOW

    def __init__(self, leadership: Leadership, protocol: Protocol, throttles: LogThrottles) -> None:
        self.leadership = leadership
        self.loop = leadership.loop
        self.inline = protocol.converse is None
        kind: Callable[[Any], Hashable] | None = getattr(protocol, "kind", None) if self.inline else None
        self.kinds = None if kind is None else Kinds(kind, throttles, protocol.name)
        self.pace = SLOW
        leadership.caught = self.caught

    def record_of(self, conn: ClientConnection) -> Record:
        """Return the record of the kind of the message that is next in `conn`."""
        return cast(Kinds, self.kinds).find(conn.bare(conn.intake.waiting[0]))

    def level_of(self, conn: ClientConnection, record: Record | None) -> int:
        """Return how slow that is likely to be, see `treadle.orders.Levels`."""
        if record is not None:
            return record.level
        return conn.timing.level if conn.timing.probation else 0

    def is_quick(self, conn: ClientConnection, record: Record | None) -> bool:
        """Whether the next message of `conn`, the kind of which has that record, is likely to be quick."""
        return not self.level_of(conn, record)

    def is_led(self) -> bool:
        """Whether somebody leads now who handles quick messages inline."""
        leadership = self.leadership
        return self.inline and leadership.lead is not None and not leadership.offload_all

    def caught(self, lead: Lead) -> None:
        """The watchdog takes the lead away, from a leader that is in a handler, say. The loop's lock is held."""
        conn, record = lead.lost, lead.record
        if conn is None or not conn.is_open:
            return
        lead.level = 1
        if record is not None and self.kinds is not None:
            self.kinds.caught(record)
            lead.level = max(1, record.level)

    def returned(self, conn: ClientConnection | None, record: Record | None, took: float) -> None:
        """The message over which the lead was lost, the kind of which has that record, has taken so many seconds.

        Args:
            conn: None: it was taken away from its handler.
        """
        if self.kinds is not None and record is not None:
            with self.loop.lock:
                self.kinds.returned(record, took)
        elif conn is not None and self.kinds is None:
            self.mark_slow(conn, took)

    def timed(self, record: Record | None, took: float) -> None:
        """A message that was handed over, the kind of which has that record, has taken so many seconds."""
        if self.kinds is not None and record is not None:
            with self.loop.lock:
                self.kinds.timed(record, took)

    def mark_slow(self, conn: ClientConnection, took: float) -> None:
        """Have the next messages of `conn` count as slow, for the last has taken so many seconds."""
        conn.timing.probation = PROBATION
        conn.timing.level = 1 if took < SLOWER else 2

    def judge(self, conn: ClientConnection, took: float, record: Record | None = None) -> None:
        """Learn from how long a message took, the kind of which has that record."""
        slow = False  # of which the others of its kind are
        if self.kinds is not None and record is not None:
            slow = record.level > 0
            self.timed(record, took)
        elif took > SLOW:
            self.mark_slow(conn, took)
        elif conn.timing.probation:
            conn.timing.probation -= 1
        if self.leadership.offload_all and not slow:
            self.pace += (took - self.pace) / PROBATION
            if self.pace < QUICK:
                self.leadership.offload_all = False

    def offload(self) -> None:
        """Have the pool handle every message, for handlers block in general."""
        self.pace = self.slow_pace
        self.leadership.offload_all = True
