"""What some of these tests have in common."""

from __future__ import annotations

import pytest

from treadle.server import _group


@pytest.fixture
def one_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have one event loop: of several each has a reserve, and learns by itself which routes are slow."""
    monkeypatch.setattr(_group, "_loops_wanted", lambda dispatcher: 1)
