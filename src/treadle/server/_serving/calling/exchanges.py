"""Exchanges: messages of protocols that want to know what became of each, see `Protocol`.

Such a protocol is told once of every message: `over(message, sent, error)`. By the thread that has handled it, once its
answer is sent or will not be; if that thread has left by then, for the client was slow, by another one of the pool's.
Others pay nothing for it.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from contextvars import Context
from functools import partial
from math import inf
from threading import Condition
from typing import TYPE_CHECKING, Any

from treadle._base import clock
from treadle._base.log_throttle import kind_of
from treadle._base.words import log
from treadle._tasks.call import NoContext
from treadle._tasks.future import Future
from treadle.errors import TreadleError
from treadle.server._loop.teller import Teller
from treadle.server._transport.causes import CLOSED
from treadle.server._transport.connection import run_in
from treadle.server._transport.sending.outbox import UNTOLD, Outbox, Wire

if TYPE_CHECKING:
    from treadle._dispatch.dispatcher import Dispatcher
    from treadle.server._transport.connection import ClientConnection
    from treadle.server._transport.io import ConnectionIO

__all__ = ["Exchange", "Exchanges"]

Over = Callable[[Any, int, BaseException | None], object]

_log = logging.getLogger("treadle.server")

WITHOUT_CONTEXT = NoContext()


class Exchange:
    """One message, and what becomes of it. Times are in seconds, of `time.monotonic`; 0: it has not come to that.

    While its handler runs, it is what `Peer.exchange` is; whoever keeps it finds all of it there in `over`.

    Attributes:
        message: what was decoded.
        first_byte: when its first byte was read.
        complete: when its last was.
        begun: when its handler was called.
        made: when that had returned, and all of the answer was made.
        sent: when the kernel had taken the answer.
        bytes_out: of that, so many.
        error: why not all of it was sent, or what the handler raised; None: all is well.
    """

    __slots__ = (
        "_parties",
        "_size",
        "_start",
        "begun",
        "bytes_out",
        "complete",
        "context",
        "error",
        "first_byte",
        "made",
        "message",
        "sent",
    )

    def __init__(self, message: Any, context: Context, first_byte: float, complete: float) -> None:
        self.message = message
        self.context = context
        self.first_byte = first_byte
        self.complete = complete
        self.begun = self.made = self.sent = 0.0
        self.bytes_out = 0
        self.error: BaseException | None = None
        self._start = -1  # bytes that the client was sent before its answer; less than 0: that has not begun
        self._size: int | None = None  # of the answer; None: not known
        self._parties: list[None] = []  # who has still to come to its end, but for the last

    def is_begun(self) -> bool:
        """Whether its answer is on its way, or in the outbox."""
        return self._start >= 0

    def begin_answer(self, outbox: Outbox, size: int | None, ahead: int = 0) -> None:
        """An answer of `size` bytes is about to be sent, behind `ahead` bytes that are not in the outbox yet."""
        self._start = outbox.total + outbox.unsent + ahead
        self._size = size

    def fail(self, why: str) -> None:
        """There will be no answer, or no more of it, for the reason `why`."""
        self.error = self.error or ConnectionAbortedError(errno.ECONNABORTED, why)

    def is_taken(self, outbox: Outbox) -> bool:
        """Whether the kernel has all of an answer whose size is known, though others behind it may wait."""
        return self._size is not None and outbox.total >= self._start + self._size

    def end(self, outbox: Outbox, why: str | None) -> None:
        """The answer is sent; or not, or not all of it, for the reason `why`."""
        if self._start >= 0:
            most = outbox.total if self._size is None else self._start + self._size
            self.bytes_out = max(0, min(outbox.total, most) - self._start)
        if why is None or self.is_taken(outbox):
            self.sent = clock.now()
        else:
            self.fail(why)

    def share(self) -> None:
        """From now on its thread and its Mark both have to come to its end, and the last to come tells."""
        self._parties.append(None)

    def arrive(self) -> bool:
        """One of them has; return whether it was the last."""
        try:
            self._parties.pop()
        except IndexError:
            return True
        return False


class Mark:
    """The place in an outbox where an answer ends."""

    is_open = is_last = False
    size = 0

    def __init__(self, exchanges: Exchanges, conn: ClientConnection, exchange: Exchange) -> None:
        self.exchanges = exchanges
        self.conn = conn
        self.exchange = exchange
        self.passed = False

    def send(self, wire: Wire) -> int:
        """All before it is sent."""
        self.passed = True
        return 0

    def is_over(self) -> bool:
        """Whether it was passed."""
        return self.passed

    def drop(self) -> None:
        """It was passed, or never will be."""
        ending = self.conn.ending
        why = None if self.passed else ending.error or ending.why or CLOSED
        self.exchange.end(self.conn.outbox, why)
        if self.exchange.arrive():
            self.exchanges.tell_later(self.conn, self.exchange)

    def forget_threads(self) -> None:
        """In a forked child, nobody is told."""


class OverTask(Future[Any]):
    """The task of telling a protocol what became of a message, for its thread has left."""

    __slots__ = ("conn", "exchange", "exchanges")

    def __init__(self, exchanges: Exchanges, conn: ClientConnection, exchange: Exchange) -> None:
        super().__init__()
        self._owner = exchanges.dispatcher
        self._context = WITHOUT_CONTEXT
        self._submitted = clock.now()
        self.exchanges = exchanges
        self.conn = conn
        self.exchange: Exchange | None = exchange

    def _name_for(self, fn: Any) -> str:
        return f"over() of {self.exchanges.name}"

    def _invoke(self) -> bool:
        self._result = self._exception = None
        self._context = None
        self.tell()
        return False

    def tell(self) -> None:
        """Tell of it, if that was not done."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self.exchanges.tell(exchange)
            self.exchanges.was_told(self.conn)

    def _abandon(self, why: BaseException | None) -> None:
        """The pool gives it up; no lock is held, and the thread is one that nothing is to block."""
        super()._abandon(why)
        self.exchanges.teller.tell(self.tell)

    def _drop(self, error: BaseException) -> None:
        """The pool sheds it; no lock is held, and the thread may be one that serves all: it is to come again."""
        super()._drop(error)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self.exchanges.enter(self.conn, exchange)

    def _forget_call(self) -> None:
        """There is nothing of the user's to be let go of."""
        self._context = None


class Exchanges:
    """Tells a protocol what became of its messages, in one event loop. May be called by any thread.

    Args:
        name: of the protocol, for logs.
    """

    def __init__(self, over: Over, dispatcher: Dispatcher, io: ConnectionIO, name: str) -> None:
        self.over = over
        self.dispatcher = dispatcher
        self.io = io
        self.loop = io.loop
        self.throttles = io.throttles
        self.name = name
        self.teller = Teller(inf)  # as many as there are messages whose clients wait
        self.changed = Condition()  # guards what follows
        self.late = 0  # messages that are over, of which another thread is to tell

    def begin(self, conn: ClientConnection, message: Any, context: Context) -> Exchange:
        """The handler of `message` is about to be called."""
        intake = conn.intake
        exchange = Exchange(message, context, intake.first_byte or intake.read_at, intake.read_at)
        intake.first_byte = 0.0
        conn.peer.exchange = exchange
        exchange.begun = clock.now()
        return exchange

    def mark(self, conn: ClientConnection, exchange: Exchange) -> None:
        """Note that its answer ends here, in the outbox. For the thread that has that."""
        exchange.share()
        conn.outbox.add_part(Mark(self, conn, exchange))

    def answered(self, conn: ClientConnection, exchanges: list[Exchange]) -> None:
        """Their answers are sent, or in the outbox, unless they are made in pieces. For the thread that has `conn`."""
        if conn.outbox.filling is not None:
            return  # the last one is, and has its mark; those before it were sent before that was begun
        for exchange in exchanges:
            if conn.outbox.pieces and not exchange.is_taken(conn.outbox):
                self.mark(conn, exchange)
            else:
                exchange.end(conn.outbox, conn.ending.error)

    def end(self, conn: ClientConnection, exchange: Exchange) -> None:
        """Its thread has nothing more to do with it, and no lock: it is told of, if it is over."""
        if exchange.arrive():
            self.tell(exchange)

    def end_elsewhere(self, conn: ClientConnection, exchange: Exchange) -> None:
        """Do so, though this thread is not to run code of the user's."""
        if exchange.arrive():
            self.tell_later(conn, exchange)

    def refuse(self, conn: ClientConnection, message: Any, error: BaseException | None, told: int = 0) -> None:
        """A message was not handled, and will not be; the client was sent so many bytes instead."""
        exchange = Exchange(message, conn.context, conn.intake.read_at, conn.intake.read_at)
        exchange.bytes_out = told
        exchange.error = error or ConnectionAbortedError(errno.ECONNABORTED, CLOSED)
        self.tell_later(conn, exchange)

    def tell(self, exchange: Exchange) -> None:
        """Tell of one that is over, in this thread."""
        if self.loop.orphaned:
            return
        try:
            run_in(exchange.context, self.over, exchange.message, exchange.bytes_out, exchange.error)
        except BaseException as error:
            throttle = self.throttles.of("over", *kind_of(error))
            if throttle.begins():
                log(_log, logging.ERROR, "%s: over() failed%s", self.name, throttle.rest, error=error)

    def tell_later(self, conn: ClientConnection, exchange: Exchange) -> None:
        """Have one of the pool's threads tell of one that is over; another, if the pool is closed. No lock is held.

        A connection of which so many are not told of that it may not go on waits for that.
        """
        if self.loop.orphaned:
            return
        exchange.context = exchange.context.copy()  # in which the next message may be handled meanwhile
        with self.loop.lock:
            conn.outbox.untold += 1
        with self.changed:
            self.late += 1
        self.enter(conn, exchange)

    def enter(self, conn: ClientConnection, exchange: Exchange) -> None:
        """Have the pool tell of it; if that is closed, a thread for what is left to be told at the end."""
        task = OverTask(self, conn, exchange)
        try:
            self.dispatcher.enter_later(task, "block")
        except (TreadleError, RuntimeError):
            self.teller.tell(task.tell)

    def was_told(self, conn: ClientConnection) -> None:
        """One of those was told of."""
        with self.loop.lock:
            conn.outbox.untold -= 1
            if conn.outbox.untold == UNTOLD - 1 and not self.loop.over:
                self.loop.post(partial(self.io.resume, conn))
        with self.changed:
            self.late -= 1
            if not self.late:
                self.changed.notify_all()

    def quiet(self, timeout: float | None) -> bool:
        """Wait until the protocol was told of all that is over; False if `timeout` seconds passed first."""
        with self.changed:
            return self.changed.wait_for(lambda: not self.late, timeout)
