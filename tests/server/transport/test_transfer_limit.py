"""TransferLimit: the nearer of two limits, and what is left of it."""

from __future__ import annotations

from math import inf

import pytest

from treadle.server._transport.transfer_limit import TransferLimit


def test_without_limits_there_is_no_end() -> None:
    pace = TransferLimit("read", None, None, 5.0)
    assert pace.end(10.0, 0)[0] == inf
    assert pace.left(10.0, 0, 99999.0) is None


def test_the_timeout_counts_from_the_beginning_whatever_came() -> None:
    pace = TransferLimit("read", 30.0, None, 5.0)
    assert pace.end(10.0, 0) == pace.end(10.0, 1 << 30) == (40.0, "read_timeout")


def test_the_rate_gives_more_time_for_each_byte_but_not_beyond_the_timeout() -> None:
    pace = TransferLimit("write", 30.0, 100.0, 5.0)
    assert pace.end(10.0, 0) == (15.0, "min_write_rate")
    assert pace.end(10.0, 200) == (17.0, "min_write_rate")
    assert pace.end(10.0, 1_000_000) == (40.0, "write_timeout")


def test_what_is_left_runs_out_with_an_error_that_says_why() -> None:
    pace = TransferLimit("read", 30.0, None, 5.0)
    assert pace.left(10.0, 7, 15.0) == 25.0
    with pytest.raises(TimeoutError, match="slower than read_timeout allows: 7 bytes in 30 s"):
        pace.left(10.0, 7, 40.0)
