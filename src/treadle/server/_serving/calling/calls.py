"""Calls: how the handler of a message is called, and what is done with what it returns or raises."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from treadle._base import clock
from treadle._base.log_throttle import kind_of
from treadle._base.words import log
from treadle.errors import DeadlineExceeded, MessageTooLong
from treadle.server._protocols.session import CHUNK, begin
from treadle.server._protocols.takeover import TakeOver
from treadle.server._serving.calling.answers import Answers, each_of, is_made_in_pieces, let_go, pull, send, size_of
from treadle.server._serving.calling.exchanges import Exchanges
from treadle.server._serving.calling.overdue import TAKEN, WHY, Exceeded, Overdue, TakenAway
from treadle.server._transport.causes import CLOSED
from treadle.server._transport.connection import ClientConnection, run_in
from treadle.server._transport.decoder import AnswerBroken, CloseConnection, RawDecoder
from treadle.server._transport.observing.record import Arrival, Record
from treadle.server._transport.sending.spool import ClientLeft

if TYPE_CHECKING:
    from treadle._dispatch.dispatcher import Dispatcher
    from treadle.server._protocols.protocol import Protocol
    from treadle.server._transport.io import ConnectionIO
    from treadle.server._transport.limits import Limits
    from treadle.server._transport.sending.spool import Spool

__all__ = ["Calls"]

KEPT = nullcontext()  # nobody ever takes a connection away

_log = logging.getLogger("treadle.server")

ALLOWED = "allowed: bytes, a FileRange, a list of these, an iterator of bytes, or None for no answer"


class Calls:
    """Calls the handler of one event loop's messages. For the thread that has the connection.

    Attributes:
        run: calls it with one message of a connection, and what was answered before; returns its answer, or TAKEN.
        handle: what that calls with the message and the peer, in whichever context is the message's.
        fresh: each message has a context of its own; else all of a connection are in that of the connection.
        overdue: takes connections away from those that run for too long; None: there is no limit.
        exchanges: tells the protocol what becomes of its messages; None: it does not ask.
        failures: handlers that raised. Changed with the loop's lock held.
        early: this, where handlers send something before they return; else None.
        batches: the answers before the one that is made may have to be sent while it is.
    """

    def __init__(
        self, io: ConnectionIO, protocol: Protocol, limits: Limits, dispatcher: Dispatcher, *, observed: bool
    ) -> None:
        self.io = io
        self.loop = io.loop
        self.throttles = io.throttles
        self.protocol = protocol
        self.name = protocol.name
        self.max_unsent = limits.max_unsent
        timeout = limits.handler_timeout
        self.overdue = None if timeout is None else Overdue(io, protocol, timeout, io.throttles)
        self.handle: Callable[[Any, Any], Any] = protocol.handle if self.overdue is None else self.overdue.handle
        self.run: Callable[[ClientConnection, Any, Answers], Any] = self.run_observed if observed else self.run_handler
        self.fresh: bool = getattr(protocol, "fresh_context", False)
        over: Callable[[Any, int, BaseException | None], object] | None = getattr(protocol, "over", None)
        self.exchanges: Exchanges | None = None
        if over is not None and protocol.converse is None:
            self.exchanges = Exchanges(over, dispatcher, io, protocol.name)
            io.unhandled = self.unhandled
            if self.overdue is not None:
                self.overdue.exchanges = self.exchanges
        self.failures = 0
        self.early = self if getattr(protocol, "sends_ahead", False) and protocol.converse is None else None
        self.batches = self.early is not None or self.overdue is not None

    def run_handler(self, conn: ClientConnection, message: Any, before: Answers) -> Any:
        """Run the handler on one message; return its answer, unless that is sent, behind those before it."""
        conn.number += 1
        if self.batches:
            conn.outbox.batch = before.send_for_another
        context = conn.context.copy() if self.fresh else conn.context
        exchange = None if self.exchanges is None else self.exchanges.begin(conn, message, context)
        try:
            answer = run_in(context, self.handle, message, conn.peer)
            return answer if type(answer) is bytes else self.prepared(conn, message, answer, context, before.send)
        except BaseException as error:
            answer = self.failed(conn, error)
            return answer
        finally:
            if exchange is not None:
                exchange.made = clock.now()
            if self.batches and answer is not TAKEN:
                conn.outbox.batch = None

    def run_observed(self, conn: ClientConnection, arrival: Arrival, before: Answers) -> Any:
        """Do so, and note what observers are to be told, once it is answered."""
        record = cast(Record, conn.record)
        answer = self.run_handler(conn, record.begin(arrival, handed_over=conn.busy), before)
        if answer is not TAKEN:
            filling = conn.outbox.filling
            record.end(size_of(answer) if filling is None else filling.made)
        return answer

    def prepared(
        self,
        conn: ClientConnection,
        message: Any,
        answer: Any,
        context: Context,
        before: Callable[[], object] | None = None,
    ) -> Any:
        """Return what a handler has returned to `message`, in `context`; b"" if that is sent, as it is made.

        Args:
            before: sends the answers before it.

        Raises:
            Exception: it could not be made.
        """
        if answer is None or not is_made_in_pieces(answer):
            return answer

        def begin() -> Spool:
            if before is not None:
                before()
            return self.begin_pieces(conn)

        pieces = answer if self.overdue is None else self.overdue.each(conn, message, answer)
        run_in(context, pull, pieces, begin, conn.outbox.filling)
        return b""

    def begin_pieces(self, conn: ClientConnection) -> Spool:
        """Begin an answer that is made piece by piece, for the thread that makes it."""
        exchange = conn.peer.exchange
        if exchange is not None and not exchange.is_begun():
            exchange.begin_answer(conn.outbox, None)
        spool = self.io.open_spool(conn)
        if exchange is not None and self.exchanges is not None:
            self.exchanges.mark(conn, exchange)
        return spool

    def send_ahead(self, conn: ClientConnection, data: bytes, *, whole: bool) -> None:
        """Send `data` behind the answers before it, while the handler runs in this thread; see `Peer`."""
        with self.kept(conn, whole):
            send_before(conn)
            if conn.outbox.filling is not None:
                raise RuntimeError("the answer has begun; nothing can be sent ahead of it")
            if conn.peer.exchange is not None and not conn.peer.exchange.is_begun():
                conn.peer.exchange.begin_answer(conn.outbox, None)
            if conn.record is not None:
                conn.record.run[-1].bytes_out += len(data)
            conn.write(data)

    def open_answer(self, conn: ClientConnection) -> Spool:
        """Begin an answer while the handler runs in this thread, that is to return the rest of it in pieces."""
        with self.kept(conn):
            send_before(conn)
            return self.begin_pieces(conn)

    def kept(self, conn: ClientConnection, told: bool = False) -> AbstractContextManager[None]:
        """Return in what something is done with `conn` while its handler runs: nobody takes it away meanwhile."""
        return KEPT if self.overdue is None else self.overdue.kept(conn, told)

    def answers(self, conn: ClientConnection) -> Answers:
        """Return what collects the answers of `conn`."""
        return Answers(conn, self.answer, self.max_unsent, self.exchanges)

    def answer(self, conn: ClientConnection, answer: Any) -> None:
        """Send what the handler returned; if that cannot be sent, it is a failure of it."""
        if answer is None:
            return
        try:
            if isinstance(answer, TakeOver):
                self.take_over(conn, answer)
            else:
                send(conn, answer)
        except Exception:  # whatever an object of the user's does when it is asked for its bytes
            let_go(answer)
            self.failed(conn, TypeError(f"handler {self.name} returned {_kind_of(answer)}; {ALLOWED}"))

    def send_made(self, conn: ClientConnection) -> None:
        """Send what was made in pieces, if the leader itself has made it. For the leader that has `conn`."""
        if conn.outbox.filling is not None:
            conn.outbox.seal()
            conn.flush()

    def take_over(self, conn: ClientConnection, answer: TakeOver) -> None:
        """Have the messages of `conn` end, and a conversation begin as soon as `answer.first` is sent."""
        try:
            rest = conn.intake.uncut()
        except Exception as error:  # of the framing's own making
            self.failed(conn, error)
            return
        if rest is None:
            conn.ending.closing, conn.ending.why = True, "framing"
            if conn.peer.exchange is not None:
                conn.peer.exchange.fail(conn.ending.why)
            throttle = self.throttles.of("take over")
            if throttle.begins():
                said = "%s: closed, for it has sent messages behind the one that was answered with a TakeOver%s"
                log(_log, logging.WARNING, said, conn.peer, throttle.rest)
            return
        conn.intake.decoder, conn.intake.conversation = RawDecoder(CHUNK), partial(begin, answer.handler)
        if conn.record is not None:
            conn.record.converse(len(rest))
        conn.write(answer.first)
        conn.intake.waiting.append(rest)  # also if that is nothing: the handler is called at once

    def failed(self, conn: ClientConnection, error: BaseException) -> Any:
        """The handler raised: close this connection only. Return what is to be answered still."""
        if isinstance(error, TakenAway):
            return self.failed_late(conn, error.__context__)
        message = None
        if isinstance(error, Exceeded):
            message, error = error.message, cast(BaseException, error.__cause__)
        conn.ending.closing = True
        if isinstance(error, CloseConnection):
            return error.answer
        told = isinstance(error, AnswerBroken)
        if told:
            error = error.__cause__ or error
        if conn.record is not None:
            conn.record.fail(error)
        if conn.peer.exchange is not None:
            conn.peer.exchange.error = error
        if told:
            with self.loop.lock:
                self.failures += 1
            return None
        if self.overdue is not None and isinstance(error, DeadlineExceeded):
            if conn.outbox.filling is not None:  # the leader may be sending what was made so far
                conn.ending.error = conn.ending.error or WHY
                conn.tear()
                return None
            word = self.io.refusals.of(WHY, message) if not self.converses(conn) else None
            if word is None:
                conn.give_up(WHY)
            else:
                conn.ending.why = conn.ending.why or WHY
            return word
        if isinstance(error, MessageTooLong) and self.converses(conn):  # a client's fault, that Session has found
            self.io.tell_unfit(conn, error)
            return None
        self.tell_failure(conn, error)
        return None

    def failed_late(self, conn: ClientConnection, error: BaseException | None) -> Any:
        """The handler is done, and perhaps raised, but `conn` was taken away from it, and is closed, or about to be."""
        if error is not None and not isinstance(error, (CloseConnection, ClientLeft, Exceeded)):
            self.tell_failure(conn, error)
        return TAKEN

    def tell_failure(self, conn: ClientConnection, error: BaseException) -> None:
        """Count, and log, a handler that raised."""
        if self.loop.orphaned and isinstance(error, SystemExit):
            return  # a forked child is done, which is no failure
        with self.loop.lock:
            self.failures += 1
        throttle = self.throttles.of("handler", *kind_of(error))
        if throttle.begins():
            said = "%s: handler %s failed on message %d%s"
            log(_log, logging.ERROR, said, str(conn.peer), self.name, conn.number, throttle.rest, error=error)

    def converses(self, conn: ClientConnection) -> bool:
        """Whether `conn` is a conversation, and not cut into messages."""
        return self.protocol.converse is not None or conn.intake.conversation is not None

    def unhandled(self, conn: ClientConnection, why: str, message: Any) -> None:
        """Tell the protocol of a message that has waited in `conn`, which is over."""
        if not self.converses(conn):
            error = ConnectionAbortedError(errno.ECONNABORTED, why or CLOSED)
            cast(Exchanges, self.exchanges).refuse(conn, message, error)

    def tell(self, conn: ClientConnection, answers: Answers) -> None:
        """Tell observers, and the protocol, of the messages that were answered."""
        if conn.record is not None:
            conn.record.tell_run(conn.ending.error)
        answers.tell()

    def may_go_on(self, conn: ClientConnection) -> bool:
        """Whether the next message may be handled now; or a conversation may, which sends past the outbox."""
        most = self.max_unsent if conn.intake.conversation is None else 0
        return not (conn.ending.closing or conn.ending.error) and conn.outbox.has_room(most)


def send_before(conn: ClientConnection) -> None:
    """Send the answers before the one that is made now."""
    if conn.outbox.batch is not None:
        conn.outbox.batch()


def _kind_of(answer: Any) -> str:
    """Return what an answer is, that cannot be sent, as a message has it."""
    kind = type(answer).__name__
    if isinstance(answer, (list, tuple)):
        kind += f" of {', '.join(sorted({type(one).__name__ for one in each_of(answer)}))}"
    return kind
