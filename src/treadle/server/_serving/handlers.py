"""Handlers: how handlers are run, in whose thread, and what happens when one fails.

Inline, by the leader, as long as handlers are quick. As a task of the pool, once messages of that kind have been slow,
or while nobody leads who may run handlers. Where the protocol does not say of what kind a message is, all messages of
one connection are of one kind.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from treadle._base import clock
from treadle._base.log_throttle import LogThrottles, kind_of
from treadle._base.words import all_of, log
from treadle._tasks.call import NoContext
from treadle._tasks.future import Future
from treadle._tasks.options import TaskOptions
from treadle.errors import DeadlineExceeded, MessageTooLong, PoolFull, TreadleError
from treadle.server._loop.poller import READ
from treadle.server._protocols.session import CHUNK, begin
from treadle.server._protocols.takeover import TakeOver
from treadle.server._serving.answers import Answers, is_made_in_pieces, pull, send, size_of
from treadle.server._serving.exchanges import Exchanges
from treadle.server._serving.instants import Instants
from treadle.server._serving.kinds import SLOW, Kinds
from treadle.server._serving.leadership import take
from treadle.server._serving.overdue import TAKEN, WHY, Exceeded, Overdue, TakenAway
from treadle.server._transport.causes import CLOSED, CUT, DROPPED
from treadle.server._transport.connection import ClientConnection, run_in
from treadle.server._transport.decoder import CloseConnection, RawDecoder, Reply
from treadle.server._transport.observing.record import Arrival, Record
from treadle.server._transport.state import State

if TYPE_CHECKING:
    from contextvars import Context

    from treadle.server._protocols.protocol import Protocol
    from treadle.server._serving.kinds import Record as KindRecord
    from treadle.server._serving.leadership import Lead, Leadership
    from treadle.server._transport.io import ConnectionIO
    from treadle.server._transport.limits import Limits
    from treadle.server._transport.sending.spool import Spool

__all__ = ["TURN", "HandlerTask", "Handlers"]

_log = logging.getLogger("treadle.server")

SLOWER = 0.01  # seconds in a handler that make a connection ten times as slow
PROBATION = 8  # quick messages in a row after which a slow connection is handled inline again; a guess
QUICK = 0.0001  # seconds in a handler, on average, that are not worth a hand-over, which takes about as long
TURN = 0.005  # seconds after which the others have their turn, though less was handled; a guess
AT_ONCE = 64  # messages of one connection that are handled before the others have their turn; a guess


ALLOWED = "allowed: bytes, a list of them, a FileRange, an iterator of them, or None for no answer"
BARE = NoContext()


class HandlerTask(Future[Any]):
    """The task of handling what waits in one connection.

    Attributes:
        record: of the kind of the message that is next; None: it has none.
        level: of that kind, when it was put into the pool's order, see `treadle.orders.Levels`.
    """

    __slots__ = ("conn", "handlers", "level", "record", "why")

    def __init__(self, handlers: Handlers, conn: ClientConnection, record: KindRecord | None) -> None:
        super().__init__()
        self.record = record
        self.level = handlers.level_of(conn, record)
        if handlers.keyed:
            self._options = handlers.options_for(conn)
        self._owner = handlers.leadership.dispatcher
        self._context = BARE
        self._submitted = conn.active or clock.now()
        self.handlers = handlers
        self.conn = conn
        self.why: BaseException | None = None  # it will not be run

    def _name_for(self, fn: Any) -> str:
        return self.handlers.name

    def _invoke(self) -> bool:
        self._result = self._exception = None
        if self.conn.record is not None:
            cold = getattr(self, "_cold", None)  # there is one if the pool has observers
            self.conn.record.task_id = None if cold is None else cold.serial or None
        try:
            again = self.handlers.follow(self.conn, self)
        except BaseException:  # a fault of ours, or the thread is killed
            self.handlers.dropped(self.conn, None)
            raise
        if not again:
            self._context = None
        return again

    def _refuse(self, error: BaseException) -> None:
        """The pool has not taken it."""
        self.why = error
        super()._refuse(error)

    def _abandon(self, why: BaseException | None) -> None:
        """The pool gives it up; no lock is held."""
        self.why = why
        super()._abandon(why)
        self.handlers.lapse(self.conn)

    def _drop(self, error: BaseException) -> None:
        """The pool sheds it; no lock is held, so that this thread can say so itself."""
        self.why = error
        if self.handlers.io.refusals.of_messages:
            self._context = None
            self.handlers.refuse(self.conn, error)
        super()._drop(error)
        self.handlers.lapse(self.conn)

    def _forget_call(self) -> None:
        """It will not be run: the pool refused or dropped it."""
        if self._context is not None:
            self._context = None
            self.handlers.dropped(self.conn, self.why)


class Handlers:
    """Runs the handlers of one event loop's connections."""

    slow_pace = SLOW

    def __init__(
        self,
        leadership: Leadership,
        io: ConnectionIO,
        protocol: Protocol,
        limits: Limits,
        throttles: LogThrottles,
        when_full: str = "block",
        *,
        observed: bool = False,
    ) -> None:
        self.leadership = leadership
        self.loop = leadership.loop
        self.io = io
        self.protocol = protocol
        self.timeout = limits.handler_timeout
        self.call: Callable[[ClientConnection, Any, Answers], Any] = (
            self.call_observed if observed else self.call_handler
        )
        self.overdue = None if self.timeout is None else Overdue(io, protocol, self.timeout, throttles)
        self.handle: Callable[[Any, Any], Any] = protocol.handle if self.overdue is None else self.overdue.handle
        self.policy = when_full if when_full in ("reject", "discard_oldest") else "block"  # it never runs in the leader
        self.converse = protocol.converse
        self.keyed = "key" in leadership.dispatcher.order.looks_at
        self.key: Callable[[Any], Hashable] | None = getattr(protocol, "key", None) if self.converse is None else None
        kind: Callable[[Any], Hashable] | None = getattr(protocol, "kind", None) if self.converse is None else None
        self.kinds = None if kind is None else Kinds(kind, throttles, protocol.name)
        instant = getattr(protocol, "instant", None) if self.converse is None else None
        self.instants = None if instant is None else Instants(instant, throttles, protocol.name)
        self.name = protocol.name
        self.limits = limits
        self.max_unsent = limits.max_unsent
        self.fresh: bool = getattr(protocol, "fresh_context", False)  # for each message, and not each connection
        self.inline = protocol.converse is None  # whether the leader may run it
        over: Callable[[Any, int, BaseException | None], object] | None = getattr(protocol, "over", None)
        self.exchanges: Exchanges | None = None
        if over is not None and self.inline:
            self.exchanges = Exchanges(over, leadership.dispatcher, io, protocol.name)
            io.unhandled = self.unhandled
        self.plain = self.inline and not observed and self.exchanges is None  # whether it may do so in the short way
        # Changed with the loop's lock held:
        self.lost_leads = 0  # messages that the leader has begun with, and lost the lead over
        self.followed = 0  # messages that tasks of the pool have begun with
        self.failures = 0
        self.rejected = 0  # messages that the pool would not handle
        self.pace = SLOW  # seconds in a handler, of late, while all messages go to the pool
        self.pauses = False  # conversations have paused: they do not hold their threads for long
        self.throttles = throttles
        leadership.caught = self.caught

    def begun_inline(self) -> int:
        """Return how many messages leaders have begun with. From any thread."""
        instantly = 0 if self.instants is None else self.instants.answered
        return self.leadership.turns - self.leadership.steps + instantly

    def call_handler(self, conn: ClientConnection, message: Any, before: Answers) -> Any:
        """Run the handler on one message; return its answer, unless that is sent, behind those before it."""
        conn.number += 1
        context = conn.context.copy() if self.fresh else conn.context
        exchange = None if self.exchanges is None else self.exchanges.begin(conn, message, context)
        try:
            answer = run_in(context, self.handle, message, conn.peer)
            return answer if type(answer) is bytes else self.prepared(conn, message, answer, context, before.send)
        except BaseException as error:
            answer = self.failed(conn, error)
            if answer is TAKEN and exchange is not None and self.exchanges is not None:
                self.exchanges.end(conn, exchange)
            return answer
        finally:
            if exchange is not None:
                exchange.made = clock.now()

    def call_observed(self, conn: ClientConnection, arrival: Arrival, before: Answers) -> Any:
        """Do so, and note what observers are to be told, once it is answered."""
        record = cast(Record, conn.record)
        answer = self.call_handler(conn, record.begin(arrival, handed_over=conn.busy), before)
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
            exchange = conn.peer.exchange
            if exchange is not None:
                exchange.begin_answer(conn.outbox, None)
            spool = self.io.open_spool(conn)
            if exchange is not None and self.exchanges is not None:
                self.exchanges.mark(conn, exchange)
            return spool

        run_in(context, pull, answer if self.overdue is None else self.overdue.each(conn, message, answer), begin)
        return b""

    def converses(self, conn: ClientConnection) -> bool:
        """Whether `conn` is a conversation, and not cut into messages."""
        return self.converse is not None or conn.intake.conversation is not None

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
        if conn.record is not None:
            conn.record.fail(error)
        if conn.peer.exchange is not None:
            conn.peer.exchange.error = error
        if self.timeout is not None and isinstance(error, DeadlineExceeded):
            if conn.outbox.filling is not None:  # the leader may be sending what was made so far
                conn.ending.error = conn.ending.error or WHY
                conn.tear()
                return None
            told = self.io.refusals.of(WHY, message) if not self.converses(conn) else None
            if told is None:
                conn.give_up(WHY)
            else:
                conn.ending.why = conn.ending.why or WHY
            return told
        if isinstance(error, MessageTooLong) and self.converses(conn):  # a client's fault, that Session has found
            self.io.tell_unfit(conn, error)
            return None
        self.tell_failure(conn, error)
        return None

    def failed_late(self, conn: ClientConnection, error: BaseException | None) -> Any:
        """The handler is done, and perhaps raised, but `conn` was taken away from it, and is closed, or about to be."""
        if error is not None and not isinstance(error, (CloseConnection, Exceeded)):
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
            self.failed(conn, TypeError(f"handler {self.name} returned {_kind_of(answer)}; {ALLOWED}"))

    def send_made(self, conn: ClientConnection) -> None:
        """Send what was made in pieces, if the leader itself has made it. For the leader that has `conn`."""
        if conn.outbox.filling is not None:
            conn.outbox.seal()
            conn.flush()

    def unhandled(self, conn: ClientConnection) -> None:
        """Tell the protocol of the messages that wait in `conn`, which is over."""
        if self.converses(conn):
            return
        for message in (one for one in conn.intake.waiting if type(one) is not Reply):
            error = ConnectionAbortedError(errno.ECONNABORTED, conn.ending.error or conn.ending.why or CLOSED)
            cast(Exchanges, self.exchanges).refuse(conn, message if conn.record is None else message.message, error)
        if conn.record is None:  # else it takes them out itself
            conn.intake.waiting.clear()

    def take_over(self, conn: ClientConnection, answer: TakeOver) -> None:
        """Have the messages of `conn` end, and a conversation begin as soon as `answer.first` is sent."""
        try:
            rest = conn.intake.uncut()
        except Exception as error:  # of the framing's own making
            self.failed(conn, error)
            return
        if rest is None:
            conn.ending.closing, conn.ending.why = True, "framing"
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

    # -- answers without a handler --------------------------------------------------------------------------------

    def may_speak(self, conn: ClientConnection) -> bool:
        """Whether what is next in `conn` may need no handler."""
        if conn.intake.conversation is not None:
            return False
        return self.instants is not None or type(conn.intake.waiting[0]) is Reply

    def speak(self, conn: ClientConnection, before: Answers) -> bool:
        """Answer what is next in `conn` and needs no handler, all in one with what was answered `before`.

        Return whether a message is next that needs one; False: none is, or the others have their turn first. For the
        thread that has `conn`.
        """
        if not self.may_go_on(conn):
            return True
        spoken, waiting = 0, False
        while self.io.has_waiting(conn) and spoken < AT_ONCE and not before.are_enough():
            answer = self.early(conn)
            if answer is None:
                waiting = True
                break
            before.add(answer)
            spoken += 1
        if spoken:
            before.send()
            if conn.busy:
                self.tell_all(conn, before)
        return waiting

    def early(self, conn: ClientConnection) -> bytes | None:
        """Take out what is next in `conn`, and return the answer, if it needs no handler; None: it does."""
        waiting = conn.intake.waiting
        answer = self.early_answer(conn, waiting[0])
        if answer is None:
            return None
        one = waiting.popleft()
        message = one if conn.record is None or type(one) is Reply else one.message
        if self.instants is None or type(one) is Reply:  # the former only with the latter
            conn.intake.spoken = True
            return answer
        conn.number += 1
        if conn.busy:
            with self.loop.lock:
                self.followed += 1
        else:
            self.instants.answered += 1
        if conn.record is not None:
            conn.record.begin(one, handed_over=conn.busy)
            conn.record.end(len(answer))
        if self.exchanges is not None:
            self.exchanges.begin(conn, message, conn.context).made = clock.now()
        return answer

    def early_answer(self, conn: ClientConnection, one: Any) -> bytes | None:
        """Return the answer to `one` of what waits in `conn`, if it needs no handler; None: it does."""
        if type(one) is Reply:
            return one.answer
        if self.instants is None:
            return None
        return self.instants.find(one if conn.record is None else one.message)

    def answers_at_once(self, conn: ClientConnection, message: Any) -> bool:
        """Answer a message that has come by the short way, if it needs no handler; return whether that is so."""
        instants = cast(Instants, self.instants)
        answer = instants.find(message)
        if answer is None:
            return False
        conn.active = self.loop.now
        conn.number += 1
        instants.answered += 1
        self.answer(conn, answer)
        if conn.outbox.pieces or conn.ending.error:
            self.io.settle(conn)
        return True

    # -- the leader's way -----------------------------------------------------------------------------------------

    def work(self, conn: ClientConnection, lead: Lead) -> bool:
        """Handle what waits in `conn`, inline; False if the lead was lost. Answers are sent together."""
        leadership, slot, waiting = self.leadership, lead.slot, conn.intake.waiting
        answers = self.answers(conn)
        until = clock.now() + TURN
        lead.record = record = None
        if self.overdue is not None:
            conn.outbox.batch = answers.send
        slow: KindRecord | None = None  # of what is next
        for number in range(min(len(waiting), AT_ONCE)):
            if number % 8 == 7 and clock.now() > until:
                break
            if type(waiting[0]) is Reply or (self.instants is not None and number):  # of the first one it was asked
                early = self.early(conn)
                if early is not None:
                    answers.add(early)
                    if answers.are_enough():
                        break
                    continue
            if self.kinds is not None:
                record = self.record_of(conn)
                if record.level:
                    slow = record
                    break
                record.quick += 1
                lead.record = record
            message = waiting.popleft()
            leadership.turns += 1
            slot.append(conn)
            if leadership.watchdog_sleeps:
                leadership.wake_watchdog()
            answer = self.call(conn, message, answers)
            if not take(slot):
                self.lost_the_lead(conn, answer, lead, answers)
                return False
            answers.add(answer)
            if conn.ending.closing or conn.outbox.filling is not None or answers.are_enough():
                break
        answers.send()
        self.send_made(conn)
        self.io.has_waiting(conn)
        if not self.tell(conn, answers, lead):
            return False
        if slow is not None and self.may_go_on(conn):
            self.delegate(conn, slow)
        return True

    def record_of(self, conn: ClientConnection) -> KindRecord:
        """Return the record of the kind of the message that is next in `conn`."""
        message = conn.intake.waiting[0]
        return cast(Kinds, self.kinds).find(message if conn.record is None else message.message)

    def hand_over(self, conn: ClientConnection, message: Any, record: KindRecord) -> None:
        """Hand over a message that has come by the short way, for its kind is slow."""
        conn.active = self.loop.now
        conn.intake.waiting.append(message)
        self.delegate(conn, record)

    def options_for(self, conn: ClientConnection) -> TaskOptions:
        """Return the options of a task that handles what is next in `conn`, in a pool whose order looks at keys."""
        if self.key is not None and conn.intake.waiting and conn.intake.conversation is None:
            message = conn.intake.waiting[0]
            try:
                return TaskOptions(key=self.key(message if conn.record is None else message.message))
            except BaseException as error:  # of the protocol's `key`, or of the hash of what it returned
                throttle = self.throttles.of("key", *kind_of(error))
                if throttle.begins():
                    said = "%s: key() failed; the client's address is taken in its place%s"
                    log(_log, logging.WARNING, said, self.name, throttle.rest, error=error)
        return TaskOptions(key=conn.peer.host)

    def answers(self, conn: ClientConnection) -> Answers:
        """Return what collects the answers of `conn`."""
        return Answers(conn, self.answer, self.max_unsent, self.exchanges)

    def tell_all(self, conn: ClientConnection, answers: Answers) -> None:
        """Tell observers, and the protocol, of the messages that were answered."""
        if conn.record is not None:
            conn.record.tell_run(conn.ending.error)
        answers.tell()

    def tell(self, conn: ClientConnection, answers: Answers, lead: Lead | None) -> bool:
        """Do so, if there is something to tell, though it may block; False if the lead was lost over it."""
        if not (answers.are_over() or (conn.record is not None and conn.record.run)):
            return True
        if lead is None:
            answers.tell_elsewhere()
            self.tell_all(conn, answers)
            return True
        lead.record = None
        self.leadership.begin(lead.slot, conn)
        self.tell_all(conn, answers)
        if take(lead.slot):
            return True
        self.leadership.accept_loss(lead)
        conn.timing.handled = 0.0
        if self.kinds is None:
            self.mark_slow(conn, SLOW)
        self.go_on(conn)
        return False

    def delegate(self, conn: ClientConnection, record: KindRecord | None = None) -> None:
        """Hand what waits in `conn` to the pool, which may make it wait, and so stops reading from it.

        `record` is of the kind of what is next, if it is known by now.
        """
        converses = self.converses(conn)
        if record is None and self.kinds is not None and conn.intake.waiting and not converses:
            record = self.record_of(conn)
        if conn.state is not State.BUSY:
            conn.enter(State.BUSY)
        conn.timing.handled = 0.0
        if conn.record is not None and converses:
            conn.record.expect()
        talks = converses and not self.pauses
        task = HandlerTask(self, conn, record)
        try:
            self.leadership.dispatcher.enter_later(task, self.policy)
            if talks:
                self.tell_if_all_talk()
        except PoolFull:
            pass  # it was refused, see `dropped`
        except (TreadleError, RuntimeError) as error:
            throttle = self.throttles.of("drop")
            if throttle.begins():
                said = "%s: connections are cut, for the pool takes no messages: %s%s"
                log(_log, logging.ERROR, said, self.loop.name, error, throttle.rest)

    def tell_if_all_talk(self) -> None:
        """Say that every thread is in a conversation, so that clients which wait for one do not look forgotten."""
        dispatcher = self.leadership.dispatcher
        if not dispatcher.free_threads() and (throttle := self.throttles.of("talk")).begins():
            most = dispatcher.workers.max_workers
            said = "%s: %s taken by conversations, so others wait%s"
            log(_log, logging.WARNING, said, self.loop.name, all_of(most, "thread"), throttle.rest)

    def dropped(self, conn: ClientConnection, why: BaseException | None) -> None:
        """The pool will not handle what waits in `conn`. The pool's lock may be held."""
        dispatcher = self.leadership.dispatcher
        if conn.record is not None:
            conn.record.refusal = why
        if not self.io.refusals.of_messages or dispatcher.closed is not None or dispatcher.broken is not None:
            self.io.give_back(conn, partial(self.io.give_up, conn, DROPPED))
        else:
            self.io.give_back(conn, partial(self.refuse, conn, why))

    def lapse(self, conn: ClientConnection) -> None:
        """Tell who wants to know of what is left in `conn`, if nobody leads any more to go on. No lock is held."""
        if not self.loop.over:
            return
        if self.exchanges is not None:
            self.unhandled(conn)
        if conn.record is not None:
            conn.record.lapse(conn.intake.waiting, conn.ending.error or CUT)

    def refuse(self, conn: ClientConnection, why: BaseException | None) -> None:
        """Tell a client, for each message that waits, that it will not be handled. For the thread that has `conn`.

        It goes on behind those that it was told of. For the first that it is not, its connection is closed.
        """
        told, mute = self.told_of(conn)
        if mute and conn.record is not None:
            conn.record.refusal = why
        if not told:
            self.io.give_back(conn, partial(self.io.give_up, conn, DROPPED))
            return
        throttle = self.throttles.of("refusal")
        if throttle.begins():
            said = "%s: messages are rejected, for the pool has no room for them in time%s"
            log(_log, logging.WARNING, said, self.loop.name, throttle.rest)
        count = len(told)
        converses = self.converses(conn)
        with self.loop.lock:
            self.rejected += count
        conn.number += count
        conn.write(b"".join(told))
        if self.exchanges is not None:
            for message, word in zip(conn.intake.waiting, told, strict=False):
                known = message if conn.record is None else message.message
                self.exchanges.refuse(conn, known, why, len(word))
        if conn.record is not None:
            conn.record.refuse(conn.intake.waiting, count, why)
        elif not converses:
            for _ in range(count):
                conn.intake.waiting.popleft()
        conn.ending.closing = conn.ending.closing or converses  # a conversation that never began
        if mute:
            conn.ending.closing, conn.ending.why = True, DROPPED
            if conn.record is not None:
                conn.record.refusal = why
        self.release(conn)

    def told_of(self, conn: ClientConnection) -> tuple[list[bytes], bool]:
        """Return what a client is told in place of answers, while there is room; and whether one got no word."""
        told: list[bytes] = []
        room = self.max_unsent - conn.outbox.unsent  # for more, it has to take these first
        for number, message in enumerate([None] if self.converses(conn) else conn.intake.waiting):
            if number and (room <= 0 or self.early_answer(conn, message) is not None):
                break
            known = message if conn.record is None or message is None else message.message
            word = self.io.refusals.of_message(known)
            if word is None:
                return told, True
            told.append(word)
            room -= len(word)
        return told, False

    def watched_again(self, conn: ClientConnection) -> bool:
        """Have the poller tell of what `conn` sends; False if it cannot. The loop's lock is held."""
        try:
            self.io.watch_for(conn, READ)
        except OSError as error:
            conn.give_up(error)
            return False
        return True

    # -- the way of other threads ---------------------------------------------------------------------------------

    def lost_the_lead(self, conn: ClientConnection, answer: Any, lead: Lead, answers: Answers | None = None) -> None:
        """The handler took so long that the lead is lost; `conn` is this thread's, and nothing else is.

        Not even that if it was TAKEN.

        Args:
            answers: those before; None: there are none.
        """
        self.leadership.accept_loss(lead)
        if answer is TAKEN:
            self.come_late(lead)
            if answers is not None:
                answers.tell()
            return
        with self.loop.lock:
            self.lost_leads += 1
            took = SLOW + clock.now() - conn.timing.handled  # it had run for about so long when the lead was lost
            if self.kinds is None:
                self.mark_slow(conn, took)
            elif lead.record is not None:
                self.kinds.returned(lead.record, took)
        conn.timing.handled = 0.0
        answers = self.answers(conn) if answers is None else answers
        answers.add(answer)
        answers.send()
        if conn.record is not None:
            conn.record.lose_lead()
        self.tell_all(conn, answers)
        self.go_on(conn)

    def come_late(self, lead: Lead) -> None:
        """Learn from the handler over which the lead was lost, and the connection as well."""
        with self.loop.lock:
            self.lost_leads += 1
            if self.kinds is not None and lead.record is not None:
                self.kinds.returned(lead.record, cast(float, self.timeout))

    def go_on(self, conn: ClientConnection) -> None:
        """Have what waits in `conn` handled, or give it back, after the lead was lost over it."""
        waiting = self.io.has_waiting(conn) and self.may_go_on(conn)
        waiting = waiting and not self.may_speak(conn)  # which is for the leader to do
        messages = waiting and conn.intake.conversation is None
        record = self.record_of(conn) if messages and self.kinds is not None else None
        if waiting and not (messages and self.is_quick(conn, record) and self.is_led()):
            self.delegate(conn, record)
        else:
            self.release(conn)

    def caught(self, lead: Lead) -> None:
        """The watchdog takes the lead away, from a leader that is in a handler, say. The loop's lock is held."""
        conn, record = lead.lost, lead.record
        if conn is None or not conn.is_open:
            return
        lead.level = 1
        if record is not None and self.kinds is not None:
            self.kinds.caught(record)
            lead.level = max(1, record.level)

    def follow(self, conn: ClientConnection, task: HandlerTask) -> bool:
        """Handle what waits in `conn`; return whether others wait for the thread, and some of it is left.

        As long as messages are quick, up to AT_ONCE of them are answered together. Once the next one is one that a
        leader may run, and somebody leads, the connection is given back: inline they take a small part of the time.
        """
        converse = conn.intake.conversation or self.converse
        if converse is not None:
            self.hold(conn, converse)
            return False
        answers, most = self.answers(conn), AT_ONCE
        while self.io.has_waiting(conn):
            message = conn.intake.waiting.popleft()
            with self.loop.lock:
                self.followed += 1
            if self.overdue is not None:
                conn.outbox.batch = answers.send
            began = conn.timing.handled = clock.now()
            answer = self.call(conn, message, answers)
            if answer is TAKEN:
                if self.kinds is not None and task.record is not None:
                    with self.loop.lock:
                        self.kinds.timed(task.record, clock.now() - began)
                answers.tell()
                return False
            answers.add(answer)
            conn.timing.handled = 0.0
            self.judge(conn, clock.now() - began, task.record)
            message = answer = None
            waiting = self.io.has_waiting(conn)
            if waiting and self.may_speak(conn):
                if answers.are_enough():  # or the last one is no answer, and ends it
                    answers.send()
                waiting = self.speak(conn, answers)
            task.record = self.record_of(conn) if waiting and self.kinds is not None else None
            most -= 1
            quick = waiting and self.is_quick(conn, task.record)
            inline = quick and self.is_led()
            ends = answers.are_enough() or conn.ending.closing or conn.outbox.filling is not None
            if quick and not inline and most and not ends:
                continue
            answers.send()
            most = AT_ONCE
            self.tell_all(conn, answers)
            if inline or not waiting or not self.may_go_on(conn):
                break
            level = self.level_of(conn, task.record)
            moves = level != task.level and self.leadership.levels is not None
            if moves or self.leadership.dispatcher.has_more:
                task.level = level
                if self.keyed:
                    task._options = self.options_for(conn)
                return True
        self.release(conn)
        return False

    def is_quick(self, conn: ClientConnection, record: KindRecord | None) -> bool:
        """Whether the next message of `conn`, the kind of which has that record, is likely to be quick."""
        return not self.level_of(conn, record)

    def level_of(self, conn: ClientConnection, record: KindRecord | None) -> int:
        """Return how slow that is likely to be, see `treadle.orders.Levels`."""
        if record is not None:
            return record.level
        return conn.timing.level if conn.timing.probation else 0

    def mark_slow(self, conn: ClientConnection, took: float) -> None:
        """Have the next messages of `conn` count as slow, for the last has taken so many seconds."""
        conn.timing.probation = PROBATION
        conn.timing.level = 1 if took < SLOWER else 2

    def is_led(self) -> bool:
        """Whether somebody leads now who handles quick messages inline."""
        leadership = self.leadership
        return self.inline and leadership.lead is not None and not leadership.offload_all

    def hold(self, conn: ClientConnection, converse: Callable[[ClientConnection, Limits], bool]) -> None:
        """Let the protocol have `conn`, to its end, or until it pauses."""
        conn.number += 1
        with self.loop.lock:
            self.followed += 1
        record = conn.record
        if record is not None:
            record.begin(record.conversation.popleft(), handed_over=True)
        pauses = False
        try:
            pauses = converse(conn, self.limits)
        except BaseException as error:
            self.failed(conn, error)
        if pauses:
            self.pauses = True
        else:
            conn.ending.closing, conn.intake.conversation = True, None
        if record is not None:
            record.end()
            record.tell_run(conn.ending.error)
        self.release(conn)

    def offload_messages(self) -> None:
        """Have the pool handle every message, for handlers block in general."""
        self.pace = self.slow_pace
        self.leadership.offload_all = True

    def judge(self, conn: ClientConnection, took: float, record: KindRecord | None = None) -> None:
        """Learn from how long a message took, the kind of which has that record."""
        slow = False  # of which the others of its kind are
        if self.kinds is not None and record is not None:
            slow = record.level > 0
            with self.loop.lock:
                self.kinds.timed(record, took)
        elif took > SLOW:
            self.mark_slow(conn, took)
        elif conn.timing.probation:
            conn.timing.probation -= 1
        if self.leadership.offload_all and not slow:
            self.pace += (took - self.pace) / PROBATION
            if self.pace < QUICK:
                self.leadership.offload_all = False

    def may_go_on(self, conn: ClientConnection) -> bool:
        """Whether the next message may be handled now; or a conversation may, which sends past the outbox."""
        most = self.max_unsent if conn.intake.conversation is None else 0
        return not (conn.ending.closing or conn.ending.error) and conn.outbox.has_room(most)

    def release(self, conn: ClientConnection) -> None:
        """Give `conn` back to the leader, who need not be told if it is to do nothing but read."""
        loop = self.loop
        conn.active = clock.now()
        self.io.has_waiting(conn)
        conn.intake.restart(conn.active)  # nothing was read meanwhile, and that was not the client's fault
        plain = conn.outbox.filling is None and conn.is_only_to_be_read()
        with loop.lock:
            if plain and not loop.draining and not loop.over and self.watched_again(conn):
                short = self.plain and not (conn.timing.probation or conn.intake.begun or conn.intake.conversation)
                conn.state = State.READY if short else State.OPEN
                return
        self.io.give_back(conn, partial(self.io.take_back, conn))
        self.lapse(conn)


def _kind_of(answer: Any) -> str:
    """Return what an answer is, that cannot be sent, as a message has it."""
    kind = type(answer).__name__
    if isinstance(answer, (list, tuple)):
        kind += f" of {', '.join(sorted({type(one).__name__ for one in answer}))}"
    return kind
