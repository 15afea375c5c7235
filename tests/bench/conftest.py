"""The benchmarks are programs and no package: their folder goes to the head of the path, as when they run."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Give a function that imports a module of bench/ by its name; what was imported is forgotten afterwards."""
    names = {path.stem for path in BENCH.glob("*.py")}
    monkeypatch.syspath_prepend(BENCH)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)
