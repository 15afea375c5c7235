"""Deadlines: until when a connection may stay as it is, and by which limit."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING

from treadle._base.words import counted
from treadle.server._transport.connection import ClientConnection
from treadle.server._transport.state import State

if TYPE_CHECKING:
    from treadle.server._transport.limits import Limits, Phase

__all__ = ["GRACE", "JAM", "NEVER", "STALL", "Deadlines", "TransferLimit"]

GRACE = 1.0  # seconds that a connection without a message yet is given when the server stops; a guess
LAST_RESORT = 3600.0  # seconds between two looks at a connection when nothing is limited


STALL = 0.1  # seconds after the time of something that we came to it: we did not run in between; a guess
# Bytes of one message in the kernel, at which that may have held no more, so that its client had to wait; a guess.
JAM = 1 << 14
NEVER: tuple[float, str] = (inf, "")
IDLE = "idle"  # the phase between two messages


class TransferLimit:
    """How slow a client may be in one direction.

    Args:
        what: "read", "write", or a phase of reading; the limits are called after it.
        timeout: seconds for one message, from its first byte to its last, or, where it is told when something came
            through last, from then on; None: no limit.
        rate: bytes a second, on average over the message; None: no limit.
        grace: seconds from its beginning in which the rate is not judged.
    """

    __slots__ = ("grace", "rate", "timeout", "what")

    def __init__(self, what: str, timeout: float | None, rate: float | None, grace: float) -> None:
        self.what = what
        self.timeout = timeout
        self.rate = rate
        self.grace = grace

    def end(self, since: float, passed: int, moved: float | None = None) -> tuple[float, str]:
        """Return the end of a transfer that began at `since`, with `passed` bytes through; and which limit sets it.

        `moved` is when the last of these came through, if that is what the time counts from.
        """
        begun = since if moved is None else moved
        timed = NEVER if self.timeout is None else (begun + self.timeout, f"{self.what}_timeout")
        if self.rate is None:
            return timed
        return min(timed, (since + self.grace + passed / self.rate, f"min_{self.what}_rate"))

    def left(self, since: float, passed: int, now: float, moved: float | None = None) -> float | None:
        """Return the seconds that are left; None: no limit.

        Raises:
            TimeoutError: none are.
        """
        end, why = self.end(since, passed, moved)
        if end == inf:
            return None
        if end <= now:
            raise TimeoutError(
                f"the client was slower than {why} allows: {counted(passed, 'byte')} in {now - since:.3g} s"
            )
        return end - now


class Deadlines:
    """The limits of time, for one server.

    Every phase has one of its own, counted from when the phase began, so that no client gains time by sending a byte
    now and then. While a handler runs there is only its own, and that does not stop it.

    Args:
        phases: of reading a message, see `Protocol`; what is read in none of them has the time of Limits.
        queue_timeout: seconds that a message may wait for a thread; None: no limit.
        drain_grace: seconds that a client which was answered has for its next message once the server stops.
    """

    def __init__(
        self,
        limits: Limits,
        phases: Mapping[str, Phase] = {},  # it is only read
        queue_timeout: float | None = None,
        drain_grace: float = 0.0,
    ) -> None:
        self.queue = queue_timeout
        self.parting = drain_grace
        self.handshake = limits.handshake_timeout
        self.handler = limits.handler_timeout
        self.idle = limits.idle_timeout
        self.age = limits.max_age
        self.linger = limits.linger_timeout
        self.reading = TransferLimit("read", limits.read_timeout, limits.min_read_rate, limits.min_rate_grace)
        self.writing = TransferLimit("write", limits.write_timeout, limits.min_write_rate, limits.min_rate_grace)
        self.phases = {
            name: TransferLimit(name, phase.timeout, phase.min_rate, limits.min_rate_grace)
            for name, phase in phases.items()
            if name != IDLE
        }
        self.anew = {name for name, phase in phases.items() if phase.anew}
        self.kept = phases[IDLE].timeout if IDLE in phases else self.idle  # idle, after the first message
        self.drained_at = inf  # when the server began to stop

    def period(self) -> float:
        """Return the shortest time in which any of them can come: every connection is looked at as often as that."""
        times = [LAST_RESORT, self.handshake, self.handler, self.idle, self.kept, self.age]
        times.append(None if self.queue is None else self.queue / 4)  # who waits for a thread is not hastened
        for pace in (self.reading, self.writing, *self.phases.values()):
            times += [pace.timeout, None if pace.rate is None else pace.grace]
        return min(time for time in times if time is not None)

    def of(self, conn: ClientConnection) -> tuple[float, str]:
        """Return when `conn` is to be cut as things are, and why."""
        if conn.busy and conn.ending.error is not None:
            return NEVER  # it was cut, and its thread will see that
        if conn.state is State.HEADER:
            stopped = max(self.drained_at, conn.timing.since) + GRACE
            return min((conn.timing.since + self.handshake, "handshake_timeout"), (stopped, "the server stops"))
        if conn.state in (State.HANDSHAKE, State.HANDSHAKE_BUSY):
            stopped = inf if conn.busy else max(self.drained_at, conn.active) + GRACE
            return min((conn.timing.since + self.handshake, "handshake_timeout"), (stopped, "the server stops"))
        if conn.state is State.LINGERING:
            return conn.timing.since + self.linger, "linger_timeout"
        if conn.busy:
            return self.of_busy(conn)
        if conn.outbox.pieces:
            return self.of_writing(conn)
        if conn.intake.begun:
            reading = self.phases.get(conn.intake.phase, self.reading)
            moved = max(conn.active, conn.intake.begun) if conn.intake.phase in self.anew else None
            return reading.end(conn.intake.begun, conn.intake.received, moved)
        idle = self.kept if conn.number else self.idle
        return min(
            (inf if idle is None else conn.active + idle, "idle_timeout"),
            (inf if self.age is None else conn.timing.since + self.age, "max_age"),
            (max(self.drained_at, conn.active) + ((conn.number and self.parting) or GRACE), "the server stops"),
        )

    def aged(self, conn: ClientConnection, now: float) -> bool:
        """Whether `conn` is to be closed when nothing is under way in it."""
        return self.age is not None and conn.timing.since + self.age <= now and conn.is_open

    def of_busy(self, conn: ClientConnection) -> tuple[float, str]:
        """The same for one whose handler runs in another thread."""
        if conn.outbox.transfer.since and conn.outbox.filling is not None:
            return min(self.of_writing(conn), self.of_handler(conn))
        if conn.timing.queued and self.queue is not None:
            return conn.timing.queued + self.queue, "queue_timeout"
        if conn.timing.lull:
            return max(self.drained_at, conn.timing.lull) + GRACE, "the server stops"
        return self.of_handler(conn)

    def of_handler(self, conn: ClientConnection) -> tuple[float, str]:
        """The same for its handler."""
        if self.handler is None or not conn.timing.handled:
            return NEVER
        return conn.timing.handled + self.handler, "handler_timeout"

    def of_writing(self, conn: ClientConnection) -> tuple[float, str]:
        """The same for what it is sent."""
        transfer = conn.outbox.transfer
        return self.writing.end(transfer.since, transfer.taken, transfer.moved)
