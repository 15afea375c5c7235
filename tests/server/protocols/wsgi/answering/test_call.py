"""Call: what PEP 3333 allows an application, what it forbids, and what a client gets of either."""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from browsers import Malformed, browsing, browsing_at, until
from tcp import receive_all
from treadle.server import WSGI, Limits, Server
from treadle.server._protocols.wsgi.answering.call import JOINED

PATIENCE = 30.0
App = Callable[[dict[str, Any], Any], Any]
OK = "200 OK"


class Text(str):
    """A str of a class of its own, as frameworks have."""


class Result:
    """What an application returns: pieces, and the thread and context of each step."""

    marks: ContextVar[int] = ContextVar("marks", default=0)

    def __init__(self, pieces: Iterable[Any], close: Callable[[], object] = lambda: None) -> None:
        self.pieces = iter(pieces)
        self.closing = close
        self.steps: list[tuple[int, int]] = []
        self.closed = 0
        self.over = threading.Event()
        self.marks.set(id(self))
        self.step()

    def step(self) -> None:
        self.steps.append((threading.get_ident(), self.marks.get()))

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self.step()
        return next(self.pieces)

    def close(self) -> None:
        self.step()
        self.closed += 1
        self.over.set()
        self.closing()

    def check(self) -> None:
        """It was closed once, and all was done in one thread and one context."""
        assert self.over.wait(PATIENCE)
        assert self.closed == 1
        assert len(set(self.steps)) == 1
        assert self.steps[0][1] == id(self)


def says(status: Any, headers: Any, body: Any = ()) -> App:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, headers)
        return body() if callable(body) else body

    return app


def failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the log says that applications have raised."""
    told = [record for record in caplog.records if record.name == "treadle.wsgi" and record.levelno >= logging.ERROR]
    return [str(record.exc_info[1]) for record in told if record.exc_info is not None]


def fails(app: App, caplog: pytest.LogCaptureFixture) -> str:
    """Have an app be answered with 500, and the connection go on; return what the log says."""
    caplog.clear()

    def once(environ: dict[str, Any], start_response: Any) -> Any:
        return (app if environ["PATH_INFO"] == "/" else says(OK, [], [b"kept"]))(environ, start_response)

    with browsing(once) as browser:
        answer = browser.ask()
        assert answer.status == 500
        assert answer.fields[b"x-request-id"] in answer.body
        assert browser.is_kept()
    (said,) = failures(caplog)
    return said


# -- start_response ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status", ["200 OK", "204 No Content", "299 ", "404 Not\tFound", "599 \xe9t\xe9", Text("200 OK")]
)
def test_status_is_sent_as_the_application_says_it(status: str) -> None:
    with browsing(says(status, [], [b""])) as browser:
        browser.send()
        line = browser.sock.makefile("rb").readline()
    assert line == f"HTTP/1.1 {status}\r\n".encode("latin-1")


@pytest.mark.parametrize(
    "status",
    [
        "200",
        "",
        "OK",
        "100 Continue",
        "199 Odd",
        "2000 OK",
        "20 OK",
        " 200 OK",
        "200 OK\r\nSet-Cookie: a=b",
        "200 OK\n",
        "200 \0",
        "200 \u0100",
        "\u0662\u0660\u0660 OK",
        b"200 OK",
        200,
        None,
    ],
)
def test_status_that_is_none_is_500_and_the_log_says_what_wsgi_wants(
    status: Any, caplog: pytest.LogCaptureFixture
) -> None:
    said = fails(says(status, [], [b"never"]), caplog)
    assert said.startswith("start_response() was given the status ")
    assert said.endswith("; WSGI (PEP 3333) wants a str such as '200 OK'")


@pytest.mark.parametrize(
    "headers",
    [
        None,
        7,
        "Link: a",
        {"Content-Type": "text/html"},
        [None],
        [("A",)],
        [("A", "b", "c")],
        [(b"A", "b")],
        [("A", b"b")],
        [("A", 7)],
        [("A", None)],
        [("A b", "c")],
        [("A:", "c")],
        [("", "c")],
        [("Connection", "close")],
        [("transfer-encoding", "chunked")],
        [("Upgrade", "x")],
        [("Good", "a"), ("Keep-Alive", "timeout=5")],
    ],
)
@pytest.mark.parametrize("body", [[b"never"], lambda: iter([b"ne", b"ver"])], ids=["list", "pieces"])
def test_headers_that_are_none_are_500_and_the_log_says_what_wsgi_wants(
    headers: Any, body: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert "PEP 3333" in fails(says(OK, headers, body), caplog)


@pytest.mark.parametrize(
    "value", ["a\r\nSet-Cookie: b=c", "a\nb", "a\rb", "a\0b", "\r\n\r\nHTTP/1.1 200 OK", "a\x7f", "\u010a"]
)
@pytest.mark.parametrize("name", ["Location", "Server"])
@pytest.mark.parametrize("body", [[b"never"], lambda: iter([b"ne", b"ver"])], ids=["list", "pieces"])
def test_header_is_never_two(name: str, value: str, body: Any, caplog: pytest.LogCaptureFixture) -> None:
    said = fails(says(OK, [("A", "b"), (name, value)], body), caplog)
    assert "RFC 9110, section 5.5" in said or "latin-1" in said


@pytest.mark.parametrize("value", ["a", "-1", "+1", "1_0", " 1", "1 ", "0x1", "\u0661", "1, 1", "", "1" * 19])
def test_content_length_is_one_number(value: str, caplog: pytest.LogCaptureFixture) -> None:
    assert "Content-Length is " in fails(says(OK, [("Content-Length", value)], [b"a"]), caplog)


def test_content_length_may_be_said_twice_if_it_is_the_same(caplog: pytest.LogCaptureFixture) -> None:
    with browsing(says(OK, [("Content-Length", "1"), ("content-length", "1")], [b"a"])) as browser:
        assert browser.ask().fields[b"content-length"] == b"1"
    twice = [("Content-Length", "1"), ("Content-Length", "2")]
    assert "Content-Length is '2'" in fails(says(OK, twice, [b"a"]), caplog)


def test_headers_may_be_any_iterable_and_values_any_str() -> None:
    with browsing(says(OK, (pair for pair in [["X-A", Text("b")], ("X-C", "d\te")]), [b"a"])) as browser:
        answer = browser.ask()
    assert (answer.fields[b"x-a"], answer.fields[b"x-c"]) == (b"b", b"d\te")


def test_applications_date_and_server_stand_in_place_of_ours() -> None:
    with browsing(says(OK, [("Date", "then"), ("SERVER", "mine")], [b"a"])) as browser:
        answer = browser.ask()  # a field that is there twice would be a fault
    assert (answer.fields[b"date"], answer.fields[b"server"]) == (b"then", b"mine")


def test_start_response_is_called_once(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(OK, [])
        start_response(OK, [])
        return [b"never"]

    assert "called twice; WSGI (PEP 3333) allows that with exc_info alone" in fails(app, caplog)


@pytest.mark.parametrize("body", [[b"never"], [], lambda: iter([b"ne", b"ver"]), lambda: iter([])])
def test_start_response_is_called_before_the_first_piece(body: Any, caplog: pytest.LogCaptureFixture) -> None:
    said = fails(lambda environ, start_response: body() if callable(body) else body, caplog)
    assert said == "start_response() was not called before the first piece of the answer (PEP 3333)"


def test_start_response_may_be_called_by_the_first_step_of_a_generator() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("201 Created", [("X-A", "b")])
        yield b"one"
        yield b"two"

    with browsing(app) as browser:
        answer = browser.ask()
    assert (answer.status, answer.fields[b"x-a"], answer.body) == (201, b"b", b"onetwo")


def test_exc_info_replaces_what_was_said_before_the_client_has_any_of_it() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(OK, [("X-Old", "a"), ("Content-Length", "99"), ("Server", "mine")])
        try:
            raise KeyError
        except KeyError:
            start_response("418 Odd", [("X-New", "b")], sys.exc_info())
        return [b"new"]

    with browsing(app) as browser:
        answer = browser.ask()
    assert (answer.status, answer.body, answer.fields[b"content-length"]) == (418, b"new", b"3")
    assert answer.fields[b"x-new"] == b"b"
    assert b"x-old" not in answer.fields
    assert answer.fields[b"server"] != b"mine"


@pytest.mark.parametrize("old", ["write", "pieces"])
def test_exc_info_is_raised_once_the_client_has_some_and_the_answer_is_cut(
    old: str, caplog: pytest.LogCaptureFixture
) -> None:
    raised: list[BaseException] = []

    def fail(start_response: Any) -> None:
        try:
            raise KeyError("loom")
        except KeyError:
            try:
                start_response("500 Odd", [], sys.exc_info())
            except KeyError as error:
                raised.append(error)
                raise

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        write = start_response(OK, [("Content-Type", "text/plain")])
        if old == "write":
            write(b"some")
            fail(start_response)

        def pieces() -> Iterator[bytes]:
            yield b"some"
            fail(start_response)

        return pieces()

    with browsing(app) as browser, pytest.raises(Malformed):
        browser.ask()
    assert len(raised) == 1
    assert failures(caplog) == ["'loom'"]
    assert "failed amid its answer, which is cut" in caplog.text


# -- write ------------------------------------------------------------------------------------------------------------


def test_what_is_written_comes_before_what_is_returned() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        write = start_response(OK, [])
        write(b"")
        write(b"one ")
        write(b"two ")
        return [b"three ", b"", b"four"]

    with browsing(app) as browser:
        answer = browser.ask()
        assert (answer.body, answer.fields[b"transfer-encoding"]) == (b"one two three four", b"chunked")
        assert browser.is_kept()


def test_what_is_written_is_sent_while_the_application_goes_on() -> None:
    read = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(OK, [("Content-Length", "6")])(b"one")
        assert read.wait(PATIENCE)
        return [b"two"]

    with browsing(app) as browser:
        browser.send()
        came = b""
        while not came.endswith(b"one"):
            came += browser.sock.recv(1000)
        read.set()
        assert browser.sock.recv(10) == b"two"


@pytest.mark.parametrize("data", ["text", None, bytearray(b"a"), 7])
def test_write_wants_bytes(data: Any, caplog: pytest.LogCaptureFixture) -> None:
    said = fails(lambda environ, start_response: start_response(OK, [])(data), caplog)
    assert said.startswith("write() was given ")
    assert said.endswith(f"{type(data).__name__}; WSGI (PEP 3333) wants an iterable of bytes")


def test_write_of_more_than_the_length_is_500_where_nothing_was_sent(caplog: pytest.LogCaptureFixture) -> None:
    headers = [("Content-Length", "3")]
    said = fails(lambda environ, start_response: start_response(OK, headers)(b"four"), caplog)
    assert said == "Content-Length says 3, and the body is longer"


def test_write_after_a_header_that_is_none_is_500(caplog: pytest.LogCaptureFixture) -> None:
    said = fails(lambda environ, start_response: start_response(OK, [("A", "b\nc")])(b"a"), caplog)
    assert "control character" in said


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", OK), *(("GET", f"{status} Loom") for status in (204, 205, 304))]
)
def test_nothing_is_written_where_there_is_no_body(method: str, status: str) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, [])(b"one")
        return [b"two"]

    with browsing(app) as browser:
        assert browser.ask(method).status == int(status[:3])
        assert browser.ask(method).body == b""


@pytest.mark.parametrize("returned", [list, lambda: [b"abc", b"de"]])
def test_head_counts_what_is_written(returned: Callable[[], list[bytes]]) -> None:
    """Or it would say another length than GET has (RFC 9110, section 8.6)."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(OK, [])(b"four")
        return returned()

    with browsing(app) as browser:
        assert browser.ask("HEAD").fields[b"content-length"] == str(4 + len(b"".join(returned()))).encode()


WRITES = "write() was called after the application returned, or by what it returned (PEP 3333)"


def test_what_is_returned_may_not_write(caplog: pytest.LogCaptureFixture) -> None:
    """Its pieces would be lost, or another answer would begin amid this one."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response(OK, [])(b"one")
        yield b"two"

    assert fails(app, caplog) == WRITES


@pytest.mark.parametrize("headers", [[], [("Content-Length", "6")]], ids=["chunks", "length"])
def test_what_is_returned_may_not_write_between_its_pieces(headers: Any, caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        write = start_response(OK, headers)
        yield b"one"
        write(b"two")

    with browsing(app) as browser, pytest.raises(Malformed):
        browser.ask()
    assert failures(caplog) == [WRITES]


@pytest.mark.parametrize("early", [False, True], ids=["late", "early and late"])
@pytest.mark.parametrize("pieces", [[b"one"], [b"on", b"e"]])
def test_what_is_returned_may_not_write_as_it_is_closed(
    pieces: list[bytes], early: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        write = start_response(OK, [])
        if early:
            write(b"early ")
        return Result(pieces, lambda: write(b"late"))

    with browsing(app) as browser:
        for _ in range(2):
            assert browser.ask().body == (b"early one" if early else b"one")
    assert failures(caplog) == [WRITES] * 2


@pytest.mark.parametrize("how", ["returns", "fails"])
def test_who_keeps_write_cannot_write_into_the_answer_to_another_request(how: str) -> None:
    kept: list[Callable[[bytes], object]] = []
    inside, late = threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        write = start_response(OK, [])
        if environ["PATH_INFO"] == "/keep":
            kept.append(write)
            if how == "fails":
                raise LookupError("loom")
        else:
            inside.set()
            assert late.wait(PATIENCE)
        return [b"whole"]

    with browsing(app) as browser:
        browser.ask("GET", "/keep")
        with pytest.raises(RuntimeError, match="after the application returned"):
            kept[0](b"into nothing")
        browser.send("GET", "/other")
        assert inside.wait(PATIENCE)
        with pytest.raises(RuntimeError, match="after the application returned"):
            kept[0](b"into another's")
        late.set()
        answer = browser.answer("GET")
        assert (answer.body, answer.fields[b"content-length"]) == (b"whole", b"5")


# -- what is returned -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (None, "NoneType"),
        ("text", "str"),
        (b"bytes", "bytes"),
        (bytearray(b"bytes"), "bytearray"),
        (7, "int"),
        (["text"], "str"),
        ([b"a", "text"], "str"),
        ((None,), "NoneType"),
        ([bytearray(b"a")], "bytearray"),
        ([b"a", memoryview(b"a")], "memoryview"),
        (iter(["text"]), "str"),
        (iter([b"", None]), "NoneType"),
    ],
)
def test_answer_that_is_none_is_500_and_the_log_says_what_wsgi_wants(
    result: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    said = fails(says(OK, [], result), caplog)
    assert said.endswith(f"{kind}; WSGI (PEP 3333) wants an iterable of bytes")


@pytest.mark.parametrize(
    ("body", "length"),
    [
        ([], b"0"),
        ([b""], b"0"),
        ([b"abc"], b"3"),
        ((b"abc",), b"3"),
        ([b"a", b"", b"bc"], b"3"),
        (lambda: iter([]), b"0"),
        (lambda: iter([b"", b""]), b"0"),
        ([b"x" * JOINED], b"%d" % JOINED),
        ([b"x" * (JOINED + 1)], b"%d" % (JOINED + 1)),
        ([b"x" * JOINED] * 3, b"%d" % (3 * JOINED)),
    ],
)
def test_length_is_said_where_all_is_known_at_once(body: Any, length: bytes) -> None:
    with browsing(says(OK, [], body)) as browser:
        answer = browser.ask()
        assert answer.fields[b"content-length"] == length == b"%d" % len(answer.body)
        assert b"transfer-encoding" not in answer.fields
        assert browser.is_kept()


@pytest.mark.parametrize("pieces", [[b"one", b"two"], [b"onetwo"], [b"", b"one", b"", b"two", b""]])
def test_pieces_come_in_chunks_where_the_length_is_not_known(pieces: list[bytes]) -> None:
    with browsing(says(OK, [], lambda: iter(pieces))) as browser:
        answer = browser.ask()
        assert answer.body == b"onetwo"
        assert answer.fields[b"transfer-encoding"] == b"chunked"
        assert b"content-length" not in answer.fields
        assert browser.is_kept()


@pytest.mark.parametrize("pieces", [[b"one", b"two"], [b"onetwo"], [b"", b"one", b"two"]])
def test_pieces_come_as_they_are_where_the_application_says_the_length(pieces: list[bytes]) -> None:
    with browsing(says(OK, [("Content-Length", "6")], lambda: iter(pieces))) as browser:
        answer = browser.ask()
        assert answer.body == b"onetwo"
        assert answer.fields[b"content-length"] == b"6"
        assert b"transfer-encoding" not in answer.fields
        assert browser.is_kept()


def test_client_of_http_1_0_gets_no_chunks_and_the_connection_ends_with_the_answer() -> None:
    with browsing(says(OK, [], lambda: iter([b"one", b"two"]))) as browser:
        answer = browser.ask("GET", "/", "Connection: keep-alive", version="1.0")
        assert (answer.body, answer.fields[b"connection"]) == (b"onetwo", b"close")
        assert b"transfer-encoding" not in answer.fields


@pytest.mark.parametrize("body", [[b"onetwo"], lambda: iter([b"one", b"two"])], ids=["list", "pieces"])
def test_client_of_http_1_0_keeps_its_connection_if_it_asks_and_the_length_is_known(body: Any) -> None:
    with browsing(says(OK, [("Content-Length", "6")], body)) as browser:
        for _ in range(2):
            answer = browser.ask("GET", "/", "Connection: keep-alive", version="1.0")
            assert (answer.body, answer.fields[b"connection"]) == (b"onetwo", b"keep-alive")
        assert browser.ask("GET", "/", version="1.0").fields[b"connection"] == b"close"
        assert browser.reader.answer("GET") is None


@pytest.mark.parametrize(
    "body", [[b"a"], lambda: iter([b"a", b"b"]), lambda: iter([b"a"] * 3)], ids=["list", "two", "three"]
)
def test_connection_ends_where_the_client_asks_for_it(body: Any) -> None:
    with browsing(says(OK, [], body)) as browser:
        assert browser.ask("GET", "/", "Connection: close").fields[b"connection"] == b"close"
        assert browser.reader.answer("GET") is None


@pytest.mark.parametrize("body", [[b"ab"], [], lambda: iter([b"ab"]), lambda: iter([])])
def test_body_of_another_length_than_said_is_500(body: Any, caplog: pytest.LogCaptureFixture) -> None:
    """As long as the client has nothing."""
    length = "1"
    said = fails(says(OK, [("Content-Length", length)], body), caplog)
    assert said.startswith(f"Content-Length says {length}, and the body ")


def excess() -> Iterator[bytes]:
    yield b"one"
    yield b"more"


def failure() -> Iterator[bytes]:
    yield b"one"
    raise LookupError("loom")


@pytest.mark.parametrize(
    ("body", "said"),
    [(excess, "Content-Length says 3, and the body is longer"), (failure, "loom")],
    ids=["excess", "failure"],
)
def test_answer_stands_that_was_whole_whatever_comes_behind_it(
    body: Callable[[], Iterator[bytes]], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with browsing(says(OK, [("Content-Length", "3")], body)) as browser:
        for _ in range(2):
            assert browser.ask().body == b"one"
    assert failures(caplog) == [said] * 2
    assert "failed behind its answer, which was whole" in caplog.text


class Steps:
    """Has `__next__` alone, with which Python's own loops are content."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = iter(pieces)

    def __next__(self) -> bytes:
        return next(self.pieces)


class Pieces:
    def __iter__(self) -> Any:
        return Steps(b"one", b"", b"two")


@pytest.mark.parametrize("headers", [[], [("Content-Length", "6")]], ids=["chunks", "length"])
def test_what_gives_pieces_need_be_no_iterable_itself(headers: Any) -> None:
    with browsing(says(OK, headers, Pieces)) as browser:
        assert browser.ask().body == b"onetwo"


@pytest.mark.parametrize("pieces", [[b"one", b"two"], [b"one", b"three"]], ids=["shorter", "longer"])
def test_body_that_turns_out_of_another_length_is_cut(pieces: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    with browsing(says(OK, [("Content-Length", "7")], lambda: iter(pieces))) as browser, pytest.raises(Malformed):
        browser.ask()
    (said,) = failures(caplog)
    assert said.startswith("Content-Length says 7, and the body is ")


BODIES: dict[str, Callable[[], Any]] = {
    "list": lambda: [b"onetwo"],
    "pieces": lambda: iter([b"one", b"two"]),
    "none": list,
    "generator": lambda: iter(()),
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(("said", "length"), [([("Content-Length", "6")], b"6"), ([], None)])
def test_answer_to_head_has_the_fields_of_get_as_far_as_they_are_known_and_no_body(
    body: str, said: Any, length: bytes | None
) -> None:
    result = Result(BODIES[body]())
    with browsing(lambda environ, start_response: (start_response(OK, said), BODIES[body]())[1]) as browser:
        answer = browser.ask("HEAD")
        known = length or (b"6" if body == "list" else None)
        assert (answer.body, answer.fields.get(b"content-length")) == (b"", known)
        assert b"transfer-encoding" not in answer.fields
        assert browser.ask("HEAD").status == 200
    result.close()


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(
    ("status", "length"),
    [("204 No Content", None), ("205 Reset Content", b"0"), ("304 Not Modified", b"6")],
    ids=["204", "205", "304"],
)
def test_answer_without_a_body_ends_with_its_head(status: str, length: bytes | None, body: str) -> None:
    """RFC 9110, section 8.6: a 204 has no length, a 304 that of a 200; section 15.3.6: a 205 has no content."""
    with browsing(says(status, [("Content-Length", "6")], BODIES[body])) as browser:
        answer = browser.ask()
        assert (answer.status, answer.body, answer.fields.get(b"content-length")) == (int(status[:3]), b"", length)
        assert b"transfer-encoding" not in answer.fields
        assert browser.is_kept()


def test_304_says_no_length_where_the_application_says_none() -> None:
    with browsing(says("304 Not Modified", [], [b"body"])) as browser:
        assert b"content-length" not in browser.ask().fields


# -- its end ----------------------------------------------------------------------------------------------------------


def watched(pieces: Callable[[], Iterable[Any]], *headers: tuple[str, str]) -> tuple[App, list[Result]]:
    """Return an app, and what it has returned."""
    results: list[Result] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        result = Result(pieces())
        start_response(OK, list(headers))
        results.append(result)
        return result

    return app, results


def broken() -> Iterator[bytes]:
    yield b"one"
    yield b"two"
    raise KeyError("loom")


def broken_at_once() -> Iterator[bytes]:
    raise KeyError("loom")
    yield b""


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "pieces", [[], [b"one"], [b"one", b"two", b"three"], [b"x" * 100_000] * 10], ids=["none", "one", "three", "large"]
)
def test_what_is_done_is_closed_once_in_the_thread_and_context_of_the_call(method: str, pieces: list[bytes]) -> None:
    app, results = watched(lambda: pieces)
    with browsing(app) as browser:
        answer = browser.ask(method)
        assert answer.body == (b"" if method == "HEAD" else b"".join(pieces))
        results[0].check()


@pytest.mark.parametrize("headers", [[], [("Content-Length", "6")]])
def test_what_ends_with_one_piece_of_the_length_said_is_closed_once(headers: Any) -> None:
    app, results = watched(lambda: [b"onetwo"], *headers)
    with browsing(app) as browser:
        assert browser.ask().body == b"onetwo"
        results[0].check()


def test_what_fails_before_its_first_piece_is_closed_once_and_answered_with_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, results = watched(broken_at_once)
    assert fails(app, caplog) == "'loom'"
    results[0].check()


@pytest.mark.parametrize("headers", [[], [("Content-Length", "9")]], ids=["chunked", "length"])
def test_what_fails_amid_its_pieces_is_closed_once_and_cut(headers: Any, caplog: pytest.LogCaptureFixture) -> None:
    app, results = watched(broken, *headers)
    with browsing(app) as browser, pytest.raises(Malformed):
        browser.ask()
    results[0].check()
    assert failures(caplog) == ["'loom'"]


@pytest.mark.parametrize("headers", [[("A", "b\nc")], [("Content-Length", "1")]])
def test_what_cannot_be_sent_is_closed_once(headers: Any, caplog: pytest.LogCaptureFixture) -> None:
    app, results = watched(lambda: [b"one", b"two"], *headers)
    fails(app, caplog)
    results[0].check()


@pytest.mark.parametrize("pieces", [[b"one"], [b"one", b"two"]], ids=["whole", "pieces"])
def test_answer_stands_that_was_whole_as_close_failed(pieces: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise KeyError("loom")

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(OK, [("Content-Length", str(len(b"".join(pieces))))])
        return Result(pieces, fail)

    with browsing(app) as browser:
        assert browser.ask().body == b"".join(pieces)
    assert failures(caplog) == ["'loom'"]


def test_whole_answer_is_sent_before_it_is_closed() -> None:
    """Django says by its end that the request is over, and programs do what is left there."""
    read = threading.Event()
    results: list[Result] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(OK, [("Content-Length", "3")])
        results.append(Result([b"one"], lambda: read.wait(PATIENCE)))
        return results[0]

    with browsing(app) as browser:
        assert browser.ask().body == b"one"
        read.set()
    results[0].check()


@pytest.mark.parametrize("size", [3, 2 * JOINED])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_whole_answer_is_sent_before_what_follows_its_last_piece(size: int, version: str) -> None:
    """No piece waits for the next one to be made (PEP 3333): programs do there what no client shall wait for."""
    read = threading.Event()
    results: list[Result] = []

    def pieces() -> Iterator[bytes]:
        yield b"x" * size
        assert read.wait(PATIENCE)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(OK, [("Content-Length", str(size))])
        results.append(Result(pieces()))
        return results[-1]

    with browsing(app) as browser:
        assert browser.ask("GET", "/", version=version).body == b"x" * size
        read.set()
        results[0].check()


def test_what_a_client_leaves_is_closed_once() -> None:
    gone = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"one"
        assert gone.wait(PATIENCE)
        while True:
            yield b"x" * 10_000

    app, results = watched(pieces)
    with browsing(app) as browser:
        browser.send()
        while not browser.sock.recv(1000).endswith(b"one\r\n"):
            pass
        browser.sock.close()
        gone.set()
        results[0].check()


def test_what_writes_to_a_client_that_has_left_ends() -> None:
    gone, ended = threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        write = start_response(OK, [])
        write(b"one")
        assert gone.wait(PATIENCE)
        try:
            while True:
                write(b"x" * 10_000)
        except OSError:
            ended.set()
            raise

    with browsing(app) as browser:
        browser.send()
        while not browser.sock.recv(1000).endswith(b"one\r\n"):
            pass
        browser.sock.close()
        gone.set()
        assert ended.wait(PATIENCE)


def test_what_is_returned_after_the_time_is_over_is_closed_once_and_holds_no_thread() -> None:
    told = threading.Event()
    results: list[Result] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        result = Result([b"one", b"two"])
        start_response(OK, [("Content-Type", "text/event-stream")])
        results.append(result)
        if environ["PATH_INFO"] == "/late":
            assert told.wait(PATIENCE)
        return result

    served = WSGI(app, max_streams=1)
    with Server(served, "127.0.0.1:0", max_workers=2, limits=Limits(handler_timeout=0.1)) as server:
        with browsing_at(server) as browser:
            assert browser.ask("GET", "/late").status == 503
        told.set()
        results[0].check()
        with browsing_at(server) as browser:
            assert browser.ask("GET", "/next").body == b"onetwo"
    assert [result.closed for result in results] == [1, 1]


def test_application_that_fails_after_the_time_is_over_holds_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    """Though it has written some."""
    told, ended = threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        write = start_response(OK, [("Content-Type", "text/event-stream")])
        write(b"one")
        if environ["PATH_INFO"] == "/late":
            assert told.wait(PATIENCE)
            ended.set()
            raise KeyError("loom")
        return []

    served = WSGI(app, max_streams=1)
    server = Server(served, "127.0.0.1:0", max_workers=2, limits=Limits(handler_timeout=0.1))
    with server:
        with browsing_at(server) as browser, pytest.raises(Malformed):
            browser.ask("GET", "/late")
        told.set()
        assert ended.wait(PATIENCE)
    assert "'loom'" in failures(caplog)
    caplog.clear()
    with browsing(served) as browser:
        assert browser.ask("GET", "/next").body == b"one"


def test_what_takes_too_long_amid_its_pieces_is_closed_once() -> None:
    told = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"one"
        assert told.wait(PATIENCE)
        yield b"two"

    app, results = watched(pieces)
    with browsing(app, limits=Limits(handler_timeout=0.1)) as browser:
        with pytest.raises(Malformed):
            browser.ask()
        told.set()
        results[0].check()


def test_what_is_sent_while_the_server_stops_is_finished_and_closed_once() -> None:
    stopping = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"one"
        assert stopping.wait(PATIENCE)
        yield b"two"

    app, results = watched(pieces)
    with Server(WSGI(app), "127.0.0.1:0", max_workers=2) as server, browsing_at(server) as browser:
        came = browser.send().sock.recv(10)
        with ThreadPoolExecutor(1) as threads:
            stopped = threads.submit(server.stop)
            until(lambda: server.snapshot().state == "stopping")
            stopping.set()
            came += receive_all(browser.sock)
            browser.sock.close()  # or the server waits for that, a while
            assert stopped.result(PATIENCE) == 0
    assert came.endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
    results[0].check()


def silence() -> Iterator[bytes]:
    """Give one piece, and from then on that there is nothing to say."""
    yield b"one"
    tick = threading.Event()
    while not tick.wait(0.001):
        yield b""


def test_stream_that_has_nothing_to_say_ends_when_the_server_stops() -> None:
    app, results = watched(silence, ("Content-Type", "text/event-stream"))
    with Server(WSGI(app), "127.0.0.1:0", max_workers=2) as server, browsing_at(server) as browser:
        came = browser.send().sock.recv(10)
        with ThreadPoolExecutor(1) as threads:
            stopped = threads.submit(server.stop)
            came += receive_all(browser.sock)
            browser.sock.close()
            assert stopped.result(PATIENCE) == 0
    assert came.endswith(b"3\r\none\r\n0\r\n\r\n")
    results[0].check()


# -- files ------------------------------------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 2000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("kernels", [True, False], ids=["file", "memory"])
@pytest.mark.parametrize(("at", "length"), [(0, None), (7, None), (0, len(CONTENT)), (7, 1000), (0, 0)])
def test_file_is_sent_from_where_it_stands_and_closed(
    path: Path, method: str, kernels: bool, at: int, length: int | None
) -> None:
    files: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        content = CONTENT if length is None else CONTENT[: at + length]
        file = path.open("rb") if kernels else io.BytesIO(content)
        file.seek(at)
        files.append(file)
        start_response(OK, [] if length is None else [("Content-Length", str(length))])
        return environ["wsgi.file_wrapper"](file)

    with browsing(app) as browser:
        answer = browser.ask(method)
        assert answer.body == (
            b"" if method == "HEAD" else CONTENT[at:] if length is None else CONTENT[at : at + length]
        )
        if method == "GET" and (kernels or length is not None):
            assert answer.fields[b"content-length"] == b"%d" % len(answer.body)
        assert browser.ask(method).status == 200
    assert all(file.closed for file in files)


def test_file_that_is_shorter_than_said_is_500_and_closed(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        files.append(path.open("rb"))
        start_response(OK, [("Content-Length", str(len(CONTENT) + 1))])
        return environ["wsgi.file_wrapper"](files[0])

    assert fails(app, caplog) == f"Content-Length says {len(CONTENT) + 1}, and the file has {len(CONTENT)} bytes left"
    assert files[0].closed


def test_file_behind_what_was_written_is_read(path: Path) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(OK, [])(b"before ")
        return environ["wsgi.file_wrapper"](path.open("rb"))

    with browsing(app) as browser:
        assert browser.ask().body == b"before " + CONTENT


def test_client_of_http_1_0_gets_a_file_with_its_length(path: Path) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(OK, [])
        return environ["wsgi.file_wrapper"](path.open("rb"))

    with browsing(app) as browser:
        answer = browser.ask(version="1.0")
        assert (answer.body, answer.fields[b"connection"]) == (CONTENT, b"close")
        assert answer.fields[b"content-length"] == b"%d" % len(CONTENT)


# -- streams ----------------------------------------------------------------------------------------------------------


def test_answers_without_an_end_hold_half_of_the_threads_and_the_next_one_is_told_so() -> None:
    over = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/quick":
            start_response(OK, [])
            return [b"quick"]
        start_response(OK, [("Content-Type", "text/event-stream")])

        def events() -> Iterator[bytes]:
            yield b"begun"
            assert over.wait(PATIENCE)

        return events()

    with Server(WSGI(app), "127.0.0.1:0", max_workers=4) as server:
        try:
            with browsing_at(server) as one, browsing_at(server) as two, browsing_at(server) as three:
                for browser in (one, two):
                    browser.send("GET", "/events")
                    came = b""
                    while not came.endswith(b"begun\r\n"):
                        came += browser.sock.recv(1000)
                refused = three.ask("GET", "/events")
                assert (refused.status, refused.fields[b"retry-after"]) == (503, b"5")
                assert b"answers without an end hold 2 threads, as many as max_streams allows" in refused.body
                assert three.ask("GET", "/quick").body == b"quick"
                over.set()
                for browser in (one, two):
                    while not came.endswith(b"0\r\n\r\n"):
                        came += browser.sock.recv(1000)
                assert three.ask("GET", "/events").body == b"begun"
        finally:
            over.set()
