"""Connections: which are kept for the next request, which end with an answer, and in what order answers come."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from behaviour.web.scene import PATIENCE, Environ, Scene, calling, request, until
from tcp import driver_of
from treadle.server import Limits

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)  # RFC 9113, section 3.4, with empty settings


def unsized(environ: Environ, start_response: Any) -> Iterator[bytes]:
    """Answer with two pieces, whose length nobody has said."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"two "
    yield b"pieces"


@pytest.mark.parametrize("path", ["/whole", "/unsized"])
def test_a_connection_is_kept_for_many_requests(path: str) -> None:
    scene = Scene(unsized=unsized)
    with scene.served() as server, calling(server) as (caller,):
        for _ in range(100):
            answer = caller.get(path)
            assert answer.status == 200
            assert b"connection" not in answer.fields
        assert server.snapshot().accepted == 1


@pytest.mark.parametrize("say", ["close", "Close", "keep-alive, close", "x, close"])
@pytest.mark.parametrize("path", ["/whole", "/unsized"])
def test_who_says_that_it_is_the_last_request_is_told_so_and_nothing_behind_it_is_answered(say: str, path: str) -> None:
    scene = Scene(unsized=unsized)
    with scene.served() as server, calling(server) as (caller,):
        caller.send(request(path, f"Connection: {say}") + request("/behind"))
        answer = caller.answer()
        assert (answer.status, answer.fields[b"connection"]) == (200, b"close")
        assert caller.ends()
    assert scene.began == [path]


@pytest.mark.parametrize("say", [(), ("Connection: close",), ("Connection: x",)])
def test_http_1_0_ends_with_its_answer(say: tuple[str, ...]) -> None:
    scene = Scene(unsized=unsized)
    with scene.served() as server, calling(server, 2) as (whole, pieces):
        answer = whole.send(request("/whole", *say, version="1.0")).answer()
        assert (answer.body, answer.fields[b"connection"]) == (b"/whole", b"close")
        assert whole.ends()
        answer = pieces.send(request("/unsized", *say, version="1.0")).answer()
        assert (answer.body, answer.fields[b"connection"]) == (b"two pieces", b"close")
        assert b"transfer-encoding" not in answer.fields  # which it does not know: the end of it all is its end


def test_http_1_0_is_kept_where_it_asks_for_that_and_the_end_of_the_answer_can_be_told() -> None:
    scene = Scene(unsized=unsized)
    with scene.served() as server, calling(server) as (caller,):
        for _ in range(3):
            answer = caller.send(request("/whole", "Connection: keep-alive", version="1.0")).answer()
            assert (answer.body, answer.fields[b"connection"]) == (b"/whole", b"keep-alive")
        answer = caller.send(request("/unsized", "Connection: keep-alive", version="1.0")).answer()
        assert (answer.body, answer.fields[b"connection"]) == (b"two pieces", b"close")
        assert caller.ends()


def test_requests_in_one_packet_are_answered_in_their_order_though_the_first_is_slow() -> None:
    scene = Scene(unsized=unsized)
    paths = ["/hold", "/1", "/unsized", "/healthz", "/2", "/readyz", "/3"]
    with scene.served(threads=4, health="/healthz", ready="/readyz") as server, calling(server, 2) as (caller, other):
        caller.send(b"".join(request(path) for path in paths))
        scene.until_inside()
        assert other.get("/other").body == b"/other"
        assert scene.began == ["/hold", "/other"]  # requests of one connection are never handled at once
        scene.gate.set()
        bodies = [caller.answer().body for _ in paths]
    assert bodies[:5] == [b"/hold", b"/1", b"two pieces", b"alive\n", b"/2"]
    assert bodies[5].startswith(b"ready: ")
    assert bodies[6] == b"/3"


def test_hundreds_of_requests_in_one_packet_are_answered_in_their_order() -> None:
    scene = Scene(unsized=unsized)
    with scene.served() as server, calling(server, 2) as callers:
        for caller in callers:
            caller.send(b"".join(request(f"/{number}") for number in range(500)))
        for caller in callers:
            assert [caller.answer().body for _ in range(500)] == [b"/%d" % number for number in range(500)]


def test_a_client_that_says_it_sends_no_more_has_its_answers() -> None:
    scene = Scene()
    with scene.served() as server, calling(server) as (caller,):
        caller.send(request("/hold") + request("/next"))
        caller.sock.shutdown(1)
        scene.until_inside()
        scene.gate.set()
        assert [caller.answer().body, caller.answer().body] == [b"/hold", b"/next"]
        assert caller.ends()


def test_what_fails_ends_no_connection_unless_it_has_begun_to_answer() -> None:
    def fails(environ: Environ, start_response: Any) -> Any:
        raise LookupError("no such thing")

    def breaks(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"half"
        raise LookupError("no such thing")

    scene = Scene(fails=fails, breaks=breaks)
    with scene.served() as server, calling(server) as (caller,):
        for _ in range(3):
            answer = caller.get("/fails", "X-Request-ID: loom-7")
            assert (answer.status, answer.fields[b"x-request-id"]) == (500, b"loom-7")
            assert b"no such thing" not in answer.body
        caller.send(request("/breaks"))
        rest = caller.reader.rest()
        assert rest.startswith(b"HTTP/1.1 200 OK\r\n")
        assert not rest.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("known", [False, True])
def test_the_preface_of_http_2_is_told_that_it_is_not_spoken(known: bool) -> None:
    scene = Scene()
    with scene.served() as server, calling(server) as (caller,):
        if known:
            assert caller.get("/first").status == 200
        answer = caller.send(PREFACE).answer()
        assert (answer.status, answer.fields[b"connection"]) == (505, b"close")
        assert caller.ends()
    assert scene.began == ["/first"] * known


def test_who_asks_for_an_upgrade_is_answered_as_if_it_had_not() -> None:
    """RFC 9110, section 7.8: a server may ignore it."""
    scene = Scene()
    with scene.served() as server, calling(server) as (caller,):
        for protocol in ("h2c", "websocket"):
            answer = caller.get("/page", "Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}")
            assert (answer.status, answer.body) == (200, b"/page")


def test_a_connection_that_is_idle_is_closed_without_a_word() -> None:
    scene = Scene()
    with scene.served(limits=Limits(idle_timeout=0.05)) as server, calling(server) as (caller,):
        assert caller.get("/first").status == 200
        assert caller.ends()
        caller.sock.close()
        until(lambda: server.snapshot().closed_by.get("idle_timeout") == 1)


def test_idle_connections_hold_no_thread_and_each_is_answered_when_it_speaks() -> None:
    scene = Scene()
    with scene.served(threads=1) as server, calling(server, 100) as callers:
        for caller in callers:
            assert caller.get("/first").status == 200
        for caller in reversed(callers):
            assert caller.get("/again").body == b"/again"
        assert server.snapshot().pool.max_workers == 1
        assert server.snapshot().connections == 100


def test_answers_say_that_the_connection_ends_while_the_server_stops() -> None:
    """Whoever asks within two seconds is answered, and told to go elsewhere; then idle ones are closed."""
    scene = Scene(unsized=unsized)
    with scene.served(threads=4) as server, calling(server, 4) as (held, whole, pieces, silent):
        for caller in (whole, pieces, silent):
            assert caller.get("/first").status == 200
        held.send(request("/hold"))
        scene.until_inside()
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        until(lambda: driver_of(server).loop.draining)
        for caller, path in ((whole, "/whole"), (pieces, "/unsized")):
            answer = caller.get(path)
            assert (answer.status, answer.fields[b"connection"]) == (200, b"close")
            assert caller.ends()
        assert silent.ends()
        scene.gate.set()
        answer = held.answer()
        assert (answer.body, answer.fields[b"connection"]) == (b"/hold", b"close")
        assert held.ends()
        stopping.join(PATIENCE)
        assert not stopping.is_alive()
