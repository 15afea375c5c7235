"""Bodies of requests: collected before the app is called, in memory or in a file, within limits of their own."""

from __future__ import annotations

import io
import logging
import select
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from behaviour.web.scene import PATIENCE, Caller, Environ, Scene, calling, plain, request, until
from integration.web.served import DESCRIPTORS, content_of, count_open
from programs import TREADLE, Program
from treadle.server import Limits
from treadle.server._protocols.http.body import IN_MEMORY

LARGE = content_of(7, IN_MEMORY + 300_000)


def digest(environ: Environ, start_response: Any) -> Iterable[bytes]:
    """Answer with what tells one body from another, having read it to its end."""
    text = sha256(environ["wsgi.input"].read()).hexdigest().encode()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text]


def chunked(body: bytes, size: int = 50_000) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


# -- collected off-thread ---------------------------------------------------------------------------------------------


def test_the_app_is_called_when_the_last_byte_is_there_and_its_only_thread_serves_others_meanwhile() -> None:
    scene = Scene(digest=digest)
    with scene.served(threads=1) as server, calling(server, 3) as (whole, pieces, other):
        whole.send(request("/digest", method="POST", body=LARGE)[:-1])
        pieces.send(request("/digest", "Transfer-Encoding: chunked", method="POST") + chunked(LARGE)[:-1])
        for number in range(20):
            assert other.get(f"/{number}").body == b"/%d" % number
        assert scene.began == [f"/{number}" for number in range(20)]
        expected = sha256(LARGE).hexdigest().encode()
        assert whole.send(LARGE[-1:]).answer("POST").body == expected
        assert pieces.send(b"\n").answer("POST").body == expected


def test_a_client_that_leaves_amid_its_body_leaves_nothing(tmp_path: Path) -> None:
    if not DESCRIPTORS.exists():
        pytest.skip("this system does not tell which files are open")
    scene = Scene(digest=digest)
    with scene.served(limits=Limits(spool_folder=tmp_path)) as server:
        with calling(server, 3) as callers:
            for caller in callers:
                caller.send(request("/digest", method="POST", body=LARGE)[:-1])
            until(lambda: count_open(tmp_path) == len(callers))
        until(lambda: count_open(tmp_path) == 0)
        until(lambda: server.snapshot().connections == 0)
    assert not scene.began


# -- in memory, or in a file ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["length", "chunked"])
@pytest.mark.parametrize("size", [0, 1, 70_000, IN_MEMORY, IN_MEMORY + 1])
def test_a_body_can_be_read_in_every_way_wherever_it_is(size: int, way: str, tmp_path: Path) -> None:
    body, noted = content_of(1, size), dict[str, Any]()

    def look(environ: Environ, start_response: Any) -> Iterable[bytes]:
        file = environ["wsgi.input"]
        if DESCRIPTORS.exists():
            noted["in files"] = count_open(tmp_path)
        assert environ["wsgi.input_terminated"] is True
        assert file.seekable()
        assert file.read() == body
        assert file.read() == file.read(10) == file.readline() == b""
        file.seek(0)
        assert b"".join(file) == body
        file.seek(0)
        assert b"".join(iter(lambda: file.readline(1000), b"")) == body
        file.seek(size // 2)
        assert file.read(10) == body[size // 2 :][:10]
        assert file.seek(0, io.SEEK_END) == size
        noted["length"] = environ.get("CONTENT_LENGTH")
        assert "HTTP_TRANSFER_ENCODING" not in environ
        return plain(environ, start_response)

    scene = Scene(look=look)
    with scene.served(limits=Limits(spool_folder=tmp_path)) as server, calling(server) as (caller,):
        for _ in range(2):
            if way == "length":
                caller.send(request("/look", method="POST", body=body))
            else:
                caller.send(request("/look", "Transfer-Encoding: chunked", method="POST") + chunked(body))
            answer = caller.answer("POST")
            assert (answer.status, answer.body) == (200, b"/look")
            assert noted.pop("in files", size > IN_MEMORY) == (size > IN_MEMORY)
            assert noted.pop("length") == str(size)
            assert not list(tmp_path.iterdir())  # it has no name
        if DESCRIPTORS.exists():
            until(lambda: count_open(tmp_path) == 0)


@pytest.mark.parametrize("size", [3, IN_MEMORY + 1])
def test_an_app_that_ignores_its_body_gets_its_answer_across_and_the_connection_goes_on(size: int) -> None:
    scene = Scene()
    with scene.served() as server, calling(server) as (caller,):
        for _ in range(3):
            caller.send(request("/ignored", method="POST", body=bytes(size)) + request("/next"))
            assert [caller.answer().body, caller.answer().body] == [b"/ignored", b"/next"]


# -- a full disk ------------------------------------------------------------------------------------------------------

APP = """
def app(environ, start_response):
    text = str(len(environ["wsgi.input"].read()))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
    return [text.encode()]
"""


@contextmanager
def at_a_port(port: int) -> Iterator[Caller]:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        yield Caller(sock)


def test_a_disk_that_is_full_is_an_error_of_that_request_alone_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file of that process may be longer than 1 MiB, or 512 KiB, as `sh` counts."""
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "spool").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3] / "src"))
    monkeypatch.chdir(tmp_path)
    options = ("wsgi", "shop", "--bind", "127.0.0.1:0", "--spool-dir", "spool")
    command = ["sh", "-c", 'ulimit -f 1024; exec "$@"', "sh", *TREADLE, *options]
    fits, large = 400_000, 4 << 20
    with Program(command) as program:
        port = program.wait_for_port()
        with at_a_port(port) as other, at_a_port(port) as caller, at_a_port(port) as third:
            other.send(request("/", method="POST", body=bytes(fits))[:-1])
            caller.send(request("/full", "X-Request-ID: abc", f"Content-Length: {large}", method="POST"))
            sent = 0
            with suppress(BrokenPipeError, ConnectionResetError):  # of what comes behind its answer little is read
                while sent < large and not select.select([caller.sock], [], [], 0)[0]:
                    sent += caller.sock.send(bytes(min(65536, large - sent)))
            answer = caller.answer("POST")
            assert answer.status in (500, 507)
            assert answer.fields[b"connection"] == b"close"
            program.wait_for(r"the body cannot be kept: .*, for 'POST /full HTTP/1\.1'")
            assert other.send(b"\0").answer("POST").body == b"%d" % fits
            third.send(request("/", method="POST", body=bytes(fits)))
            assert third.answer("POST").body == b"%d" % fits


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [(), ("Expect: 100-continue",)])
def test_a_body_that_says_it_is_too_long_is_refused_before_it_is_sent(fields: tuple[str, ...]) -> None:
    scene = Scene()
    with scene.served(max_body=1000) as server, calling(server) as (caller,):
        caller.send(request("/", *fields, "Content-Length: 1001", method="POST"))
        answer = caller.answer("POST")
        assert (answer.status, answer.interim) == (413, [])
        assert b"max_body" in answer.body
        assert caller.ends()
    assert not scene.began


def test_a_body_in_chunks_is_refused_at_the_chunk_with_which_it_is_too_long() -> None:
    scene = Scene()
    with scene.served(max_body=1000) as server, calling(server) as (caller,):
        caller.send(request("/", "Transfer-Encoding: chunked", method="POST"))
        caller.send(b"3e8\r\n" + bytes(1000) + b"\r\n").send(b"1\r\n")
        assert caller.answer("POST").status == 413
        assert caller.ends()
    assert not scene.began


def test_a_body_as_long_as_allowed_is_taken_and_one_byte_more_in_the_same_packet_is_not() -> None:
    scene = Scene()
    with scene.served(max_body=1000) as server, calling(server, 2) as (fits, too_long):
        assert fits.send(request("/", method="POST", body=bytes(1000))).answer("POST").status == 200
        assert too_long.send(request("/", method="POST", body=bytes(1001))).answer("POST").status == 413


def test_who_sends_its_whole_body_before_it_listens_hears_why_it_is_refused() -> None:
    """Most clients do: they send a form of a few kilobytes, and read then."""
    scene = Scene()
    with scene.served(max_body=1000) as server, calling(server) as (caller,):
        caller.send(request("/", method="POST", body=bytes(60_000)))
        assert caller.answer("POST").status == 413
    assert not scene.began


def test_half_a_head_is_told_when_its_time_is_over() -> None:
    scene = Scene()
    with scene.served(head_timeout=0.1) as server, calling(server, 2) as (caller, second):
        assert second.get("/first").status == 200
        for each in (caller, second):
            each.send(request("/")[:-2])
        for each in (caller, second):
            assert each.answer().status == 408
            assert each.ends()
            each.sock.close()
        until(lambda: server.snapshot().closed_by.get("head_timeout") == 2)


def test_a_head_that_comes_byte_by_byte_has_no_more_time() -> None:
    scene, sent = Scene(), 0
    with scene.served(head_timeout=0.3) as server, calling(server) as (caller,):
        caller.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: ")
        while not select.select([caller.sock], [], [], 0.01)[0]:
            caller.send(b"x")
            sent += 1
        assert sent
        assert caller.answer().status == 408


@pytest.mark.parametrize("way", ["length", "chunked"])
def test_half_a_body_is_told_when_its_time_is_over(way: str) -> None:
    scene = Scene()
    with scene.served(body_timeout=0.1) as server, calling(server) as (caller,):
        if way == "length":
            caller.send(request("/", method="POST", body=bytes(1000))[:-1])
        else:
            caller.send(request("/", "Transfer-Encoding: chunked", method="POST") + chunked(bytes(1000))[:-1])
        answer = caller.answer("POST")
        assert (answer.status, answer.fields[b"connection"]) == (408, b"close")
        assert caller.ends()
        caller.sock.close()
        until(lambda: server.snapshot().closed_by.get("body_timeout") == 1)
    assert not scene.began


def test_a_body_that_comes_steadily_may_take_longer_than_its_limit_for_a_pause() -> None:
    """That is for silence, and anything that comes ends it; so does nothing else."""
    scene = Scene()
    with scene.served(head_timeout=0.5, body_timeout=0.5) as server, calling(server) as (caller,):
        caller.send(request("/", "Content-Length: 30", method="POST"))
        for _ in range(29):
            assert not select.select([caller.sock], [], [], 0.03)[0], caller.answer("POST")
            caller.send(b"x")
        assert caller.send(b"x").answer("POST").status == 200


def test_a_body_that_comes_too_slowly_on_average_is_told() -> None:
    scene, limits = Scene(), Limits(min_rate_grace=0.1)
    with scene.served(min_body_rate=1e6, limits=limits) as server, calling(server) as (caller,):
        caller.send(request("/", f"Content-Length: {1 << 20}", method="POST"))
        while not select.select([caller.sock], [], [], 0.01)[0]:
            caller.send(b"x")
        assert caller.answer("POST").status == 408
        caller.sock.close()
        until(lambda: server.snapshot().closed_by.get("min_body_rate") == 1)


# -- expectations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["length", "chunked"])
def test_who_waits_to_be_asked_for_its_body_is_asked_each_time(way: str) -> None:
    scene = Scene(digest=digest)
    expected = sha256(LARGE).hexdigest().encode()
    with scene.served(threads=1) as server, calling(server) as (caller,):
        for _ in range(3):
            if way == "length":
                caller.send(request("/digest", "Expect: 100-continue", f"Content-Length: {len(LARGE)}", method="POST"))
            else:
                caller.send(request("/digest", "Expect: 100-continue", "Transfer-Encoding: chunked", method="POST"))
            assert caller.is_asked()
            caller.send(LARGE if way == "length" else chunked(LARGE))
            assert caller.answer("POST").body == expected


def test_nobody_is_asked_for_a_body_while_requests_before_it_are_answered() -> None:
    """The word would come before their answers, and be taken for one."""
    scene = Scene()
    with scene.served(threads=2) as server, calling(server) as (caller,):
        head = request("/body", "Expect: 100-continue", "Content-Length: 4", method="POST")
        caller.send(request("/hold") + head)
        scene.until_inside()
        scene.gate.set()
        first = caller.answer()
        assert (first.body, first.interim) == (b"/hold", [])
        assert caller.is_asked()
        assert caller.send(b"body").answer("POST").body == b"/body"


def test_an_unknown_expectation_is_told_and_the_connection_ends() -> None:
    scene = Scene()
    with scene.served() as server, calling(server) as (caller,):
        caller.send(request("/", "Expect: tea", "Content-Length: 4", method="POST"))
        answer = caller.answer("POST")
        assert (answer.status, answer.interim) == (417, [])
        assert caller.ends()
    assert not scene.began


def test_a_refused_body_is_logged_once_for_many(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    with caplog.at_level(logging.WARNING), scene.served(max_body=10) as server, calling(server, 20) as callers:
        for caller in callers:
            assert caller.send(request("/a", "Content-Length: 11", method="POST")).answer("POST").status == 413
    assert sum("max_body" in record.getMessage() for record in caplog.records) == 1
