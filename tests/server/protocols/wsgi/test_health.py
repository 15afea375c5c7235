"""Health: what is said of the server's life, and whether it takes more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from treadle.server._protocols.http.request import Request
from treadle.server._protocols.http.status import Beginnings
from treadle.server._protocols.wsgi.health import Health


def request(method: str = "GET", *, closes: bool = False, old: bool = False) -> Request:
    return Request({}, method, "/healthz", "id", f"{method} /healthz", closes, old)


def served(state: str = "serving", wait: float = 0.0, busy: int = 3, waiting: int = 7) -> Any:
    pool = SimpleNamespace(busy=busy, max_workers=8, waiting=waiting)
    return SimpleNamespace(snapshot=lambda: SimpleNamespace(state=state, expected_wait=wait, pool=pool))


def health(server: Any = None, queue_timeout: float | None = 10.0) -> Health:
    return Health(Beginnings("loom"), queue_timeout, lambda: server)


def parsed(answer: bytes) -> tuple[str, dict[str, str], str]:
    head, _, body = answer.decode("latin-1").partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    fields: dict[str, str] = dict(line.split(": ", 1) for line in lines)
    assert len(fields) == len(lines)
    assert fields.pop("Date")
    return status, fields, body


def test_whoever_answers_lives_whatever_the_server_does() -> None:
    for server in (None, served(), served("stopping"), served(wait=1e9)):
        assert parsed(health(server).live(request())) == (
            "HTTP/1.1 200 OK",
            {"Server": "loom", "Content-Type": "text/plain", "Cache-Control": "no-store", "Content-Length": "6"},
            "alive\n",
        )


def test_server_that_takes_more_is_ready_and_says_what_its_threads_do() -> None:
    status, fields, body = parsed(health(served()).ready(request()))
    assert status == "HTTP/1.1 200 OK"
    assert body == "ready: 3/8 threads busy, 7 waiting\n"
    assert fields["Content-Length"] == str(len(body))
    assert fields["Cache-Control"] == "no-store"


@pytest.mark.parametrize("state", ["stopping", "closed", "new"])
def test_server_that_does_not_serve_is_not_ready(state: str) -> None:
    status, fields, body = parsed(health(served(state)).ready(request()))
    assert status == "HTTP/1.1 503 Service Unavailable"
    assert body == "not ready: the server stops; 3/8 threads busy, 7 waiting\n"
    assert fields["Content-Length"] == str(len(body))


def test_server_that_was_not_started_is_not_ready() -> None:
    status, _, body = parsed(health(None).ready(request()))
    assert status == "HTTP/1.1 503 Service Unavailable"
    assert body == "not ready: the server was not started\n"


def test_server_is_not_ready_while_who_comes_would_wait_for_too_long() -> None:
    assert parsed(health(served(wait=10.0)).ready(request()))[0] == "HTTP/1.1 200 OK"
    status, _, body = parsed(health(served(wait=12.34)).ready(request()))
    assert status == "HTTP/1.1 503 Service Unavailable"
    assert body == (
        "not ready: who comes now would wait for 12.3 s, longer than queue_timeout; 3/8 threads busy, 7 waiting\n"
    )


def test_server_is_ready_however_long_the_wait_where_there_is_no_limit() -> None:
    assert parsed(health(served(wait=1e9), None).ready(request()))[0] == "HTTP/1.1 200 OK"


def test_answer_to_head_has_the_length_and_no_body() -> None:
    about = health(served())
    for answer in (about.live, about.ready):
        status, fields, body = parsed(answer(request("HEAD")))
        assert (status, fields, body) == (*parsed(answer(request()))[:2], "")


@pytest.mark.parametrize(
    ("closes", "old", "said"),
    [(False, False, None), (True, False, "close"), (True, True, "close"), (False, True, "keep-alive")],
)
def test_answer_says_what_becomes_of_the_connection(closes: bool, old: bool, said: str | None) -> None:
    about = health(served("stopping"))
    for answer in (about.live, about.ready):
        assert parsed(answer(request(closes=closes, old=old)))[1].get("Connection") == said
