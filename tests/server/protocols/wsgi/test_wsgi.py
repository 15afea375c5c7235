"""WSGI: the environ that applications are called with, their requests' ids, health, limits, and the log."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from browsers import Answer, Browser, browsing, browsing_at, until
from certificates import Authority
from tcp import client, driver_of, receive_all
from treadle.server import WSGI, Certificates, Limits, Server
from treadle.server._protocols.http.body import IN_MEMORY
from treadle.server._protocols.wsgi.access_log import AccessLog

PATIENCE = 30.0


def hello(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


class Recorder:
    """An app that keeps its environs, and the bodies."""

    def __init__(self) -> None:
        self.environs: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.environs.append(dict(environ))
        self.bodies.append(environ["wsgi.input"].read())
        return hello(environ, start_response)


class Held:
    """An app whose requests for /held stay in it until it is told to let go."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.paths: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.paths.append(environ["PATH_INFO"])
        if environ["PATH_INFO"] == "/held":
            self.entered.release()
            assert self.open.wait(PATIENCE)
        return hello(environ, start_response)


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.open.set()


@contextmanager
def holding(held: Held, server: Server, threads: int) -> Iterator[list[Browser]]:
    """Have so many requests stay in the app, from as many clients; they have their answers at the end."""
    with browsing_at(server) as first:
        browsers = [first]
        first.send("GET", "/held")
        assert held.entered.acquire(timeout=PATIENCE)
        if threads == 1:
            yield browsers
        else:
            with holding(held, server, threads - 1) as others:
                yield browsers + others
        held.open.set()
        assert first.answer().status == 200


# -- arguments --------------------------------------------------------------------------------------------------------


async def coroutine(environ: Any, start_response: Any) -> Any:
    return []


@pytest.mark.parametrize(
    ("app", "why"),
    [
        (coroutine, "is a coroutine function; app must be an ordinary one"),
        (list, "environ"),
        (lambda scope, receive, send: [], "environ"),
        (None, "app=None"),
        ("shop:app", "app='shop:app'"),
    ],
)
def test_app_is_called_with_two_arguments_and_is_not_async(app: Any, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        WSGI(app)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_body": -1}, ValueError),
        ({"max_head": 0}, ValueError),
        ({"max_line": 0}, ValueError),
        ({"max_fields": 0}, ValueError),
        ({"max_streams": 0}, ValueError),
        ({"max_body": 1.5}, TypeError),
        ({"max_body": None}, TypeError),
        ({"head_timeout": 0}, ValueError),
        ({"body_timeout": -1}, ValueError),
        ({"min_body_rate": 0}, ValueError),
        ({"head_timeout": "1"}, TypeError),
        ({"script_name": "shop"}, ValueError),
        ({"script_name": "/shop/"}, ValueError),
        ({"script_name": "/"}, ValueError),
        ({"script_name": "/a?b"}, ValueError),
        ({"script_name": None}, TypeError),
        ({"server_header": "a\r\nb"}, ValueError),
        ({"server_header": "\xe9"}, ValueError),
        ({"server_header": None}, TypeError),
        ({"health": "healthz"}, ValueError),
        ({"health": "/health z"}, ValueError),
        ({"ready": "/ready?z"}, ValueError),
        ({"ready": "/ready#z"}, ValueError),
        ({"ready": 7}, TypeError),
        ({"access_log": "-"}, TypeError),
        ({"access_log": sys.stdout}, TypeError),
    ],
    ids=str,
)
def test_argument_that_is_none_is_told_by_its_name(options: dict[str, Any], error: type[Exception]) -> None:
    (name,) = options
    with pytest.raises(error, match=f"^{name}="):
        WSGI(hello, **options)


def test_least_and_unlimited_arguments_are_taken() -> None:
    WSGI(hello, max_body=0, max_head=1, max_line=1, max_fields=1, max_streams=1)
    WSGI(hello, head_timeout=None, body_timeout=None, min_body_rate=None, queue_timeout=None)


def test_it_is_named_after_its_app() -> None:
    assert repr(WSGI(hello)) == "WSGI(hello)"
    assert WSGI(hello).name == "hello"


# -- the environ ------------------------------------------------------------------------------------------------------


def test_environ_has_all_that_pep_3333_asks_for_and_more() -> None:
    app = Recorder()
    with browsing(app) as browser:
        browser.ask("POST", "/a%20b/%ff?c=%20&d", "Content-Type: text/x", "Content-Length: 4", "X-A: b", body=b"body")
        local, remote = browser.sock.getpeername(), browser.sock.getsockname()
    (environ,) = app.environs
    texts = {key: value for key, value in environ.items() if isinstance(value, str)}
    assert texts.pop("treadle.request_id")
    assert texts == {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a b/\xff",
        "QUERY_STRING": "c=%20&d",
        "RAW_URI": "/a%20b/%ff?c=%20&d",
        "CONTENT_TYPE": "text/x",
        "CONTENT_LENGTH": "4",
        "HTTP_HOST": "loom",
        "HTTP_X_A": "b",
        "SERVER_NAME": local[0],
        "SERVER_PORT": str(local[1]),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "treadle",
        "REMOTE_ADDR": remote[0],
        "REMOTE_PORT": str(remote[1]),
        "wsgi.url_scheme": "http",
    }
    assert type(environ) is dict
    assert app.bodies == [b"body"]
    assert environ["wsgi.version"] == (1, 0)
    assert environ["wsgi.multithread"] is environ["wsgi.input_terminated"] is True
    assert environ["wsgi.multiprocess"] is environ["wsgi.run_once"] is False


def test_query_string_is_there_if_there_is_none() -> None:
    app = Recorder()
    with browsing(app) as browser:
        browser.ask()
        browser.ask(version="1.0")
    assert [environ["QUERY_STRING"] for environ in app.environs] == ["", ""]
    assert [environ["SERVER_PROTOCOL"] for environ in app.environs] == ["HTTP/1.1", "HTTP/1.0"]
    assert app.bodies == [b"", b""]


def test_requests_of_one_connection_share_nothing() -> None:
    mark: ContextVar[str] = ContextVar("mark", default="")
    found: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        found.append(environ.get("mine", "") + mark.get())
        environ["mine"] = "mine"
        environ["wsgi.version"] = None
        mark.set("marked")
        return hello(environ, start_response)

    with browsing(app) as browser:
        for _ in range(3):
            browser.ask()
    assert found == ["", "", ""]


def test_encrypted_requests_say_so(authority: Authority, certificates: Certificates) -> None:
    app = Recorder()
    with Server(WSGI(app), "127.0.0.1:0", max_workers=2, tls=certificates) as server, client(server) as sock:
        with authority.client_context().wrap_socket(sock, server_hostname="127.0.0.1") as wrapped:
            assert Browser(wrapped).ask().body == b"hello"
    (environ,) = app.environs
    assert (environ["wsgi.url_scheme"], environ["HTTPS"]) == ("https", "on")


def test_script_name_is_taken_from_the_path() -> None:
    app = Recorder()
    with browsing(app, script_name="/shop") as browser:
        for path in ("/shop/a", "/shop", "/other", "/shopping"):
            browser.ask("GET", path)
    split = [(environ["SCRIPT_NAME"], environ["PATH_INFO"]) for environ in app.environs]
    assert split == [("/shop", "/a"), ("/shop", ""), ("/shop", "/other"), ("/shop", "/shopping")]


def test_errors_are_written_to_standard_error_whatever_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        errors = environ["wsgi.errors"]
        errors.write("one ")
        errors.writelines(["two ", "three"])
        errors.flush()
        return hello(environ, start_response)

    with browsing(app) as browser:
        for stream in (written, None):
            monkeypatch.setattr(sys, "stderr", stream)
            assert browser.ask().status == 200
            monkeypatch.undo()
    assert written.getvalue() == "one two three"


def test_early_hints_come_before_the_answer_and_not_in_http_1_0() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        environ["wsgi.early_hints"]([("Link", "</a.css>; rel=preload")])
        return hello(environ, start_response)

    with browsing(app) as browser:
        for version, interim in (("1.1", [103]), ("1.0", [])):
            answer = browser.ask("GET", "/", "Connection: keep-alive", version=version)
            assert (answer.interim, answer.status, answer.body) == (interim, 200, b"hello")
        raw = browser.send().sock.recv(1000)
    assert raw.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")


def test_hints_that_are_none_are_500(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        environ["wsgi.early_hints"]([("Link", "a\r\nb: c")])
        return hello(environ, start_response)

    with browsing(app) as browser:
        answer = browser.ask()
    assert (answer.status, answer.interim) == (500, [])
    assert "control character" in caplog.text


def test_app_is_told_whether_its_client_has_left() -> None:
    asked, left = threading.Event(), threading.Event()
    told: list[bool] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        told.append(environ["treadle.client_gone"]())
        asked.set()
        assert left.wait(PATIENCE)
        until(environ["treadle.client_gone"])
        return hello(environ, start_response)

    with browsing(app) as browser:
        browser.send()
        assert asked.wait(PATIENCE)
        browser.sock.close()
        left.set()
    assert told == [False]


# -- the request's id -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", ["a", "7f3e-0001", "!#$%&'()*+,-./:;<=>?@[]^_`{|}~", "x" * 128])
def test_request_id_of_the_client_is_taken(taken: str) -> None:
    app = Recorder()
    with browsing(app) as browser:
        browser.ask("GET", "/", f"X-Request-ID: {taken}")
        browser.ask("GET", "/", f"x-request-id: {taken}", "X-Unknown-Name: a")
    assert [environ["treadle.request_id"] for environ in app.environs] == [taken, taken]


@pytest.mark.parametrize("given", ["", "a b", 'a"b', "a\\b", "\xe9", "x" * 129, "a, b"])
def test_request_id_is_made_where_the_client_has_none_that_a_log_can_take(given: str) -> None:
    app = Recorder()
    with browsing(app) as browser:
        for _ in range(2):
            browser.ask("GET", "/", f"X-Request-ID: {given}")
        browser.ask()
    made = [environ["treadle.request_id"] for environ in app.environs]
    assert len(set(made)) == 3
    assert given not in made


def test_client_is_told_the_id_that_the_log_has_of_its_failure(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        raise KeyError("loom")

    with browsing(app) as browser:
        answer = browser.ask("GET", "/a", "X-Request-ID: mine")
        assert browser.is_kept()
    assert (answer.status, answer.fields[b"x-request-id"]) == (500, b"mine")
    assert b"loom" not in answer.body
    assert "GET /a failed (request mine)" in caplog.text


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_nothing_that_an_app_raises_ends_its_thread(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/":
            raise error
        return hello(environ, start_response)

    with browsing(app) as browser:
        assert browser.ask().status == 500
        assert browser.is_kept()
    assert type(error).__name__ in caplog.text


# -- bodies and limits ------------------------------------------------------------------------------------------------


def test_body_that_is_in_a_file_is_closed_when_the_answer_is_made(tmp_path: Path) -> None:
    files: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        files.append(environ["wsgi.input"])
        if environ["PATH_INFO"] == "/fails":
            raise KeyError
        size = len(environ["wsgi.input"].read())
        start_response("200 OK", [])
        return [b"%d" % size] if environ["PATH_INFO"] == "/list" else (b"%d" % part for part in (size, size))

    body = b"x" * (IN_MEMORY + 1)
    with browsing(app, limits=Limits(spool_folder=str(tmp_path))) as browser:
        for path, answer in (("/list", b"%d" % len(body)), ("/pieces", b"%d" % len(body) * 2), ("/fails", None)):
            got = browser.ask("POST", path, f"Content-Length: {len(body)}", body=body)
            assert answer is None or got.body == answer
            until(lambda: files[-1].closed)


@pytest.mark.parametrize(
    ("limits", "ask", "status", "why"),
    [
        ({"max_body": 3}, ("POST", "/", "Content-Length: 4"), 413, "max_body"),
        ({"max_body": 0}, ("POST", "/", "Content-Length: 1"), 413, "max_body"),
        ({"max_head": 100}, ("GET", "/", f"X-A: {'x' * 100}"), 431, "max_head"),
        ({"max_line": 100}, ("GET", f"/{'x' * 100}"), 414, "max_line"),
        ({"max_fields": 3}, ("GET", "/", "A: b", "C: d", "E: f"), 431, "max_fields"),
    ],
)
def test_request_beyond_a_limit_is_refused_with_its_name_and_the_connection_ends(
    limits: dict[str, int], ask: tuple[str, ...], status: int, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = Recorder()
    with browsing(app, **limits) as browser:
        answer = browser.ask(*ask)
        assert answer.status == status
        assert why.encode() in answer.body
        assert answer.fields[b"connection"] == b"close"
        assert browser.reader.answer("GET") is None
    assert app.environs == []
    assert f"{status}, " in caplog.text
    assert why in caplog.text


@pytest.mark.parametrize(
    ("raw", "option"),
    [
        (b"GET / HTTP/1.1\r\nHo", "head_timeout"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\na", "body_timeout"),
    ],
)
def test_client_that_is_too_slow_is_told_so(raw: bytes, option: str) -> None:
    options: dict[str, Any] = {option: 0.05}
    with browsing(hello, **options) as browser:
        browser.sock.sendall(raw)
        answer = browser.answer()
        assert (answer.status, answer.fields[b"connection"]) == (408, b"close")
        assert option.encode() in answer.body
        assert browser.reader.answer("GET") is None


@pytest.mark.parametrize(("header", "sent"), [("loom/1 (x)", b"loom/1 (x)"), ("", None)])
def test_server_says_its_name(header: str, sent: bytes | None) -> None:
    with browsing(hello, server_header=header) as browser:
        assert browser.ask().fields.get(b"server") == sent
    with browsing(hello) as browser:
        assert browser.ask().fields[b"server"] == b"treadle"


def test_who_would_wait_for_too_long_is_told_so(held: Held, caplog: pytest.LogCaptureFixture) -> None:
    with Server(WSGI(held, queue_timeout=0.05), "127.0.0.1:0", max_workers=1) as server:
        with holding(held, server, 1), browsing_at(server) as browser:
            answer = browser.ask("GET", "/held")
            assert (answer.status, answer.fields[b"retry-after"]) == (503, b"1")
            assert b"queue_timeout" in answer.body
            assert b"connection" not in answer.fields
    assert f"GET /held: 503, queue_timeout (request {answer.fields[b'x-request-id'].decode()})" in caplog.text


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_who_is_not_answered_in_time_is_told_so(held: Held, method: str, caplog: pytest.LogCaptureFixture) -> None:
    with browsing(held, limits=Limits(handler_timeout=0.05), queue_timeout=7) as browser:
        answer = browser.ask(method, "/held", "X-Request-ID: mine")
        assert (answer.status, answer.fields[b"retry-after"], answer.fields[b"connection"]) == (503, b"4", b"close")
        assert answer.fields[b"x-request-id"] == b"mine"
        assert (b"handler_timeout" in answer.body) is (method == "GET")
        assert browser.reader.answer("GET") is None
        held.open.set()
    assert f"{method} /held: 503, handler_timeout (request mine)" in caplog.text
    assert "held.open.wait" in caplog.text or "self.open.wait" in caplog.text  # where it was


# -- health -----------------------------------------------------------------------------------------------------------

PATHS: dict[str, Any] = {"health": "/healthz", "ready": "/readyz"}


def test_health_is_answered_while_all_threads_are_busy_and_not_by_the_app(held: Held) -> None:
    with Server(WSGI(held, **PATHS), "127.0.0.1:0", max_workers=2, reserve=0) as server:
        with holding(held, server, 2), browsing_at(server) as browser:
            assert browser.ask("GET", "/healthz").body == b"alive\n"
            assert browser.ask("HEAD", "/healthz").fields[b"content-length"] == b"6"
            assert browser.ask("GET", "/readyz").body == b"ready: 2/2 threads busy, 0 waiting\n"
            assert browser.ask("GET", "/readyz?a=b", "Connection: close").fields[b"connection"] == b"close"
            assert browser.reader.answer("GET") is None
    assert held.paths == ["/held", "/held"]


def test_paths_of_health_are_the_apps_where_they_were_not_given_and_for_other_methods() -> None:
    app = Recorder()
    with browsing(app) as browser:
        assert browser.ask("GET", "/healthz").body == browser.ask("GET", "/readyz").body == b"hello"
    with browsing(app, **PATHS) as browser:
        assert browser.ask("POST", "/healthz", "Content-Length: 0").body == b"hello"
        assert browser.ask("GET", "/healthz/").body == b"hello"
        assert browser.ask("GET", "/healthz").body == b"alive\n"


def test_server_that_stops_lives_and_is_not_ready(held: Held) -> None:
    with Server(WSGI(held, **PATHS), "127.0.0.1:0", max_workers=2) as server, browsing_at(server) as other:
        with browsing_at(server) as browser, ThreadPoolExecutor(1) as threads:
            other.send("GET", "/held", "Connection: close")
            assert held.entered.acquire(timeout=PATIENCE)
            assert browser.ask("GET", "/readyz").status == 200  # who was answered before has 2 s for the next one
            stopped = threads.submit(server.stop)
            until(lambda: driver_of(server).loop.draining)
            answer = browser.ask("GET", "/healthz")
            assert (answer.status, answer.body) == (200, b"alive\n")
            answer = browser.ask("GET", "/readyz", "Connection: close")
            assert (answer.status, answer.body.split(b";")[0]) == (503, b"not ready: the server stops")
            held.open.set()
            assert other.answer().status == 200
            browser.sock.close()  # or the server waits for that, a while
            other.sock.close()
            assert stopped.result(PATIENCE) == 0


# -- the server -------------------------------------------------------------------------------------------------------


def test_one_server_at_a_time_serves_it() -> None:
    served = WSGI(hello)
    with Server(served, "127.0.0.1:0", max_workers=1):
        with pytest.raises(RuntimeError, match=r"WSGI\(hello\) is served by .* by now; make another one"):
            Server(served, "127.0.0.1:0", max_workers=1).start()
    with browsing(served) as browser:
        assert browser.ask().body == b"hello"


@pytest.mark.parametrize(
    ("state", "free"), [("new", True), ("serving", False), ("leaving", False), ("stopping", False), ("stopped", True)]
)
def test_server_has_it_until_it_has_stopped(state: str, free: bool) -> None:
    class Other:
        def snapshot(self) -> Any:
            return SimpleNamespace(state=state)

    served, one, other = WSGI(hello), Other(), Other()
    served.started(one)
    served.started(one)
    if free:
        served.started(other)
        return
    with pytest.raises(RuntimeError, match="is served by"):
        served.started(other)


def test_answer_while_the_server_stops_says_that_the_connection_ends(held: Held) -> None:
    with Server(WSGI(held), "127.0.0.1:0", max_workers=2) as server, browsing_at(server) as browser:
        browser.send("GET", "/held")
        assert held.entered.acquire(timeout=PATIENCE)
        with ThreadPoolExecutor(1) as threads:
            stopped = threads.submit(server.stop)
            until(lambda: driver_of(server).loop.draining)
            held.open.set()
            answer = browser.answer()
            assert (answer.body, answer.fields[b"connection"]) == (b"hello", b"close")
            assert browser.reader.answer("GET") is None
            browser.sock.close()
            assert stopped.result(PATIENCE) == 0


# -- the access log ---------------------------------------------------------------------------------------------------


class Lines:
    """Keeps the lines of an access log."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, text: str) -> None:
        self.lines.append(text)


@contextmanager
def logged(app: Any, **options: Any) -> Iterator[tuple[Browser, Callable[[], list[str]]]]:
    """Serve an app with an access log, and give what returns its lines, once the server has ended."""
    lines = Lines()
    log = AccessLog(lines)
    try:
        with browsing(app, access_log=log, **options) as browser:
            yield browser, lambda: lines.lines
        assert log.flush(PATIENCE)
    finally:
        log.close()


def line_of(request: str, status: str, size: int) -> str:
    return f'"{request}" {status} {size} '


def test_each_request_has_a_line_with_its_status_and_the_bytes_of_its_body(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 200_000)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        what = environ["PATH_INFO"]
        if what == "/fails":
            raise KeyError
        write = start_response("201 Created" if what == "/list" else "200 OK", [])
        if what == "/file":
            return environ["wsgi.file_wrapper"](path.open("rb"))
        if what == "/written":
            write(b"12345")
        return [b"12345"] if what != "/pieces" else iter([b"123", b"45"])

    with logged(app) as (browser, lines):
        answers: list[Answer] = [
            browser.ask("GET", what) for what in ("/list", "/file", "/pieces", "/written", "/fails")
        ]
        browser.ask("HEAD", "/list")
        browser.ask("GET", "/list?a=b", "Referer: r", "User-Agent: Loom/1", "Connection: close")
    wanted = [
        line_of("GET /list HTTP/1.1", "201", 5),
        line_of("GET /file HTTP/1.1", "200", 200_000),
        line_of("GET /pieces HTTP/1.1", "200", len(b"3\r\n123\r\n2\r\n45\r\n0\r\n\r\n")),
        line_of("GET /written HTTP/1.1", "200", len(b"5\r\n12345\r\n" * 2 + b"0\r\n\r\n")),
        line_of("GET /fails HTTP/1.1", "500", len(answers[4].body)),
        line_of("HEAD /list HTTP/1.1", "201", 0),
        line_of("GET /list?a=b HTTP/1.1", "201", 5) + '"r" "Loom/1"',
    ]
    assert len(lines()) == len(wanted)
    for line, part in zip(lines(), wanted, strict=True):
        assert part in line
        assert line.startswith("127.0.0.1 - - [")


def test_what_is_refused_has_a_line_too() -> None:
    with logged(hello) as (browser, lines):
        browser.sock.sendall(b"GET /a HTTP/1.1\r\n\r\n")
        assert receive_all(browser.sock).startswith(b"HTTP/1.1 400 ")
    (line,) = lines()
    assert '"GET /a HTTP/1.1" 400 ' in line


def test_what_is_not_answered_in_time_has_one_line_with_503(held: Held) -> None:
    with logged(held, limits=Limits(handler_timeout=0.05)) as (browser, lines):
        assert browser.ask("GET", "/held").status == 503
        held.open.set()
    (line,) = lines()
    assert '"GET /held HTTP/1.1" 503 ' in line


def test_whole_answer_that_was_sent_before_it_was_closed_counts_its_bytes() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "5")])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"12345"))

    with logged(app) as (browser, lines):
        assert browser.ask().body == b"12345"
    (line,) = lines()
    assert line_of("GET / HTTP/1.1", "200", 5) in line


def test_one_path_cannot_say_both_that_it_lives_and_that_it_is_ready() -> None:
    with pytest.raises(ValueError, match="health and ready are both '/same'; allowed: two paths, or one of them None"):
        WSGI(Recorder(), health="/same", ready="/same")
