"""RequestDecoder: the same requests whichever way they go, and however their bytes are cut; or an error, never another.

The corpus of tests/conformance/http is sent to a whole server; here are the decoder's own promises.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from treadle.server._protocols.http.body import IN_MEMORY
from treadle.server._protocols.http.decoder import Bounds, RequestDecoder, Sources
from treadle.server._protocols.http.grammar import QUICK
from treadle.server._protocols.http.head import Head, judge
from treadle.server._protocols.http.keys import key_of
from treadle.server._protocols.http.refused import Refused
from treadle.server._protocols.http.request import Request
from treadle.server._transport.decoder import CloseConnection, Reply

BOUNDS = Bounds(head=4000, line=1000, fields=40, body=10_000)
INPUT = io.BytesIO()  # of requests that have no body
BASE = {"wsgi.input": INPUT, "SERVER_PROTOCOL": "HTTP/1.1", "REMOTE_ADDR": "::1"}
PEER = object()
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"


@dataclass
class Client:
    """What one connection's decoder makes of bytes, in the order in which it comes."""

    sources: Sources
    decoder: RequestDecoder
    refusals: list[tuple[object, Refused, str]]
    seen: list[Any] = field(default_factory=list)
    closed: bytes | None = None  # what it is closed with

    def send(self, *pieces: bytes) -> list[Any]:
        """Feed the pieces, until it is closed; return what came of all that was sent."""
        for piece in pieces:
            if self.closed is not None:
                break
            try:
                self.seen.extend(self.decoder.feed(piece))
            except CloseConnection as end:
                self.closed = end.answer  # type: ignore[assignment]  # it is bytes
        return self.seen

    def only(self, *pieces: bytes) -> Request:
        """Feed the pieces; return the one request that they are."""
        (request,) = self.send(*pieces)
        assert isinstance(request, Request)
        return request

    def refusal(self, *pieces: bytes) -> tuple[int, str, str]:
        """Feed the pieces; return status, reason and first line of what is refused."""
        self.send(*pieces)
        assert self.closed == b"refused", self.seen
        ((peer, refused, line),) = self.refusals
        assert peer is PEER
        return refused.status, refused.why, line


def connect(
    sources: Sources | None = None,
    *,
    bounds: Bounds = BOUNDS,
    script_name: str = "",
    answers: dict[str, Callable[[Request], bytes]] | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Client:
    refusals: list[tuple[object, Refused, str]] = []

    def refuse(peer: object, refused: Refused, line: str) -> bytes:
        refusals.append((peer, refused, line))
        return b"refused"

    sources = sources or Sources(bounds, script_name, answers or {}, refuse, "id-")
    return Client(sources, RequestDecoder(sources, lambda: dict(BASE), folder, PEER), refusals)


def bytewise(raw: bytes) -> list[bytes]:
    return [raw[at : at + 1] for at in range(len(raw))]


# Whole, what is plain goes the quick way; in pieces, never.
WAYS: dict[str, Callable[[bytes], list[bytes]]] = {
    "whole": lambda raw: [raw],
    "in two": lambda raw: [raw[:1], raw[1:]],
    "bytewise": bytewise,
}
each_way = pytest.mark.parametrize("cut", WAYS.values(), ids=WAYS)


def request_of(line: str, *fields: str, body: bytes = b"") -> bytes:
    return "\r\n".join([line, *fields, "", ""]).encode("latin-1") + body


def post(body: bytes, *fields: str) -> bytes:
    return request_of("POST /p HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *fields, body=body)


def said(environ: dict[str, Any]) -> dict[str, Any]:
    """Return what differs from the base, but for the id; the body as bytes."""
    found = {key: value for key, value in environ.items() if BASE.get(key) != value and key != "treadle.request_id"}
    if "wsgi.input" in found:
        found["wsgi.input"] = found["wsgi.input"].getvalue()
    return found


# -- requests ---------------------------------------------------------------------------------------------------------


@each_way
def test_a_request_has_what_its_head_says(cut: Callable[[bytes], list[bytes]]) -> None:
    request = connect().only(
        *cut(request_of("GET /a%20b?c=%20d HTTP/1.1", "Host: a:80", "X-Shop: \xe9", "Accept: */*"))
    )
    assert (request.method, request.target) == ("GET", "/a%20b?c=%20d")
    assert (request.closes, request.old, request.file) == (False, False, None)
    assert request.route == "GET /a%20b"
    assert said(request.environ) == {
        "REQUEST_METHOD": "GET",
        "RAW_URI": "/a%20b?c=%20d",
        "PATH_INFO": "/a b",
        "QUERY_STRING": "c=%20d",
        "HTTP_HOST": "a:80",
        "HTTP_X_SHOP": "\xe9",
        "HTTP_ACCEPT": "*/*",
    }
    assert request.environ["wsgi.input"] is INPUT
    assert BASE.keys() <= request.environ.keys()


@each_way
@pytest.mark.parametrize("body", [b"x", b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", bytes(range(256))])
def test_a_request_has_the_body_that_follows(cut: Callable[[bytes], list[bytes]], body: bytes) -> None:
    request = connect().only(*cut(post(body, "Content-Type: text/a")))
    assert request.environ["wsgi.input"].read() == body
    assert request.environ["CONTENT_LENGTH"] == str(len(body))
    assert request.environ["CONTENT_TYPE"] == "text/a"
    assert not {"HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE"} & request.environ.keys()


@each_way
def test_chunks_are_a_body_with_a_length(cut: Callable[[bytes], list[bytes]]) -> None:
    """RFC 9112, section 7.1.3: whoever has decoded it says how long it is."""
    request = connect().only(*cut(CHUNKED))
    assert request.environ["wsgi.input"].read() == b"abc"
    assert request.environ["CONTENT_LENGTH"] == "3"
    assert "HTTP_TRANSFER_ENCODING" not in request.environ


@each_way
@pytest.mark.parametrize("length", ["0", "00"])
def test_a_body_of_nothing_is_none(cut: Callable[[bytes], list[bytes]], length: str) -> None:
    request = connect().only(*cut(request_of("POST / HTTP/1.1", "Host: a", f"Content-Length: {length}")))
    assert request.environ["wsgi.input"].read() == b""
    assert request.environ["CONTENT_LENGTH"] == length


@each_way
@pytest.mark.parametrize(
    ("target", "path", "query", "raw_path"),
    [
        ("/", "/", "", "/"),
        ("/?", "/", "", "/"),
        ("/%E9%zz", "/\xe9%zz", "", "/%E9%zz"),
        ("/%2F%3F?%3F", "//?", "%3F", "/%2F%3F"),
        ("http://b/c?d", "/c", "d", "/c"),
    ],
)
def test_targets_are_in_the_environ_as_pep_3333_says(
    cut: Callable[[bytes], list[bytes]], target: str, path: str, query: str, raw_path: str
) -> None:
    request = connect().only(*cut(request_of(f"GET {target} HTTP/1.1", "Host: a")))
    environ = request.environ
    assert (environ["PATH_INFO"], environ["QUERY_STRING"], environ["RAW_URI"]) == (path, query, target)
    assert (request.target, request.route) == (target, f"GET {raw_path}")


@pytest.mark.parametrize(
    ("version", "told", "old"), [("1.0", "1.0", True), ("1.1", "1.1", False), ("1.7", "1.1", False)]
)
def test_a_request_says_its_version(version: str, told: str, old: bool) -> None:
    request = connect().only(request_of(f"GET / HTTP/{version}", "Host: a"))
    assert (request.environ["SERVER_PROTOCOL"], request.old, request.closes) == (f"HTTP/{told}", old, old)


@each_way
@pytest.mark.parametrize(
    ("value", "closes"),
    [("close", True), ("Close", True), ("keep-alive", False), ("Keep-Alive", False), ("a", False), ("a, close", True)],
)
def test_a_request_says_whether_it_is_the_last(cut: Callable[[bytes], list[bytes]], value: str, closes: bool) -> None:
    """RFC 9112, section 9.3."""
    request = connect().only(*cut(request_of("GET / HTTP/1.1", "Host: a", f"Connection: {value}")))
    assert (request.closes, request.environ["HTTP_CONNECTION"]) == (closes, value)


@each_way
def test_a_field_with_an_underscore_is_dropped(cut: Callable[[bytes], list[bytes]]) -> None:
    """Or it would speak in the place of one that a proxy has set."""
    fields = ["X-User: a", "X_User: b", "X_Other: c", "Content_Length: 5"]
    environ = connect().only(*cut(request_of("GET / HTTP/1.1", "Host: a", *fields))).environ
    assert (environ["HTTP_X_USER"], "HTTP_X_OTHER" in environ, "CONTENT_LENGTH" in environ) == ("a", False, False)


@each_way
def test_lines_of_one_name_are_one_field(cut: Callable[[bytes], list[bytes]]) -> None:
    """RFC 9110, section 5.2."""
    raw = request_of("GET / HTTP/1.1", "Host: a", "Accept: a", "accept: b", "Cookie: c", "Cookie: d")
    environ = connect().only(*cut(raw)).environ
    assert (environ["HTTP_ACCEPT"], environ["HTTP_COOKIE"]) == ("a, b", "c; d")


@each_way
@pytest.mark.parametrize("host", ["", "a b", "a/b", "a:b", "[1]"])
def test_a_host_is_judged_on_every_request(cut: Callable[[bytes], list[bytes]], host: str) -> None:
    """RFC 9110, section 7.2. Also if one before it was right, and if there was none."""
    client, first = connect(), connect()
    client.only(GET)
    raw = request_of("GET / HTTP/1.1", f"Host: {host}")
    assert client.refusal(*cut(raw))[0] == first.refusal(*cut(raw))[0] == 400
    assert connect().refusal(*cut(request_of("GET / HTTP/1.1", "Accept: a")))[0] == 400


def test_hosts_may_change_from_request_to_request() -> None:
    client = connect()
    hosts = ["a", "b", "a", "a"]
    for host in hosts:
        client.send(request_of("GET / HTTP/1.1", f"Host: {host}"))
    assert [request.environ["HTTP_HOST"] for request in client.seen] == hosts


@each_way
def test_a_name_that_nobody_knew_is_known_from_then_on(cut: Callable[[bytes], list[bytes]]) -> None:
    client = connect()
    raw = request_of("GET / HTTP/1.1", "Host: a", "X-Odd: 1", "X_Odd: 2", "Expect: 100-continue", "Accept: a")
    assert "X-Odd" not in client.sources.keys
    client.only(*cut(raw))
    assert client.sources.keys["X-Odd"] == "HTTP_X_ODD"
    assert {"X_Odd", "Expect"}.isdisjoint(client.sources.keys)


def test_names_of_a_request_that_is_refused_are_not_learnt() -> None:
    client = connect()
    client.refusal(request_of("GET / HTTP/1.1", "Host: a", "X-Odd: 1", "Content-Length: x"))
    assert "X-Odd" not in client.sources.keys


# -- what connections have in common ----------------------------------------------------------------------------------


def test_the_base_is_asked_for_once_when_something_has_come() -> None:
    """Before, it is not known who the client is: a proxy may tell."""
    calls: list[int] = []

    def base() -> dict[str, Any]:
        calls.append(1)
        return dict(BASE)

    for cut in WAYS.values():
        calls.clear()
        decoder = RequestDecoder(connect().sources, base, None, None)
        assert not calls
        requests = [request for _ in range(3) for piece in cut(GET) for request in decoder.feed(piece)]
        assert (len(requests), len(calls)) == (3, 1)


@each_way
def test_each_request_has_an_environ_of_its_own(cut: Callable[[bytes], list[bytes]]) -> None:
    client = connect()
    client.send(*cut(GET), *cut(GET))
    first, second = client.seen
    first.environ["REMOTE_ADDR"] = "changed"
    client.send(*cut(GET))
    assert [second.environ["REMOTE_ADDR"], client.seen[2].environ["REMOTE_ADDR"]] == ["::1", "::1"]


@each_way
def test_requests_are_numbered_across_connections(cut: Callable[[bytes], list[bytes]]) -> None:
    one = connect()
    two = connect(one.sources)
    for _ in range(8):
        one.send(*cut(GET))
        two.send(*cut(GET))
    assert [request.id for request in one.seen] == ["id-1", "id-3", "id-5", "id-7", "id-9", "id-b", "id-d", "id-f"]
    assert two.seen[-1].id == two.seen[-1].environ["treadle.request_id"] == "id-10"


@each_way
@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("a", True),
        ("!#[]~:9", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("", False),
        ("a b", False),
        ('a"', False),
        ("a\\", False),
        ("\xe9", False),
    ],
)
def test_an_id_of_somebody_elses_is_kept_if_a_log_can_hold_it(
    cut: Callable[[bytes], list[bytes]], sent: str, kept: bool
) -> None:
    request = connect().only(*cut(request_of("GET / HTTP/1.1", "Host: a", f"X-Request-ID: {sent}")))
    assert request.id == request.environ["treadle.request_id"] == (sent if kept else "id-1")
    assert request.environ["HTTP_X_REQUEST_ID"] == sent


@each_way
@pytest.mark.parametrize(
    ("path", "info"),
    [("/shop", ""), ("/shop/", "/"), ("/shop/a", "/a"), ("/shops", "/shops"), ("/a/shop", "/a/shop"), ("/", "/")],
)
def test_the_scripts_name_is_taken_off_the_path(cut: Callable[[bytes], list[bytes]], path: str, info: str) -> None:
    """RFC 3875, section 4.1.5. One that lacks it is left: a proxy may have taken it off."""
    request = connect(script_name="/shop").only(*cut(request_of(f"GET {path} HTTP/1.1", "Host: a")))
    assert (request.environ["PATH_INFO"], request.environ["RAW_URI"]) == (info, path)
    assert connect().only(*cut(request_of(f"GET {path} HTTP/1.1", "Host: a"))).environ["PATH_INFO"] == path


@each_way
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_for_the_server_is_answered_in_its_turn(cut: Callable[[bytes], list[bytes]], method: str) -> None:
    asked: list[Request] = []

    def answer(request: Request) -> bytes:
        asked.append(request)
        return b"well"

    client = connect(answers={"/healthz": answer})
    health = request_of(f"{method} /healthz?a HTTP/1.1", "Host: a")
    before, reply, after = client.send(*cut(GET + health + GET))
    assert (before.target, after.target) == ("/a", "/a")
    assert isinstance(reply, Reply)
    assert (reply.answer, reply.final) == (b"well", True)
    assert [(request.method, request.target) for request in asked] == [(method, "/healthz?a")]
    alone = client.send(*cut(health))[3:]
    assert [type(seen) for seen in alone] == [Reply]
    assert client.closed is None


@each_way
def test_the_server_answers_gets_of_its_own_paths_alone(cut: Callable[[bytes], list[bytes]]) -> None:
    client = connect(answers={"/healthz": lambda request: b"well"})
    for line in ("POST /healthz", "GET /healthz/", "GET /", "GET /%68ealthz"):
        client.send(*cut(request_of(f"{line} HTTP/1.1", "Host: a")))
    assert [type(seen) for seen in client.seen] == [Request] * 4


@each_way
def test_what_is_for_the_server_may_be_the_last(cut: Callable[[bytes], list[bytes]]) -> None:
    client = connect(answers={"/healthz": lambda request: b"well"})
    (reply,) = client.send(*cut(request_of("GET /healthz HTTP/1.1", "Host: a", "Connection: close") + GET))
    assert (reply.answer, client.closed) == (b"well", b"")
    assert not client.refusals


# -- where one ends and the next begins -------------------------------------------------------------------------------


@each_way
def test_requests_that_come_together_are_given_in_their_order(cut: Callable[[bytes], list[bytes]]) -> None:
    client = connect()
    requests = client.send(*cut(GET + post(b"GET ") + CHUNKED + GET + post(b"\r\n") + GET))
    assert [request.target for request in requests] == ["/a", "/p", "/c", "/a", "/p", "/a"]
    assert [request.environ["wsgi.input"].read() for request in requests] == [b"", b"GET ", b"abc", b"", b"\r\n", b""]
    assert (client.decoder.held, client.decoder.phase) == (0, "head")


def test_each_is_given_before_the_next_is_judged() -> None:
    client = connect()
    assert client.refusal(GET + b"\0")[0] == 400
    assert [request.target for request in client.seen] == ["/a"]


@each_way
def test_an_empty_line_before_a_request_is_none_of_it(cut: Callable[[bytes], list[bytes]]) -> None:
    """RFC 9112, section 2.2: one; before each."""
    client = connect()
    client.send(*cut(b"\r\n" + GET + b"\r\n" + post(b"x") + b"\r\n"))
    client.send(*cut(GET))
    assert [request.target for request in client.seen] == ["/a", "/p", "/a"]


@each_way
@pytest.mark.parametrize("before", [b"\r\n\r\n", b"\n", b"\r", b" ", b"\r\n ", b"\r\n\r\n\r\n", b"\0"])
def test_nothing_else_may_stand_before_a_request(cut: Callable[[bytes], list[bytes]], before: bytes) -> None:
    assert connect().refusal(*cut(before + GET))[0] == 400
    client = connect()
    client.send(*cut(GET))
    assert client.refusal(*cut(before + GET))[0] == 400
    assert len(client.seen) == 1


def test_an_empty_line_is_counted_though_nothing_else_came_with_it() -> None:
    client = connect()
    client.send(b"\r\n")
    assert client.refusal(b"\r\n", GET)[0] == 400


def test_held_and_phase_say_what_is_not_complete() -> None:
    client = connect()
    decoder = client.decoder
    assert (decoder.held, decoder.phase) == (0, "head")
    client.send(GET[:5])
    assert (decoder.held, decoder.phase) == (5, "head")
    client.send(GET[5:] + post(b"abc")[:-3])
    assert (decoder.held, decoder.phase) == (1, "body")  # though nothing of it has come
    client.send(b"ab")
    assert (decoder.held, decoder.phase) == (1, "body")
    client.send(b"c")
    assert (decoder.held, decoder.phase) == (0, "head")
    client.send(CHUNKED[:-4])
    assert decoder.phase == "body"
    client.send(CHUNKED[-4:] + GET[:7])
    assert (decoder.held, decoder.phase) == (7, "head")
    assert len(client.seen) == 3


def test_what_comes_after_a_body_goes_the_quick_way_again() -> None:
    client = connect()
    client.send(*bytewise(post(b"abc")))
    assert isinstance(client.decoder.feed(GET), tuple)


def test_an_empty_line_that_comes_alone_is_of_the_request_behind_it() -> None:
    client = connect()
    client.send(b"\r\n", GET, b"\r\n", GET, b"\r\n" + GET)
    assert (len(client.seen), client.closed) == (3, None)


@pytest.mark.parametrize("body", [b"", b"abc"])
def test_what_is_plain_goes_the_quick_way(body: bytes) -> None:
    fields = [
        "Accept: */*",
        "Host: a",
        "Accept-Language: en",
        "user-agent: b (c; d)",
        "Connection: keep-alive",
        "Dnt: 1",
    ]
    length = [f"Content-Length: {len(body)}"] if body else []
    fed = connect().decoder.feed(request_of("POST /a?b HTTP/1.1", *fields, *length, body=body))
    assert isinstance(fed, tuple)
    assert fed[0].environ["HTTP_ACCEPT_LANGUAGE"] == "en"


# -- Expect -----------------------------------------------------------------------------------------------------------

EXPECTING = "Expect: 100-continue"


@each_way
@pytest.mark.parametrize("length", ["Content-Length: 3", "Transfer-Encoding: chunked"])
def test_who_waits_for_100_gets_it_once(cut: Callable[[bytes], list[bytes]], length: str) -> None:
    """RFC 9110, section 10.1.1. It is no answer: what is incomplete gains no time by it."""
    client = connect()
    (reply,) = client.send(*cut(request_of("POST / HTTP/1.1", "Host: a", length, EXPECTING)))
    assert isinstance(reply, Reply)
    assert (reply.answer, reply.final) == (CONTINUE, False)
    _, request = client.send(*bytewise(b"abc" if "Content" in length else b"3\r\nabc\r\n0\r\n\r\n"))
    assert request.environ["wsgi.input"].read() == b"abc"
    assert request.environ["HTTP_EXPECT"] == "100-continue"


def test_who_does_not_wait_does_not_get_it() -> None:
    """RFC 9110, section 10.1.1: nor whoever has sent a part of the body already."""
    for raw in (post(b"abc", EXPECTING), post(b"abc", EXPECTING)[:-1], post(b"abc"), post(b"abc")[:-3]):
        client = connect()
        client.send(raw)
        client.send(post(b"abc", EXPECTING)[len(raw) :] if EXPECTING.encode() in raw else b"")
        assert not any(isinstance(seen, Reply) for seen in client.seen)


@each_way
def test_who_waits_without_a_body_gets_the_answer(cut: Callable[[bytes], list[bytes]]) -> None:
    assert connect().only(*cut(request_of("GET / HTTP/1.1", "Host: a", EXPECTING))).method == "GET"


def test_100_stands_behind_the_requests_before_it() -> None:
    client = connect()
    request, reply = client.send(GET + post(b"abc", EXPECTING)[:-3])
    assert (request.target, reply.answer) == ("/a", CONTINUE)


@each_way
def test_a_body_that_is_too_long_is_refused_before_it_is_asked_for(cut: Callable[[bytes], list[bytes]]) -> None:
    client = connect()
    head = request_of("POST / HTTP/1.1", "Host: a", "Content-Length: 10001", EXPECTING)
    assert client.refusal(*cut(head))[0] == 413
    assert not client.seen


# -- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/{}", "/?{}", "http://b/{}"])
@pytest.mark.parametrize("pieces", ["whole", "before CR", "between CR and LF", "bytewise"])
def test_a_request_line_is_at_most_max_line_long(target: str, pieces: str) -> None:
    """RFC 9112, section 3: 414 if it is longer. Its end is none of it, wherever it is cut."""
    line = f"GET {target.format('a' * 2000)}"[: BOUNDS.line - 9] + " HTTP/1.1"
    assert len(line) == BOUNDS.line
    for longer in (0, 1):
        raw = request_of(line.replace("a HTTP", "a" * (1 + longer) + " HTTP"), "Host: a")
        end = BOUNDS.line + longer
        cuts = {
            "whole": [raw],
            "before CR": [raw[:end], raw[end:]],
            "between CR and LF": [raw[: end + 1], raw[end + 1 :]],
            "bytewise": bytewise(raw),
        }
        client = connect()
        if longer:
            why = "the request line is longer than max_line allows, 1000 bytes"
            assert client.refusal(*cuts[pieces])[:2] == (414, why)
        else:
            assert client.only(*cuts[pieces]).method == "GET"


def test_a_request_line_that_does_not_end_is_not_waited_for() -> None:
    client = connect()
    client.send(b"G" * (BOUNDS.line + 1))
    assert client.closed is None
    assert client.refusal(b"G")[0] == 414


@each_way
@pytest.mark.parametrize("plain", [True, False])
def test_a_head_is_at_most_max_head_long(cut: Callable[[bytes], list[bytes]], plain: bool) -> None:
    """RFC 6585, section 5: 431 if it is longer; with the empty line at its end."""
    lines = ["GET / HTTP/1.1", "Host: a", "Accept: " if plain else "Accept:   "]
    fill = "a" * (BOUNDS.head - len(request_of(*lines)))
    raw = request_of(*lines[:-1], lines[-1] + fill)
    assert len(raw) == BOUNDS.head
    assert connect().only(*cut(raw)).environ["HTTP_ACCEPT"] == fill
    why = "the head is longer than max_head allows, 4000 bytes"
    assert connect().refusal(*cut(request_of(*lines[:-1], lines[-1] + fill + "a")))[:2] == (431, why)


def test_a_head_that_does_not_end_is_not_waited_for() -> None:
    client = connect()
    client.send((b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 1000)[: BOUNDS.head])
    assert client.closed is None
    assert client.refusal(b"a")[0] == 431


@pytest.mark.parametrize("bounds", [Bounds(4000, 100, 40, 10_000), Bounds(100, 4000, 40, 10_000)])
@pytest.mark.parametrize("longer", [0, 1])
def test_what_is_longer_than_a_bound_goes_the_careful_way(bounds: Bounds, longer: int) -> None:
    """A body counts there, too, so the quick way need not measure the line: what it takes is within both."""
    client = connect(bounds=bounds)
    raw = post(b"", "Content-Type: a").replace(b"Length: 0", b"Length: 25") + b"x" * 25
    assert len(raw) < 100
    filled = raw.replace(b"Type: a", b"Type: " + b"a" * (101 - len(raw) + longer))
    assert len(filled) == 100 + longer
    fed = client.decoder.feed(filled)
    assert isinstance(fed, tuple) is (longer == 0)
    (request,) = fed
    assert request.environ["wsgi.input"].read() == b"x" * 25


@each_way
@pytest.mark.parametrize("most", [1, 2, 40])
def test_a_head_has_at_most_max_fields(cut: Callable[[bytes], list[bytes]], most: int) -> None:
    """RFC 6585, section 5."""
    names = list({key_of(name): name for name in sorted(connect().sources.keys) if name.islower()}.values())
    fields = [f"{name}: 5" for name in names if name not in ("host", "content-length")]
    bounds = Bounds(4000, 1000, most, 10_000)
    assert connect(bounds=bounds).only(*cut(request_of("GET / HTTP/1.1", "Host: a", *fields[: most - 1]))).method
    refusal = connect(bounds=bounds).refusal(*cut(request_of("GET / HTTP/1.1", "Host: a", *fields[:most])))
    assert refusal[:2] == (
        431,
        f"there are {most + 1} fields, more than max_fields allows, {most} (RFC 6585, section 5)",
    )


@each_way
def test_a_body_is_at_most_max_body_long(cut: Callable[[bytes], list[bytes]]) -> None:
    """RFC 9110, section 15.5.14: 413, before it is sent where that is told."""
    bounds = Bounds(4000, 1000, 40, 100)
    assert connect(bounds=bounds).only(*cut(post(b"x" * 100))).environ["CONTENT_LENGTH"] == "100"
    why = "the body has 101 bytes, more than max_body allows, 100"
    assert connect(bounds=bounds).refusal(*cut(post(b"x" * 101)))[:2] == (413, why)
    assert connect(bounds=bounds).refusal(*cut(post(b"x" * 101)[:-101]))[0] == 413
    head = CHUNKED[: CHUNKED.index(b"3\r\n")]
    assert len(connect(bounds=bounds).send(*cut(head + b"64\r\n" + b"x" * 100 + b"\r\n0\r\n\r\n"))) == 1
    assert connect(bounds=bounds).refusal(*cut(head + b"65\r\n"))[0] == 413


@each_way
def test_trailers_are_at_most_max_head_long(cut: Callable[[bytes], list[bytes]]) -> None:
    bounds = Bounds(100, 100, 40, 100)
    trailer = b"a: " + b"b" * 95 + b"\r\n"
    assert len(trailer) == 100
    assert len(connect(bounds=bounds).send(*cut(CHUNKED[:-2] + trailer + b"\r\n"))) == 1
    assert connect(bounds=bounds).refusal(*cut(CHUNKED[:-2] + trailer + b"a: b\r\n\r\n"))[0] == 431


# -- what is refused --------------------------------------------------------------------------------------------------


@each_way
@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\n",
        b"GET / HTTP/1.1\rH",
        b"GET / HTTP/1.1\r\rH",
        b"GET / HTTP/1.1\r\nHost: a\rA",
        b"\rG",
        b"GET /\0",
        b"\x16\x03\x01",  # TLS
        b"GET /\x7f",
        b"GET /\xe9",
        b"GET\t",
    ],
)
def test_what_can_become_no_request_is_not_waited_for(cut: Callable[[bytes], list[bytes]], raw: bytes) -> None:
    """RFC 9112, section 2.2: no CR and no LF stands alone. And a request line is visible (section 3)."""
    assert connect().refusal(*cut(raw))[0] == 400


@pytest.mark.parametrize(
    "raw", [b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\nHost: a\r", b"GET / HTTP/1.1\r\nHost: a\r\n\r"]
)
def test_a_cr_may_be_the_last_that_has_come(raw: bytes) -> None:
    client = connect()
    client.send(raw)
    assert client.closed is None
    assert len(client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[len(raw) :])) == 1


@each_way
def test_a_log_is_told_the_first_line_of_what_is_refused(cut: Callable[[bytes], list[bytes]]) -> None:
    line = "DELETE /a?\xe9 HTTP/1.1"
    for raw in (
        request_of("PUT /\xe9 HTTP/1.1"),  # UNFIT before its end is there
        GET + b"\r\n" + request_of("PUT /a?b HTTP/1.1", "a"),
        request_of("PUT /a HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", body=b"x\r\n"),
        request_of("PUT /a HTTP/1.1", "Host: a", "Content-Length: 10001"),
    ):
        told = raw[raw.index(b"PUT") :].partition(b"\r\n")[0].decode("latin-1")
        assert connect().refusal(*cut(raw))[2] in (told, told[:6])
    assert connect().refusal(line.encode("latin-1"))[2] == line


def test_a_log_is_told_at_most_200_bytes_of_a_line_that_does_not_end() -> None:
    assert connect().refusal(b"G" * (BOUNDS.line + 2))[2] == "G" * 200
    assert connect().refusal(b"GET / HTTP/1.1\r\na\n")[2] == "GET / HTTP/1.1"


def test_the_line_of_a_request_before_is_not_told() -> None:
    client = connect()
    client.send(*bytewise(post(b"abc")))
    assert client.refusal(b"GET /b\0")[2] == "GET /b\0"


# -- bodies in files --------------------------------------------------------------------------------------------------

LARGE = Bounds(4000, 1000, 40, 10 * IN_MEMORY)
LONG = b"0123456789abcdef" * (IN_MEMORY // 8)
on_linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are listed in /proc")


def files_in(folder: Path) -> Iterator[str]:
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:  # the one that lists them
            continue
        if link.startswith(f"{folder}/"):
            yield link


def in_pieces(raw: bytes, size: int = 60_000) -> list[bytes]:
    return [raw[at : at + size] for at in range(0, len(raw), size)]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_long_body_is_in_a_file_that_the_request_has(tmp_path: Path, chunked: bool) -> None:
    client = connect(bounds=LARGE, folder=tmp_path)
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in in_pieces(LONG, 99_999))
    raw = CHUNKED[:-13] + chunks + b"0\r\n\r\n" if chunked else post(LONG)
    request = client.only(*in_pieces(raw))
    body = request.environ["wsgi.input"]
    assert request.file is not None
    with request.file:
        assert body.read() == LONG
    assert body.closed
    assert request.environ["CONTENT_LENGTH"] == str(len(LONG))
    assert connect(bounds=LARGE).only(*in_pieces(post(LONG[:IN_MEMORY]))).file is None


@on_linux
@pytest.mark.parametrize("end", ["finish", "refused"])
def test_a_body_that_is_not_complete_leaves_no_file(tmp_path: Path, end: str) -> None:
    client = connect(bounds=LARGE, folder=tmp_path)
    client.send(*in_pieces(CHUNKED[:-13] + b"%x\r\n" % len(LONG) + LONG))
    assert len(list(files_in(tmp_path))) == 1
    if end == "finish":
        assert not list(client.decoder.finish())
        assert not list(client.decoder.finish())
    else:
        assert client.refusal(b"x")[0] == 400
    assert not list(files_in(tmp_path))
    assert not client.seen


def test_a_body_that_cannot_be_kept_is_507(tmp_path: Path) -> None:
    client = connect(bounds=LARGE, folder=tmp_path / "none")
    status, why, line = client.refusal(GET, *in_pieces(post(LONG)))
    assert (status, line) == (507, "POST /p HTTP/1.1")
    assert "cannot be kept" in why
    assert len(client.seen) == 1


def test_half_a_request_is_none() -> None:
    for raw in (b"", GET[:-1], post(b"abc")[:-1], CHUNKED[:-1]):
        client = connect()
        client.send(raw)
        assert not list(client.decoder.finish())
        assert not client.seen


# -- both ways, and all cuts ------------------------------------------------------------------------------------------

FIELDS = st.sampled_from(
    [
        "Host: a",
        "host: b:80",
        "Host: [::1]",
        "Host: a b",
        "Host:",
        "Accept: a",
        "accept: b",
        "X-Odd: c",
        "X_Odd: c",
        "Cookie: d=1; e",
        "Connection: close",
        "Connection: keep-alive",
        "Connection: a, Close",
        "Content-Length: 3",
        "Content-Length: 0",
        "Content-Length: 03",
        "Content-Length: +3",
        "Content-Type: a/b",
        "Transfer-Encoding: chunked",
        "Expect: 100-continue",
        "Upgrade: h2c",
        "a:b",
        "a: b ",
        "a : b",
        " a: b",
        "a",
        "",
        "X-Forwarded-For: \x85",
    ]
)
LINES = st.sampled_from(
    [
        "GET / HTTP/1.1",
        "POST /a?b HTTP/1.1",
        "GET /%41? HTTP/1.1",
        "CONNECT /a HTTP/1.1",
        "M-A / HTTP/1.1",
        "GET / HTTP/1.0",
        "OPTIONS * HTTP/1.1",
        "GET http://b/ HTTP/1.1",
        "GET /\x80 HTTP/1.1",
        "GET  / HTTP/1.1",
    ]
)
TAILS = st.sampled_from([b"", b"abc", b"abcd", b"\r\n", b"3\r\nabc\r\n0\r\n\r\n", GET, b"abc" + GET, b"GET /"])
RAW = st.builds(
    lambda line, fields, tail: request_of(line, *fields, body=tail),
    LINES | st.just("GET / HTTP/1.1"),
    st.lists(FIELDS, max_size=5).map(lambda fields: ["Host: a", *fields]) | st.lists(FIELDS, max_size=3),
    TAILS,
)
# As browsers and proxies send them, but for what is changed: most of these go the quick way.
PLAIN_FIELDS = [
    "Accept: a",
    "Cookie: d=1; e",
    "Connection: close",
    "Connection: keep-alive",
    "X-Odd: c",
    "dnt: \xe9",
    "TE: a",
]
PLAIN = st.builds(
    lambda line, fields, host, body, told: request_of(
        line, f"Host: {host}", *fields, *([f"Content-Length: {len(body)}"] if body or told else []), body=body
    ),
    st.sampled_from(["GET / HTTP/1.1", "POST /a?b HTTP/1.1", "DELETE /%41? HTTP/1.1"]),
    st.lists(st.sampled_from(PLAIN_FIELDS), max_size=4, unique_by=lambda line: line.partition(":")[0]),
    st.sampled_from(["a", "b:80", "[::1]"]),
    st.sampled_from([b"", b"abc", b"0123456789", GET]),
    st.booleans(),
)
BYTES = st.sampled_from(b"\r\n\0 \t:;,/?#%_-+0123aAZ\x7f\x80\xff")


@st.composite
def mutated(draw: st.DrawFn, raws: st.SearchStrategy[bytes] = RAW | PLAIN) -> bytes:
    """Give a request of which up to two bytes are others, or are not there, or are there beside."""
    raw = draw(raws)
    for _ in range(draw(st.integers(0, 2))):
        at, how = draw(st.integers(0, len(raw))), draw(st.sampled_from("+-="))
        raw = raw[:at] + (b"" if how == "-" else bytes([draw(BYTES)])) + raw[at + (how != "+") :]
    return raw


def judged(raw: bytes) -> Head:
    """Return what the careful way says of the head that `raw` begins with."""
    return judge(raw[: raw.index(b"\r\n\r\n")].decode("latin-1").split("\r\n"))


@settings(max_examples=400)
@given(mutated(PLAIN) | mutated())
def test_the_quick_way_and_the_judge_agree(raw: bytes) -> None:
    client = connect()
    client.sources.keys.learn("X-Odd")
    fed = client.decoder.feed(raw)
    match = QUICK.match(raw.decode("latin-1"))
    if not isinstance(fed, tuple):
        return
    assert match is not None
    (request,) = fed
    head, body = judged(raw), raw[match.end() :]
    assert (request.method, request.target, request.closes) == (head.method, head.target, head.closes)
    assert (request.old, head.is_old, head.continues) == (False, False, False)
    assert head.length == len(body)
    fields = {key_of(name): value for name, value in head.fields.items()}
    assert {key: value for key, value in request.environ.items() if key in fields} == fields
    expected = BASE.keys() | fields | {"REQUEST_METHOD", "RAW_URI", "PATH_INFO", "QUERY_STRING", "treadle.request_id"}
    assert request.environ.keys() == expected
    assert request.environ["QUERY_STRING"] == head.query
    assert request.route == client.sources.routes.find(f"{head.method} {head.path}")
    assert request.environ["wsgi.input"].read() == body


Outcome = tuple[list[Any], bool]


def outcome_of(pieces: Iterable[bytes]) -> Outcome:
    """Return what becomes of them, and whether it is over; not why, for the first rule that is seen broken counts."""
    client = connect()
    seen: list[Any] = []
    for item in client.send(*pieces):
        if isinstance(item, Reply):
            continue  # who sends all at once waits for no word
        assert isinstance(item, Request)
        seen.append((item.method, item.target, item.route, item.closes, item.old, item.id, said(item.environ)))
        seen[-1][-1].setdefault("wsgi.input", b"")
    assert all(400 <= refused.status <= 599 for _, refused, _ in client.refusals)
    assert len(client.refusals) == (client.closed is not None)
    return seen, client.closed is not None


@settings(max_examples=300)
@given(st.lists(mutated(), min_size=1, max_size=3), st.lists(st.integers(0, 400), max_size=6))
@example([b"\r\n" + GET], [1])
@example([CHUNKED + post(b"abc")], [60, 63, 66])
def test_whatever_the_cuts_the_same_requests_come_out_and_nothing_else_is_raised(
    raws: list[bytes], cuts: list[int]
) -> None:
    """What is not complete may be refused sooner in pieces, or later: so enough is sent behind it to end the matter."""
    raw = b"".join(raws) + b"\r\n\r\n\r\n\r\n\0" * 3
    edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    pieces = [raw[start:end] for start, end in pairwise(edges) if start < end]
    whole = outcome_of([raw])
    assert outcome_of(pieces) == whole
    assert outcome_of(bytewise(raw)) == whole


@given(st.binary(max_size=60) | st.lists(BYTES, max_size=40).map(bytes), st.booleans())
def test_any_bytes_are_requests_or_refused(raw: bytes, behind: bool) -> None:
    whole = outcome_of([GET * behind + raw + b"\r\n\r\n\r\n\r\n\0"])
    assert whole == outcome_of(bytewise(GET * behind + raw + b"\r\n\r\n\r\n\r\n\0"))
    assert len(whole[0]) == behind
    assert whole[1]


@pytest.mark.parametrize("target", ["*", "http://a"])
def test_a_request_for_the_server_in_general_has_the_path_of_its_root(target: str) -> None:
    """RFC 9112, section 3.2.4; but a PATH_INFO begins with a slash (RFC 3875, section 4.1.5), as validators want."""
    request = connect().only(request_of(f"OPTIONS {target} HTTP/1.1", "Host: a"))
    assert (request.environ["PATH_INFO"], request.environ["RAW_URI"]) == ("/", target)
    assert request.route == "OPTIONS *"


# -- Sources ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "info"), [("/a/b", ""), ("/a/b/", "/"), ("/a/b/c", "/c"), ("/a/bc", "/a/bc"), ("/a", "/a"), ("/", "/")]
)
def test_split_takes_the_whole_name_off(path: str, info: str) -> None:
    environ = {"PATH_INFO": path}
    connect(script_name="/a/b").sources.split(environ)
    assert environ == {"PATH_INFO": info}


def test_bounds_are_what_they_were_made_of() -> None:
    bounds = Bounds(1, 2, 3, 4)
    assert (bounds.head, bounds.line, bounds.fields, bounds.body) == (1, 2, 3, 4)
