"""RequestDecoder: one connection's bytes, made into requests.

A quick way takes a head whose every part is plain, as browsers and proxies send it, and decides nothing that is in
doubt: what it does not know goes the careful way, which has every rule (see `head`). Both make the same of what both
take.

Nothing of a parser library is used: of those that there are, each lets some requests pass that RFC 9112 has refused, or
leaves it to its user to look, and a judge that looks at all of it has no use for another one.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from treadle.server._protocols.http.body import Body
from treadle.server._protocols.http.chunks import Chunks
from treadle.server._protocols.http.grammar import QUICK, is_host
from treadle.server._protocols.http.head import Head, judge
from treadle.server._protocols.http.keys import Keys, key_of
from treadle.server._protocols.http.refused import Refused
from treadle.server._protocols.http.request import Environ, Request
from treadle.server._protocols.http.routes import Routes
from treadle.server._transport.decoder import CloseConnection, Reply

if TYPE_CHECKING:
    import os

__all__ = ["Bounds", "RequestDecoder", "Sources"]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CLOSES = {
    None: False,
    "keep-alive": False,
    "Keep-Alive": False,
    "close": True,
}  # what else Connection says is looked at
BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)(?!\Z)")  # RFC 9112, section 2.2: one without the other
UNFIT = re.compile(rb"[^ -~\r]")  # in a request line
LINE_SHOWN = 200  # bytes of a request line that is not complete, for logs
REQUEST_ID = re.compile(r"[!#-\[\]-~]{1,128}")  # of somebody else's that is kept: nothing that a log has to escape


class Bounds:
    """How large a request may be, in bytes, and how many fields it may have."""

    __slots__ = ("body", "fields", "head", "line")

    def __init__(self, head: int, line: int, fields: int, body: int) -> None:
        self.head = head
        self.line = line
        self.fields = fields
        self.body = body


class Sources:
    """What the connections of a server have in common.

    Args:
        bounds: how large requests may be.
        script_name: what the paths of requests begin with, and the application's own do not.
        answers: returns what is answered to a GET or HEAD that is for the server itself, by its path.
        refuse: returns the answer to a request that is refused, given the peer, the error, and its first line.
        id_prefix: what the ids of its requests begin with.
    """

    __slots__ = ("answers", "bounds", "id_prefix", "keys", "next_id", "prefix_path", "refuse", "routes")

    def __init__(
        self,
        bounds: Bounds,
        script_name: str,
        answers: Mapping[str, Callable[[Request], bytes]],
        refuse: Callable[[Any, Refused, str], bytes],
        id_prefix: str,
    ) -> None:
        self.bounds = bounds
        self.prefix_path = script_name
        self.answers = answers
        self.refuse = refuse
        self.id_prefix = id_prefix
        self.next_id = count(1).__next__
        self.keys = Keys()
        self.routes = Routes()

    def split(self, environ: Environ) -> None:
        """Take the script's name off the path; a proxy may have done so."""
        path, name = environ["PATH_INFO"], self.prefix_path
        if path == name or path.startswith(f"{name}/"):
            environ["PATH_INFO"] = path[len(name) :]


class RequestDecoder:
    """Makes one connection's bytes into Requests. For one thread at a time.

    Args:
        sources: what it has in common with others.
        base: called once, when the client is known; returns what the environ of each of its requests has.
        folder: where long bodies are kept.
        peer: who it is, for logs.

    Attributes:
        held: bytes of the request that is not complete; while a body is read, 1 at least.
        phase: what is read: "head", or "body".
    """

    __slots__ = (
        "_base",
        "_blank",
        "_body",
        "_buffer",
        "_chunks",
        "_folder",
        "_head",
        "_host",
        "_left",
        "_line",
        "_looked",
        "_make_base",
        "_peer",
        "_quick_limit",
        "_size",
        "_sources",
        "held",
        "phase",
    )

    def __init__(
        self,
        sources: Sources,
        base: Callable[[], Environ],
        folder: str | os.PathLike[str] | None,
        peer: object,
    ) -> None:
        self._sources = sources
        self._make_base = base
        self._folder = folder
        self._peer = peer
        self._base: Environ = {}  # until something has come
        self._size = 0
        self._host: str | None = None  # of the request before, which was judged; "" would let an empty one pass
        self._quick_limit = min(sources.bounds.line, sources.bounds.head)
        self._buffer: bytearray | None = None  # what was read and is no request yet; None: nothing
        self._looked = 0  # so much of it holds no end of a head
        self._blank = False  # an empty line came before the request, as one may
        self._line = ""  # of the request that is read, for logs
        self._head: Head | None = None  # of the request whose body is read
        self._body: Body | None = None
        self._chunks: Chunks | None = None
        self._left = 0  # bytes of the body that are to come, if it is not in chunks
        self.held = 0
        self.phase = "head"

    def feed(self, data: bytes) -> Iterable[Any]:
        """Return the requests that are complete with `data`, or generate them, and Replies among them.

        Raises:
            CloseConnection: what comes next is refused.
        """
        if self._buffer is None:
            request = self._quickly(data)
            if request is not None:
                return (request,)
            self._buffer = bytearray()
        if self._left and not self._buffer:  # the body goes on, and what is of it is not copied
            part, data = data[: self._left], data[self._left :]
            try:
                self._body.write(part)  # type: ignore[union-attr]  # there is one while some of it is to come
            except Refused as refused:
                raise self._end(refused) from None
            self._left -= len(part)
            if self._left:
                return ()
        return self._carefully(data, self._buffer)

    def finish(self) -> Iterable[Any]:
        """Return nothing: half a request is none."""
        if self._body is not None:
            self._body.drop()
        return ()

    def _begin(self) -> None:
        """Make what all environs of this connection have; its client is known by now."""
        self._base = self._make_base()
        self._size = len(self._base)

    # -- the quick way ------------------------------------------------------------------------------------------------

    def _quickly(self, data: bytes) -> Request | None:
        """Return the request that `data` is, neither more nor less, if it is plain in every part."""
        if len(data) > self._quick_limit:
            return None
        text = str(data, "latin-1")
        match = QUICK.match(text)
        if match is None:
            return None
        if not self._size:
            self._begin()
        sources, environ = self._sources, self._base.copy()
        line, method, path, query, fields = match.groups()
        if path in sources.answers:
            return None
        keys, lines = sources.keys, fields[2:].split("\r\n")
        try:
            for one in lines:
                name, _, value = one.partition(": ")
                environ[keys[name]] = value
            host = environ["HTTP_HOST"]
            closes = CLOSES[environ.get("HTTP_CONNECTION")]
        except KeyError:  # a name that is not known, or no host, or more is said of the connection
            return None
        if len(environ) - self._size != len(lines) or len(lines) > sources.bounds.fields:  # one is there twice
            return None
        if host != self._host:
            if not is_host(host):
                return None
            self._host = host
        end, size = match.end(), len(text)
        length = environ.get("CONTENT_LENGTH")
        if length is not None:
            if length != str(size - end) or size - end > sources.bounds.body:  # as text, for int() takes more
                return None
            environ["wsgi.input"] = io.BytesIO(data[end:])
        elif end != size:
            return None
        target = path if query is None else f"{path}?{query}"
        number = self._address(environ, method, target, path, query or "")
        return Request(environ, method, target, number, sources.routes.find(line), closes)

    def _address(self, environ: Environ, method: str, target: str, path: str, query: str) -> str:
        """Say in `environ` what is asked for; return the request's id."""
        environ["REQUEST_METHOD"] = method
        environ["RAW_URI"] = target
        environ["QUERY_STRING"] = query
        environ["PATH_INFO"] = path if "%" not in path else unquote_to_bytes(path).decode("latin-1")
        sources = self._sources
        if sources.prefix_path:
            sources.split(environ)
        number = environ.get("HTTP_X_REQUEST_ID")
        if number is None or REQUEST_ID.fullmatch(number) is None:
            number = f"{sources.id_prefix}{sources.next_id():x}"
        environ["treadle.request_id"] = number
        return number

    # -- the careful way ----------------------------------------------------------------------------------------------

    def _carefully(self, data: bytes, buffer: bytearray) -> Iterator[Any]:
        """Generate what is complete with `data`, one by one, and judge each by every rule."""
        if not self._size:
            self._begin()
        buffer += data
        try:
            while self._head is not None or self._next_head(buffer):
                if self._is_awaited(buffer):
                    yield Reply(CONTINUE)
                if not self._take_body(buffer):
                    break
                answering = self._sources.answers.get(self._head.path)  # type: ignore[union-attr]  # there is one
                request = self._complete()
                if answering is None or request.method not in ("GET", "HEAD"):
                    yield request
                    continue
                yield Reply(answering(request), final=True)
                if request.closes:
                    raise CloseConnection
        except Refused as refused:
            raise self._end(refused) from None
        self.held = len(buffer) or int(self._head is not None)
        if not (self.held or self._blank):
            self._buffer = None

    def _end(self, refused: Refused) -> CloseConnection:
        """Return what ends the connection, with the answer to the request that is read."""
        if self._body is not None:
            self._body.drop()
        line = self._line or bytes((self._buffer or b"")[:LINE_SHOWN]).partition(b"\r\n")[0].decode("latin-1")
        return CloseConnection(self._sources.refuse(self._peer, refused, line))

    def _next_head(self, buffer: bytearray) -> bool:
        """Take the next head out of `buffer`, and judge it; return whether it was complete."""
        if not self._blank and buffer.startswith(b"\r\n"):
            self._blank = True  # RFC 9112, section 2.2: some clients send one behind a body
            del buffer[:2]
        end = buffer.find(b"\r\n\r\n", self._looked)
        self._judge_bounds(buffer, end)
        if end < 0:
            self._looked = max(0, len(buffer) - 3)
            return False
        lines = buffer[:end].decode("latin-1").split("\r\n")
        del buffer[: end + 4]
        self._looked, self._line = 0, lines[0]
        fields, allowed = len(lines) - 1, self._sources.bounds.fields
        if fields > allowed:
            raise Refused(
                431, f"there are {fields} fields, more than max_fields allows, {allowed} (RFC 6585, section 5)"
            )
        head = judge(lines)
        most = self._sources.bounds.body
        if head.length is not None and head.length > most:
            raise Refused(413, f"the body has {head.length} bytes, more than max_body allows, {most}")
        for line in lines[1:]:
            self._sources.keys.learn(line.partition(":")[0])
        self._head = head
        if head.length != 0:
            self._body, self.phase = Body(most, self._folder), "body"
            self._left = head.length or 0
            if head.length is None:
                self._chunks = Chunks(self._body, self._sources.bounds.head, self._sources.bounds.fields)
        return True

    def _judge_bounds(self, buffer: bytearray, end: int) -> None:
        """Refuse a head that is too long, or was malformed at a glance, though it may not be complete (`end` < 0)."""
        bounds = self._sources.bounds
        line = buffer.find(b"\r\n", 0, bounds.line + 2)
        if line < 0:
            if len(buffer) - 1 > bounds.line:  # the last may be the CR of the line's end
                raise Refused(414, f"the request line is longer than max_line allows, {bounds.line} bytes")
            if UNFIT.search(buffer, self._looked):
                raise Refused(400, "the request line is malformed (RFC 9112, section 3)")
        if (end + 4 if end >= 0 else len(buffer)) > bounds.head:
            raise Refused(431, f"the head is longer than max_head allows, {bounds.head} bytes")
        if end < 0 and BARE.search(buffer, max(0, self._looked - 1)):
            raise Refused(400, "a CR or LF stands alone (RFC 9112, section 2.2)")

    def _is_awaited(self, buffer: bytearray) -> bool:
        """Whether the client waits for a word before it sends the body that is read, and gets it now."""
        head = self._head
        if head is None or not head.continues:
            return False
        head.continues = False
        return not buffer

    def _take_body(self, buffer: bytearray) -> bool:
        """Take out of `buffer` what is the body's; return whether that was all of it."""
        if self._body is None:
            return True
        if self._chunks is not None:
            return self._chunks.take(buffer)
        self._left -= self._body.take(buffer, self._left)
        return not self._left

    def _complete(self) -> Request:
        """Return the request that is complete."""
        head, body, sources, environ = self._head, self._body, self._sources, self._base.copy()
        assert head is not None
        for name, value in head.fields.items():
            if "_" not in name:  # or it would speak in the place of one with a "-"
                environ[key_of(name)] = value
        if body is not None:
            environ["wsgi.input"] = body.open()
            if environ.pop("HTTP_TRANSFER_ENCODING", None) is not None:  # it has a length by now
                environ["CONTENT_LENGTH"] = str(body.size)
        environ["SERVER_PROTOCOL"] = head.version
        path = "/" if head.path == "*" else head.path  # of no resource; but PATH_INFO has a slash (RFC 3875, 4.1.5)
        number = self._address(environ, head.method, head.target, path, head.query)
        route = sources.routes.find(f"{head.method} {head.path}")
        self._head = self._body = self._chunks = None
        self._blank, self._line, self.phase = False, "", "head"
        request = Request(environ, head.method, head.target, number, route, head.closes, head.is_old)
        if body is not None:
            request.file = body.file
        return request
