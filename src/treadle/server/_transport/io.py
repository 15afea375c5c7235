"""ConnectionIO: the verbs of one client's bytes: cut, keep, settle, finish, linger, close, watch.

Closing is decided in one place, `settle`, and done in one, `close`, both by the leader alone. So a descriptor that one
thread closes is never taken by another for its successor: other threads only ever shut a socket down, or ask.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from treadle._base.log_throttle import kind_of
from treadle._base.words import counted, log
from treadle.errors import MessageTooLong
from treadle.server._loop.poller import READ, WRITE
from treadle.server._transport.causes import CUT_SHORT, Refusals
from treadle.server._transport.connection import BLOCKED, CHUNK, ClientConnection, hang_up, is_ragged
from treadle.server._transport.deadlines import GRACE, JAM, Deadlines
from treadle.server._transport.decoder import MOST, CloseConnection, Reply
from treadle.server._transport.observing.record import taken_from
from treadle.server._transport.sending.outbox import UNTOLD
from treadle.server._transport.sending.spool import Spool
from treadle.server._transport.state import State

if TYPE_CHECKING:
    from treadle._base.log_throttle import LogThrottles
    from treadle.server._loop.event_loop import EventLoop
    from treadle.server._transport.limits import Limits

__all__ = ["ConnectionIO"]

_log = logging.getLogger("treadle.server")


class ConnectionIO:
    """What is done for the connections of one event loop. For its leader alone, but for `watch_for` and `give_back`.

    Args:
        left: called, by the leader, with a connection that is about to be closed, and why.
        unhandled: called with a connection, why it is over, and a message that waits in it and will not be handled.
        throttles: which faults of clients are told.
        inline: whether a connection that waits for a message, and nothing else, may take the short way.
        refusals: what clients are told that are cut; None: nothing.
    """

    def __init__(
        self,
        loop: EventLoop,
        limits: Limits,
        deadlines: Deadlines,
        left: Callable[[ClientConnection, str], object],
        throttles: LogThrottles,
        *,
        inline: bool,
        refusals: Refusals | None = None,
    ) -> None:
        self.loop = loop
        self.limits = limits
        self.deadlines = deadlines
        self.left = left
        self.throttles = throttles
        self.inline = inline
        self.unhandled: Callable[[ClientConnection, str, Any], object] = lambda conn, why, message: None
        self.phased = bool(deadlines.phases)
        self.refusals = Refusals(limits, throttles) if refusals is None else refusals

    def connections(self) -> list[ClientConnection]:
        """Return the connections of this instant. From any thread."""
        return [source for source in list(self.loop.sources.values()) if type(source) is ClientConnection]

    # -- reading ------------------------------------------------------------------------------------------------------

    def cut(self, conn: ClientConnection, data: bytes) -> Sequence[Any]:
        """Return the messages that are complete with `data`, or with the end, b""; of many, the first.

        A framing that fails, or raises CloseConnection, closes it after what came before is answered, which waits then.
        """
        intake = conn.intake
        messages: Sequence[Any] = ()
        try:
            found = intake.decoder.feed(data) if data else intake.decoder.finish()
            kind = type(found)
            if kind is list or kind is tuple:
                messages = found  # type: ignore[assignment]  # cast() would be a call
                intake.held = intake.decoder.held
                return messages
            intake.more, intake.held = iter(found), 0
        except BaseException as error:  # MessageTooLong, or whatever a framing of the user's does, as with handlers
            return self.unfit(conn, error, messages)
        return self.cut_more(conn, intake.more)

    def cut_more(self, conn: ClientConnection, more: Iterator[Any]) -> Sequence[Any]:
        """Return the next messages of what was read, MOST at the most."""
        intake, messages, spoken = conn.intake, [], False
        intake.more = None
        try:
            for message in more:  # one by one, so that those before an error are kept
                messages.append(message)
                if type(message) is Reply:
                    spoken = True
                if len(messages) == MOST:
                    intake.more = more
                    break
            else:
                intake.held = intake.decoder.held
        except BaseException as error:
            return self.unfit(conn, error, messages)
        return self.line_up(conn, messages) if spoken else messages

    def line_up(self, conn: ClientConnection, found: Sequence[Any]) -> Sequence[Any]:
        """Have what was cut wait, for Replies are among it, which are not to be taken for messages. Return none.

        A message that was begun before, and is not complete by now, gains no time.
        """
        intake = conn.intake
        over = intake.more is None and not intake.held
        if over or any(type(one) is not Reply or one.final for one in found):
            intake.begun, intake.received = 0.0, 0
        if not self.loop.orphaned:  # as in `unfit`
            intake.waiting.extend(found)
        return ()

    def has_waiting(self, conn: ClientConnection) -> bool:
        """Whether messages of `conn` wait; cuts more of what was read if need be. For the thread that has it."""
        intake = conn.intake
        if not intake.waiting and intake.more is not None and not (self.loop.orphaned or conn.ending.closing):
            intake.waiting.extend(self.cut_more(conn, intake.more))
            if intake.held and not intake.begun:
                intake.begun, intake.received = self.loop.now, intake.held
                if self.phased:
                    intake.look_at_phase(intake.begun)
        return bool(intake.waiting)

    def unfit(self, conn: ClientConnection, error: BaseException, before: Sequence[Any]) -> Sequence[Any]:
        """What `conn` sent makes no message: it is closed after what came `before`, which waits then. Return none."""
        intake = conn.intake
        if isinstance(error, CloseConnection) and isinstance(error.answer, bytes):
            intake.farewell = error.answer
        else:
            conn.ending.why = "max_message" if isinstance(error, MessageTooLong) else "framing"
            self.tell_unfit(conn, error)
            intake.farewell = self.refusals.of(conn.ending.why) or b""
        intake.begun, intake.held = 0.0, 0
        if not self.loop.orphaned:  # else the framing has forked, and the parent handles them
            intake.waiting.extend(before)
        return ()

    def tell_unfit(self, conn: ClientConnection, error: BaseException) -> None:
        """Log that a client is closed for what it sent. From any thread."""
        throttle = self.throttles.of("framing", *kind_of(error))
        if self.loop.orphaned or not throttle.begins():
            return
        if isinstance(error, (MessageTooLong, ValueError)):
            said = "%s: closed, for what it sent makes no message: %s%s"
            log(_log, logging.WARNING, said, conn.peer, error, throttle.rest)
        else:
            said = "%s: closed, for its decoder failed%s"
            log(_log, logging.ERROR, said, conn.peer, throttle.rest, error=error)

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
            conn.intake.wait_in = WRITE
            raise
        return data

    def unreadable(self, conn: ClientConnection, error: OSError) -> None:
        """Reading failed."""
        if isinstance(error, BLOCKED):
            if conn.intake.wait_in != READ or conn.state is not State.READY:
                self.settle(conn)
            return
        if conn.intake.conversation is not None:
            self.break_off(conn, error)
            return
        if is_ragged(error):
            self.cut_short(conn)
            return
        conn.give_up(error)
        if isinstance(error, ssl.SSLError):  # of which an alert has told it
            conn.ending.why = conn.ending.error or ""
            self.part(conn)
        else:
            self.settle(conn)

    def break_off(self, conn: ClientConnection, error: OSError) -> None:
        """A client is gone whose conversation has paused, and all of what it sent is read: the handler is told."""
        if not is_ragged(error):
            conn.ending.why = conn.ending.why or error.strerror or type(error).__name__
        conn.intake.end()
        self.settle(conn)

    def cut_short(self, conn: ClientConnection) -> None:
        """The end has come without TLS's goodbye, as anybody on the way can make it (RFC 8446, section 6.1).

        So it ends no message: what the framing holds back is dropped. When that is nothing, it is an end like others,
        for many clients leave so.
        """
        conn.intake.ended = True
        if conn.intake.held:
            conn.ending.why = CUT_SHORT
            throttle = self.throttles.of(CUT_SHORT)
            if throttle.begins():
                what = counted(conn.intake.held, "byte of half a message is", "bytes, which may be half a message, are")
                said = "%s: its last %s dropped, for it ended without TLS's goodbye (close_notify)%s"
                log(_log, logging.WARNING, said, conn.peer, what, throttle.rest)
        self.settle(conn)

    def is_late(self, conn: ClientConnection) -> bool:
        """Whether a message is to be read from `conn`, and should have been by now."""
        if conn.state not in (State.READY, State.OPEN) or not conn.intake.begun:
            return False
        if conn.intake.waiting or conn.outbox.pieces or conn.ending.closing:
            return False
        return self.deadlines.of(conn)[0] <= self.loop.now

    def make_up(self, conn: ClientConnection, received: int, sent: int) -> None:
        """Count the time of a transfer from now on that a stall of ours kept waiting: the client went on meanwhile.

        As far as it could, for the kernel holds only so much for us. `received` and `sent` are of before it was looked
        at. A client that only drips has filled no buffer of the kernel's, and one that takes nothing has emptied none.
        """
        if conn.outbox.pieces:
            if conn.outbox.transfer.sent > sent:
                conn.begin_transfer(self.loop.now)
        elif self.is_late(conn) and conn.intake.received - received >= JAM:
            self.excuse(conn)

    def excuse(self, conn: ClientConnection) -> None:
        """Count the time of `conn` from now on."""
        conn.active = self.loop.now
        conn.intake.restart(self.loop.now)

    # -- deciding -----------------------------------------------------------------------------------------------------

    def keep(self, conn: ClientConnection, answer: Any, sent: int) -> None:
        """Send later what is left of an answer of which `sent` bytes are gone."""
        rest = memoryview(answer).cast("B")[sent:]
        if rest:
            conn.outbox.add(rest)
            self.settle(conn)

    def settle(self, conn: ClientConnection) -> None:
        """Decide what a connection waits for next, or that it is over."""
        state, ending, intake = conn.state, conn.ending, conn.intake
        if state is State.CLOSED or state is State.LINGERING:
            return
        conn.look_closely()
        if conn.outbox.filling is not None:  # the leader itself has made it, or begun to
            conn.outbox.seal()
            conn.flush()
        if intake.farewell is not None and not (intake.waiting or ending.closing):
            ending.closing = True
            conn.write(intake.farewell)
        if conn.ending.error is not None:
            self.close(conn, conn.ending.error)
            return
        if conn.outbox.pieces:
            self.sending(conn)
        elif (
            conn.outbox.transfer.since
        ):  # the client has taken its answers; from here on its own messages are timed again
            conn.outbox.transfer.since = 0.0
            self.excuse(conn)
        if state is State.CLOSING or ending.closing or (intake.ended and not intake.waiting):
            self.finish(conn)
        elif conn.idle() and self.is_over(conn):
            if conn.ending.looked:
                if self.deadlines.aged(conn, self.loop.now):
                    conn.ending.why = "max_age"
                self.finish(conn)
            else:  # what had come by then is answered, also behind a message that was under way
                self.loop.ready[conn] = None
        elif conn.outbox.pieces:
            self.watch(conn, WRITE)
        elif conn.outbox.untold >= UNTOLD:  # see `resume`
            self.watch(conn, 0)
        elif conn.intake.waiting or (conn.secure and conn.sock.pending()):  # type: ignore[attr-defined]  # an SSLSocket
            self.loop.ready[conn] = None
        else:
            self.watch(conn, conn.intake.wait_in)
            if self.may_be_ready(conn):
                conn.enter(State.READY)

    def resume(self, conn: ClientConnection) -> None:
        """Go on with a connection that has waited for its protocol to be told of its answers."""
        if conn.state in (State.READY, State.OPEN):
            self.settle(conn)

    def may_be_ready(self, conn: ClientConnection) -> bool:
        """Whether the next message of a connection for which nothing is left to do may take the short way."""
        if not self.inline or conn.secure or self.loop.draining or conn.state is not State.OPEN:
            return False
        return not (conn.timing.probation or conn.intake.begun or conn.intake.vet or conn.intake.conversation)

    def sending(self, conn: ClientConnection) -> None:
        """Begin to time an answer that is to be sent later."""
        if not conn.outbox.transfer.since:
            conn.begin_transfer(self.loop.now)
            self.loop.timers.hasten(conn, self.deadlines.of(conn)[0])

    def open_spool(self, conn: ClientConnection) -> Spool:
        """Begin to send an answer that is still being made. For the thread that has `conn`, and is to make it."""
        limits = self.limits
        spool = Spool(limits.spool_memory, limits.spool_file, limits.spool_folder, partial(self.tell_of_spool, conn))
        conn.outbox.fill(spool)
        if conn.ending.error is not None:
            spool.drop()
        return spool

    def tell_of_spool(self, conn: ClientConnection) -> bool:
        """Have the leader send what was added to the spool of `conn`; False: nobody leads any more.

        Nothing is to be done if this thread leads still: it sends all when it has come to an end, or whoever takes the
        lead from it does, see `Leadership.promoted`.
        """
        with self.loop.lock:
            if conn.busy and not self.loop.over:
                self.loop.post(partial(self.pump, conn))
            return not self.loop.over

    def pump(self, conn: ClientConnection) -> None:
        """Send what a handler in another thread has added to its answer so far, and watch for room if need be."""
        outbox = conn.outbox
        if not conn.busy or outbox.filling is None:
            return  # it was given back meanwhile, and is settled then
        conn.flush()
        if conn.ending.error is None and not outbox.is_dry():
            self.sending(conn)
            events = WRITE
        else:  # the thread will find that the client has left, or is to add some more
            outbox.transfer.since = 0.0
            events = 0
        try:
            with self.loop.lock:
                if not self.loop.over:  # else its thread closes it, and may be doing so now
                    self.watch_for(conn, events)
        except OSError as error:
            conn.give_up(error)

    def is_over(self, conn: ClientConnection) -> bool:
        """Whether a connection that is idle is to be closed: it is too old, or the server stops."""
        if conn.ending.last or not self.loop.draining:
            return conn.ending.last
        heard = conn.number > 0 or conn.intake.spoken
        grace = self.deadlines.parting if heard else GRACE
        return not grace or self.loop.now >= max(self.deadlines.drained_at, conn.active) + grace

    def dismiss(self, conn: ClientConnection, told: bytes, why: str) -> None:
        """Close a connection that is open as gently as may be, for `why`, after it was told so."""
        conn.ending.why = conn.ending.why or why
        conn.ending.closing = True
        conn.intake.farewell = told  # which is to be awaited by `finish`, also at the end of a stop
        conn.write(told)
        self.settle(conn)

    def finish(self, conn: ClientConnection) -> None:
        """Close a connection as gently as may be: after what is answered is sent."""
        self.lapse(conn, conn.ending.error or conn.ending.why)
        conn.intake.drop()
        conn.intake.begun = 0.0
        if conn.outbox.pieces:
            if conn.state is not State.CLOSING:
                conn.enter(State.CLOSING)
            self.watch(conn, WRITE)
            return
        conn.say_goodbye()
        answered = conn.number or conn.intake.received or conn.intake.farewell or conn.intake.spoken
        unspoken = self.loop.draining and not answered  # there is no answer to be lost
        if conn.intake.ended or unspoken:
            self.close(conn, "")
            return
        self.part(conn)

    def part(self, conn: ClientConnection) -> None:
        """Close a connection that has been sent its last.

        A close while bytes of the peer's are unread would have the kernel send RST, and take back what was answered. So
        our half is closed, and the end of the peer's awaited.
        """
        conn.enter(State.LINGERING)
        conn.intake.received = 0
        conn.timing.since = self.loop.now
        if not conn.shut_down(socket.SHUT_WR):
            self.close(conn, "")
            return
        self.watch(conn, READ)
        self.loop.timers.hasten(conn, self.loop.now + self.limits.linger_timeout)

    def linger(self, conn: ClientConnection) -> None:
        """Throw away what the peer still sends, up to the limit."""
        try:
            data = conn.plain.recv(CHUNK)
        except BLOCKED:
            return
        except OSError:
            data = b""
        conn.intake.ended = not data
        conn.intake.received += len(data)
        if not data:
            self.close(conn, "")
        elif conn.intake.received > self.limits.max_linger_bytes:
            self.close(conn, conn.ending.why or "max_linger_bytes")

    def close(self, conn: ClientConnection, why: str) -> None:
        """Close, and forget; `why` is "" for an orderly end. The only place where a connection's socket is closed."""
        loop = self.loop
        if conn.state is State.CLOSED:
            return
        over = conn.state is State.LINGERING and conn.intake.ended  # both sides have said so
        conn.enter(State.CLOSED)
        if conn.watched:
            loop.poller.remove(conn.fd, conn.watched)
            conn.watched = 0
        del loop.sources[conn.fd]
        loop.timers.forget(conn)
        conn.ending.why = conn.ending.why or why
        conn.outbox.clear()
        self.lapse(conn, conn.ending.error or conn.ending.why)
        conn.intake.drop()
        conn.ending.forget()
        try:
            self.left(conn, why or conn.ending.why)  # before the client can know that it is over
        finally:
            _let_go(conn, over=over)

    def lapse(self, conn: ClientConnection, why: str) -> None:
        """Tell who wants to know of what waits in `conn`, which is over. Safe from any thread, and from two at once."""
        if conn.record is not None:
            conn.record.lapse(conn.intake.waiting, why, partial(self.unhandled, conn, why))
            return
        for message in taken_from(conn.intake.waiting):
            if type(message) is not Reply:
                self.unhandled(conn, why, message)

    def abort(self, conn: ClientConnection, why: str) -> None:
        """Close a connection that does not take what it is sent; the kernel is to forget that as well."""
        conn.forget_unsent()
        self.close(conn, why)

    # -- watching -----------------------------------------------------------------------------------------------------

    def watch(self, conn: ClientConnection, events: int) -> None:
        """Watch `conn` for `events`; 0: not at all."""
        try:
            self.watch_for(conn, events)
        except OSError as error:  # the system is out of something, such as fs.epoll.max_user_watches
            conn.give_up(error)
            self.close(conn, conn.ending.error or "")

    def watch_for(self, conn: ClientConnection, events: int) -> None:
        """Do it, for the leader, or for the thread that gives `conn` back and holds the loop's lock.

        Raises:
            OSError: the poller cannot.
        """
        before = conn.watched
        if before == events:
            return
        if not events:
            self.loop.poller.remove(conn.fd, before)
        elif before:
            self.loop.poller.change(conn.fd, before, events)
        else:
            self.loop.poller.add(conn.fd, events)
        conn.watched = events

    # -- between threads ----------------------------------------------------------------------------------------------

    def has_back(self, conn: ClientConnection) -> bool:
        """Whether the leader has `conn`, which another thread had; if not, do not watch it until it is given back."""
        loop = self.loop
        with loop.lock:
            if conn.busy and conn.watched and not loop.over:
                loop.poller.remove(conn.fd, conn.watched)
                conn.watched = 0
            return not conn.busy

    def take_back(self, conn: ClientConnection) -> None:
        """Take a connection over from another thread, which has left something to do in it."""
        conn.hand_back()
        conn.outbox.seal()
        if conn.is_open and conn.outbox.pieces:
            conn.flush()
        self.settle(conn)

    def give_up(self, conn: ClientConnection, why: str) -> None:
        """Take a connection over from a thread, or a task, that will not go on with it."""
        if conn.state in (State.CLOSING, State.LINGERING, State.CLOSED):  # it was taken away from that before
            return
        conn.hand_back()
        conn.outbox.seal()
        conn.give_up(why)
        self.settle(conn)

    def give_back(self, conn: ClientConnection, job: Callable[[], object]) -> None:
        """Have the leader do `job`, after which `conn` is its own again; if nobody leads any more, close it."""
        with self.loop.lock:
            if not self.loop.over:
                self.loop.post(job)
                return
            sends = conn.outbox.filling is not None and not self.loop.unled
        if not sends:  # else the leader may be about to send what was made, and lets go of it as it leaves
            conn.outbox.clear()
        _let_go(conn)  # nobody else will


def _let_go(conn: ClientConnection, *, over: bool = False) -> None:
    """Close the socket of `conn`; `over`: both sides have said that nothing more comes."""
    if over or conn.ending.torn:  # a shutdown would end it in order, before it is reset
        with suppress(OSError):  # somebody has closed it behind our back
            conn.sock.close()
    else:
        hang_up(conn.sock)
