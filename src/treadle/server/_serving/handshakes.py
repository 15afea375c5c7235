"""Handshakes: the steps of TLS handshakes, and who takes them.

A step computes for a millisecond or so, and the leader takes it inline; if it takes longer, the lead moves on, as with
a handler. But a step may also run code of the user's that blocks (a callback for the server's name, a look at the
client's certificate in a database), and the fallback leader, who leads when all threads are busy, has nobody to take
over. So once a step has blocked, the next ones are tasks of the pool, until several in a row were quick; and the
fallback leader takes none that may block for the first time.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from treadle._base import clock
from treadle._base.words import log
from treadle._tasks.call import NoContext
from treadle._tasks.future import Future
from treadle._tasks.options import TaskOptions
from treadle.errors import PoolFull, TreadleError
from treadle.server._accept.handshake import reason_of, shake_hands
from treadle.server._serving.leadership import take
from treadle.server._transport.causes import DROPPED, KILLED, NO_HANDSHAKE
from treadle.server._transport.state import State

if TYPE_CHECKING:
    from treadle.server._serving.handlers import Handlers
    from treadle.server._serving.leadership import Lead
    from treadle.server._transport.connection import ClientConnection
    from treadle.server._transport.reaper import Reaper

__all__ = ["HandshakeTask", "Handshakes"]

_log = logging.getLogger("treadle.server")

BLOCKS = 0.01  # seconds for a step that does not only compute, which takes one or two thousandths; a guess
PROBATION = 8  # steps in a row that are quick, after which the leader takes them again; a guess
WITHOUT_CONTEXT = NoContext()


class HandshakeTask(Future[Any]):
    """The task of taking one step of a connection's handshake."""

    __slots__ = ("conn", "handshakes")

    def __init__(self, handshakes: Handshakes, conn: ClientConnection) -> None:
        super().__init__()
        if handshakes.handlers.keyed:
            self._options = TaskOptions(key=conn.peer.host)
        self._owner = handshakes.leadership.dispatcher
        self._context = WITHOUT_CONTEXT
        self._submitted = clock.now()
        self.handshakes = handshakes
        self.conn = conn

    def _name_for(self, fn: Any) -> str:
        return f"handshake of {self.handshakes.leadership.loop.name}"

    def _invoke(self) -> bool:
        self._result = self._exception = None
        try:
            self.handshakes.step_aside(self.conn)
        except BaseException:  # a fault of ours, or the thread is killed
            self.handshakes.give_up(self.conn, KILLED)
            raise
        self._context = None
        return False

    def _forget_call(self) -> None:
        """It will not be run: the pool refused or dropped it."""
        if self._context is not None:
            self._context = None
            self.handshakes.give_up(self.conn, DROPPED)


class Handshakes:
    """Takes the steps of one event loop's handshakes. For the leader, but for `step_aside` and `give_up`.

    Args:
        handlers: of the same event loop, to whose tasks those that take steps are alike.
        opened: called with a connection whose handshake is done.
    """

    def __init__(self, handlers: Handlers, reaper: Reaper, opened: Callable[[ClientConnection], object]) -> None:
        self.handlers = handlers
        self.leadership = handlers.leadership
        self.loop = handlers.loop
        self.io = handlers.io
        self.reaper = reaper
        self.opened = opened
        self.probation = 0  # steps to come that are the pool's; from any thread, and off by one at worst
        self.inside: list[None] = []  # an entry for each step that a leader takes, or did when it lost the lead

    def step(self, conn: ClientConnection, lead: Lead | None) -> bool:
        """Go on with a handshake; False if the lead was lost over it."""
        if self.probation or (lead is None and self.may_block(conn)):
            self.delegate(conn)
            return True
        slot: list[ClientConnection] = lead.slot if lead is not None else []
        self.leadership.begin(slot, conn)
        self.inside.append(None)
        outcome = self.take_step(conn)
        self.inside.pop()
        if not take(slot):
            self.io.give_back(conn, partial(self.come_back, conn, outcome))
            return False
        self.done(conn, outcome)
        return True

    def may_block(self, conn: ClientConnection) -> bool:
        """Whether a step may do more than compute: it calls for the server's name, or another one has not come back."""
        return bool(self.inside) or cast(ssl.SSLSocket, conn.sock).context.sni_callback is not None

    def take_step(self, conn: ClientConnection) -> int | Exception:
        """Take it, in whichever thread, and learn from how long it takes; return what `shake_hands` does, or raises."""
        began = clock.now()
        outcome: int | Exception
        try:
            outcome = shake_hands(cast(ssl.SSLSocket, conn.sock))
        except Exception as error:
            outcome = error.with_traceback(None)  # which would hold this frame, and that the error, and so the client
        took = clock.now() - began
        self.probation = PROBATION if took > BLOCKS else max(0, self.probation - 1)
        return outcome

    def delegate(self, conn: ClientConnection) -> None:
        """Have the pool take the step."""
        conn.enter(State.HANDSHAKE_BUSY)
        conn.timing.handled = clock.now()
        try:
            self.leadership.dispatcher.enter_later(HandshakeTask(self, conn), self.handlers.policy)
        except PoolFull:
            pass  # it was refused, see `HandshakeTask`
        except (TreadleError, RuntimeError) as error:
            throttle = self.handlers.throttles.of("drop")
            if throttle.begins():
                said = "%s: connections are cut, for the pool takes no handshakes: %s%s"
                log(_log, logging.ERROR, said, self.loop.name, error, throttle.rest)

    def step_aside(self, conn: ClientConnection) -> None:
        """Take the step that was handed over."""
        self.io.give_back(conn, partial(self.come_back, conn, self.take_step(conn)))

    def give_up(self, conn: ClientConnection, why: str) -> None:
        """Nobody will take the step."""
        self.io.give_back(conn, partial(self.io.give_up, conn, why))

    def come_back(self, conn: ClientConnection, outcome: int | Exception) -> None:
        """Take note of a step that another thread took; that it waited and took long is not the client's fault."""
        conn.timing.since += clock.now() - conn.timing.handled
        self.done(conn, outcome)
        if conn.state is State.HANDSHAKE:
            self.reaper.judge(conn)

    def done(self, conn: ClientConnection, outcome: int | Exception) -> None:
        """Take note of what came of a step."""
        conn.hand_back()
        if conn.state is not State.HANDSHAKE:
            return  # cut in the meantime
        conn.active = self.loop.now
        if conn.ending.error is not None:
            self.io.close(conn, conn.ending.error)
        elif outcome == 0:
            self.opened(conn)
        elif isinstance(outcome, int):
            self.io.watch(conn, outcome)
        else:
            throttle = self.handlers.throttles.of("handshake", *reason_of(outcome))
            if throttle.begins():
                log(_log, logging.WARNING, "%s: TLS handshake failed: %s%s", conn.peer, outcome, throttle.rest)
            conn.ending.why = NO_HANDSHAKE
            self.io.part(conn)  # so that the alert, which says why, is not lost to a reset
