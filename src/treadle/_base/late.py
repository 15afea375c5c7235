"""Late: modules that are imported when something of them is first asked for, by a feature that few programs use."""

from __future__ import annotations

import sys
from threading import RLock
from typing import Any

from treadle._base.fork import at_fork
from treadle._base.locks import locked

__all__ = ["Late", "import_whole"]

_lock = RLock()  # held over an import: a child that is forked amid one would have a half made module, and wait for ever


def import_whole(name: str) -> None:
    """Import a module, unless that was done; where another thread is importing it, wait until that is done."""
    locked(_lock, __import__, name)


class Late:
    """Stands for a module until something of it is asked for. Type checkers are shown the module itself."""

    __slots__ = ("_name", "_whole")

    def __init__(self, name: str) -> None:
        self._name = name
        self._whole = False

    def __getattr__(self, attribute: str) -> Any:
        if not self._whole:
            import_whole(self._name)
            self._whole = True
        return getattr(sys.modules[self._name], attribute)

    def __repr__(self) -> str:
        return f"Late({self._name!r})"


at_fork("imports", _lock.acquire, _lock.release, _lock.release)
