"""Answers: what handlers return, and how it is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

from treadle.server._protocols.takeover import TakeOver
from treadle.server._serving.calling.exchanges import Exchange, Exchanges
from treadle.server._transport.decoder import CloseConnection
from treadle.server._transport.sending.file_range import FileRange
from treadle.server._transport.sending.spool import ClientLeft, Spool

if TYPE_CHECKING:
    from treadle.server._transport.connection import ClientConnection

__all__ = ["Answers", "can_be_sent", "each_of", "is_made_in_pieces", "let_go", "pull", "send", "size_of"]


class Answers:
    """What messages of one connection are answered with that are handled in a row: sent together, if they are short.

    Args:
        answer: sends one to a connection, and sees to one that cannot be sent.
        most: bytes that wait for the others, at most.
        exchanges: of a protocol that wants to know what becomes of each; None: it does not.
    """

    __slots__ = ("_answer", "_answers", "_conn", "_exchanges", "_full", "_most", "_open", "_over", "_size")

    def __init__(
        self,
        conn: ClientConnection,
        answer: Callable[[ClientConnection, Any], object],
        most: int,
        exchanges: Exchanges | None,
    ) -> None:
        self._conn = conn
        self._answer = answer
        self._most = most
        self._exchanges = exchanges
        self._answers: list[Any] = []
        self._size = 0
        self._full = False
        self._open: list[Exchange] = []  # those of the answers that are not sent
        self._over: list[Exchange] = []  # and of those that are, as far as this thread is concerned

    def add(self, answer: Any) -> None:
        """Send `answer`, of the message that was handled last, with the next ones."""
        exchange = None if self._exchanges is None else self._conn.peer.exchange
        if type(answer) is not bytes and answer is not None:
            # A memoryview's length is in items, not bytes; and what is more than bytes is to be sent by itself.
            self._full = not isinstance(answer, bytearray)
            answer = _own(answer)
        if exchange is not None and exchange not in self._open[-1:]:  # else it is of a message before, and this of none
            if not exchange.is_begun():  # else it was made in pieces
                first = answer.first if isinstance(answer, TakeOver) else answer
                exchange.begin_answer(self._conn.outbox, size_of(first), self._size)
            self._open.append(exchange)
        if answer is not None:
            self._answers.append(answer)
            self._size += size_of(answer)

    def are_enough(self) -> bool:
        """Whether they are to be sent before more messages are handled."""
        return self._full or self._size > self._most

    def send(self) -> None:
        """Send them."""
        answers, self._answers, self._size, self._full = self._answers, [], 0, False
        if len(answers) > 1:
            try:
                answers = [b"".join(answers)]
            except TypeError:
                pass  # the last one is more than bytes, or less; those before it are sent
        for answer in answers:
            self._answer(self._conn, answer)
        if self._exchanges is not None:
            self._exchanges.answered(self._conn, self._open)
            if self._open and self._conn.peer.exchange is self._open[-1]:  # else a handler makes pieces of the next
                self._conn.peer.exchange = None  # or an idle client would keep its last message
            self._over += self._open
            self._open = []

    def are_over(self) -> bool:
        """Whether somebody is to be told of some that were sent."""
        return bool(self._over)

    def tell(self) -> None:
        """Tell of them, which runs code of the user's."""
        over, self._over = self._over, []
        for exchange in over:
            cast(Exchanges, self._exchanges).end(self._conn, exchange)

    def send_for_another(self) -> None:
        """Send them, in the leader's thread: the handler that was to come to that has lost its connection."""
        self.send()
        self.tell_elsewhere()

    def tell_elsewhere(self) -> None:
        """Have another thread tell of them."""
        over, self._over = self._over, []
        for exchange in over:
            cast(Exchanges, self._exchanges).end_elsewhere(self._conn, exchange)


def send(conn: ClientConnection, answer: Any) -> None:
    """Send what a handler returned.

    Raises:
        Exception: it cannot be sent: it is no bytes, nor anything that may be returned in their place.
    """
    if isinstance(answer, (list, tuple, FileRange)):
        conn.write_all(list(each_of(answer)))
    elif memoryview(answer).nbytes:  # what is false, but no bytes, is no empty answer
        conn.write(answer)


def is_made_in_pieces(answer: Any) -> bool:
    """Whether a handler has returned what gives the pieces of its answer, one by one."""
    return hasattr(type(answer), "__next__")


def pull(pieces: Iterator[Any], begin: Callable[[], Spool], spool: Spool | None = None) -> None:
    """Send what `pieces` gives, and close it, in whichever thread has called the handler: it may belong to that.

    Args:
        begin: called before the first piece is sent.
        spool: what the handler has begun the answer with; None: it has not.

    Raises:
        CloseConnection: it has raised that; if it has begun, the last answer is sent behind its pieces, and not with
            this.
        Exception: what else it raises; the client sees that the answer is not the whole, if it has begun.
    """
    try:
        for piece in pieces:
            if spool is None:
                spool = begin()
            spool.add(piece)
            piece = None  # or it would be kept while the next one is made
    except ClientLeft:
        pass
    except CloseConnection as closing:
        if spool is None:
            raise
        try:
            spool.add(closing.answer)
        except ClientLeft:
            pass
        except BaseException:
            spool.fail()
            raise
        raise CloseConnection from None
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


def let_go(answer: Any) -> None:
    """Close what a handler has returned, for it will not be sent."""
    if isinstance(answer, (list, tuple, FileRange)):
        for one in each_of(answer):
            if isinstance(one, FileRange):
                one.drop()
    elif is_made_in_pieces(answer) and hasattr(answer, "close"):
        answer.close()


def can_be_sent(answer: Any) -> bool:
    """Whether an answer is bytes, or like them: if not, the error is of its own making."""
    try:
        memoryview(answer)
    except Exception:
        return False
    return True


def size_of(answer: Any) -> int:
    """Return the bytes of an answer, or of a message; 0 if it is none, or nothing that has bytes."""
    if isinstance(answer, (bytes, bytearray)):
        return len(answer)
    if isinstance(answer, (list, tuple)):
        return sum(map(_bytes_of, each_of(answer)))
    return _bytes_of(answer)


def each_of(answer: list[Any] | tuple[Any, ...] | FileRange) -> Iterator[Any]:
    """Give what is in a list or a tuple, whatever a class of the user's does when it is asked for that."""
    if isinstance(answer, FileRange):
        return iter((answer,))
    return list.__iter__(answer) if isinstance(answer, list) else tuple.__iter__(answer)


def _bytes_of(answer: Any) -> int:
    """Return how many bytes it has; 0 if it is nothing that has bytes."""
    if isinstance(answer, FileRange):
        return answer.size
    try:
        return memoryview(answer).nbytes
    except Exception:
        return 0


def _own(answer: Any) -> Any:
    """Return a copy of an answer that the handler may change before it is sent; one that is no bytes, as it is."""
    try:
        return memoryview(answer).tobytes()
    except Exception:  # it is no bytes, or a view that was released, or whatever an object of the user's raises
        return answer
