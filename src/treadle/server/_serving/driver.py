"""Lane: a set of connections, and who leads it.

One thread at a time is the leader: it polls, accepts, reads, and runs handlers inline, which costs no hand-off and no
system call beyond `recv` and `send`. If a handler blocks, the lead moves on and the handler's thread keeps nothing but
its own connection. Who may lead:

    a worker of the pool, on an idle task (Lead)      when it has nothing else to do; it runs handlers inline
    the watchdog, as caretaker                        when every worker has: it runs no handler, messages become tasks

How the lead moves:

    caretaker -> worker    a worker takes up the Lead; the caretaker lets go after its present turn
    worker -> caretaker    the pool preempts the worker, because a task waits; it lets go after its present turn
    worker -> caretaker    the watchdog takes the lead away from a worker that is stuck in a handler

Only the last is a race. The leader puts its connection into the one place of `slot` before the handler, and takes it
out after; the watchdog takes it out to take the lead away. Whoever gets it has won: `pop` is atomic, on every build. A
leader that lost is told by its failing `pop`; it waits for the watchdog to be done with the connection (`lock`), and
from then on owns that connection and nothing else. The rest of its batch is dropped: the pollers are level-triggered,
so the next leader is told again.
"""

from __future__ import annotations

import logging
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Protocol

from treadle._base.clock import now as clock
from treadle._base.clock import thread_clock
from treadle._base.words import log
from treadle._dispatch.idle import IdleTask
from treadle._dispatch.worker import lent_here
from treadle.server._loop.poller import READ, Poller, new_poller, renew_waker
from treadle.server._loop.timers import Timers
from treadle.server._transport.causes import CUT, KILLED
from treadle.server._transport.connection import CHUNK, ClientConnection

if TYPE_CHECKING:
    from treadle._dispatch.dispatcher import Dispatcher
    from treadle.server._serving.handlers import Handlers
    from treadle.server._transport.io import ConnectionIO
    from treadle.server._transport.reaper import Reaper

__all__ = ["Lane", "Lead", "Source"]

LONGEST = 3600.0  # seconds of one poll, at most; any finite number would do

_log = logging.getLogger("treadle.server")


class Source(Protocol):
    """What the poller watches beside connections: the waker, and listeners."""

    calm: bool  # False

    def attend(self, event: int) -> None:
        """It is ready; called by the leader."""


class Lead(IdleTask):
    """One worker's spell of leading."""

    __slots__ = ("clock", "lane", "lost", "preempted", "slot")

    def __init__(self, lane: Lane) -> None:
        super().__init__(lane.dispatcher)
        self.lane = lane
        self.slot: list[ClientConnection] = []  # the connection whose handler runs, and nothing else
        self.lost: ClientConnection | None = None  # with which it was deposed, until its thread has noticed
        self.preempted = False
        self.clock: int | None = None  # of the processor time that its thread uses

    def _name_for(self, fn: Any) -> str:
        running = self.slot or self.lost is not None
        return self.lane.handling.name if running else f"lead of {self.lane.name}"

    def preempt(self) -> None:
        """Make `run_idle` return soon."""
        self.preempted = True
        self.lane.poller.wake()

    def run_idle(self) -> None:
        """Lead, until preempted or deposed."""
        self.lane.take_the_lead(self)


class Lane:
    """Connections, a poller, timers, and the lead over them. The leader alone touches what is not marked otherwise."""

    __slots__ = (
        "asleep",
        "baton",
        "broken",
        "dealt",
        "dispatcher",
        "draining",
        "emptied",
        "handling",
        "heir",
        "inbox",
        "keeper",
        "lead",
        "lock",
        "mail",
        "name",
        "now",
        "orphaned",
        "over",
        "poller",
        "ready",
        "service",
        "shakes",
        "sources",
        "spread",
        "timers",
        "turns",
        "vacant",
    )

    handling: Handlers
    keeper: Reaper
    service: ConnectionIO
    broken: Callable[[Exception], object]  # called when the poller is of no more use; ends the lane

    def __init__(self, name: str, dispatcher: Dispatcher, period: float) -> None:
        self.name = name
        self.dispatcher = dispatcher
        self.poller: Poller = new_poller()
        self.timers = Timers(period)
        self.sources: dict[int, Any] = {}  # by descriptor: connections, and Sources
        self.ready: dict[
            ClientConnection, None
        ] = {}  # to go on with though the poller has nothing to tell of them; in order
        self.now = clock()  # of this turn
        self.turns = 0  # times that something was begun that may block, by the leader; the watchdog reads it
        self.shakes = 0  # of them, steps of TLS handshakes, and calls of observers; the others are messages
        # From any thread: `inbox` is appended to, then the poller is woken.
        self.inbox: deque[Callable[[], object]] = deque()
        self.lock = Lock()  # guards who owns a connection, and what follows
        self.lead: Lead | None = None  # of the worker that leads; None: the watchdog does, or is about to
        self.heir: Lead | None = None  # of a worker that waits to lead
        self.baton = allocate_lock()  # released once for the heir
        self.baton.acquire()
        self.vacant = True  # nobody leads, and the watchdog is told so
        self.over = False
        self.orphaned = False  # this is a forked child, and the lane is the parent's
        self.dealt = 0  # connections that are on their way to it
        self.draining = False
        # Between the leader and the watchdog, each written before the other side is looked at.
        self.asleep = False  # the watchdog sleeps until it is roused
        self.mail = allocate_lock()  # released to rouse it
        self.mail.acquire()
        self.spread = False  # handlers block in general: all messages go to the pool; set by the watchdog
        self.emptied = Event()  # draining, and no connection is left
        self.sources[self.poller.waker.fd] = Mailbox(self)

    # -- leading --------------------------------------------------------------------------------------------------

    def take_the_lead(self, lead: Lead) -> None:
        """Wait for the caretaker to let go, lead, and see that somebody leads afterwards. Called by a worker."""
        lead.clock = thread_clock()
        with self.lock:
            if self.over or self.heir is not None or self.lead is not None:
                return
            self.heir = lead
        self.poller.wake()
        self.rouse()
        self.baton.acquire()
        try:
            if not self.over:
                self.run(lead)
        except BaseException:  # a fault of ours, or the thread is killed
            conn = lead.slot.pop() if lead.slot else lead.lost
            if conn is not None:
                self.post(partial(self.service.give_up, conn, KILLED))
            raise
        finally:
            with self.lock:
                if self.lead is lead:
                    self.lead = None
                    self.vacant = True
            self.rouse()

    def run(self, lead: Lead) -> None:
        """Poll, read, run handlers, write: until `lead` is preempted or deposed. The path of every message."""
        poll, get, timers, ready = self.poller.poll, self.sources.get, self.timers, self.ready
        push, pop, handle = lead.slot.append, lead.slot.pop, self.handling.handle
        handling, service, keeper, chunk = self.handling, self.service, self.keeper, CHUNK
        lent = lent_here(self.dispatcher)
        messages: Any
        while not lead.preempted:
            try:
                events = poll(self.patience())
            except (OSError, ValueError) as error:  # somebody has closed it behind our back, and it would fail for ever
                self.broken(error)
                return
            now = clock()
            if now >= timers.next:
                keeper.expire(now)
            self.now = now
            plain, turns = 0 if self.spread else READ, self.turns
            for fd, event in events:
                conn = get(fd)
                if conn is None:
                    continue
                if event != plain or not conn.calm:
                    if not service.attend(conn, event, lead):
                        return
                    turns = self.turns
                    continue
                try:
                    message = data = conn.recv(chunk)
                except OSError as error:
                    service.unreadable(conn, error)
                    continue
                if conn.feed is not None or not data:
                    messages = service.cut(conn, data)
                    if len(messages) != 1 or conn.held or not data:
                        if not service.received(conn, data, messages, lead):
                            return
                        turns = self.turns
                        continue
                    message = messages[0]
                conn.active = now
                conn.number += 1
                self.turns = turns = turns + 1
                push(conn)
                if self.asleep:
                    self.rouse()
                try:
                    if lent is None:
                        answer = conn.context.run(handle, message, conn.peer)
                    else:
                        answer = lent.run(conn.context, handle, message, conn.peer)
                except BaseException as error:
                    answer = handling.failed(conn, error)
                try:
                    pop()
                except IndexError:
                    handling.deposed(conn, answer, lead)
                    return
                try:
                    if answer:
                        size = len(answer) if type(answer) is bytes else memoryview(answer).nbytes
                        if (sent := conn.send(answer)) != size:
                            service.keep(conn, answer, sent)
                    elif answer is not None:
                        handling.answer(conn, answer)  # nothing to send, or nothing that can be sent
                except Exception as error:
                    service.unsent(conn, answer, error)
                answer = None  # or it would be kept while the next handler runs,
                if conn.closing:
                    service.settle(conn)
            conn = message = data = messages = None  # and these until somebody sends something
            if ready and not service.serve_ready(lead):
                return

    def patience(self) -> float:
        """Return the seconds until there is something to do though the poller has nothing to tell."""
        wait = self.timers.next - self.now
        return 0.0 if self.ready or wait < 0.0 else wait if wait < LONGEST else LONGEST

    def turn(self) -> None:
        """Poll once, and do what there is to do, but for handlers: the caretaker's turn."""
        service = self.service
        try:
            events = self.poller.poll(self.patience())
        except (OSError, ValueError) as error:  # as in `run`
            self.broken(error)
            return
        now = clock()
        if now >= self.timers.next:
            self.keeper.expire(now)
        self.now = now
        for fd, event in events:
            conn = self.sources.get(fd)
            if conn is not None:
                service.attend(conn, event, None)
        if self.ready:
            service.serve_ready(None)

    # -- the watchdog's side --------------------------------------------------------------------------------------

    def caretake(self) -> None:
        """Lead without running handlers, until a worker takes over or the lane is over. Called by the watchdog."""
        if self.offer_lead():
            self.mail.acquire(True, PATIENCE)  # a worker is on its way, and would run inline what we make tasks of
        while not self.over and not self.let_go():
            try:
                self.turn()
            except Exception as error:
                log(_log, logging.ERROR, "%s: a fault in treadle itself; serving goes on", self.name, error=error)

    def offer_lead(self) -> bool:
        """Let the next worker that has nothing else to do lead; return whether one is on its way."""
        try:
            return self.dispatcher.add_idle(Lead(self))
        except RuntimeError:  # the pool is closed: connections can be closed orderly, and no handler runs
            return False

    def let_go(self) -> bool:
        """Hand the lead to the worker that waits for it; False if none does."""
        with self.lock:
            if self.heir is None:
                return False
            self.lead, self.heir = self.heir, None
            self.baton.release()
            return True

    def depose(self, lead: Lead) -> bool:
        """Take the lead away from a worker that is in a handler; False if it is not in one any more."""
        with self.lock:
            try:
                conn = lead.slot.pop()
            except IndexError:
                return False
            lead.lost = conn
            conn.handled = clock()
            conn.busy = True
            conn.calm = False
            self.lead = None
            self.vacant = True
        self.dispatcher.idle_is_over(lead)
        return True

    def spread_out(self) -> None:
        """Have every message handled by the pool, for handlers block in general."""
        self.handling.pace = self.handling.slow_pace
        self.spread = True

    # -- from any thread ------------------------------------------------------------------------------------------

    def rouse(self) -> None:
        """Wake the watchdog."""
        self.asleep = False
        try:
            self.mail.release()
        except RuntimeError:
            pass  # it is awake, or about to be

    def post(self, job: Callable[[], object]) -> None:
        """Have the leader call `job`, which must not block. Safe with any lock held."""
        self.inbox.append(job)
        self.poller.wake()

    def end(self) -> None:
        """Stop leading, for good. Connections should be closed before."""
        with self.lock:
            self.over = True
            lead, heir, self.heir = self.lead, self.heir, None
        if heir is not None:
            self.baton.release()
        if lead is not None:
            lead.preempt()
        self.poller.wake()
        self.rouse()

    def close(self) -> None:
        """Let everything go, once nobody leads any more: what is left belongs to handlers that still run."""
        while self.inbox:
            self.run_posted()
        for conn in self.connections():
            if conn.busy:  # cut, and closed by its handler when that is done, of which nobody is told any more
                self.service.left(conn, conn.error or CUT)
            else:  # it was the leader's, who was stuck when all were cut, see `EventLoopGroup.abandon`
                self.service.abort(conn, CUT)
        self.poller.close()

    def run_posted(self) -> None:
        """Run what was posted so far."""
        for _ in range(len(self.inbox)):
            try:
                self.inbox.popleft()()
            except Exception as error:  # the others are not to be forgotten over it
                log(_log, logging.ERROR, "%s: a fault in treadle itself; serving goes on", self.name, error=error)

    def forget_threads(self) -> None:
        """In a forked child, be over: what is left of the lane here, its descriptors, is closed, and nothing else.

        The poller and the connections are the parent's as well, so nobody may be unregistered, shut down or answered.
        The thread that has forked may come back here from a handler. It finds that it is deposed, and its connection
        broken, and so leaves.
        """
        self.lock = Lock()  # another thread may have had the old one
        self.over = self.orphaned = True
        lead, self.lead, self.heir = self.lead, None, None
        if lead is not None:
            lead.preempted = True
            lead.slot.clear()
        self.inbox.clear()
        for conn in self.connections():
            conn.abandon()
        self.sources.clear()
        with suppress(OSError):  # a kqueue is not inherited
            self.poller.close()

    def connections(self) -> list[ClientConnection]:
        """Return the connections of this instant."""
        return [source for source in list(self.sources.values()) if type(source) is ClientConnection]


PATIENCE = 0.005  # seconds that a caretaker waits for a worker that was woken, before it serves itself; a guess


class Mailbox:
    """The waker, as something the poller watches: it runs what was posted."""

    __slots__ = ("lane",)
    calm = False

    def __init__(self, lane: Lane) -> None:
        self.lane = lane

    def attend(self, event: int) -> None:
        """Run what was posted."""
        lane = self.lane
        if not lane.poller.waker.clear():
            del lane.sources[lane.poller.waker.fd]
            renew_waker(lane.poller)
            lane.sources[lane.poller.waker.fd] = self
        lane.run_posted()  # also what was posted to the waker before this one
