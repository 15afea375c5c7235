"""By what connections are counted: names that stay, whatever words the log or the system has."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import fields

import pytest

from treadle._base.log_throttle import LogThrottles
from treadle.server import Limits, ServerSnapshot
from treadle.server._transport import causes as module
from treadle.server._transport.causes import Refusals, cause_of, is_of_phase


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
def test_a_limit_is_counted_by_its_name(name: str) -> None:
    assert cause_of(name) == name


def test_what_tls_says_is_one_name() -> None:
    assert cause_of("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:2580)") == "tls_error"


@pytest.mark.parametrize("words", [os.strerror(errno.ECONNRESET), os.strerror(errno.EPIPE), "SSLEOFError", "whatever"])
def test_what_the_system_says_is_no_name(words: str) -> None:
    assert cause_of(words) == "connection_lost"


def test_every_name_is_an_identifier_and_stands_in_the_docstring() -> None:
    names = {cause_of(getattr(module, constant)) for constant in module.__all__ if constant.isupper()}
    assert len(names) == len([constant for constant in module.__all__ if constant.isupper()])
    told = set(re.findall(r'"(\w+)"', str(ServerSnapshot.__doc__).partition("closed_by:")[2]))
    assert names | {"evicted", "framing", "connection_lost", "tls_error"} <= told
    assert all(name.isidentifier() for name in told)


@pytest.mark.parametrize(("why", "is_one"), [("head_timeout", True), ("min_body_rate", True), ("read_timeout", False)])
def test_a_limit_of_a_phase_is_counted_by_its_name(why: str, is_one: bool) -> None:
    assert (cause_of(why), is_of_phase(why)) == (why, is_one)


def test_words_are_no_names_of_phases() -> None:
    assert not any(is_of_phase(why) for why in ("", "TimeoutError", "Connection timed out", module.CUT, module.KILLED))


def test_what_the_protocol_says_is_told_unless_the_users_limits_say_something() -> None:
    asked: list[tuple[str, object]] = []

    def refusal(why: str, message: object) -> bytes | None:
        asked.append((why, message))
        return None if why == "read_timeout" else why.encode()

    refusals = Refusals(Limits(), LogThrottles(), "handle", refusal)
    assert refusals.of_messages
    assert refusals.of("head_timeout") == b"head_timeout"
    assert refusals.of("read_timeout") is None
    assert refusals.of_message("m") == b"message_rejected"
    assert (refusals.at_the_door("max_connections"), refusals.at_the_door("read_timeout")) == (b"max_connections", b"")
    limits = Limits(reject_connections_with=b"FULL", reject_messages_with=b"")
    refusals = Refusals(limits, LogThrottles(), "handle", refusal)
    del asked[:]
    assert (refusals.of_message("m"), refusals.at_the_door("max_connections"), asked) == (b"", b"FULL", [])


def test_without_words_of_the_protocols_there_are_those_of_the_limits() -> None:
    refusals = Refusals(Limits(), LogThrottles())
    assert (refusals.of("read_timeout"), refusals.of_message(b"m"), refusals.at_the_door("max_connections")) == (
        None,
        None,
        b"",
    )
    assert not refusals.of_messages
    assert Refusals(Limits(reject_messages_with=b""), LogThrottles()).of_messages
