"""Reaper: whose connection ends when: by a deadline, or because the server stops."""

from __future__ import annotations

import socket
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from treadle.server._transport.connection import ClientConnection
from treadle.server._transport.deadlines import GRACE, STALL
from treadle.server._transport.state import State

if TYPE_CHECKING:
    from treadle.server._loop.event_loop import EventLoop
    from treadle.server._transport.io import ConnectionIO

__all__ = ["Reaper"]

SOON = 0.01  # seconds until it is looked at again whether a handler runs, when its connection is about to be given back
AT_LEAST = 0.001  # seconds until something is looked at again that was due just now


class Reaper:
    """Ends one event loop's connections. For the leader alone."""

    def __init__(self, io: ConnectionIO) -> None:
        self.loop: EventLoop = io.loop
        self.io = io
        self.deadlines = io.deadlines
        # Takes a connection away from the handler that has it for too long, if it still has.
        self.take_away: Callable[[ClientConnection], bool] | None = None
        # Has the client told whose message has waited for a thread for too long, unless that has one by now.
        self.shed: Callable[[Any], object] = _nothing

    def expire(self, now: float) -> None:
        """Look at everything whose time has come; the loop's `now` is still that of the turn before.

        A client is not cut before its socket was looked at once more, with the others that have something left to do:
        what it sent in time may be in the kernel, for a stall of ours (a handler that keeps the interpreter's lock, a
        process that was stopped) is not its fault.
        """
        before, self.loop.now = self.loop.now, now
        stalled = now - self.loop.timers.next > STALL
        for timed in self.loop.timers.expired(now):
            if type(timed) is not ClientConnection:
                timed.attend(0)  # a listener that paused, or an alarm
                continue
            if stalled and not timed.busy:  # who was served in the turn before may have been so just now
                timed.begin_again(before, now)
            if not (timed.ending.last or timed.busy) and self.deadlines.aged(timed, now):
                timed.ending.last, timed.ending.looked = True, False
                timed.look_closely()
            end, why = self.deadlines.of(timed)
            if end <= now and timed.busy and timed.outbox.filling is not None:  # the leader sends what is made
                timed.flush()
                timed.look_at_transfer(now)
                end, why = self.deadlines.of(timed)
            if end <= now and timed.busy:
                self.cut(timed, why)
                end = max(self.deadlines.of(timed)[0], now + (SOON if why == "handler_timeout" else AT_LEAST))
            elif end <= now:
                timed.timing.late, timed.timing.stalled = True, stalled
                timed.look_closely()
                self.loop.ready[timed] = None
                end = inf  # its judge says when
            if self.loop.draining:
                end = min(end, now + GRACE)  # conversations come to a pause without our being told
            if timed.state is not State.CLOSED and timed.due == inf:  # else it was hastened just now
                self.loop.timers.look_at(timed, end, now)

    def judge(self, conn: ClientConnection) -> None:
        """Cut a connection that was looked at, if its time is over nevertheless."""
        now = self.loop.now
        if conn.outbox.pieces and not conn.busy:
            conn.look_at_transfer(now)
        end, why = self.deadlines.of(conn)
        if end <= now:
            self.cut(conn, why)
            end = max(self.deadlines.of(conn)[0], now + AT_LEAST)
        if conn.state is not State.CLOSED:
            self.loop.timers.hasten(conn, end)

    def cut(self, conn: ClientConnection, why: str) -> None:
        """End a connection whose time is over."""
        if conn.busy and why == "the server stops":  # a conversation that waits for its client's next message
            conn.ending.last = True
            conn.shut_down(socket.SHUT_RD)  # so that it sees the end of it, as if the client had left
        elif conn.busy and why == "queue_timeout":
            self.shed(conn.timing.task)
        elif conn.busy and why == "handler_timeout" and self.take_away is not None:
            if not self.take_away(conn) and conn.outbox.transfer.since:  # its thread waits for the client
                end, late = self.deadlines.of_writing(conn)
                if end <= self.loop.now:
                    self.abort_busy(conn, late)
        elif conn.busy:
            self.abort_busy(conn, why)
        elif conn.state in (State.HEADER, State.HANDSHAKE):
            self.io.close(conn, "" if why == "the server stops" else why)
        elif why in ("max_age", "the server stops"):
            conn.ending.last = True
            self.io.settle(conn)
        elif conn.outbox.pieces:
            self.io.abort(conn, why)
        elif conn.intake.begun and (told := self.io.refusals.of(why)) is not None:
            self.io.dismiss(conn, told, why)
        else:
            self.io.close(conn, conn.ending.why or why)

    def abort_busy(self, conn: ClientConnection, why: str) -> None:
        """Cut a connection that another thread has; it is closed when that gives it back."""
        ending = conn.ending
        ending.error = ending.error or why  # first, so that a handler can tell this end; all else is the other thread's
        if conn.outbox.filling is None:
            conn.shut_down(socket.SHUT_RDWR)  # the client knows at once, and the handler when it reads or writes
        else:  # the thread may wait; and the client knows once that is done, or half an answer would look like a whole
            conn.tear()
            conn.outbox.clear()

    def drain(self) -> None:
        """Read what has come so far, have it handled, and close each connection when nothing is under way in it."""
        loop = self.loop
        with loop.lock:
            loop.draining = True
        self.deadlines.drained_at = min(self.deadlines.drained_at, loop.now)
        for conn in self.io.connections():
            conn.ending.looked = False
            conn.look_closely()
            loop.timers.hasten(conn, loop.now + GRACE)
            if conn.state is State.OPEN and not conn.outbox.pieces:
                loop.ready[conn] = None

    def cut_all(self, why: str) -> int:
        """Cut every connection, also those whose handler runs; return how many there were."""
        left = self.io.connections()
        for conn in left:
            if conn.busy:
                self.abort_busy(conn, why)
            else:
                self.io.abort(conn, why)
        return len(left)


def _nothing(task: Any) -> None:
    """Shed nothing."""
