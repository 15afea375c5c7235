"""Leadership: which thread leads an event loop, and how the lead moves.

One thread at a time is the leader: it polls, accepts, reads, and runs handlers inline, which costs no hand-off and no
system call beyond `recv` and `send`. If a handler blocks, the lead moves on and the handler's thread keeps nothing but
its own connection. Who may lead:

    a worker of the pool, on an idle task (Lead)      when it has nothing else to do; it runs handlers inline
    the watchdog, as fallback leader                  when every worker has: it runs no handler, messages become tasks

How the lead moves:

    fallback -> worker     a worker takes up the Lead; the fallback leader lets go after its present turn
    worker -> fallback     the pool preempts the worker, because a task waits; it lets go after its present turn
    worker -> fallback     the watchdog takes the lead away from a worker that is stuck in a handler

Only the last is a race. The leader puts its connection into the one place of `slot` before the handler, and takes it
out after; the watchdog takes it out to take the lead away. Whoever gets it has won: `pop` is atomic, on every build. A
leader that lost is told by its failing `pop`; it waits for the watchdog to be done with the connection (the loop's
lock), and from then on owns that connection and nothing else. The rest of its batch is dropped: the pollers are
level-triggered, so the next leader is told again.

The pattern is Leader/Followers (Schmidt et al., Pattern-Oriented Software Architecture, volume 2).
"""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from treadle._base.clock import now as clock
from treadle._base.clock import thread_clock
from treadle._dispatch.idle import IdleTask
from treadle.orders._levels import Levels

if TYPE_CHECKING:
    from treadle._dispatch.dispatcher import Dispatcher
    from treadle.server._loop.event_loop import EventLoop
    from treadle.server._serving.calling.kinds import Record
    from treadle.server._transport.connection import ClientConnection

__all__ = ["Lead", "Leadership", "take"]


class Lead(IdleTask):
    """One worker's spell of leading."""

    __slots__ = ("clock", "leadership", "level", "lost", "preempted", "record", "slot")

    def __init__(self, leadership: Leadership) -> None:
        super().__init__(leadership.dispatcher)
        self.leadership = leadership
        self.slot: list[ClientConnection] = []  # the connection whose handler runs, and nothing else
        self.lost: ClientConnection | None = None  # with which it lost the lead, until its thread has noticed
        self.preempted = False
        self.clock: int | None = None  # of the processor time that its thread uses
        self.record: Record | None = None  # of the kind of the message that is handled; None: it has none
        self.level = 0  # of the message over which the lead was lost, see `treadle.orders.Levels`

    def _name_for(self, fn: Any) -> str:
        running = self.slot or self.lost is not None
        return self.leadership.handler_name if running else f"lead of {self.leadership.loop.name}"

    def preempt(self) -> None:
        """Make `run_idle` return soon."""
        self.preempted = True
        self.leadership.loop.wake()

    def run_idle(self) -> None:
        """Lead, until preempted or until the lead is lost."""
        self.leadership.take_the_lead(self)


class Leadership:
    """The lead over one event loop.

    Args:
        handler_name: what snapshots call a leader that is inside a handler.
        run: leads, on the worker's thread, until its Lead is preempted or lost.
        killed: called, on that thread, with the connection that a leader had whose thread is killed.
        caught: called, with the loop's lock held, with a Lead that is lost just now.
        pump: called, by the next leader, with a connection whose handler, amid which the lead was lost, makes an answer
            piece by piece.

    Attributes:
        turns: times that something was begun that may block, by the leader; the watchdog reads it.
        steps: of them, steps of TLS handshakes, and calls of observers; the others are messages.
        offload_all: handlers block in general: all messages go to the pool. Set by the watchdog.
    """

    __slots__ = (
        "caught",
        "dispatcher",
        "handler_name",
        "handoff",
        "killed",
        "lead",
        "levels",
        "loop",
        "offload_all",
        "pump",
        "run",
        "steps",
        "successor",
        "turns",
        "vacant",
        "watchdog_sleeps",
        "watchdog_wakeup",
    )

    run: Callable[[Lead], object]
    killed: Callable[[ClientConnection], object]
    caught: Callable[[Lead], object]
    pump: Callable[[ClientConnection], object]

    def __init__(self, loop: EventLoop, dispatcher: Dispatcher, handler_name: str) -> None:
        self.loop = loop
        self.dispatcher = dispatcher
        self.levels = dispatcher.order if isinstance(dispatcher.order, Levels) else None  # which bounds slow messages
        self.handler_name = handler_name
        self.turns = 0
        self.steps = 0
        self.offload_all = False
        # Guarded by the loop's lock:
        self.lead: Lead | None = None  # of the worker that leads; None: the watchdog does, or is about to
        self.successor: Lead | None = None  # of a worker that waits to lead
        self.handoff = allocate_lock()  # released once for the successor
        self.handoff.acquire()
        self.vacant = True  # nobody leads, and the watchdog is told so
        # Between the leader and the watchdog, each written before the other side is looked at.
        self.watchdog_sleeps = False  # until it is woken
        self.watchdog_wakeup = allocate_lock()  # released to wake it
        self.watchdog_wakeup.acquire()

    # -- on a worker's thread -------------------------------------------------------------------------------------

    def take_the_lead(self, lead: Lead) -> None:
        """Wait for the fallback leader to let go, lead, and see that somebody leads afterwards."""
        lead.clock = thread_clock()
        with self.loop.lock:
            if self.loop.over or self.successor is not None or self.lead is not None:
                return
            self.successor = lead
        self.loop.wake()
        self.wake_watchdog()
        self.handoff.acquire()
        try:
            if not self.loop.over:
                self.run(lead)
        except BaseException:  # a fault of ours, or the thread is killed
            conn = lead.slot.pop() if lead.slot else lead.lost
            if conn is not None:
                self.killed(conn)
            raise
        finally:
            with self.loop.lock:
                if self.lead is lead:
                    self.lead = None
                    self.vacant = True
            self.wake_watchdog()

    def begin(self, slot: list[ClientConnection], conn: ClientConnection) -> None:
        """Begin with something of `conn` that may block, and is no message; `take` tells whether the lead was lost."""
        self.turns += 1
        self.steps += 1
        slot.append(conn)
        if self.watchdog_sleeps:
            self.wake_watchdog()

    def accept_loss(self, lead: Lead) -> None:
        """Own the connection that the lead was lost over, once the watchdog has let go of it, and lead no more."""
        with self.loop.lock:
            lead.lost = None
            lead.preempted = True  # also if what is done next fails

    # -- on the watchdog's ----------------------------------------------------------------------------------------

    def offer(self) -> bool:
        """Let the next worker that has nothing else to do lead; return whether one is on its way."""
        try:
            return self.dispatcher.add_idle(Lead(self))
        except RuntimeError:  # the pool is closed: connections can be closed orderly, and no handler runs
            return False

    def hand_off(self) -> bool:
        """Hand the lead to the worker that waits for it; False if none does."""
        with self.loop.lock:
            if self.successor is None:
                return False
            self.lead, self.successor = self.successor, None
            self.handoff.release()
            return True

    def promote_new_leader(self, lead: Lead) -> bool:
        """Take the lead away from a worker that is in a handler; False if it is not in one any more."""
        with self.loop.lock:
            try:
                conn = lead.slot.pop()
            except IndexError:
                return False
            lead.lost = conn
            self.caught(lead)
            conn.take_over(clock())
            if conn.outbox.filling is not None:
                self.loop.post(partial(self.pump, conn))
            self.lead = None
            self.vacant = True
        self.dispatcher.idle_is_lost(lead)
        if self.levels is not None:
            with self.dispatcher.lock:  # it may have come back meanwhile, and be over
                self.levels.hold(lead, lead.level)
        return True

    @property
    def is_to_look(self) -> bool:
        """Whether the pool is to be told, now or soon, to look whether a message may be handled after a time."""
        return self.levels is not None and self.levels.is_to_look()

    def look_again(self, now: float) -> None:
        """Tell it, if the time has come."""
        if self.levels is not None and self.levels.look_is_due(now):
            self.dispatcher.look_again()

    # -- from any thread ------------------------------------------------------------------------------------------

    def wake_watchdog(self) -> None:
        """Wake the watchdog."""
        self.watchdog_sleeps = False
        try:
            self.watchdog_wakeup.release()
        except RuntimeError:
            pass  # it is awake, or about to be

    def end(self) -> None:
        """Stop leading, for good. Connections should be closed before."""
        with self.loop.lock:
            self.loop.over = True
            lead, successor, self.successor = self.lead, self.successor, None
        if successor is not None:
            self.handoff.release()
        if lead is not None:
            lead.preempt()
        self.loop.wake()
        self.wake_watchdog()

    def forget_threads(self) -> None:
        """In a forked child, have nobody lead.

        The thread that has forked may come back here from a handler. It finds that the lead is lost, and its connection
        broken, and so leaves.
        """
        lead, self.lead, self.successor = self.lead, None, None
        if lead is not None:
            lead.preempted = True
            lead.slot.clear()


def take(slot: list[ClientConnection]) -> bool:
    """Take the connection out of the slot; False: the watchdog has, and with it the lead."""
    try:
        slot.pop()
    except IndexError:
        return False
    return True
