"""Backoff: how the pauses grow, and what is said of them."""

from __future__ import annotations

import errno

import pytest

from treadle._base.log_throttle import LogThrottles
from treadle.server._accept.backoff import FIRST_PAUSE, LONGEST_PAUSE, Backoff


def test_pauses_grow_to_the_longest_and_begin_anew_after_a_success() -> None:
    backoff = Backoff("somebody", LogThrottles())
    for _ in range(2):
        assert not backoff.grown()
        assert [backoff.next() for _ in range(7)] == [FIRST_PAUSE, 0.1, 0.2, 0.4, 0.8, LONGEST_PAUSE, LONGEST_PAUSE]
        assert backoff.grown()
        backoff.reset()


def test_each_reason_is_told_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    backoff = Backoff("somebody", LogThrottles())
    for _ in range(3):
        backoff.tell(OSError(errno.EMFILE, "too many"))
        backoff.tell(OSError("no number"))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "somebody: cannot accept: too many; trying again every 0.05 to 1 s"),
        ("ERROR", "somebody: cannot accept: no number; trying again every 0.05 to 1 s"),
    ]
