"""Answers: what handlers return, and how it is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from treadle.server._transport.sending.file_range import FileRange
from treadle.server._transport.sending.spool import ClientLeft, Spool

if TYPE_CHECKING:
    from treadle.server._transport.connection import ClientConnection

__all__ = ["Answers", "can_be_sent", "is_made_in_pieces", "pull", "send"]


class Answers:
    """What messages of one connection are answered with that are handled in a row: sent together, if they are short.

    Args:
        answer: sends one to a connection, and sees to one that cannot be sent.
        most: bytes that wait for the others, at most.
    """

    __slots__ = ("_answer", "_answers", "_conn", "_most", "_size")

    def __init__(self, conn: ClientConnection, answer: Callable[[ClientConnection, Any], object], most: int) -> None:
        self._conn = conn
        self._answer = answer
        self._most = most
        self._answers: list[Any] = []
        self._size = 0

    def add(self, answer: Any) -> None:
        """Send `answer` with the next ones."""
        if type(answer) is bytes:
            self._answers.append(answer)
            self._size += len(answer)
        elif answer is not None:
            self._answers.append(_own(answer))
            # A memoryview's length is in items, not bytes; and what is more than bytes is to be sent by itself.
            self._size += len(answer) if isinstance(answer, bytearray) else self._most + 1

    def are_enough(self) -> bool:
        """Whether they are to be sent before more messages are handled."""
        return self._size > self._most

    def send(self) -> None:
        """Send them."""
        answers, self._answers, self._size = self._answers, [], 0
        if len(answers) > 1:
            try:
                answers = [b"".join(answers)]
            except TypeError:
                pass  # the last one is more than bytes, or less; those before it are sent
        for answer in answers:
            self._answer(self._conn, answer)


def send(conn: ClientConnection, answer: Any) -> None:
    """Send what a handler returned.

    Raises:
        Exception: it cannot be sent: it is no bytes, nor anything that may be returned in their place.
    """
    if isinstance(answer, (list, tuple)):
        conn.write_all(answer)
    elif isinstance(answer, FileRange):
        conn.write_part(answer)
    elif memoryview(answer).nbytes:  # what is false, but no bytes, is no empty answer
        conn.write(answer)


def is_made_in_pieces(answer: Any) -> bool:
    """Whether a handler has returned what gives the pieces of its answer, one by one."""
    return hasattr(type(answer), "__next__")


def pull(pieces: Iterator[Any], begin: Callable[[], Spool]) -> None:
    """Send what `pieces` gives, and close it, in whichever thread has called the handler: it may belong to that.

    Args:
        begin: called before the first piece is sent.

    Raises:
        Exception: what it raises; the client sees that the answer is not the whole, if it has begun.
    """
    spool: Spool | None = None
    try:
        for piece in pieces:
            if spool is None:
                spool = begin()
            try:
                spool.add(piece)
            except ClientLeft:
                break
            piece = None  # or it would be kept while the next one is made
    except BaseException:
        if spool is not None:
            spool.fail()
        raise
    finally:
        try:
            close = getattr(pieces, "close", None)
            if close is not None:
                close()
        finally:
            if spool is not None:
                spool.complete()


def can_be_sent(answer: Any) -> bool:
    """Whether an answer is bytes, or like them: if not, the error is of its own making."""
    try:
        memoryview(answer)
    except Exception:
        return False
    return True


def _own(answer: Any) -> Any:
    """Return a copy of an answer that the handler may change before it is sent; one that is no bytes, as it is."""
    try:
        return memoryview(answer).tobytes()
    except Exception:  # it is no bytes, or a view that was released, or whatever an object of the user's raises
        return answer
