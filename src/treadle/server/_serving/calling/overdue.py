"""Overdue: takes connections away from handlers that run for longer than `handler_timeout`.

No thread can be stopped, but no client needs to wait for one. While a handler runs there is a Claim for its connection.
The handler's thread takes it back when the handler is done, and the leader when the time is over: whoever gets it has
won, for `pop` is atomic, on every build. A thread that lost is told by `TakenAway`, in place of what the handler has
returned or raised. From then on nothing of the connection is its own: its descriptor may be another client's by now.
"""

from __future__ import annotations

import errno
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import TYPE_CHECKING, Any

from treadle._base import clock
from treadle._base.threads import stacks_of
from treadle._base.words import log
from treadle._tasks.scope import SCOPE, Scope
from treadle.errors import DeadlineExceeded
from treadle.server._serving.calling.answers import let_go
from treadle.server._transport.sending.spool import ClientLeft

if TYPE_CHECKING:
    from treadle._base.log_throttle import LogThrottles
    from treadle.server._protocols.protocol import Protocol
    from treadle.server._serving.calling.exchanges import Exchanges
    from treadle.server._transport.connection import ClientConnection
    from treadle.server._transport.io import ConnectionIO
    from treadle.server._transport.peer import Peer

__all__ = ["TAKEN", "WHY", "Exceeded", "Overdue", "TakenAway"]

_log = logging.getLogger("treadle.server")

WHY = "handler_timeout"
TAKEN: Any = object()  # stands for the answer of a handler whose connection was taken away
FRAMES = 15  # of its stack that are told, the innermost; two lines each
EARLY = 0.001  # seconds by which a handler may be found to have run too long: its time began before its claim


class TakenAway(BaseException):
    """The connection was taken away from the handler; the context is what it raised."""


class Exceeded(BaseException):
    """The handler has raised DeadlineExceeded, which is the cause.

    Args:
        message: that it was called with.
    """

    def __init__(self, message: Any) -> None:
        self.message = message
        super().__init__()


class Claim:
    """One call of a handler.

    Attributes:
        ident: the thread that runs it.
        message: that it was called with.
        scope: its deadline.
        place: holds something until either side takes it.
        told: the client has the answer, though it runs.
    """

    __slots__ = ("ident", "message", "place", "scope", "told")

    def __init__(self, message: Any, scope: Scope) -> None:
        self.ident = get_ident()
        self.message = message
        self.scope = scope
        self.place = [self.ident]
        self.told = False

    def take(self) -> bool:
        """Take it; False: the other side has."""
        try:
            self.place.pop()
        except IndexError:
            return False
        return True


class Overdue:
    """Runs handlers under their deadline, and takes connections away from those that do not keep it.

    Args:
        seconds: that a handler has.

    Attributes:
        running: handlers that run now, without their connection. Changed with the loop's lock held.
        exchanges: tells the protocol what becomes of its messages; None: it does not ask.
    """

    exchanges: Exchanges | None = None

    def __init__(self, io: ConnectionIO, protocol: Protocol, seconds: float, throttles: LogThrottles) -> None:
        self.io = io
        self.loop = io.loop
        self.protocol = protocol
        self.seconds = seconds
        self.throttles = throttles
        self.running = 0
        self.claims: dict[Peer, Claim] = {}  # of every connection whose handler runs; from any thread

    def handle(self, message: Any, peer: Peer) -> Any:
        """Run the handler on one message; return its answer. For the thread that has the connection.

        Raises:
            TakenAway: the connection is another's by now.
            Exceeded: the handler has found itself that its time is over.
        """
        return self.run(peer, message, self.protocol.handle, message, peer)

    def each(self, conn: ClientConnection, message: Any, pieces: Iterator[Any]) -> Iterator[Any]:
        """Give what a handler has returned piece by piece, each of which has as long as the handler.

        The time in which the thread waits for the client does not count.

        Raises:
            TakenAway, Exceeded: as `handle`.
        """

        def step(fn: Callable[..., Any], *args: Any) -> Any:
            if conn.busy:
                conn.timing.handled = clock.now()
            result = self.run(conn.peer, message, fn, *args)
            conn.timing.handled = 0.0
            return result

        end = object()
        close = getattr(pieces, "close", _nothing)
        try:
            while (piece := step(next, pieces, end)) is not end:
                yield piece
        except TakenAway as taken:
            try:
                close()
            finally:
                raise taken
        except BaseException:
            step(close)
            raise
        step(close)

    def run(self, peer: Peer, message: Any, fn: Callable[..., Any], *args: Any) -> Any:
        """Run a part of the handler, as `handle` does."""
        claim, answer = Claim(message, Scope(None, self.seconds)), None
        token = SCOPE.set(claim.scope)
        try:
            self.claims[peer] = claim
            answer = fn(*args)
            return answer
        except DeadlineExceeded as error:
            raise Exceeded(message) from error
        finally:
            SCOPE.reset(token)
            self.claims.pop(peer, None)
            if not claim.take():
                with self.loop.lock:
                    self.running -= 1
                try:
                    let_go(answer)
                finally:
                    raise TakenAway

    @contextmanager
    def kept(self, conn: ClientConnection, told: bool) -> Iterator[None]:
        """Do something with `conn` while its handler runs, in whose thread this is: nobody takes it away meanwhile.

        Args:
            told: the client has the answer by then.

        Raises:
            ClientLeft: it was taken away.
        """
        claim = self.claims[conn.peer]
        if not claim.take():
            raise ClientLeft(errno.ECONNABORTED, WHY)
        try:
            yield
        finally:
            claim.told = claim.told or told
            claim.place.append(claim.ident)

    def take(self, conn: ClientConnection) -> bool:
        """Take `conn` away from the thread that has it, unless its handler is done. For the leader.

        Return whether a handler runs; else that is done, or its thread waits for the client to take some of its answer.
        """
        claim = self.claims.get(conn.peer)
        if claim is None or (claim.scope.left() or 0.0) > EARLY:  # the next message's, perhaps
            return claim is not None
        stack = stack_of(claim.ident)  # now: once the claim is taken, the thread may go on to something else
        with self.loop.lock:
            if not claim.take():
                return True
            self.running += 1
            earlier, exchange = conn.outbox.batch, conn.peer.exchange
            if exchange is not None:
                exchange.fail(WHY)
            conn.hand_back()
        self.tell(conn, claim, stack)
        if earlier is not None:
            earlier()
        if conn.record is not None:
            conn.record.overrun(WHY, conn.ending.error)
        if claim.told and exchange is not None:
            exchange.end(conn.outbox, WHY)  # or it would be told that the client got nothing
        half = conn.outbox.filling is not None
        told = b"" if claim.told else None if half else self.io.refusals.of(WHY, claim.message)
        if half:
            conn.tear()
        if told is None:
            self.io.give_up(conn, WHY)
        else:
            self.io.dismiss(conn, told, WHY)
        if exchange is not None and self.exchanges is not None:
            self.exchanges.end_elsewhere(conn, exchange)  # now: the handler may never return
        return True

    def tell(self, conn: ClientConnection, claim: Claim, stack: traceback.StackSummary) -> None:
        """Log where the handler is: once in a while for each line that handlers are stuck in."""
        where = (stack[-1].filename, stack[-1].lineno) if stack else ()
        throttle = self.throttles.of("overdue", *where)
        if throttle.begins():
            ran = self.seconds + claim.scope.overdue()
            said = "%s: handler %s runs on without its client, after %.3g s (handler_timeout); it is here%s:\n%s"
            log(_log, logging.WARNING, said, conn.peer, self.protocol.name, ran, throttle.rest, text_of(stack))


def _nothing() -> None:
    """Close what need not be closed."""


def stack_of(ident: int) -> traceback.StackSummary:
    """Return the innermost part of the stack of a thread that runs a handler, which it begins with."""
    stack = traceback.StackSummary(stacks_of([ident], FRAMES).get(ident, ()))
    run = Overdue.run.__code__
    for begin in range(len(stack) - 1, -1, -1):
        if stack[begin].name == run.co_name and stack[begin].filename == run.co_filename:
            del stack[: begin + 1]
            break
    return stack


def text_of(stack: traceback.StackSummary) -> str:
    """Return it as text, as far as the sources can be read."""
    try:
        return "".join(stack.format()).rstrip()
    except Exception:  # of a loader of the user's, which is asked for them
        return "\n".join(f"  {frame.filename}, line {frame.lineno}, in {frame.name}" for frame in stack)
