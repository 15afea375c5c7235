"""Random streams over real sockets, to a server whose app says what it was called for."""

from __future__ import annotations

import logging
import random
import re
import socket
from typing import Any
from unittest import mock

from conformance.http.corpus.entry import BODY, FIELDS, HEAD, LINE
from conformance.http.decoding import Seen as Asked
from conformance.http.decoding import ours
from conformance.http.wire import Malformed, Reader, Recorder
from fuzz.web.streams import random_pieces, random_stream
from treadle.server import WSGI, Server

__all__ = ["play_served"]

CLIENTS = 8  # of one server, one after another
PATIENCE = 20.0  # seconds after which an answer does not come any more
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LIVE = re.compile(r"(?:(?i:https?)://[^/?#]*)?/live(?:\?.*)?")


def play_served(dice: random.Random, said: str) -> None:
    """Have some clients of a server send a random stream each, and compare.

    Raises:
        AssertionError: an answer is not what becomes of the stream.
    """
    recorder = Recorder()
    protocol = WSGI(recorder, max_line=LINE, max_head=HEAD, max_fields=FIELDS, max_body=BODY, health="/live")
    logger = logging.getLogger("treadle")
    with (
        mock.patch.object(logger, "disabled", True),
        mock.patch.object(logging.getLogger("treadle.wsgi"), "disabled", True),
    ):
        with Server(protocol, "127.0.0.1:0", max_workers=2) as server:
            for _ in range(CLIENTS):
                raw = random_stream(dice)
                pieces = random_pieces(dice, raw) if dice.random() < 0.5 else [raw]
                recorder.seen.clear()
                try:
                    _exchange(raw, pieces, server.address, recorder)
                except (AssertionError, Malformed, TimeoutError) as error:
                    lengths = [len(piece) for piece in pieces]
                    raise AssertionError(f"{said}: {raw!r} in {lengths}: {type(error).__name__} {error}") from error


def _exchange(raw: bytes, pieces: list[bytes], address: tuple[Any, ...], recorder: Recorder) -> None:
    """Send one stream, and look at what comes back, and at what the app was called for."""
    expected = ours([raw])
    with socket.create_connection(address[:2], PATIENCE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in pieces:
                sock.sendall(piece)
            sock.shutdown(socket.SHUT_WR)
        except OSError:  # who has refused may have hung up
            pass
        reader = Reader(sock)
        for asked in expected.requests:
            answer = reader.answer(asked[0])
            assert answer is not None, f"no answer to {asked}, {len(recorder.seen)} calls{' (reset)' * reader.reset}"
            assert answer.status == 200, f"{answer.status} to {asked}: {answer.body!r}"
            assert set(answer.interim) <= {100}, answer.interim
        last = reader.rest()
        while last.startswith(CONTINUE):
            last = last[len(CONTINUE) :]
        if last:
            assert not expected.over, f"{last!r} though it is over"
            assert expected.refused, f"{last!r}, which nobody asked for"
            _judge_refusal(last, expected.refused)
        else:
            assert reader.reset or not expected.refused, f"nothing is said of {expected.refused}"
    called: list[Asked] = [
        (seen.environ["REQUEST_METHOD"], seen.environ["RAW_URI"], seen.body) for seen in recorder.seen
    ]
    wanted = [asked for asked in expected.requests if not _is_live(asked)]
    assert called == wanted, f"the app was called for {called}, not for {wanted}"


def _is_live(asked: Asked) -> bool:
    return asked[0] in ("GET", "HEAD") and LIVE.fullmatch(asked[1]) is not None


def _judge_refusal(raw: bytes, refused: str) -> None:
    """Look at what is the last that comes: one refusal, of this status, which has a body unless it is a HEAD's."""
    head, end, body = raw.partition(b"\r\n\r\n")
    assert end, f"a refusal without an end: {raw!r}"
    assert head.startswith(f"HTTP/1.1 {refused[:3]} ".encode()), f"{raw!r} for {refused}"
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert fields.get(b"Connection") == b"close", f"a refusal that does not say close: {raw!r}"
    assert len(body) in (0, int(fields[b"Content-Length"])), f"{body!r} behind {head!r}"
