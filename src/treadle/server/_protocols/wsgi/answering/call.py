"""Call: one call of an application, from its environ to the answer (PEP 3333)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from treadle._base import clock
from treadle._base.words import brief
from treadle.server._protocols.wsgi.answering.files import FileWrapper
from treadle.server._protocols.wsgi.answering.names import HEADERS
from treadle.server._protocols.wsgi.answering.values import encoded, text_of, wrong_header
from treadle.server._transport.decoder import AnswerBroken, CloseConnection
from treadle.server._transport.peer import is_stopping, open_answer, send_ahead
from treadle.server._transport.sending.spool import ClientLeft

if TYPE_CHECKING:
    from treadle.server._protocols.http.request import Request
    from treadle.server._protocols.http.status import Beginnings
    from treadle.server._protocols.wsgi.answering.names import Names
    from treadle.server._protocols.wsgi.answering.streams import Stream, Streams
    from treadle.server._protocols.wsgi.faults import Faults
    from treadle.server._transport.peer import Peer

__all__ = ["Call", "Said"]

STATUS = re.compile(r"[2-9][0-9]{2} [\t -~\x80-\xff]*")  # RFC 9112, section 4; 1xx are not final
LENGTH = re.compile(r"[0-9]{1,18}")
JOINED = 1 << 16  # bytes of a body that is sent in one with its head; more are sent without being copied
PIECES = "WSGI (PEP 3333) wants an iterable of bytes"
ExcInfo = tuple[type[BaseException], BaseException, TracebackType]


class Said:
    """What all calls of one application have in common: how answers begin, fields' names, and who tells of faults."""

    __slots__ = ("beginnings", "faults", "names", "streams")

    def __init__(self, beginnings: Beginnings, names: Names, faults: Faults, streams: Streams) -> None:
        self.beginnings = beginnings
        self.names = names
        self.faults = faults
        self.streams = streams


class Call:
    """One call. For the thread that makes it.

    Attributes:
        status: of the answer, as the application has said it; "": not yet.
        sent: whether the client has got some of the answer, or is about to.
        goes_on: the application's iterable is not at its end when this is returned.
        returned: the application has returned, or failed: what it returned is all that may follow.
    """

    __slots__ = (
        "_chunked",
        "_closes",
        "_left",
        "_length",
        "_lines",
        "_own",
        "_said",
        "_spool",
        "_stream",
        "_written",
        "goes_on",
        "peer",
        "request",
        "returned",
        "sent",
        "status",
    )

    def __init__(self, request: Request, peer: Peer, said: Said) -> None:
        self.request = request
        self.peer = peer
        self._said = said
        self.status = ""
        self._lines: list[str] = []
        self._length: int | None = None  # of the body, as the application has said it
        self._own: tuple[str, ...] = ()  # fields of ours that the application has itself, in small letters
        self._closes = False
        self.sent = self.goes_on = self.returned = False
        self._stream: Stream | None = None  # of an answer whose length is not known
        self._written = 0  # bytes of a body that is not sent
        self._spool: Any = None  # what the beginning of the answer was added to, before the application has returned

    # -- what the application calls -----------------------------------------------------------------------------------

    def start_response(
        self, status: str, headers: Iterable[tuple[str, str]], exc_info: ExcInfo | None = None, /
    ) -> Callable[[bytes], None]:
        """Take the status and the fields of the answer; return what writes some of its body, as old programs do.

        Raises:
            TypeError, ValueError: they are not what WSGI wants.
            RuntimeError: it was called before, without an error to tell.
            BaseException: that of `exc_info`, for the client has some of the answer before.
        """
        if exc_info is not None:
            try:
                if self.sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # or its frames would keep each other
        elif self.status:
            raise RuntimeError("start_response() was called twice; WSGI (PEP 3333) allows that with exc_info alone")
        if not isinstance(status, str) or STATUS.fullmatch(status) is None:
            raise _wrong_status(status)
        if type(headers) is not list and not hasattr(type(headers), "__iter__"):
            raise TypeError(f"start_response() was given the headers {brief(headers)}; {HEADERS}")
        names, lines = self._said.names, list[str]()
        self._length, self._own = None, ()
        for header in headers:
            try:
                name, value = header
                begins = names.get(name)
                if begins is None:
                    begins = names.learn(name)
                if type(value) is not str:
                    value = text_of(name, value)
            except (TypeError, ValueError) as error:
                raise wrong_header(header, error) from None
            if begins:
                lines.append(f"{begins}{value}\r\n")
            else:
                self._look_at(name, value, lines)
        self.status, self._lines = status, lines
        return self.write

    def write(self, data: bytes, /) -> None:
        """Send `data` ahead of what the application returns.

        Raises:
            TypeError: it is no bytes.
            RuntimeError: the application has returned; the connection may be at another request by now.
            OSError: the client has left.
        """
        if type(data) is not bytes:
            raise TypeError(f"write() was given {brief(data)}, {type(data).__name__}; {PIECES}")
        if self.returned:
            raise RuntimeError("write() was called after the application returned, or by what it returned (PEP 3333)")
        if not data:
            return
        if self._has_no_body():
            self._written += len(data)
            return
        if self._spool is None:
            begun = self._begin_pieces(data)
            self._spool = open_answer(self.peer) or NOBODY
            self._spool.add(begun)
        else:
            self._spool.add(self._framed(data))

    def _look_at(self, name: str, value: str, lines: list[str]) -> None:
        """Take a field that the server has to know."""
        small = name.lower()
        if small != "content-length":
            self._own += (small,)
        elif LENGTH.fullmatch(value) is None or self._length not in (None, int(value)):
            raise ValueError(f"Content-Length is {brief(value)}; allowed: one number of bytes (RFC 9110, section 8.6)")
        else:
            self._length = int(value)
            return
        lines.append(f"{name}: {value}\r\n")

    # -- the answer ---------------------------------------------------------------------------------------------------

    def answer(self, result: Any) -> Any:
        """Return the answer that the application has returned, as a handler does.

        Raises:
            CloseConnection: it is this, and the connection ends with it.
            Exception: whatever the application raises, or it is not what WSGI wants.
        """
        self.returned = True
        kind = type(result)
        if (kind is list or kind is tuple) and self._spool is None:
            return self._ended(self._whole(result[0] if len(result) == 1 else _joined(result)))
        return self._of_iterable(result)

    def _ended(self, answer: Any) -> Any:
        """Return `answer`, or raise CloseConnection with it if the connection ends there."""
        self.sent = True
        if self._closes:
            raise CloseConnection(answer)
        return answer

    def _whole(self, body: bytes, *, all_of_it: bool = True) -> Any:
        """Return an answer whose body is all there; or the first piece of one that is not sent, unless `all_of_it`."""
        if type(body) is not bytes:
            raise TypeError(f"the application returned a piece that is {type(body).__name__}; {PIECES}")
        size = length = len(body)
        if self._has_no_body():
            return self._head(self._length_of_none(size + self._written if all_of_it else 0))
        if self._length not in (None, size):
            raise ValueError(f"Content-Length says {self._length}, and the body has {size} bytes")
        head = self._head(length)
        return head + body if size <= JOINED else [head, body]

    def _head(self, length: int | None, framing: str = "") -> bytes:
        """Return the head of the answer, and decide whether the connection ends with it.

        Args:
            length: of its body; None: nothing is said of it.
            framing: how the body ends, if not by that: a line, or "" if it ends with the connection.
        """
        if not self.status:
            raise RuntimeError("start_response() was not called before the first piece of the answer (PEP 3333)")
        request, lines = self.request, self._lines
        self._closes = request.closes or self._closes or self.peer.closing
        if length is not None:
            lines.append(f"Content-Length: {length}\r\n")
        if framing:
            lines.append(framing)
        if self._closes:
            lines.append("Connection: close\r\n")
        elif request.old:
            lines.append("Connection: keep-alive\r\n")
        begun = self._said.beginnings.of(self.status, clock.wall())
        head = b"%b%b\r\n" % (_without(begun, self._own) if self._own else begun, encoded(lines))
        if request.entry is not None:
            request.entry.status, request.entry.head = int(self.status[:3]), len(head)
        return head

    def _has_no_body(self) -> bool:
        """Whether the answer ends with its head (RFC 9112, section 6.3; RFC 9110, section 15.3.6)."""
        return self.request.method == "HEAD" or self.status[:3] in ("204", "205", "304")

    def _length_of_none(self, size: int) -> int | None:
        """Return what is said of the length of a body that is not sent, of which the application gave `size` bytes.

        RFC 9110, section 8.6: nothing in a 204; else what a GET would get, if that is known. Section 15.3.6: a 205 has
        none.
        """
        status = self.status[:3]
        if status == "204":
            return None
        if status == "205":
            return 0
        return size or None if self._length is None and status != "304" else self._length

    # -- answers that are more than one piece -------------------------------------------------------------------------

    def _of_iterable(self, result: Any) -> Any:
        """Return the answer whose pieces `result` gives; that is closed by then, or when they are sent."""
        try:
            if isinstance(result, FileWrapper) and self._spool is None:
                answer = self._of_file(result)
                if answer is not None:
                    return self._ended(answer)
            iterator = map(_piece, _iterable(result))  # no `iter`: what that gives may have `__next__` alone
            first = b"" if self._spool is not None else _next_of(iterator)
            if self._spool is None and (not first or self._has_no_body()):
                answer = self._whole(first, all_of_it=not self._has_no_body())
                return self._ended(self._sent_before_close(answer, result))
            if self._spool is None and len(first) == self._length:
                self._send_now(self._whole(first))
                self._exhaust(iterator)
                return self._ended(b"")
            begun = self._begin_pieces(first) if self._spool is None else b""
            self.goes_on = True
            pieces = self._pieces(begun, iterator, result)
            next(pieces)  # or to close it, as is done if nobody waits for it any more, would close nothing
            return pieces
        finally:
            if not self.goes_on and hasattr(result, "close"):
                self._close(result)

    def _sent_before_close(self, answer: Any, result: Any) -> Any:
        """Send `answer` now if closing `result` may take a while; return what is left of it to be sent."""
        if type(answer) is not bytes or not hasattr(result, "close"):
            return answer
        self._send_now(answer)
        return b""

    def _send_now(self, answer: Any) -> None:
        """Send all of an answer, whatever the application does next: PEP 3333 has no piece wait for that."""
        if type(answer) is not bytes:
            head, answer = answer
            send_ahead(self.peer, head, whole=True)  # or its time might be over in between, and it be told that
        send_ahead(self.peer, answer, whole=True)
        self.sent = True

    def _exhaust(self, iterator: Iterator[bytes]) -> None:
        """Go to the end of what gives an answer that was whole before; it stands, whatever comes of that."""
        try:
            if _next_of(iterator):
                raise ValueError(f"Content-Length says {self._length}, and the body is longer")
        except BaseException as error:
            self._said.faults.tell(self.request, self.peer, error, "failed behind its answer, which was whole")

    def _close(self, result: Any) -> None:
        """Close what the application has returned; its answer stands, whatever that raises."""
        try:
            result.close()
        except BaseException as error:
            self._said.faults.tell(self.request, self.peer, error, "failed as what it had returned was closed")

    def _of_file(self, wrapper: FileWrapper) -> Any:
        """Return the answer that is a file, which the kernel is to send; None: it cannot."""
        part = None if self._has_no_body() else wrapper.range(self._length)
        if part is None:
            return None
        try:
            if self._length not in (None, part.size):
                raise ValueError(f"Content-Length says {self._length}, and the file has {part.size} bytes left")
            return [self._head(part.size), part]
        except BaseException:
            part.drop()
            raise

    def _begin_pieces(self, first: bytes) -> bytes:
        """Return the head of an answer that is sent piece by piece, and its first piece."""
        if self._length is not None and len(first) > self._length:
            raise ValueError(f"Content-Length says {self._length}, and the body is longer")
        self._chunked = self._length is None and not self.request.old
        self._closes = self._length is None and not self._chunked  # where nothing else can say that it has ended
        self._left = self._length
        if self._length is None:
            kind = next((line[14:] for line in self._lines if line[:14].lower() == "content-type: "), "")
            self._stream = self._said.streams.begin(self.request.route, kind)
        try:
            begun = self._head(self._length, "Transfer-Encoding: chunked\r\n" if self._chunked else "")
        except BaseException:
            if self._stream is not None:
                self._stream.end()
            raise
        self.sent = True
        return begun + self._framed(first)

    def _framed(self, piece: bytes) -> bytes:
        """Return `piece` as it is sent."""
        if self._chunked:
            return b"%x\r\n%b\r\n" % (len(piece), piece)
        if self._left is not None:
            self._left -= len(piece)
            if self._left < 0:
                raise ValueError(f"Content-Length says {self._length}, and the body is longer")
        return piece

    def _pieces(self, begun: bytes, iterator: Iterator[bytes], result: Any) -> Iterator[bytes]:
        """Generate the answer piece by piece; what the application has returned is closed at its end, whatever that is.

        The first piece is none: from there on, it is at its end when it is closed, too.

        Raises:
            AnswerBroken: the application failed, as was told.
            CloseConnection: the connection ends with it.
        """
        try:
            try:
                yield b""
                if begun:
                    yield begun
                for piece in iterator:
                    # One that is empty is not sent, but what is on is looked at all the same: programs give them while
                    # they wait for more to say.
                    yield self._framed(piece) if piece else piece
                    if self._stream is not None:
                        self._stream.look()
                        if self._stream.endless and is_stopping(self.peer):  # its client comes again, somewhere else
                            break
                if self._left:
                    raise ValueError(f"Content-Length says {self._length}, and the body is {self._left} bytes shorter")
                if self._chunked:
                    yield b"0\r\n\r\n"
            finally:
                if self._stream is not None:
                    self._stream.end()
                try:
                    if hasattr(result, "close"):
                        self._close(result)
                finally:
                    if self.request.file is not None:
                        self.request.file.close()
        except GeneratorExit:
            raise
        except BaseException as error:
            raise self._broken(error) from error
        if self._closes:
            raise CloseConnection

    def break_off(self, error: BaseException) -> Iterator[bytes]:
        """Give no more of an answer that has begun, for the application has failed."""
        if self._stream is not None:
            self._stream.end()
        return _raising(self._broken(error), error)

    def _broken(self, error: BaseException) -> BaseException:
        if isinstance(error, ClientLeft):
            return error
        self._said.faults.tell(self.request, self.peer, error, "failed amid its answer, which is cut")
        return AnswerBroken()


def _raising(error: BaseException, cause: BaseException) -> Iterator[bytes]:
    """Generate nothing, and raise `error`."""
    raise error from cause
    yield b""


class Nobody:
    """What an answer is added to whose client has left."""

    def add(self, piece: bytes) -> None:
        """Do nothing."""


NOBODY = Nobody()


def _next_of(iterator: Iterator[bytes]) -> bytes:
    """Return the next piece that is not empty; b"": there is none."""
    return next(filter(None, iterator), b"")


def _piece(piece: Any) -> bytes:
    """Return a piece that an application gives.

    Raises:
        TypeError: it is no bytes.
    """
    if type(piece) is not bytes:
        raise TypeError(f"the application gave a piece that is {type(piece).__name__}; {PIECES}")
    return piece


def _joined(result: list[Any] | tuple[Any, ...]) -> bytes:
    """Return the pieces of a list as one."""
    for piece in result:
        if type(piece) is not bytes:
            raise TypeError(f"the application returned a piece that is {type(piece).__name__}; {PIECES}")
    return b"".join(result)


def _iterable(result: Any) -> Iterable[Any]:
    """Return what an application has returned, if it can be one by one.

    Raises:
        TypeError: it has returned no iterable, or text, or bytes, each of which would be a piece.
    """
    if isinstance(result, (str, bytes, bytearray)) or not hasattr(type(result), "__iter__"):
        raise TypeError(f"the application returned {type(result).__name__}; {PIECES}")
    iterable: Iterable[Any] = result
    return iterable


def _wrong_status(status: object) -> Exception:
    said = f"start_response() was given the status {brief(status)}; WSGI (PEP 3333) wants a str such as '200 OK'"
    return ValueError(said) if isinstance(status, str) else TypeError(said)


def _without(begun: bytes, own: tuple[str, ...]) -> bytes:
    """Return how an answer begins, without the fields that the application has itself."""
    lines = begun.split(b"\r\n")
    return b"\r\n".join(
        line for line in lines if line.partition(b":")[0].decode("latin-1").lower() not in own or not line
    )
