"""Early: answers that need no handler, and so no thread.

Of two kinds: what a decoder answers itself, its Replies, which stand among the messages; and what the protocol answers
at once, by what it says of each message (see `Protocol`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from treadle._base import clock
from treadle._base.log_throttle import LogThrottles, kind_of
from treadle._base.words import log
from treadle.server._serving.calling.answers import Answers
from treadle.server._serving.calling.calls import Calls
from treadle.server._transport.decoder import Reply

if TYPE_CHECKING:
    from treadle.server._transport.connection import ClientConnection

__all__ = ["AT_ONCE", "Early", "Instants"]

_log = logging.getLogger("treadle.server")

AT_ONCE = 64  # messages of one connection that are handled before the others have their turn; a guess


class Instants:
    """Asks the protocol for answers at once. For one event loop; from any thread.

    Args:
        instant: the protocol's, whose errors are logged, and harm nobody.
        name: of the protocol, for logs.
    """

    def __init__(self, instant: Callable[[Any], bytes | None], throttles: LogThrottles, name: str) -> None:
        self.instant = instant
        self.throttles = throttles
        self.name = name

    def find(self, message: Any) -> bytes | None:
        """Return the answer to `message`; None: it is the handler's."""
        try:
            answer = self.instant(message)
        except BaseException as error:
            self._tell("instant() failed", error)
            return None
        if answer is None or isinstance(answer, bytes):
            return answer
        self._tell(f"instant() returned {type(answer).__name__}; allowed: bytes, or None", None)
        return None

    def _tell(self, what: str, error: BaseException | None) -> None:
        throttle = self.throttles.of("instant", *(() if error is None else kind_of(error)))
        if throttle.begins():
            said = "%s: %s; the message goes to the handler%s"
            log(_log, logging.WARNING, said, self.name, what, throttle.rest, error=error)


class Early:
    """Answers what needs no handler, in one event loop. For the thread that has the connection.

    Attributes:
        instants: asks the protocol; None: it has nothing to say.
        inline: messages that leaders have answered so. For the leader alone.
        followed: those that other threads have. Changed with the loop's lock held.
    """

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.io = calls.io
        self.loop = calls.loop
        protocol = calls.protocol
        instant = getattr(protocol, "instant", None) if protocol.converse is None else None
        self.instants = None if instant is None else Instants(instant, calls.throttles, calls.name)
        self.inline = 0
        self.followed = 0

    def may_speak(self, conn: ClientConnection) -> bool:
        """Whether what is next in `conn` may need no handler."""
        if conn.intake.conversation is not None:
            return False
        return self.instants is not None or type(conn.intake.waiting[0]) is Reply

    def speak(self, conn: ClientConnection, before: Answers) -> bool:
        """Answer what is next in `conn` and needs no handler, all in one with what was answered `before`.

        Return whether a message is next that needs one; False: none is, or the others have their turn first, or the
        client has to take some first. For the thread that has `conn`.
        """
        if not self.calls.may_go_on(conn):
            return False
        spoken, waiting = 0, False
        while self.io.has_waiting(conn) and spoken < AT_ONCE and not before.are_enough():
            answer = self.take(conn)
            if answer is None:
                waiting = True
                break
            before.add(answer)
            spoken += 1
        if spoken:
            before.send()
            if conn.busy:
                self.calls.tell(conn, before)
        return waiting

    def take(self, conn: ClientConnection) -> bytes | None:
        """Take out what is next in `conn`, and return the answer, if it needs no handler; None: it does."""
        waiting = conn.intake.waiting
        answer = self.answer_to(conn, waiting[0])
        if answer is None:
            return None
        one, exchanges = waiting.popleft(), self.calls.exchanges
        if self.instants is None or type(one) is Reply:  # the former only with the latter
            conn.intake.spoken = True
            return answer
        conn.number += 1
        if conn.busy:
            with self.loop.lock:
                self.followed += 1
        else:
            self.inline += 1
        message = conn.bare(one)
        if conn.record is not None:
            conn.record.begin(one, handed_over=conn.busy)
            conn.record.end(len(answer))
        if exchanges is not None:
            exchanges.begin(conn, message, conn.context).made = clock.now()
        return answer

    def answer_to(self, conn: ClientConnection, one: Any) -> bytes | None:
        """Return the answer to `one` of what waits in `conn`, if it needs no handler; None: it does."""
        if type(one) is Reply:
            return one.answer
        if self.instants is None:
            return None
        return self.instants.find(conn.bare(one))

    def answers_at_once(self, conn: ClientConnection, message: Any) -> bool:
        """Answer a message that has come by the short way, if it needs no handler; return whether that is so."""
        answer = cast(Instants, self.instants).find(message)
        if answer is None:
            return False
        conn.active = self.loop.now
        conn.number += 1
        self.inline += 1
        self.calls.answer(conn, answer)
        if conn.outbox.pieces or conn.ending.error:
            self.io.settle(conn)
        return True
