"""Status: how answers begin, and the errors that treadle answers with."""

from __future__ import annotations

import email.message
import email.parser
from http import HTTPStatus
from typing import Any

import pytest

from treadle._base import clock
from treadle.server._protocols.http.status import MOST, Beginnings, error_answer, phrase_of

WHEN = 784111777  # Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110, section 5.6.7
DATE = b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
LATER = b"Date: Sun, 06 Nov 1994 08:49:38 GMT\r\n"


@pytest.mark.parametrize(
    ("status", "phrase"),
    [
        (200, "OK"),
        (404, "Not Found"),
        (413, "Content Too Large"),
        (414, "URI Too Long"),
        (416, "Range Not Satisfiable"),
        (422, "Unprocessable Content"),
        (431, "Request Header Fields Too Large"),
        (505, "HTTP Version Not Supported"),
        (299, "Error"),
        (599, "Error"),
    ],
)
def test_phrases_are_those_of_rfc_9110_section_15(status: int, phrase: str) -> None:
    """In every version of Python: before 3.13 it has the names of an older RFC."""
    assert phrase_of(status) == phrase


def test_every_status_that_python_knows_has_a_phrase() -> None:
    assert all(phrase_of(status) not in ("", "Error") for status in HTTPStatus)


@pytest.mark.parametrize("fraction", [0, 0.25, 0.999])
def test_an_answer_begins_with_status_line_server_and_date(fraction: float) -> None:
    """RFC 9112, section 4; RFC 9110, sections 10.2.4 and 6.6.1."""
    expected = b"HTTP/1.1 200 OK\r\nServer: treadle\r\n" + DATE
    assert Beginnings("treadle").of("200 OK", WHEN + fraction) == expected


def test_without_a_name_there_is_no_server_field() -> None:
    assert Beginnings("").of("200 OK", WHEN) == b"HTTP/1.1 200 OK\r\n" + DATE


def test_a_phrase_of_an_application_is_latin_1() -> None:
    assert Beginnings("").of("200 \xc4rger", WHEN).startswith(b"HTTP/1.1 200 \xc4rger\r\n")


def test_a_beginning_is_made_once_a_second() -> None:
    beginnings = Beginnings("treadle")
    first = beginnings.of("200 OK", WHEN)
    assert beginnings.of("200 OK", WHEN + 0.999) is first
    assert beginnings.of("404 Not Found", WHEN + 0.5).startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert beginnings.of("200 OK", WHEN) is first


def test_a_new_second_has_a_new_date() -> None:
    beginnings = Beginnings("")
    assert DATE in beginnings.of("200 OK", WHEN + 0.5)
    assert LATER in beginnings.of("200 OK", WHEN + 1)
    assert LATER in beginnings.of("200 OK", WHEN + 1.999)


def test_a_clock_that_is_set_back_has_its_date_too() -> None:
    beginnings = Beginnings("")
    assert LATER in beginnings.of("200 OK", WHEN + 1.5)
    assert DATE in beginnings.of("200 OK", WHEN + 0.5)


def test_so_many_statuses_are_kept_and_all_are_answered() -> None:
    """Applications make up their phrases."""
    assert MOST == 100
    beginnings = Beginnings("")
    kept = [beginnings.of(f"200 {number}", WHEN) for number in range(MOST)]
    beyond = beginnings.of("200 beyond", WHEN)
    assert beyond == b"HTTP/1.1 200 beyond\r\n" + DATE
    assert beginnings.of("200 beyond", WHEN) is not beyond
    assert all(beginnings.of(f"200 {number}", WHEN) is begun for number, begun in enumerate(kept))
    assert beginnings.of("200 beyond", WHEN + 1) is beginnings.of("200 beyond", WHEN + 1)  # there is room again


def parts_of(answer: bytes) -> tuple[str, email.message.Message, str]:
    """Return its status line, its fields, and its body."""
    head, blank, body = answer.partition(b"\r\n\r\n")
    assert blank
    line, _, fields = head.decode("ascii").partition("\r\n")
    assert "\n" not in fields.replace("\r\n", "")
    return line, email.parser.HeaderParser().parsestr(fields.replace("\r\n", "\n")), body.decode("latin-1")


@pytest.fixture
def _frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "wall", lambda: float(WHEN))


@pytest.mark.usefixtures("_frozen")
def test_an_error_is_answered_whole() -> None:
    assert error_answer(Beginnings("treadle"), 404) == (
        b"HTTP/1.1 404 Not Found\r\nServer: treadle\r\n" + DATE + b"Content-Type: text/plain; charset=iso-8859-1\r\n"
        b"Content-Length: 14\r\nConnection: close\r\n\r\n404 Not Found\n"
    )


@pytest.mark.parametrize(
    ("arguments", "body", "fields"),
    [
        ({}, "503 Service Unavailable\n", {"Connection": "close"}),
        ({"close": True}, "503 Service Unavailable\n", {"Connection": "close"}),
        ({"close": False}, "503 Service Unavailable\n", {}),
        ({"close": False, "why": "too many wait"}, "503 Service Unavailable: too many wait\n", {}),
        ({"close": False, "retry_after": 3}, "503 Service Unavailable\n", {"Retry-After": "3"}),
        ({"close": False, "retry_after": 0}, "503 Service Unavailable\n", {"Retry-After": "0"}),
        ({"close": False, "request_id": "a1"}, "503 Service Unavailable\nrequest a1\n", {"X-Request-ID": "a1"}),
        (
            {"why": "x", "retry_after": 1, "request_id": "b"},
            "503 Service Unavailable: x\nrequest b\n",
            {"Connection": "close", "Retry-After": "1", "X-Request-ID": "b"},
        ),
    ],
)
def test_an_error_says_what_it_is_asked_to(arguments: dict[str, Any], body: str, fields: dict[str, str]) -> None:
    line, found, text = parts_of(error_answer(Beginnings(""), 503, **arguments))
    assert (line, text) == ("HTTP/1.1 503 Service Unavailable", body)
    del found["Date"]
    plain = {"Content-Type": "text/plain; charset=iso-8859-1", "Content-Length": str(len(body))}
    assert dict(found.items()) == plain | fields


@pytest.mark.usefixtures("_frozen")
@pytest.mark.parametrize("why", ["", "because"])
def test_an_error_to_a_head_is_the_same_without_its_body(why: str) -> None:
    """RFC 9110, section 9.3.2."""
    whole = error_answer(Beginnings("treadle"), 400, why)
    assert error_answer(Beginnings("treadle"), 400, why, head_only=True) == whole[: whole.index(b"\r\n\r\n") + 4]


def test_what_is_not_latin_1_is_replaced_and_the_length_is_that_of_the_bytes() -> None:
    _, fields, text = parts_of(error_answer(Beginnings(""), 400, "\u4e2d \xe9"))
    assert text == "400 Bad Request: ? \xe9\n"
    assert fields["Content-Length"] == str(len(text))


def test_no_why_can_add_a_field() -> None:
    _, fields, _ = parts_of(error_answer(Beginnings(""), 400, "x\r\nSet-Cookie: a=b\r\n\r\n"))
    assert "Set-Cookie" not in fields


def test_the_date_of_an_error_is_of_now() -> None:
    before = int(clock.wall())
    _, fields, _ = parts_of(error_answer(Beginnings(""), 400))
    after = clock.wall()
    sent = email.utils.parsedate_to_datetime(fields["Date"]).timestamp()
    assert before <= sent <= after
