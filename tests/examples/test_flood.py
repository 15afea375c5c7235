"""examples/flood.py, run as a user runs it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from programs import Program

EXAMPLE = Path(__file__).parents[2] / "examples" / "flood.py"


def test_flood_is_bounded_and_everyone_who_waits_is_served() -> None:
    with Program([sys.executable, str(EXAMPLE)]) as flood:
        assert flood.wait() == 0, flood.output
    assert re.search(r"flooded: 2000 connections, 128 threads, 1872 waiting, \d+ MB", flood.output)
    assert "served:  2000 of 2000" in flood.output
    before, flooded, _ = (int(size) for size in re.findall(r"(\d+) MB", flood.output))
    # 2,000 threads' stacks and the arenas of their allocators would be hundreds of megabytes.
    assert flooded - before < 100


def test_it_is_under_40_lines() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 40
