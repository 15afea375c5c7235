"""What our decoder, and two parsers of others, make of bytes, in one form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from conformance.http.corpus.entry import BODY, FIELDS, HEAD, LINE
from treadle.server._protocols.http.decoder import Bounds, RequestDecoder, Sources
from treadle.server._protocols.http.refused import Refused
from treadle.server._protocols.http.request import Request
from treadle.server._transport.decoder import CloseConnection

SMALL = Bounds(HEAD, LINE, FIELDS, BODY)
LARGE = Bounds(1 << 20, 1 << 20, 1 << 20, 1 << 70)  # no limit of ours is met

BASE = {"wsgi.input": None, "SERVER_PROTOCOL": "HTTP/1.1"}

Seen = tuple[str, str, bytes]  # method, target, body


@dataclass
class Outcome:
    """The requests that are complete; why the next one is refused, "" if it is not; whether nothing can come behind."""

    requests: list[Seen] = field(default_factory=list)
    refused: str = ""
    over: bool = False
    environs: list[dict[str, str]] = field(default_factory=list)  # ours alone


def ours(pieces: Iterable[bytes], bounds: Bounds = SMALL) -> Outcome:
    """Feed them to a decoder of ours, one by one."""
    outcome = Outcome()

    def refuse(peer: Any, refused: Refused, line: str) -> bytes:
        outcome.refused = str(refused)
        return b""

    decoder = RequestDecoder(Sources(bounds, "", {}, refuse, ""), lambda: dict(BASE), None, None)
    try:
        for piece in pieces:
            for message in decoder.feed(piece):
                if isinstance(message, Request):
                    _note(message, outcome)
                    if message.closes:
                        return outcome
    except CloseConnection:
        pass
    decoder.finish()
    return outcome


def _note(request: Request, outcome: Outcome) -> None:
    source = request.environ["wsgi.input"]
    outcome.requests.append((request.method, request.target, source.read() if source is not None else b""))
    outcome.over = request.closes
    environ = {key: value for key, value in request.environ.items() if isinstance(value, str)}
    del environ["treadle.request_id"]
    outcome.environs.append(environ)


def of_h11(raw: bytes) -> Outcome:
    """Have h11 read it, as a server that answers each request at once, and lets nobody switch protocols."""
    import h11

    outcome = Outcome()
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 22)
    connection.receive_data(raw)
    method = target = ""
    body = b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                method, target, body = event.method.decode(), event.target.decode("latin-1"), b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                outcome.requests.append((method, target, body))
                connection.send(h11.Response(status_code=404, headers=[("Content-Length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    outcome.over = True
                    return outcome
                connection.start_next_cycle()
            else:
                outcome.over = event is not h11.NEED_DATA
                return outcome
    except h11.RemoteProtocolError as error:
        outcome.refused = str(error)
        return outcome


class _Callbacks:
    """What httptools calls."""

    def __init__(self, outcome: Outcome) -> None:
        self.parser: Any = None
        self._outcome = outcome
        self._target, self._body = b"", b""

    def on_message_begin(self) -> None:
        self._target, self._body = b"", b""

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._outcome.requests.append((self.parser.get_method().decode(), self._target.decode("latin-1"), self._body))


def of_httptools(raw: bytes) -> Outcome:
    """Have httptools read it."""
    import httptools

    outcome = Outcome()
    callbacks = _Callbacks(outcome)
    callbacks.parser = httptools.HttpRequestParser(callbacks)
    try:
        callbacks.parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        outcome.over = True
    except httptools.HttpParserError as error:
        if "Data after `Connection: close`" in str(error):
            outcome.over = True
        else:
            outcome.refused = str(error)
    return outcome
