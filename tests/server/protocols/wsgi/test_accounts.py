"""Accounts: what a line of the access log says of a request that is over, or was never begun with."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from clocks import FakeClock
from treadle._base import clock
from treadle.server._protocols.http.request import Request
from treadle.server._protocols.wsgi.access_log import Entry
from treadle.server._protocols.wsgi.accounts import Account, Accounts
from treadle.server._transport.peer import Peer

NOW, WALL = 1000.0, 5e8


class Log:
    """Keeps the entries, as they are when they come."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def write(self, entry: Entry) -> None:
        self.entries.append(entry)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def accounts(log: Any, monkeypatch: pytest.MonkeyPatch) -> Accounts:
    FakeClock(monkeypatch, NOW)
    monkeypatch.setattr(clock, "wall", lambda: WALL)
    return Accounts(log)


@pytest.fixture
def peer() -> Iterator[Peer]:
    with socket.socket() as sock:
        yield Peer(("::ffff:192.0.2.1", 5000, 0, 0), sock)


def request(**environ: str) -> Request:
    said = {"SERVER_PROTOCOL": "HTTP/1.0", "HTTP_REFERER": "http://r/", "HTTP_USER_AGENT": "Browser/1"}
    said["REMOTE_ADDR"] = "192.0.2.9"
    return Request({**said, **environ}, "POST", "/users/7?a=b", "id-7", "POST /users/*", closes=False)


def exchange(**times: float) -> Any:
    """Return one that took 1 s to come, waited for 2 s, ran for 3 and was sent for 4, which is all up to now."""
    said = {"first_byte": NOW - 10, "complete": NOW - 9, "begun": NOW - 7, "made": NOW - 4, "sent": NOW}
    return SimpleNamespace(**{**said, **times})


def test_line_has_what_the_request_says_as_it_was_before_the_application_has_changed_it(
    accounts: Accounts, log: Log, peer: Peer
) -> None:
    one = request()
    accounts.begin(one, peer)
    assert type(one.entry) is Account
    one.environ.clear()
    accounts.over(one, 0, None)
    (entry,) = log.entries
    assert (entry.host, entry.user) == ("192.0.2.1", "")
    assert (entry.method, entry.target, entry.version) == ("POST", "/users/7?a=b", "HTTP/1.0")
    assert (entry.referer, entry.agent) == ("http://r/", "Browser/1")
    assert (entry.request_id, entry.route) == ("id-7", "POST /users/*")


def test_what_a_request_does_not_say_is_empty(accounts: Accounts, log: Log, peer: Peer) -> None:
    one = Request({}, "GET", "/", "id", "GET /", closes=False)
    accounts.begin(one, peer)
    accounts.over(one, 0, None)
    assert (log.entries[0].referer, log.entries[0].agent, log.entries[0].version) == ("", "", "")


def test_times_are_those_of_the_exchange(accounts: Accounts, log: Log, peer: Peer) -> None:
    one, peer.exchange = request(), exchange()
    accounts.begin(one, peer)
    peer.exchange = None
    accounts.over(one, 0, None)
    (entry,) = log.entries
    assert (entry.began, entry.wait, entry.run, entry.send) == (WALL - 10, 2.0, 3.0, 4.0)


def test_what_has_not_come_to_pass_lasts_until_now(accounts: Accounts, log: Log, peer: Peer) -> None:
    for times in ({"sent": 0.0}, {"sent": 0.0, "made": 0.0}):
        one, peer.exchange = request(), exchange(**times)
        accounts.begin(one, peer)
        accounts.over(one, 0, None)
    unsent, unmade = log.entries
    assert (unsent.run, unsent.send) == (3.0, 4.0)
    assert (unmade.run, unmade.send) == (7.0, 0.0)


def test_no_time_is_less_than_none(accounts: Accounts, log: Log, peer: Peer) -> None:
    """What is sent while it is made may be so before its end is noted."""
    one, peer.exchange = request(), exchange(complete=NOW + 1, begun=NOW, made=NOW - 1, sent=NOW - 2)
    accounts.begin(one, peer)
    accounts.over(one, 0, None)
    assert (log.entries[0].wait, log.entries[0].run, log.entries[0].send) == (0.0, 0.0, 0.0)


def test_bytes_are_those_of_the_body(accounts: Accounts, log: Log, peer: Peer) -> None:
    for sent in (150, 100, 70):
        one = request()
        accounts.begin(one, peer)
        one.entry.status, one.entry.head = 200, 100
        accounts.over(one, sent, None)
    assert [entry.bytes_out for entry in log.entries] == [50, 0, 0]
    assert log.entries[0].status == 200


def test_error_is_told_by_its_type_and_words(accounts: Accounts, log: Log, peer: Peer) -> None:
    for error in (KeyError("loom"), ConnectionAbortedError(103, "write_timeout"), None):
        one = request()
        accounts.begin(one, peer)
        accounts.over(one, 0, error)
    told = ["KeyError: 'loom'", "ConnectionAbortedError: [Errno 103] write_timeout", ""]
    assert [entry.error for entry in log.entries] == told


@pytest.mark.parametrize("told", [True, False])
def test_request_that_was_never_begun_with_has_a_line_too(accounts: Accounts, log: Log, told: bool) -> None:
    rejected, status = request(), 503 * told
    if told:
        accounts.reject(rejected, 503, 4)
    accounts.over(rejected, 22 * told, ConnectionAbortedError(103, "message_rejected"))
    (entry,) = log.entries
    assert entry.bytes_out == 4 * told
    assert (entry.host, entry.method, entry.target, entry.status) == ("192.0.2.9", "POST", "/users/7?a=b", status)
    assert (entry.began, entry.wait, entry.run, entry.send) == (WALL, 0.0, 0.0, 0.0)
    assert entry.error


def test_nothing_keeps_a_request_that_is_over(accounts: Accounts, log: Log, peer: Peer) -> None:
    one, peer.exchange = request(), exchange()
    accounts.begin(one, peer)
    accounts.over(one, 0, None)
    entry: Any = log.entries[0]
    assert one.entry is None
    assert entry.exchange is None


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("GET /a HTTP/1.1", ("GET", "/a", "HTTP/1.1")),
        ("BREW /a b HTTP/9.9", ("BREW", "/a b", "HTTP/9.9")),
        ("GET /a", ("", "GET /a", "")),
        ("GET  HTTP/1.1", ("", "GET  HTTP/1.1", "")),
        ("GET HTTP/1.1", ("", "GET HTTP/1.1", "")),
        (" /a HTTP/1.1", ("", " /a HTTP/1.1", "")),
        ("GET /a HTPT/1.1", ("", "GET /a HTPT/1.1", "")),
        ("\x16\x03\x01", ("", "\x16\x03\x01", "")),
        ("", ("", "", "")),
    ],
)
def test_line_of_what_is_no_request_has_all_that_came(
    accounts: Accounts, log: Log, line: str, parts: tuple[str, str, str]
) -> None:
    accounts.refused("192.0.2.1", 400, line, "it is malformed", 30)
    (entry,) = log.entries
    assert entry.bytes_out == 30
    assert (entry.method, entry.target, entry.version) == parts
    assert (entry.host, entry.status, entry.error, entry.began) == ("192.0.2.1", 400, "it is malformed", WALL)


def test_status_is_what_the_client_was_told_though_the_application_says_another_later(
    accounts: Accounts, log: Log, peer: Peer
) -> None:
    one = request()
    accounts.begin(one, peer)
    accounts.reject(one, 503, 4)
    one.entry.status = 200
    accounts.over(one, 0, None)
    assert log.entries[0].status == 503


def test_status_is_0_where_the_client_got_nothing(accounts: Accounts, log: Log, peer: Peer) -> None:
    for sent, status in ((0, 0), (70, 200)):
        one = request()
        accounts.begin(one, peer)
        one.entry.status, one.entry.head = 200, 60
        accounts.over(one, sent, ConnectionAbortedError(103, "cut at the end"))
        assert log.entries[-1].status == status
