"""Faults: what the log says of an application that fails, and what its client is told."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from clocks import FakeClock
from treadle._base.log_throttle import QUIET, LogThrottles
from treadle.errors import DeadlineExceeded
from treadle.server._protocols.http.refused import Refused
from treadle.server._protocols.http.request import Request
from treadle.server._protocols.http.status import Beginnings
from treadle.server._protocols.wsgi.faults import BURST, SHOWN, Faults
from treadle.server._transport.peer import Peer


@pytest.fixture
def faults() -> Faults:
    return Faults(Beginnings("loom"), LogThrottles())


@pytest.fixture
def peer() -> Iterator[Peer]:
    with socket.socket() as sock:
        yield Peer(("192.0.2.1", 5000), sock)


def request(method: str = "GET", target: str = "/a?b=c") -> Request:
    return Request({}, method, target, "id-7", f"{method} /a", closes=False)


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def parsed(answer: bytes) -> tuple[str, dict[str, str], str]:
    head, _, body = answer.decode("latin-1").partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    fields: dict[str, str] = dict(line.split(": ", 1) for line in lines)
    assert len(fields) == len(lines)
    return status, fields, body


def test_log_says_whose_request_it_was_which_and_what_was_raised(
    faults: Faults, peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    error = raised(KeyError("loom"))
    faults.tell(request(), peer, error)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("treadle.wsgi", logging.ERROR)
    assert record.getMessage() == "192.0.2.1:5000: GET /a?b=c failed (request id-7)"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_log_says_when_it_failed(faults: Faults, peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    faults.tell(request(), peer, raised(KeyError()), "failed amid its answer")
    assert "GET /a?b=c failed amid its answer (request id-7)" in caplog.text


def test_no_more_of_a_target_is_told_than_anybody_reads(
    faults: Faults, peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    target = "/" + "x" * 5000
    faults.tell(request(target=target), peer, raised(KeyError()))
    faults.refuse(request(target=target), peer, Refused(503, "why"), 1, closes=False)
    for record in caplog.records:
        assert "x" * (SHOWN // 2) in record.getMessage()
        assert len(record.getMessage()) < 2 * SHOWN


def test_what_is_raised_in_one_line_is_told_a_few_times_and_then_counted(
    faults: Faults, peer: Peer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = FakeClock(monkeypatch)

    def fail() -> BaseException:
        return raised(KeyError())

    for _ in range(BURST + 4):
        faults.tell(request(), peer, fail())
    faults.tell(request(), peer, raised(ValueError()))  # of another type
    assert len(caplog.records) == BURST + 1
    time.pass_(QUIET)
    faults.tell(request(), peer, fail())
    assert caplog.records[-1].getMessage().endswith("(request id-7) (4 more like it since the last such line)")


def test_failure_is_answered_with_500_and_the_requests_id_and_nothing_of_the_error(faults: Faults) -> None:
    status, fields, body = parsed(faults.answer(request(), raised(KeyError("secret")), closes=False))
    assert status == "HTTP/1.1 500 Internal Server Error"
    assert fields.pop("Date")
    assert fields == {
        "Server": "loom",
        "Content-Type": "text/plain; charset=iso-8859-1",
        "Content-Length": str(len(body)),
        "X-Request-ID": "id-7",
    }
    assert body == "500 Internal Server Error\nrequest id-7\n"


def test_time_that_is_over_is_answered_with_503(faults: Faults) -> None:
    status, _, body = parsed(faults.answer(request(), DeadlineExceeded(1.0), closes=False))
    assert status == "HTTP/1.1 503 Service Unavailable"
    assert body == "503 Service Unavailable\nrequest id-7\n"


def test_answer_to_head_has_the_length_and_no_body(faults: Faults, peer: Peer) -> None:
    whole = parsed(faults.answer(request(), KeyError(), closes=False))
    status, fields, body = parsed(faults.answer(request("HEAD"), KeyError(), closes=False))
    assert (status, fields["Content-Length"], body) == (whole[0], whole[1]["Content-Length"], "")
    _, _, body = parsed(faults.refuse(request("HEAD"), peer, Refused(503, "why"), 1, closes=False))
    assert body == ""


@pytest.mark.parametrize("closes", [False, True])
def test_answer_says_whether_the_connection_ends(faults: Faults, peer: Peer, closes: bool) -> None:
    for answer in (
        faults.answer(request(), KeyError(), closes=closes),
        faults.refuse(request(), peer, Refused(503, "why"), 1, closes=closes),
    ):
        assert parsed(answer)[1].get("Connection") == ("close" if closes else None)


def test_refusal_of_a_sound_request_says_why_and_when_to_come_again(
    faults: Faults, peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    status, fields, body = parsed(faults.refuse(request(), peer, Refused(503, "too many streams"), 5, closes=False))
    assert status == "HTTP/1.1 503 Service Unavailable"
    assert (fields["Retry-After"], fields["X-Request-ID"]) == ("5", "id-7")
    assert body == "503 Service Unavailable: too many streams\nrequest id-7\n"
    (record,) = caplog.records
    assert (record.name, record.levelno, record.exc_info) == ("treadle.wsgi", logging.WARNING, None)
    assert record.getMessage() == "192.0.2.1:5000: GET /a?b=c: 503, too many streams (request id-7)"


def test_refusals_are_told_a_few_times_for_each_status_and_then_counted(
    faults: Faults, peer: Peer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = FakeClock(monkeypatch)
    for status in (*[503] * BURST, 503, 507, 503):
        faults.refuse(request(), peer, Refused(status, "why"), 5, closes=False)
    assert len(caplog.records) == BURST + 1
    time.pass_(QUIET)
    faults.refuse(request(), peer, Refused(503, "why"), 5, closes=False)
    assert "(2 more like it since the last such line)" in caplog.records[-1].getMessage()


def test_access_log_is_told_the_status_and_how_long_the_head_is(faults: Faults, peer: Peer) -> None:
    for status in (500, 503, 507):
        failed: Any = request()
        failed.entry = SimpleNamespace(status=0)
        if status == 507:
            answer = faults.refuse(failed, peer, Refused(507, "disk"), 1, closes=False)
        else:
            answer = faults.answer(failed, KeyError() if status == 500 else DeadlineExceeded(1.0), closes=False)
        assert failed.entry.status == status
        assert answer[: failed.entry.head].endswith(b"\r\n\r\n")
        assert b"\r\n" not in answer[failed.entry.head :]
