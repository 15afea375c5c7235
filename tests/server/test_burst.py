"""Burst: the first of a run, and the first after a quiet time."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from treadle.server import burst as module
from treadle.server.burst import Burst


def test_a_burst_begins_once_and_again_after_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 9.0, 18.0, 28.0, 29.0])
    monkeypatch.setattr(module, "clock", SimpleNamespace(now=lambda: next(times)))
    burst = Burst(10.0)
    assert [burst.begins() for _ in range(5)] == [True, False, False, True, False]
    assert burst.count == 5
