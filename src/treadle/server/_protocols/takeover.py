"""TakeOver: the answer after which a connection is no longer cut into messages, but one conversation."""

from __future__ import annotations

from collections.abc import Callable

from treadle._base import checks
from treadle._tasks.call import name_of
from treadle.server._protocols.session import Connection

__all__ = ["TakeOver"]


class TakeOver:
    """Returned by a handler of messages: `first` is sent in its turn, then `handler(conn)` has the connection.

    As that of a Session has: it holds a thread until it returns, and may end with `return conn.pause()`. It is called
    at once, in a thread of the pool. What the client has sent behind the message, it reads first, as it came; so the
    framing must not have made messages of that. Those of treadle cut all that is there: a client that sends what makes
    a message of theirs before it was answered is closed, and that is logged. A framing of your own stops cutting at a
    message that may be answered so, and gives back what it holds by a method of its decoder, `take_rest() -> bytes`.

    Args:
        handler: takes a `Connection`.
        first: what the message is answered with.

    Raises:
        TypeError: an argument is of the wrong type, or `handler` is async, or cannot be called so.
    """

    __slots__ = ("first", "handler")

    def __init__(self, handler: Callable[[Connection], object], first: bytes | bytearray | memoryview = b"") -> None:
        checks.handler("handler", handler, "conn", instead="a function of the connection")
        if not isinstance(first, (bytes, bytearray, memoryview)):
            raise TypeError(f"first={first!r} is {type(first).__name__}; allowed: bytes")
        self.handler = handler
        self.first = bytes(first)

    def __repr__(self) -> str:
        return f"TakeOver({name_of(self.handler)})"
