"""What people have reported of other servers for WSGI, each tried here over a real socket.

The name of a server and the number of its report stand at each; they are on github.com, under benoitc/gunicorn,
Pylons/waitress, cherrypy/cheroot, cherrypy/cherrypy (whose server cheroot was), unbit/uwsgi, pallets/werkzeug,
jonashaag/bjoern and emmett-framework/granian.
"""

from __future__ import annotations

import gzip
import io
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from certificates import Authority
from conformance.http.corpus.entry import chunked, get, head, post
from conformance.http.wire import PATIENCE, Answer, Reader
from tcp import driver_of, receive_all
from treadle.server import WSGI, Certificates, Limits, Server
from treadle.server._loop import event_loop
from treadle.server._loop.poller import new_poller

Environ = dict[str, Any]
Start = Callable[..., Any]
App = Callable[[Environ, Start], Iterable[bytes]]

TYPE = ("Content-Type", "text/plain")
LAST = get("Connection: close", target="/last")


@contextmanager
def serve(app: App, *, limits: Limits | None = None, workers: int = 2, **options: Any) -> Iterator[Server]:
    """Serve an app."""
    with Server(WSGI(app, **options), "127.0.0.1:0", max_workers=workers, limits=limits) as server:
        yield server


@contextmanager
def connect(server: Server) -> Iterator[socket.socket]:
    """Connect to a server."""
    with socket.create_connection(server.address[:2], PATIENCE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield sock


def ask(server: Server, *requests: bytes) -> list[Answer]:
    """Send requests at once, the last of which closes the connection; return the answers, behind which is nothing."""
    with connect(server) as sock:
        sock.sendall(b"".join(requests))
        reader = Reader(sock)
        answers = []
        for request in requests:
            answer = reader.answer(request.partition(b" ")[0].decode())
            assert answer is not None, f"no answer to {request!r}"
            answers.append(answer)
        assert reader.rest() == b""
        return answers


def refuse(server: Server, raw: bytes) -> Answer:
    """Send what is refused, and another request behind it, which is not answered; return the refusal."""
    (answer,) = ask(server, raw + LAST)
    assert answer.fields[b"connection"] == b"close"
    return answer


def say(text: str) -> App:
    """Return an app that says this."""

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [TYPE])
        return [text.encode()]

    return app


def tell(*keys: str) -> App:
    """Return an app that tells what these are in its environ."""

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [TYPE])
        return [repr([environ.get(key) for key in keys]).encode()]

    return app


def echo(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """Answer with the body."""
    start_response("200 OK", [TYPE])
    return [environ["wsgi.input"].read()]


class Pieces:
    """An answer in pieces, whose end is told."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces = iter(pieces)
        self.closed = threading.Semaphore(0)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self.pieces)

    def close(self) -> None:
        self.closed.release()

    def check_closed(self) -> None:
        """It is closed, and once."""
        assert self.closed.acquire(timeout=PATIENCE)
        assert not self.closed.acquire(blocking=False)


# -- answers without a body -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [[], [b"a", b"b"]], ids=["none", "some"])
def test_nothing_is_left_behind_an_answer_to_head(pieces: list[bytes]) -> None:
    """gunicorn 1079: the last chunk was sent, and a proxy took it for the beginning of the next answer."""

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [TYPE])
        return iter(pieces)

    with serve(app) as server:
        first, _ = ask(server, get(method="HEAD"), LAST)
    assert first.body == b""


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_nothing_is_left_behind_an_answer_that_has_no_body(status: str) -> None:
    """bjoern 139, gunicorn 3413: a 204 was sent in chunks; and a body that an app gave it."""

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response(status, [] if environ["PATH_INFO"] != "/long" else [("Content-Length", "4")])
        return iter([] if environ["PATH_INFO"] == "/" else [b"body"])

    with serve(app) as server:
        answers = ask(server, get(), get(target="/body"), get(target="/long"), get("Connection: close"))
    assert all(b"transfer-encoding" not in answer.fields for answer in answers)
    assert status[:3] == "304" or all(b"content-length" not in answer.fields for answer in answers)


# -- answers in pieces ----------------------------------------------------------------------------------------------


def test_status_of_a_generator_is_that_of_its_first_piece() -> None:
    """granian 845: an app that is a generator calls `start_response` late, and its status was taken for 200."""

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("404 Not Found", [TYPE])
        yield b"none"

    with serve(app) as server:
        (answer,) = ask(server, LAST)
    assert (answer.status, answer.body) == (404, b"none")


def test_empty_piece_does_not_end_an_answer() -> None:
    """cherrypy 635: an empty piece was sent as a chunk, which is the last one."""

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        write = start_response("200 OK", [TYPE])
        write(b"")
        return iter([b"", b"a", b"", b"b", b""])

    with serve(app) as server:
        first, _ = ask(server, get(), LAST)
    assert first.body == b"ab"


@pytest.mark.parametrize("size", [65535, 65536, 65537, 1 << 20])
def test_large_piece_is_one_chunk_or_several(size: int) -> None:
    """uwsgi 341: pieces that filled a buffer made the chunk too long for it, and the connection was dropped."""

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [TYPE])
        return iter([b"x" * size] * 8)

    with serve(app) as server:
        first, _ = ask(server, get(), LAST)
    assert first.body == b"x" * (8 * size)


def test_answer_without_a_length_ends_the_connection_of_an_old_client() -> None:
    """cherrypy 629: it was kept for HTTP/1.0, which knows no chunks, so the answer had no end."""

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [TYPE])
        return iter([b"a", b"b"])

    with serve(app) as server:
        (answer,) = ask(server, get("Connection: keep-alive", version="HTTP/1.0"))
    assert answer.body == b"ab"
    assert answer.fields[b"connection"] == b"close"


def test_answer_shorter_than_it_says_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    """granian 29: the client waited for the rest for ever; `close` was not called, and `write` was None."""
    answer = Pieces([b"Hello", b" ", b"World"])

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [TYPE, ("Content-Length", "300")])
        return answer

    with serve(app) as server, connect(server) as sock:
        sock.sendall(get())
        assert not receive_all(sock)[300:]
        answer.check_closed()
    assert "Content-Length says 300" in caplog.text


@pytest.mark.parametrize("length", [True, False])
def test_answer_that_is_whole_stands_though_closing_it_fails(length: bool, caplog: pytest.LogCaptureFixture) -> None:
    """What `close` raises is logged; the answer was cut for it, though all of it was sent, if it came in pieces."""

    class Fails(Pieces):
        def close(self) -> None:
            raise LookupError("as it should")

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [TYPE, *([("Content-Length", "2")] if length else [])])
        return Fails([b"a", b"b"]) if environ["PATH_INFO"] != "/last" else [b"ab"]

    with serve(app) as server:
        first, _ = ask(server, get(), LAST)
    assert first.body == b"ab"
    assert "as what it had returned was closed" in caplog.text


def test_stream_whose_client_has_left_is_closed() -> None:
    """waitress 236, gunicorn 2010: it went on to its end, and held its thread, though nobody was there."""
    answer = Pieces(b"x" * 65536 for _ in iter(int, 1))

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [TYPE])
        return answer

    with serve(app, limits=Limits(spool_file=1 << 20)) as server:
        with connect(server) as sock:
            sock.sendall(get())
            assert sock.recv(1)
        answer.check_closed()


def test_client_that_ends_its_side_while_an_answer_waits_is_waited_for_without_haste(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """waitress 418: the main thread turned for nothing while the rest of an answer waited for such a client."""
    body = b"x" * (16 << 20)
    polls: list[float] = []

    def counted() -> Any:
        poller: Any = new_poller()
        plain = poller.poll

        def poll(timeout: float) -> Any:
            polls.append(timeout)
            return plain(timeout)

        poller.poll = poll
        return poller

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [TYPE])
        return [body]

    monkeypatch.setattr(event_loop, "new_poller", counted)
    with serve(app) as server, connect(server) as sock:
        sock.sendall(LAST)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1)
        with connect(server) as other:  # when this one is answered, it was seen that the first one has ended
            other.sendall(get(method="HEAD"))
            assert other.recv(1)
        before = len(polls)
        assert before
        threading.Event().wait(0.2)  # a span in which nothing happens
        assert len(polls) - before < 100
        assert receive_all(sock).endswith(body)


# -- start_response -------------------------------------------------------------------------------------------------


def test_error_that_is_told_before_the_head_is_sent_replaces_it() -> None:
    """waitress 52: the error was raised again, though nothing was sent, so that no error page could be."""

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [TYPE, ("X-Old", "1"), ("Content-Length", "100")])
        try:
            raise LookupError("as it should")
        except LookupError:
            start_response("500 Error", [TYPE], sys.exc_info())
        return [b"error page"]

    with serve(app) as server:
        first, _ = ask(server, get(), LAST)
    assert (first.status, first.body) == (500, b"error page")
    assert b"x-old" not in first.fields


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        ("200 OK", None),  # cherrypy 965: nothing was sent, and nothing logged
        ("200 OK", [("X", "\u4e2d")]),  # waitress 318
        ("200 \u4e2d", [TYPE]),  # bottlepy/bottle 1187
        (200, [TYPE]),
        ("200 OK", [("X", 1)]),  # bjoern 165: the process ended, for a length that was a number
        ("200 OK", [("X", "a\r\nY: b")]),
        ("200 OK", [("X", None)]),
    ],
)
def test_wrong_words_of_an_app_are_an_error_that_is_logged(
    status: Any, fields: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/last":
            start_response("200 OK", [TYPE])
        else:
            start_response(status, fields)
        return [b"body"]

    with serve(app) as server:
        first, last = ask(server, get(), LAST)
    assert (first.status, last.status) == (500, 200)
    assert [record for record in caplog.records if record.levelno == logging.ERROR]


def test_fields_that_the_app_has_are_not_there_twice() -> None:
    """gunicorn 79: Date and Server were put beside the app's own."""

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("SERVER", "app")])
        return [b""]

    with serve(app) as server:
        (answer,) = ask(server, LAST)  # which is refused by the reader if a field is there twice
    assert answer.fields[b"date"] == b"Sun, 06 Nov 1994 08:49:37 GMT"
    assert answer.fields[b"server"] == b"app"


# -- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [True, False])
def test_file_is_sent_from_where_it_stands(tmp_path: Path, length: bool) -> None:
    """gunicorn 2669, uwsgi 1230: it was sent from its beginning, so parts of files were the wrong ones."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        file = path.open("rb")
        file.read(3)  # of which the system has read all
        start_response("200 OK", [TYPE, *([("Content-Length", "4")] if length else [])])
        answer: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
        return answer

    with serve(app) as server:
        first, _ = ask(server, get(), LAST)
    assert first.body == (b"3456" if length else b"3456789")


def test_file_that_cannot_seek_is_read() -> None:
    """gunicorn 1038: what had a descriptor was taken for a file, and the answer failed for a pipe."""

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        reader, writer = os.pipe()
        os.write(writer, b"through a pipe")
        os.close(writer)
        start_response("200 OK", [TYPE])
        answer: Iterable[bytes] = environ["wsgi.file_wrapper"](os.fdopen(reader, "rb"))
        return answer

    with serve(app) as server:
        first, _ = ask(server, get(), LAST)
    assert first.body == b"through a pipe"


class Wrapped:
    """A file in a wrapper, as Django has them."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.read, self.fileno, self.tell, self.close = file.read, file.fileno, file.tell, file.close


@pytest.mark.parametrize("wrap", [lambda file: file, io.BufferedReader, Wrapped], ids=["plain", "buffered", "wrapped"])
def test_packed_file_is_unpacked(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    """jschneier/django-storages 1348: servers asked it for its descriptor, and sent the packed file."""
    path, content = tmp_path / "file.gz", b"0123456789" * 1000
    with gzip.open(path, "wb") as file:
        file.write(content)

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [TYPE, ("Content-Length", str(len(content)))])
        packed = gzip.open(path, "rb")  # noqa: SIM115  # the wrapper closes it
        answer: Iterable[bytes] = environ["wsgi.file_wrapper"](wrap(packed))
        return answer

    with serve(app) as server:
        first, _ = ask(server, get(), LAST)
    assert first.body == content


# -- what is asked for ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        ("//supply/a", "//supply/a", "a"),
        ("///", "///", "a"),
        ("http://b//supply", "//supply", "b"),
        ("/%2F/%2e", "///.", "a"),
    ],
)
def test_slashes_at_the_beginning_of_a_path_are_the_paths(target: str, path: str, host: str) -> None:
    """werkzeug 491: "//supply" was taken for a host, and the path behind it for all there is."""
    with serve(tell("PATH_INFO", "HTTP_HOST", "RAW_URI")) as server:
        (answer,) = ask(server, get("Connection: close", target=target))
    assert answer.body == repr([path, host, target]).encode()


def test_name_of_the_script_is_no_part_of_the_path() -> None:
    """granian 721: it stood in SCRIPT_NAME, and in PATH_INFO still."""
    with serve(tell("SCRIPT_NAME", "PATH_INFO"), script_name="/shop") as server:
        told = [
            ask(server, get("Connection: close", target=target))[0].body for target in ("/shop/a", "/shop", "/shopping")
        ]
    assert told == [b"['/shop', '/a']", b"['/shop', '']", b"['/shop', '/shopping']"]


def test_client_cannot_say_what_the_server_says() -> None:
    """gunicorn 3200, 2799: a field Script_Name set SCRIPT_NAME; X_Forwarded_For stood for X-Forwarded-For."""
    fields = [
        "SCRIPT_NAME: /evil",
        "Remote_Addr: 1.2.3.4",
        "X_Forwarded_For: 1.2.3.4",
        "Content_Length: 5",
        "HTTPS: on",
    ]
    keys = ("SCRIPT_NAME", "REMOTE_ADDR", "HTTP_X_FORWARDED_FOR", "CONTENT_LENGTH", "HTTPS", "HTTP_SCRIPT_NAME")
    with serve(tell(*keys)) as server:
        (answer,) = ask(server, get("Connection: close", *fields))
    assert answer.body == b"['', '127.0.0.1', None, None, None, None]"


def test_blanks_around_a_value_are_none_of_it() -> None:
    """gunicorn 3245: those at its end were."""
    with serve(tell("HTTP_TEST", "HTTP_EMPTY")) as server:
        (answer,) = ask(server, get("Test: \t abc \t ", "Empty: \t", "Connection: close"))
    assert answer.body == b"['abc', '']"


@pytest.mark.parametrize("blank", ["\xa0", "\x85", "\x0b", "\x1c"])
def test_blanks_of_unicode_are_none(blank: str) -> None:
    """gunicorn 3091: they were taken off names, so that a proxy saw another field, and another end of the request."""
    with serve(echo) as server:
        answer = refuse(server, head("POST / HTTP/1.1", "Host: a", f"Content-Length{blank}: 5") + b"hello")
    assert answer.status == 400


def test_refusal_does_not_show_what_was_sent() -> None:
    """gunicorn 1858 (CVE-2012-0053): a script could read cookies that are not for it out of the error."""
    with serve(echo, max_head=2000) as server:
        for fields in ([f"Cookie: secret{'x' * 2000}"], ["Cookie: secret\x00"], ["Cookie secret"]):
            assert b"secret" not in refuse(server, get(*fields)).body


# -- bodies ---------------------------------------------------------------------------------------------------------


def test_body_that_is_cut_is_no_request() -> None:
    """gunicorn 3234: the client had ended its side, and the app was called with a part of the body."""
    calls = []

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        calls.append(environ["wsgi.input"].read())
        start_response("200 OK", [TYPE])
        return [b""]

    with serve(app) as server, connect(server) as sock:
        sock.sendall(post(b"hello")[:-1])
        sock.shutdown(socket.SHUT_WR)
        assert not receive_all(sock).startswith(b"HTTP/1.1 2")
    assert calls == []


@pytest.mark.parametrize(
    "request_",
    [post(b"{}"), chunked(b"2\r\n{}\r\n0\r\n\r\n"), post(b"x" * 600_000)],
    ids=["length", "chunks", "file"],
)
def test_body_that_the_app_does_not_read_is_no_part_of_the_next_request(request_: bytes) -> None:
    """werkzeug 2380: the next method was "{}POST"."""
    with serve(tell("REQUEST_METHOD")) as server:
        first, second, _ = ask(server, request_, request_, LAST)
    assert (first.body, second.body) == (b"['POST']", b"['POST']")


@pytest.mark.parametrize("size", [5, 600_000])
def test_body_may_be_closed_and_taken_apart_by_the_app(size: int) -> None:
    """A long one that was taken apart was not answered."""

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        body = environ["wsgi.input"]
        if environ["PATH_INFO"] == "/p" and hasattr(body, "raw"):
            body.detach().close()
        body = None
        start_response("200 OK", [TYPE])
        return iter([b"a", b"b"]) if environ["QUERY_STRING"] else [b"ab"]

    with serve(app) as server:
        first, second, _ = ask(server, post(b"x" * size), post(b"x" * size).replace(b"/p ", b"/p?pieces ", 1), LAST)
    assert (first.body, second.body) == (b"ab", b"ab")


@pytest.mark.parametrize("body", [b"x\r\nhello\r\n0\r\n\r\n", b"5\r\nhelloo\r\n0\r\n\r\n", b"5\nhello\r\n0\r\n\r\n"])
def test_chunks_that_are_none_are_refused_whether_or_not_the_app_reads(body: bytes) -> None:
    """cheroot 718: it was an error of the app that read, and if none did, the next request began within the body."""
    calls = []

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        calls.append(environ)
        start_response("200 OK", [TYPE])
        return [b""]

    with serve(app) as server:
        assert refuse(server, chunked(body)).status == 400
    assert calls == []


def test_body_in_chunks_can_be_read_in_every_way() -> None:
    """cherrypy 1486, 1602, gunicorn 605, 294: `read()` and `read(0)` never came back; `readline` lost lines."""

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        body = environ["wsgi.input"]
        told = [body.read(0), body.readline(0), body.readline(2), body.readline(), body.read(1), body.readlines()]
        body.seek(0)
        told += [list(body), body.read(), body.read(5), body.readline(), environ["CONTENT_LENGTH"]]
        start_response("200 OK", [TYPE])
        return [repr(told).encode()]

    with serve(app) as server:
        first, _ = ask(server, chunked(b"1\r\na\r\n3\r\nbc\n\r\n6\r\nde\nf\ng\r\n0\r\n\r\n"), LAST)
    lines = [b"abc\n", b"de\n", b"f\n", b"g"]
    assert (
        first.body == repr([b"", b"", b"ab", b"c\n", b"d", [b"e\n", b"f\n", b"g"], lines, b"", b"", b"", "10"]).encode()
    )


@pytest.mark.parametrize("asks", [True, False])
def test_upload_that_is_too_large_gets_its_answer(asks: bool) -> None:
    """werkzeug 1313, 2051: the connection was reset while the client sent, and the answer was lost with it."""
    size = 8 << 20
    with serve(echo, max_body=1000) as server, connect(server) as sock:
        expects = ["Expect: 100-continue"] if asks else []
        sock.sendall(head("POST / HTTP/1.1", "Host: a", f"Content-Length: {size}", *expects))
        if not asks:
            try:
                sock.sendall(b"x" * size)
            except (BrokenPipeError, ConnectionResetError):
                pass  # what was answered before can be read
        answer = Reader(sock).answer("POST")
    assert answer is not None
    assert (answer.status, answer.interim) == (413, [])


# -- the connection -------------------------------------------------------------------------------------------------


def test_child_of_the_app_does_not_hold_its_client() -> None:
    """cherrypy 856: programs that an app began had the server's sockets, and clients waited for these to end."""
    begun: list[subprocess.Popen[bytes]] = []

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        begun.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False))
        start_response("200 OK", [TYPE])
        return [b"begun"]

    try:
        with serve(app) as server:
            (answer,) = ask(server, LAST)  # which waits for the end
        assert answer.body == b"begun"
    finally:
        for child in begun:
            child.communicate(b"\n", timeout=PATIENCE)


def test_who_speaks_http_to_tls_is_one_client_less(tmp_path: Path) -> None:
    """cherrypy 1497: the error came out of the loop that accepts, where it ended what it met."""
    authority = Authority(tmp_path)
    files = authority.issue("127.0.0.1")
    protocol = WSGI(tell("wsgi.url_scheme", "HTTPS"))
    tls = Certificates(files.certfile, files.keyfile)
    with Server(protocol, "127.0.0.1:0", max_workers=2, tls=tls) as server:
        with connect(server) as sock:
            sock.sendall(LAST)
            assert b" 200 " not in receive_all(sock)
        with connect(server) as plain:
            with authority.client_context().wrap_socket(plain, server_hostname="127.0.0.1") as sock:
                sock.sendall(LAST)
                assert receive_all(sock).endswith(b"['https', 'on']")


def test_request_that_waits_for_a_thread_at_a_stop_is_answered() -> None:
    """gunicorn 2529: it was accepted, and reset, for another one held the only thread."""
    begun, go_on = threading.Event(), threading.Event()

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        begun.set()
        assert go_on.wait(PATIENCE)
        start_response("200 OK", [TYPE])
        return [b"done"]

    with serve(app, workers=1) as server, connect(server) as first, connect(server) as second:
        first.sendall(get())
        assert begun.wait(PATIENCE)
        second.sendall(get())
        with stopping(server):
            go_on.set()
            for sock in (first, second):
                answer = Reader(sock).answer("GET")
                assert answer is not None
                assert (answer.body, answer.fields[b"connection"]) == (b"done", b"close")


def test_upload_that_has_begun_at_a_stop_is_answered() -> None:
    """gunicorn 2332: what was under way was cut."""
    body = b"x" * 100_000
    with serve(echo) as server, connect(server) as sock:
        raw = post(body, "Expect: 100-continue")
        sock.sendall(raw[: -len(body)])
        assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
        sock.sendall(body[:50_000])
        with stopping(server):
            sock.sendall(body[50_000:])
            answer = Reader(sock).answer("POST")
            assert answer is not None
            assert (answer.body, answer.fields[b"connection"]) == (body, b"close")


@contextmanager
def stopping(server: Server) -> Iterator[None]:
    """Stop a server, which has begun to when the block begins, and has done so behind it."""
    loop = driver_of(server).loop
    stopper = threading.Thread(target=server.stop, args=(PATIENCE,))
    stopper.start()
    for _ in range(int(PATIENCE * 1000)):
        if loop.draining:
            break
        threading.Event().wait(0.001)  # it tells nobody
    yield
    stopper.join(PATIENCE)
    assert not stopper.is_alive()


@pytest.mark.parametrize("host", ["[::1]:0", "unix"])
def test_client_is_told_plainly_whatever_the_family(host: str, tmp_path: Path) -> None:
    """gunicorn 188, 1755: an IPv6 address had its scope behind it; of a unix socket came "b''", with its quotes."""
    bind = host if host != "unix" else f"unix:{tmp_path / 'socket'}"
    with Server(WSGI(tell("REMOTE_ADDR", "SERVER_NAME")), bind, max_workers=2) as server:
        if host == "unix":
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(PATIENCE)
                sock.connect(str(tmp_path / "socket"))
                sock.sendall(LAST)
                body = receive_all(sock).rpartition(b"\r\n\r\n")[2]
            assert body == b"['', 'localhost']"
            return
        with connect(server) as sock:
            sock.sendall(LAST)
            assert receive_all(sock).endswith(b"['::1', '::1']")


def test_what_an_app_writes_to_errors_is_there_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    """bottlepy/bottle 841: uwsgi kept it in a buffer, so that tracebacks came late, or never."""

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        environ["wsgi.errors"].write("trouble\n")
        start_response("200 OK", [TYPE])
        return [b""]

    with serve(app) as server:
        ask(server, LAST)
        assert "trouble\n" in capfd.readouterr().err
