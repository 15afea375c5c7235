"""Call: one call of an application, from its environ to the answer (PEP 3333)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from treadle._base import clock
from treadle._base.words import brief
from treadle.server._protocols.wsgi.files import FileWrapper
from treadle.server._protocols.wsgi.names import HEADERS
from treadle.server._transport.decoder import AnswerBroken, CloseConnection
from treadle.server._transport.sending.file_range import FileRange

if TYPE_CHECKING:
    from treadle.server._protocols.http.request import Request
    from treadle.server._protocols.http.status import Beginnings
    from treadle.server._protocols.wsgi.faults import Faults
    from treadle.server._protocols.wsgi.names import Names
    from treadle.server._transport.peer import Peer

__all__ = ["Call"]

STATUS = re.compile(r"[2-9][0-9]{2} [\t -~\x80-\xff]*")  # RFC 9112, section 4; 1xx are not final
LENGTH = re.compile(r"[0-9]{1,18}")
PLAIN = bytes(byte for byte in range(256) if byte == 9 or (byte >= 32 and byte != 127))  # RFC 9110, section 5.5
JOINED = 1 << 16  # bytes of a body that is sent in one with its head; more are sent without being copied
PIECES = "WSGI (PEP 3333) wants an iterable of bytes"
ExcInfo = tuple[type[BaseException], BaseException, TracebackType]


class Call:
    """One call. For the thread that makes it.

    Attributes:
        status: of the answer, as the application has said it; "": not yet.
        sent: whether the client has got some of the answer, or is about to.
    """

    __slots__ = (
        "_beginnings",
        "_faults",
        "_length",
        "_lines",
        "_names",
        "_own",
        "_written",
        "peer",
        "request",
        "sent",
        "status",
    )

    def __init__(self, request: Request, peer: Peer, beginnings: Beginnings, names: Names, faults: Faults) -> None:
        self.request = request
        self.peer = peer
        self._faults = faults
        self._beginnings = beginnings
        self._names = names
        self.status = ""
        self._lines: list[str] = []
        self._length: int | None = None  # of the body, as the application has said it
        self._own: tuple[str, ...] = ()  # fields of ours that the application has itself, in small letters
        self._written: list[bytes] | None = None  # by `write`
        self.sent = False

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
        names, lines = self._names, []
        self._length, self._own = None, ()
        for header in headers:
            try:
                name, value = header
                begins = names.get(name)
                if begins is None:
                    begins = names.learn(name)
                if type(value) is not str:
                    value = _text_of(name, value)
            except (TypeError, ValueError) as error:
                raise _wrong_header(header, error) from None
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
        """
        if type(data) is not bytes:
            raise TypeError(f"write() was given {brief(data)}, {type(data).__name__}; {PIECES}")
        if self._written is None:
            self._written = []
        self._written.append(data)

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
        kind = type(result)
        if (kind is list or kind is tuple) and self._written is None:
            return self.whole(result[0] if len(result) == 1 else _joined(result))
        return self._of_iterable(result)

    def whole(self, body: bytes) -> Any:
        """Return an answer whose body is all there."""
        if type(body) is not bytes:
            raise TypeError(f"the application returned a piece that is {type(body).__name__}; {PIECES}")
        size = len(body)
        if self._has_no_body():
            body, length = b"", None if self.status.startswith("204") else self._length
            if length is None and size and self.status[0] == "2" and not self.status.startswith("204"):
                length = size  # of a HEAD, what a GET would get
        else:
            length = size
            if self._length not in (None, size):
                raise ValueError(f"Content-Length says {self._length}, and the body has {size} bytes")
        closes = self.request.closes or self.peer.closing
        head = self.head(length, closes)
        self.sent = True
        answer: Any = head + body if size <= JOINED else [head, body]
        if closes:
            raise CloseConnection(answer)
        return answer

    def head(self, length: int | None, closes: bool, framing: str = "") -> bytes:
        """Return the head of the answer.

        Args:
            length: of its body; None: nothing is said of it.
            closes: the connection ends with it.
            framing: another line, which says how the body ends.
        """
        if not self.status:
            raise RuntimeError("start_response() was not called before the first piece of the answer (PEP 3333)")
        lines = self._lines
        if length is not None:
            lines.append(f"Content-Length: {length}\r\n")
        if framing:
            lines.append(framing)
        if closes:
            lines.append("Connection: close\r\n")
        elif self.request.old:
            lines.append("Connection: keep-alive\r\n")
        try:
            raw = "".join(lines).encode("latin-1")
        except UnicodeEncodeError as error:
            raise ValueError(f"a header has {error.object[error.start]!r}; WSGI (PEP 3333) wants latin-1") from None
        if len(raw.translate(None, PLAIN)) != 2 * len(lines):  # there is a control character, or half an answer
            unfit = next(line for line in lines if len(line.encode("latin-1").translate(None, PLAIN)) != 2)
            raise ValueError(f"a header is {brief(unfit[:-2])}, with a control character (RFC 9110, section 5.5)")
        begun = self._beginnings.of(self.status, clock.wall())
        return b"%b%b\r\n" % (_without(begun, self._own) if self._own else begun, raw)

    def _has_no_body(self) -> bool:
        """Whether the answer ends with its head (RFC 9112, section 6.3)."""
        return self.request.method == "HEAD" or self.status[:3] in ("204", "304")

    # -- answers that are more than one piece -------------------------------------------------------------------------

    def _of_iterable(self, result: Any) -> Any:
        """Return the answer whose pieces `result` gives; it is closed by then, or when they are sent."""
        pieces: Iterator[Any] | None = None
        try:
            if isinstance(result, FileWrapper) and (answer := self._of_file(result)) is not None:
                return answer
            first = next((piece for piece in self._written or () if piece), b"")
            if self._written:
                first, self._written = b"".join(self._written), None
            iterator = iter(_iterable(result))
            for piece in () if first else iterator:
                if type(piece) is not bytes:
                    raise TypeError(f"the application gave a piece that is {type(piece).__name__}; {PIECES}")
                if piece:
                    first = piece
                    break
            else:
                if not first:
                    return self.whole(b"")
            if self._has_no_body():
                return self.whole(first)
            if self._length is not None and len(first) >= self._length:
                return self._last(first, iterator)
            pieces = self._stream(first, iterator, result)
            return pieces
        finally:
            if pieces is None and hasattr(result, "close"):
                self._close(result)

    def _close(self, result: Any) -> None:
        """Close what the application has returned; its answer stands, whatever that raises."""
        try:
            result.close()
        except BaseException as error:
            self._faults.tell(self.request, self.peer, error, "failed as what it had returned was closed")

    def _last(self, first: bytes, iterator: Iterator[Any]) -> Any:
        """Return an answer whose only piece is `first`, as its length says; look whether there is another."""
        for piece in iterator:
            if piece:
                first += piece
                break
        return self.whole(first)

    def _of_file(self, wrapper: FileWrapper) -> Any:
        """Return the answer that is a file, which the kernel is to send; None: it cannot."""
        if self._written is not None or self._has_no_body():
            return None
        part = wrapper.range(self._length)
        if part is None:
            return None
        try:
            if self._length not in (None, part.size):
                raise ValueError(f"Content-Length says {self._length}, and the file has {part.size} bytes left")
            closes = self.request.closes or self.peer.closing
            answer: list[bytes | FileRange] = [self.head(part.size, closes), part]
        except BaseException:
            part.drop()
            raise
        self.sent = True
        if closes:
            raise CloseConnection(answer)
        return answer

    def _stream(self, first: bytes, iterator: Iterator[Any], result: Any) -> Iterator[bytes]:
        """Generate the answer piece by piece; the application's iterable is closed at its end, whatever that is."""
        closes = self.request.closes or self.peer.closing
        chunked = self._length is None and not self.request.old
        closes = closes or (self._length is None and not chunked)
        framing = "Transfer-Encoding: chunked\r\n" if chunked else ""
        head = self.head(self._length, closes, framing)
        return self._pieces(head, first, iterator, result, chunked=chunked, closes=closes)

    def _pieces(
        self, head: bytes, first: bytes, iterator: Iterator[Any], result: Any, *, chunked: bool, closes: bool
    ) -> Iterator[bytes]:
        left = self._length
        try:
            try:
                self.sent = True
                yield head + (b"%x\r\n%b\r\n" % (len(first), first) if chunked else first)
                if left is not None:
                    left -= len(first)
                for piece in iterator:
                    if type(piece) is not bytes:
                        raise TypeError(f"the application gave a piece that is {type(piece).__name__}; {PIECES}")
                    if not piece:
                        continue
                    if chunked:
                        yield b"%x\r\n%b\r\n" % (len(piece), piece)
                        continue
                    if left is not None:
                        left -= len(piece)
                        if left < 0:
                            raise ValueError(f"Content-Length says {self._length}, and the body is longer")
                    yield piece
                if left:
                    raise ValueError(f"Content-Length says {self._length}, and the body is {left} bytes shorter")
                if chunked:
                    yield b"0\r\n\r\n"
            finally:
                close = getattr(result, "close", None)
                if close is not None:
                    close()
        except GeneratorExit:
            raise
        except BaseException as error:
            self._faults.tell(self.request, self.peer, error, "failed amid its answer, which is cut")
            raise AnswerBroken from error
        if closes:
            raise CloseConnection


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


def _text_of(name: object, value: object) -> str:
    """Return a header's value that is a str of another class.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, str):
        raise TypeError(f"the value of {name} is {brief(value)}, {type(value).__name__}")
    return str(value)


def _wrong_status(status: object) -> Exception:
    said = f"start_response() was given the status {brief(status)}; WSGI (PEP 3333) wants a str such as '200 OK'"
    return ValueError(said) if isinstance(status, str) else TypeError(said)


def _wrong_header(header: object, error: Exception) -> Exception:
    said = f"a header is {brief(header)}: {error}"
    return type(error)(said if HEADERS in said else f"{said}; {HEADERS}")


def _without(begun: bytes, own: tuple[str, ...]) -> bytes:
    """Return how an answer begins, without the fields that the application has itself."""
    lines = begun.split(b"\r\n")
    return b"\r\n".join(
        line for line in lines if line.partition(b":")[0].decode("latin-1").lower() not in own or not line
    )
