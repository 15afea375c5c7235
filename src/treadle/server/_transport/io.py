"""ConnectionIO: what the leader does for connections, but for running handlers: read, send, watch, time, and close.

Closing is decided in one place, `settle`, and done in one, `close`, both by the leader alone. So a descriptor that one
thread closes is never taken by another for its successor: other threads only ever shut a socket down, or ask.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from treadle._base.log_throttle import LogThrottles, kind_of
from treadle._base.words import counted, log
from treadle.errors import MessageTooLong
from treadle.server._loop.poller import READ, WRITE
from treadle.server._protocols.messages import CloseConnection
from treadle.server._transport.causes import CUT_SHORT, FAULT, NO_HANDSHAKE
from treadle.server._transport.connection import BLOCKED, CHUNK, RECORD, ClientConnection, Phase, hang_up, is_ragged
from treadle.server._transport.deadlines import GRACE, Deadlines
from treadle.server._transport.transfer_limit import JAM

if TYPE_CHECKING:
    from treadle.server._accept.reception import Reception
    from treadle.server._serving.driver import Lane, Lead
    from treadle.server._transport.limits import Limits

__all__ = ["ConnectionIO"]

_log = logging.getLogger("treadle.server")


class ConnectionIO:
    """Looks after one lane's connections. For the leader alone, but for `watch_again`.

    Args:
        left: called, from the leader, after a connection was closed.
        throttles: which faults of clients are told.
        reception: where connections begin when the server trusts proxies.
    """

    def __init__(
        self,
        lane: Lane,
        limits: Limits,
        deadlines: Deadlines,
        left: Callable[[ClientConnection, str], object],
        throttles: LogThrottles,
        reception: Reception | None = None,
    ) -> None:
        self.lane = lane
        self.limits = limits
        self.deadlines = deadlines
        self.left = left
        self.throttles = throttles
        self.reception = reception

    # -- coming in ------------------------------------------------------------------------------------------------

    def adopt(self, conn: ClientConnection) -> None:
        """Begin to look after a connection that was accepted."""
        lane = self.lane
        lane.sources[conn.fd] = conn
        if self.reception is not None:
            self.reception.receive(conn)
        lane.timers.look_at(conn, self.deadlines.of(conn)[0], lane.now)
        if conn.record is not None and conn.phase is not Phase.HEADER:
            conn.record.connected()
            if lane.orphaned:  # an observer has forked, and this is the child
                return
        if conn.phase is Phase.OPEN:
            self.welcome(conn)
        else:
            self.watch(conn, READ)

    def welcome(self, conn: ClientConnection) -> None:
        """Greet a connection that is ready to talk."""
        conn.phase = Phase.OPEN
        conn.active = self.lane.now
        protocol = self.lane.handling.protocol
        if protocol.greeting:
            conn.write(protocol.greeting)
        if protocol.speaks_first:
            self.lane.handling.delegate(conn)
        else:
            self.settle(conn)

    def attend(self, source: Any, event: int, lead: Lead | None) -> bool:
        """Do what `event` asks for; False: the lead was lost. What goes wrong with one connection ends that one."""
        try:
            return self.do(source, event, lead)
        except Exception as error:
            self.fault(source, lead, error)
            return True

    def fault(self, source: Any, lead: Lead | None, error: Exception) -> None:
        """A fault in treadle itself, or in what it stands on: else the poller would tell of it again and again."""
        if lead is not None and (lead.slot or lead.lost is not None):
            raise error  # it is in the middle of a handler, and the lead goes with it
        log(_log, logging.ERROR, "%s: a fault in treadle itself; serving goes on", self.lane.name, error=error)
        if type(source) is ClientConnection and not source.busy:
            self.close(source, FAULT)

    def do(self, source: Any, event: int, lead: Lead | None) -> bool:
        """Do what `event` asks for; False: the lead was lost."""
        if type(source) is not ClientConnection:
            source.attend(event)
            return True
        conn = source
        if conn.busy and not self.mine(conn):
            return True
        if conn in self.lane.ready:  # it has its turn there, after which it may be read from again
            return True
        if conn.phase is Phase.OPEN and not conn.out and not conn.closing:
            return self.read(conn, lead)
        if conn.phase is Phase.SHAKING:
            if conn.vet is not None and self.reception is not None and not self.reception.look(conn):
                return True
            return self.shake_hands(conn, lead)
        if conn.header is not None and self.reception is not None:
            self.reception.hear(conn, conn.header)
            return True
        if conn.phase is Phase.LINGERING:
            self.linger(conn)
            return True
        # What the event says is not trusted: it may be meant for a connection that was closed in this very turn, and
        # whose descriptor is this one's now. If the peer is gone, sending says so.
        conn.flush()
        self.settle(conn)
        return True

    def mine(self, conn: ClientConnection) -> bool:
        """Whether the leader has `conn`, which another thread had; if not, do not watch it until it is given back."""
        lane = self.lane
        with lane.lock:
            if conn.busy and conn.watched and not lane.over:
                lane.poller.remove(conn.fd, conn.watched)
                conn.watched = 0
            return not conn.busy

    def shake_hands(self, conn: ClientConnection, lead: Lead | None) -> bool:
        """Go on with the TLS handshake, which computes for a while; False if the lead was lost over it."""
        slot: list[ClientConnection] = lead.slot if lead is not None else []
        slot.append(conn)
        self.lane.turns += 1
        self.lane.shakes += 1
        if self.lane.asleep:
            self.lane.rouse()
        error: Exception | None = None
        try:
            conn.sock.do_handshake()  # type: ignore[attr-defined]  # an SSLSocket
        except Exception as caught:
            error = caught.with_traceback(None)  # which would hold this frame, and that the error, and so the client
        try:
            slot.pop()
        except IndexError:
            self.lane.handling.give_back(conn, lambda: self.shaken(conn, error))
            return False
        self.shaken(conn, error)
        return True

    def shaken(self, conn: ClientConnection, error: Exception | None) -> None:
        """Take note of what came of a step of the handshake."""
        conn.busy, conn.handled = False, 0.0
        if conn.phase is not Phase.SHAKING:
            return  # cut in the meantime
        conn.active = self.lane.now
        if conn.error is not None:
            self.close(conn, conn.error)
        elif error is None:
            self.welcome(conn)
        elif isinstance(error, ssl.SSLWantWriteError):
            self.watch(conn, WRITE)
        elif isinstance(error, BLOCKED):
            self.watch(conn, READ)
        else:
            throttle = self.throttles.of("handshake", *reason_of(error))
            if throttle.begins():
                log(_log, logging.WARNING, "%s: TLS handshake failed: %s%s", conn.peer, error, throttle.rest)
            conn.why = NO_HANDSHAKE
            self.part(conn)  # so that the alert, which says why, is not lost to a reset

    # -- reading --------------------------------------------------------------------------------------------------

    def read(self, conn: ClientConnection, lead: Lead | None) -> bool:
        """Read what has come, and have it handled; False: the lead was lost."""
        conn.wait_in, conn.looked = READ, True
        try:
            data = self.read_all(conn) if conn.secure else conn.recv(CHUNK)
        except OSError as error:
            self.unreadable(conn, error)
            return True
        if conn.vet is not None and not conn.vet(conn, data):
            self.settle(conn)
            return True
        return self.received(conn, data, self.cut(conn, data), lead)

    def cut(self, conn: ClientConnection, data: bytes) -> Sequence[Any]:
        """Return the messages that are complete with `data`, or with the end, b"".

        A framing that fails, or raises CloseConnection, closes it after what came before is answered, which waits then.
        """
        messages: Sequence[Any] = ()
        try:
            found = conn.decoder.feed(data) if data else conn.decoder.finish()
            kind = type(found)
            if kind is list or kind is tuple:
                messages = found  # type: ignore[assignment]  # cast() would be a call
            else:
                messages = whole = []
                for message in found:  # one by one, so that those before an error are kept
                    whole.append(message)
            conn.held = conn.decoder.held
            return messages
        except CloseConnection as closing:
            conn.farewell = closing.answer
        except BaseException as error:  # MessageTooLong, or whatever a framing of the user's does, as with handlers
            conn.farewell = b""
            conn.why = "max_message" if isinstance(error, MessageTooLong) else "framing"
            self.tell_unfit(conn, error)
        conn.begun, conn.held = 0.0, 0
        if not self.lane.orphaned:  # else the framing has forked, and the parent handles them
            conn.waiting.extend(messages)
        return ()

    def tell_unfit(self, conn: ClientConnection, error: BaseException) -> None:
        """Log that a client is closed for what it sent. From any thread."""
        throttle = self.throttles.of("framing", *kind_of(error))
        if not self.lane.orphaned and throttle.begins():
            said = "%s: closed, for what it sent makes no message: %s%s"
            log(_log, logging.WARNING, said, conn.peer, error, throttle.rest)

    def read_all(self, conn: ClientConnection) -> bytes:
        """Read what TLS has decrypted or can at once; b"": the peer sends no more. Raises as recv does.

        It does not read on until it would block: an end without TLS's own goodbye leaves a connection that cannot be
        written to, so what came before that is answered first.
        """
        try:
            data = conn.recv(CHUNK)
            while data and len(data) < CHUNK and conn.sock.pending():  # type: ignore[attr-defined]  # an SSLSocket
                try:
                    data += conn.recv(CHUNK)
                except OSError:  # what was read is not lost over it; an error that stays is raised by the next read
                    break
        except ssl.SSLWantWriteError:
            conn.wait_in = WRITE
            raise
        return data

    def unreadable(self, conn: ClientConnection, error: OSError) -> None:
        """Reading failed."""
        if isinstance(error, BLOCKED):
            if conn.wait_in != READ or not conn.calm:
                self.settle(conn)
            return
        if is_ragged(error):
            self.cut_short(conn)
            return
        conn.give_up(error)
        if isinstance(error, ssl.SSLError):  # of which an alert has told it
            conn.why = conn.error or ""
            self.part(conn)
        else:
            self.settle(conn)

    def cut_short(self, conn: ClientConnection) -> None:
        """The end has come without TLS's goodbye, as anybody on the way can make it (RFC 8446, section 6.1).

        So it ends no message: what the framing holds back is dropped. When that is nothing, it is an end like others,
        for many clients leave so.
        """
        conn.ended = True
        if conn.held:
            conn.why = CUT_SHORT
            throttle = self.throttles.of(CUT_SHORT)
            if throttle.begins():
                what = counted(conn.held, "byte of half a message is", "bytes, which may be half a message, are")
                said = "%s: its last %s dropped, for it ended without TLS's goodbye (close_notify)%s"
                log(_log, logging.WARNING, said, conn.peer, what, throttle.rest)
        self.settle(conn)

    def received(self, conn: ClientConnection, data: bytes, messages: Sequence[Any], lead: Lead | None) -> bool:
        """Have handled what was read; False: the lead was lost. As `attend` does, it ends what goes wrong."""
        try:
            return self.take_in(conn, data, messages, lead)
        except Exception as error:
            self.fault(conn, lead, error)
            return True

    def take_in(self, conn: ClientConnection, data: bytes, messages: Sequence[Any], lead: Lead | None) -> bool:
        """Note what was read, and have it handled; False: the lead was lost."""
        now = self.lane.now
        conn.active = now
        if not data:
            conn.ended = True
        if messages:
            conn.begun, conn.received = 0.0, 0
            conn.waiting.extend(messages)
        if conn.held:
            conn.begun = conn.begun or now
            conn.received += len(data)
        return self.proceed(conn, lead)

    def proceed(self, conn: ClientConnection, lead: Lead | None) -> bool:
        """Handle what waits in `conn`, here or elsewhere; False: the lead was lost."""
        handling = self.lane.handling
        if conn.waiting and not conn.unsent > self.limits.max_unsent:
            if lead is None or conn.slow or self.lane.spread or not handling.inline:
                handling.delegate(conn)
                return True
            if not handling.work(conn, lead):
                return False
        self.settle(conn)
        return True

    def serve_ready(self, lead: Lead | None) -> bool:
        """Go on, once, with each connection that has something left to do; False: the lead was lost."""
        ready = self.lane.ready
        for conn in list(ready):
            del ready[conn]
            try:
                on = self.go_on(conn, lead)
            except Exception as error:
                self.fault(conn, lead, error)
                continue
            if not on:
                return False
        return True

    def go_on(self, conn: ClientConnection, lead: Lead | None) -> bool:
        """Do what is left to do in a connection; False: the lead was lost."""
        if conn.late:
            return self.look(conn, lead)
        if conn.busy or conn.phase is not Phase.OPEN:
            return True
        return self.proceed(conn, lead) if conn.waiting else self.read(conn, lead)

    # -- looking once more ----------------------------------------------------------------------------------------

    def look(self, conn: ClientConnection, lead: Lead | None) -> bool:
        """Go on with a connection whose time is over, as if it were not, and have it judged; False: the lead was lost.

        What is in the kernel now counts as come in time, and nothing else, so that dripping bytes gains no time.
        """
        conn.late = False
        if conn.busy or conn.phase is Phase.CLOSED:
            return True
        on = True
        if conn.phase is Phase.HEADER:
            on = self.attend(conn, conn.watched, lead)  # and what TLS has sent behind it
        if conn.phase is Phase.SHAKING:
            on = self.shake_on(conn, lead)
        elif conn.waiting and not conn.out:  # it was us who did not go on
            self.excuse(conn)
            on = self.proceed(conn, lead)
        else:
            received, sent = conn.received, conn.sent
            on = self.attend(conn, conn.watched, lead)
            left = conn.unread() if on and self.is_late(conn) else 0
            while on and left > 0 and self.is_late(conn):
                before = conn.received
                on = self.read(conn, lead)
                if conn.received <= before:
                    break
                left -= conn.received - before + (RECORD if conn.secure else 0)
            if on and conn.stalled:
                self.make_up(conn, received, sent)
        if on:
            self.lane.keeper.judge(conn)
        return on

    def is_late(self, conn: ClientConnection) -> bool:
        """Whether a message is to be read from `conn`, and should have been by now."""
        half = conn.begun and conn.phase is Phase.OPEN and not (conn.busy or conn.waiting or conn.out or conn.closing)
        return bool(half) and self.deadlines.of(conn)[0] <= self.lane.now

    def make_up(self, conn: ClientConnection, received: int, sent: int) -> None:
        """Count the time of a transfer from now on that a stall of ours kept waiting: the client went on meanwhile.

        As far as it could, for the kernel holds only so much for us. `received` and `sent` are of before it was looked
        at. A client that only drips has filled no buffer of the kernel's, and one that takes nothing has emptied none.
        """
        if conn.out:
            if conn.sent > sent:
                conn.out_since, conn.sent = self.lane.now, 0
        elif self.is_late(conn) and conn.received - received >= JAM:
            self.excuse(conn)

    def excuse(self, conn: ClientConnection) -> None:
        """Count the time of `conn` from now on."""
        conn.active = self.lane.now
        if conn.begun:
            conn.begun, conn.received = self.lane.now, 0

    def shake_on(self, conn: ClientConnection, lead: Lead | None) -> bool:
        """Go on with a handshake whose time is over; False if the lead was lost over it.

        Who has been silent only because its hello was not answered has its time for the rest. A handshake has few such
        steps, so nobody gains more than that by them.
        """
        active, hello = conn.active, conn.has_hello()
        on = self.attend(conn, READ, lead)
        if on and conn.phase is Phase.SHAKING:
            if hello:
                conn.since = self.lane.now
            else:
                conn.active = active
        return on

    # -- sending --------------------------------------------------------------------------------------------------

    def unsent(self, conn: ClientConnection, answer: Any, error: Exception) -> None:
        """An answer could not be sent."""
        if not isinstance(error, OSError) or not can_be_sent(answer):
            self.lane.handling.answer(conn, answer)  # says what is wrong with it
        elif isinstance(error, BLOCKED):
            self.keep(conn, answer, 0)
            return
        else:
            conn.give_up(error)
        self.settle(conn)

    def keep(self, conn: ClientConnection, answer: Any, sent: int) -> None:
        """Send later what is left of an answer of which `sent` bytes are gone."""
        rest = memoryview(answer).cast("B")[sent:]
        if rest:
            conn.keep(rest)
            self.settle(conn)

    # -- deciding -------------------------------------------------------------------------------------------------

    def settle(self, conn: ClientConnection) -> None:
        """Decide what a connection waits for next, or that it is over."""
        phase = conn.phase
        if phase is Phase.CLOSED or phase is Phase.LINGERING:
            return
        conn.calm = False
        if conn.farewell is not None and not (conn.waiting or conn.closing):
            conn.closing = True
            conn.write(conn.farewell)
        if conn.error is not None:
            self.close(conn, conn.error)
            return
        if conn.out:
            self.sending(conn)
        elif conn.out_since:  # the client has taken its answers; from here on its own messages are timed again
            conn.out_since = 0.0
            self.excuse(conn)
        if phase is Phase.CLOSING or conn.closing or (conn.ended and not conn.waiting):
            self.finish(conn)
        elif conn.idle() and self.is_over(conn):
            if conn.looked:
                if self.deadlines.aged(conn, self.lane.now):
                    conn.why = "max_age"
                self.finish(conn)
            else:  # what had come by then is answered, also behind a message that was under way
                self.lane.ready[conn] = None
        elif conn.out:
            self.watch(conn, WRITE)
        elif conn.waiting or (conn.secure and conn.sock.pending()):  # type: ignore[attr-defined]  # an SSLSocket
            self.lane.ready[conn] = None
        else:
            self.watch(conn, conn.wait_in)
            conn.calm = not (conn.secure or conn.slow or conn.begun or conn.busy or conn.vet or self.lane.draining)
            conn.calm = conn.calm and self.lane.handling.plain

    def sending(self, conn: ClientConnection) -> None:
        """Begin to time an answer that is to be sent later."""
        if not conn.out_since:
            conn.out_since, conn.sent = self.lane.now, 0
            self.lane.timers.hasten(conn, self.deadlines.of(conn)[0])

    def is_over(self, conn: ClientConnection) -> bool:
        """Whether a connection that is idle is to be closed: it is too old, or the server stops."""
        if conn.last or not self.lane.draining:
            return conn.last
        return conn.number > 0 or self.lane.now >= max(self.deadlines.drained_at, conn.active) + GRACE

    def finish(self, conn: ClientConnection) -> None:
        """Close a connection as gently as may be: after what is answered is sent."""
        if conn.record is not None:
            conn.record.lapse(conn, conn.why)
        conn.waiting.clear()
        conn.begun = 0.0
        if conn.out:
            conn.phase = Phase.CLOSING
            self.watch(conn, WRITE)
            return
        conn.say_goodbye()
        answered = conn.number or conn.received or conn.farewell
        unspoken = self.lane.draining and not answered  # there is no answer to be lost
        if conn.ended or unspoken:
            self.close(conn, "")
            return
        self.part(conn)

    def part(self, conn: ClientConnection) -> None:
        """Close a connection that has been sent its last.

        A close while bytes of the peer's are unread would have the kernel send RST, and take back what was answered. So
        our half is closed, and the end of the peer's awaited.
        """
        conn.phase = Phase.LINGERING
        conn.received = 0
        conn.since = self.lane.now
        if not conn.shut_down(socket.SHUT_WR):
            self.close(conn, "")
            return
        self.watch(conn, READ)
        self.lane.timers.hasten(conn, self.lane.now + self.limits.linger_timeout)

    def linger(self, conn: ClientConnection) -> None:
        """Throw away what the peer still sends, up to the limit."""
        try:
            data = conn.plain.recv(CHUNK)
        except BLOCKED:
            return
        except OSError:
            data = b""
        conn.ended = not data
        conn.received += len(data)
        if not data:
            self.close(conn, "")
        elif conn.received > self.limits.max_linger_bytes:
            self.close(conn, conn.why or "max_linger_bytes")

    def close(self, conn: ClientConnection, why: str) -> None:
        """Close, and forget; `why` is "" for an orderly end. The only place where a connection's socket is closed."""
        lane = self.lane
        if conn.phase is Phase.CLOSED:
            return
        over = conn.phase is Phase.LINGERING and conn.ended  # both sides have said so
        conn.phase = Phase.CLOSED
        conn.calm = False
        if conn.watched:
            lane.poller.remove(conn.fd, conn.watched)
            conn.watched = 0
        del lane.sources[conn.fd]
        lane.timers.forget(conn)
        conn.out.clear()
        if conn.record is not None:
            conn.record.lapse(conn, why or conn.why)
        conn.waiting.clear()
        try:
            self.left(conn, why or conn.why)  # before the client can know that it is over
        finally:
            if over:
                with suppress(OSError):  # somebody has closed it behind our back
                    conn.sock.close()
            else:
                hang_up(conn.sock)

    def abort(self, conn: ClientConnection, why: str) -> None:
        """Close a connection that does not take what it is sent; the kernel is to forget that as well."""
        conn.tear()
        self.close(conn, why)

    # -- watching -------------------------------------------------------------------------------------------------

    def watch(self, conn: ClientConnection, events: int) -> None:
        """Watch `conn` for `events`."""
        try:
            self.watch_for(conn, events)
        except OSError as error:  # the system is out of something, such as fs.epoll.max_user_watches
            conn.give_up(error)
            self.close(conn, conn.error or "")

    def watch_for(self, conn: ClientConnection, events: int) -> None:
        """Do it, for the leader, or for the thread that gives `conn` back and holds the lane's lock.

        Raises:
            OSError: the poller cannot.
        """
        before = conn.watched
        if before == events:
            return
        if before:
            self.lane.poller.change(conn.fd, before, events)
        else:
            self.lane.poller.add(conn.fd, events)
        conn.watched = events

    def take_back(self, conn: ClientConnection) -> None:
        """Take a connection over from another thread, which has left something to do in it."""
        conn.busy = False
        if conn.phase is Phase.OPEN and conn.out:
            conn.flush()
        self.settle(conn)

    def give_up(self, conn: ClientConnection, why: str) -> None:
        """Take a connection over from a thread, or a task, that will not go on with it."""
        conn.busy = False
        conn.give_up(why)
        self.settle(conn)


def reason_of(error: Exception) -> tuple[str | int | None, ...]:
    """Return what handshakes have in common that fail alike."""
    return type(error).__name__, *(getattr(error, name, None) for name in ("errno", "reason", "verify_code"))


def can_be_sent(answer: Any) -> bool:
    """Whether an answer is bytes, or like them: if not, the error is of its own making."""
    try:
        memoryview(answer)
    except Exception:
        return False
    return True
