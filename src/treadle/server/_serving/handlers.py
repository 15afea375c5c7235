"""Handlers: in whose thread messages are handled.

Inline, by the leader, as long as handlers are quick. As a task of the pool, once messages of that kind have been slow,
or while nobody leads who may run handlers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from treadle._base import clock
from treadle._base.log_throttle import LogThrottles, kind_of
from treadle._base.words import all_of, log
from treadle._dispatch.shedding import shed_error
from treadle._tasks.call import NoContext
from treadle._tasks.future import Future
from treadle._tasks.options import TaskOptions
from treadle.errors import PoolFull, TreadleError
from treadle.server._loop.poller import READ
from treadle.server._protocols.protocol import queue_timeout_of
from treadle.server._serving.calling.answers import Answers
from treadle.server._serving.calling.backlog import Backlog
from treadle.server._serving.calling.calls import Calls
from treadle.server._serving.calling.early import AT_ONCE, Early
from treadle.server._serving.calling.kinds import SLOW
from treadle.server._serving.calling.overdue import TAKEN
from treadle.server._serving.calling.slowness import Slowness
from treadle.server._serving.leadership import take
from treadle.server._transport.causes import CUT, DROPPED
from treadle.server._transport.connection import ClientConnection
from treadle.server._transport.state import State

if TYPE_CHECKING:
    from treadle.server._protocols.protocol import Protocol
    from treadle.server._serving.calling.kinds import Record as KindRecord
    from treadle.server._serving.leadership import Lead, Leadership
    from treadle.server._transport.io import ConnectionIO
    from treadle.server._transport.limits import Limits

__all__ = ["TURN", "HandlerTask", "Handlers"]

_log = logging.getLogger("treadle.server")

TURN = 0.005  # seconds after which the others have their turn, though less was handled; a guess
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
        self.level = handlers.slowness.level_of(conn, record)
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
        self.handlers.waits_no_more(self, clock.now())
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
            self.handlers.waits_no_more(self)
            self.handlers.refuse(self.conn, error)
        super()._drop(error)
        self.handlers.lapse(self.conn)

    def _forget_call(self) -> None:
        """It will not be run: the pool refused or dropped it."""
        if self._context is not None:
            self._context = None
            self.handlers.waits_no_more(self)
            self.handlers.dropped(self.conn, self.why)


class Handlers:
    """Has the messages of one event loop's connections handled, by the leader or by the pool.

    Attributes:
        calls: calls the handler with one message.
        early: answers what needs no handler.
        slowness: which messages are to be handed over before they run.
        plain: whether the leader may handle a message in the short way.
        lost_leads: messages that the leader has begun with, and lost the lead over. Changed with the loop's lock held,
            as are those that follow.
        followed: messages that tasks of the pool have begun with.
        rejected: messages that the pool would not handle.
        pauses: conversations have paused: they do not hold their threads for long.
        backlog: messages that wait for a thread, where the protocol says how long they may; None: it does not.
    """

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
        self.throttles = throttles
        self.limits = limits
        self.name = protocol.name
        self.converse = protocol.converse
        self.calls = Calls(io, protocol, limits, leadership.dispatcher, observed=observed)
        self.early = Early(self.calls)
        self.slowness = Slowness(leadership, protocol, throttles)
        self.policy = when_full if when_full in ("reject", "discard_oldest") else "block"  # it never runs in the leader
        self.keyed = "key" in leadership.dispatcher.order.looks_at
        self.key: Callable[[Any], Hashable] | None = getattr(protocol, "key", None) if self.converse is None else None
        self.plain = self.converse is None and not observed and self.calls.exchanges is None
        self.lost_leads = self.followed = self.rejected = 0
        self.pauses = False
        timeout = queue_timeout_of(protocol)
        self.backlog = None if timeout is None else Backlog[HandlerTask](timeout)

    def begun_inline(self) -> int:
        """Return how many messages leaders have begun with, or answered. From any thread."""
        return self.leadership.turns - self.leadership.steps + self.early.inline

    def begun_elsewhere(self) -> int:
        """Return how many messages other threads have begun with, or answered. From any thread."""
        return self.followed + self.early.followed

    # -- the leader's way -----------------------------------------------------------------------------------------

    def work(self, conn: ClientConnection, lead: Lead) -> bool:
        """Handle what waits in `conn`, inline; False if the lead was lost. Answers are sent together."""
        leadership, slot, waiting = self.leadership, lead.slot, conn.intake.waiting
        answers = self.calls.answers(conn)
        until = clock.now() + TURN
        lead.record = record = None
        slow: KindRecord | None = None  # of what is next
        for number in range(min(len(waiting), AT_ONCE)):
            if number % 8 == 7 and clock.now() > until:
                break
            if number and self.early.may_speak(conn):  # of the first one it was asked
                early = self.early.take(conn)
                if early is not None:
                    answers.add(early)
                    if answers.are_enough():
                        break
                    continue
            if self.slowness.kinds is not None:
                record = self.slowness.record_of(conn)
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
            answer = self.calls.run(conn, message, answers)
            if not take(slot):
                self.lost_the_lead(conn, answer, lead, answers)
                return False
            answers.add(answer)
            if conn.ending.closing or conn.outbox.filling is not None or answers.are_enough():
                break
        answers.send()
        self.calls.send_made(conn)
        self.io.has_waiting(conn)
        if not self.tell(conn, answers, lead):
            return False
        if slow is not None and self.calls.may_go_on(conn):
            self.delegate(conn, slow)
        return True

    def hand_over(self, conn: ClientConnection, message: Any, record: KindRecord) -> None:
        """Hand over a message that has come by the short way, for its kind is slow."""
        conn.active = self.loop.now
        conn.intake.waiting.append(message)
        self.delegate(conn, record)

    def tell(self, conn: ClientConnection, answers: Answers, lead: Lead | None) -> bool:
        """Do so, if there is something to tell, though it may block; False if the lead was lost over it."""
        if not (answers.are_over() or (conn.record is not None and conn.record.run)):
            return True
        if lead is None:
            answers.tell_elsewhere()
            self.calls.tell(conn, answers)
            return True
        lead.record = None
        self.leadership.begin(lead.slot, conn)
        self.calls.tell(conn, answers)
        if take(lead.slot):
            return True
        self.leadership.accept_loss(lead)
        conn.timing.handled = 0.0
        if self.slowness.kinds is None:
            self.slowness.mark_slow(conn, SLOW)
        self.go_on(conn)
        return False

    def options_for(self, conn: ClientConnection) -> TaskOptions:
        """Return the options of a task that handles what is next in `conn`, in a pool whose order looks at keys."""
        if self.key is not None and conn.intake.waiting and conn.intake.conversation is None:
            message = conn.intake.waiting[0]
            try:
                return TaskOptions(key=self.key(conn.bare(message)))
            except BaseException as error:  # of the protocol's `key`, or of the hash of what it returned
                throttle = self.throttles.of("key", *kind_of(error))
                if throttle.begins():
                    said = "%s: key() failed; the client's address is taken in its place%s"
                    log(_log, logging.WARNING, said, self.name, throttle.rest, error=error)
        return TaskOptions(key=conn.peer.host)

    def delegate(self, conn: ClientConnection, record: KindRecord | None = None) -> None:
        """Hand what waits in `conn` to the pool, which may make it wait, and so stops reading from it.

        `record` is of the kind of what is next, if it is known by now.
        """
        converses = self.calls.converses(conn)
        if record is None and self.slowness.kinds is not None and conn.intake.waiting and not converses:
            record = self.slowness.record_of(conn)
        if conn.state is not State.BUSY:
            conn.enter(State.BUSY)
        conn.timing.handled = 0.0
        if conn.record is not None and converses:
            conn.record.expect()
        talks = converses and not self.pauses
        task = HandlerTask(self, conn, record)
        if self.backlog is not None:
            self.await_thread(conn, task, self.backlog)
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

    def await_thread(self, conn: ClientConnection, task: HandlerTask, backlog: Backlog[HandlerTask]) -> None:
        """Note that `task` is about to wait for a thread; shed who would do so for too long."""
        now = clock.now()
        conn.timing.queued, conn.timing.task = now, task
        with self.loop.lock:
            late = backlog.enter(task, now)
        if late is not None:
            self.shed(late)

    def wait_expected(self) -> float:
        """Return the seconds that a message would wait for a thread now. From any thread."""
        if self.backlog is None:
            return 0.0
        with self.loop.lock:
            return self.backlog.wait(clock.now())

    def waits_no_more(self, task: HandlerTask, now: float | None = None) -> None:
        """Note that `task` has begun, `now`; None: it never will."""
        if self.backlog is not None:
            task.conn.timing.queued, task.conn.timing.task = 0.0, None
            with self.loop.lock:
                self.backlog.leave(task, now)

    def shed(self, task: HandlerTask | None) -> None:
        """Have the client told that the message it waits for will not be handled in time, unless that has begun."""
        if task is not None:
            dispatcher = self.leadership.dispatcher
            task.why = shed_error(dispatcher.name, task, "too_old")
            task.cancel()

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
        if self.loop.over:
            self.io.lapse(conn, conn.ending.error or CUT)

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
            said = "%s: messages are rejected, for the pool has no thread for them in time%s%s"
            limit = "" if self.backlog is None else f" (queue_timeout, {self.backlog.timeout:g} s)"
            log(_log, logging.WARNING, said, self.loop.name, limit, throttle.rest)
        count = len(told)
        converses = self.calls.converses(conn)
        with self.loop.lock:
            self.rejected += count
        conn.number += count
        conn.write(b"".join(told))
        if self.calls.exchanges is not None and not converses:
            for message, word in zip(conn.intake.waiting, told, strict=False):
                self.calls.exchanges.refuse(conn, conn.bare(message), why, len(word))
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
        room = self.limits.max_unsent - conn.outbox.unsent  # for more, it has to take these first
        for number, message in enumerate([None] if self.calls.converses(conn) else conn.intake.waiting):
            if number and (room <= 0 or self.early.answer_to(conn, message) is not None):
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
        with self.loop.lock:
            self.lost_leads += 1
        if answer is TAKEN:
            self.slowness.returned(None, lead.record, cast(float, self.limits.handler_timeout))
            return
        took = SLOW + clock.now() - conn.timing.handled  # it had run for about so long when the lead was lost
        self.slowness.returned(conn, lead.record, took)
        conn.timing.handled = 0.0
        answers = self.calls.answers(conn) if answers is None else answers
        answers.add(answer)
        answers.send()
        if conn.record is not None:
            conn.record.lose_lead()
        self.calls.tell(conn, answers)
        self.go_on(conn)

    def go_on(self, conn: ClientConnection) -> None:
        """Have what waits in `conn` handled, or give it back, after the lead was lost over it."""
        waiting = self.io.has_waiting(conn) and self.calls.may_go_on(conn)
        waiting = waiting and not self.early.may_speak(conn)  # which is for the leader to do
        messages = waiting and conn.intake.conversation is None
        record = self.slowness.record_of(conn) if messages and self.slowness.kinds is not None else None
        if waiting and not (messages and self.slowness.is_quick(conn, record) and self.slowness.is_led()):
            self.delegate(conn, record)
        else:
            self.release(conn)

    def follow(self, conn: ClientConnection, task: HandlerTask) -> bool:
        """Handle what waits in `conn`; return whether others wait for the thread, and some of it is left.

        As long as messages are quick, up to AT_ONCE of them are answered together. Once the next one is one that a
        leader may run, and somebody leads, the connection is given back: inline they take a small part of the time.
        """
        converse = conn.intake.conversation or self.converse
        if converse is not None:
            self.hold(conn, converse)
            return False
        answers, most = self.calls.answers(conn), AT_ONCE
        while self.io.has_waiting(conn):
            message = conn.intake.waiting.popleft()
            with self.loop.lock:
                self.followed += 1
            began = conn.timing.handled = clock.now()
            answer = self.calls.run(conn, message, answers)
            if answer is TAKEN:
                self.slowness.timed(task.record, clock.now() - began)
                return False
            answers.add(answer)
            conn.timing.handled = 0.0
            self.slowness.judge(conn, clock.now() - began, task.record)
            message = answer = None
            waiting = self.io.has_waiting(conn)
            if waiting and self.early.may_speak(conn):
                if answers.are_enough():  # or the last one is no answer, and ends it
                    answers.send()
                waiting = self.early.speak(conn, answers)
            task.record = self.slowness.record_of(conn) if waiting and self.slowness.kinds is not None else None
            most -= 1
            quick = waiting and self.slowness.is_quick(conn, task.record)
            inline = quick and self.slowness.is_led()
            ends = answers.are_enough() or conn.ending.closing or conn.outbox.filling is not None
            if quick and not inline and most and not ends:
                continue
            answers.send()
            most = AT_ONCE
            self.calls.tell(conn, answers)
            if inline or not waiting or not self.calls.may_go_on(conn):
                break
            level = self.slowness.level_of(conn, task.record)
            moves = level != task.level and self.leadership.levels is not None
            if moves or self.leadership.dispatcher.has_more:
                task.level = level
                if self.keyed:
                    task._options = self.options_for(conn)
                return True
        self.release(conn)
        return False

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
            self.calls.failed(conn, error)
        if pauses:
            self.pauses = True
        else:
            conn.ending.closing, conn.intake.conversation = True, None
        if record is not None:
            record.end()
            record.tell_run(conn.ending.error)
        self.release(conn)

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
