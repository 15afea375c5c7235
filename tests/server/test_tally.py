"""Tally: what became of connections, and which of them the log tells of."""

from __future__ import annotations

import logging

import pytest

from treadle.server._accept.reception import REFUSED
from treadle.server._tally import LIMITS, Tally
from treadle.server._transport.causes import KILLED


def test_connections_are_counted_by_what_closed_them_and_the_refused_apart() -> None:
    tally = Tally()
    for why in ("", "idle_timeout", "idle_timeout", KILLED, REFUSED):
        tally.add_closed(why)
    tally.add_cut(2)
    assert (tally.closed, tally.rejected, tally.cut) == (4, 1, 2)
    assert tally.causes() == {"idle_timeout": 2, "thread_killed": 1}


def test_what_is_told_of_the_counts_is_a_copy() -> None:
    tally = Tally()
    before = tally.causes()
    tally.add_closed("idle_timeout")
    assert before == {}


@pytest.mark.parametrize("limit", sorted(LIMITS))
def test_the_first_of_many_cut_by_one_limit_is_told_at_its_level(limit: str, caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally()
    with caplog.at_level(logging.DEBUG, "treadle.server"):
        tally.tell_cut("1.2.3.4:5", limit, in_header=False)
        tally.tell_cut("1.2.3.4:6", limit, in_header=False)
    first, second = caplog.records
    assert (first.levelno, second.levelno) == (LIMITS[limit], logging.DEBUG)
    assert first.getMessage() == f"1.2.3.4:5: cut by {limit}; those that follow soon are only counted"


def test_a_limit_that_cuts_a_header_says_so(caplog: pytest.LogCaptureFixture) -> None:
    Tally().tell_cut("1.2.3.4:5", "handshake_timeout", in_header=True)
    assert "for its PROXY header is not complete" in caplog.text


def test_a_limit_of_a_phase_is_told_as_others_are(caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally()
    for _ in range(2):
        tally.tell_cut("1.2.3.4:5", "head_timeout", in_header=False)
    assert [record.levelno for record in caplog.records if record.levelno > logging.DEBUG] == [logging.WARNING]
    assert "cut by head_timeout" in caplog.text
