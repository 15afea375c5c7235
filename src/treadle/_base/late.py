"""Late: modules that are imported when something of them is first asked for, by a feature that few programs use."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["Late"]


class Late:
    """Stands for a module until something of it is asked for. Type checkers are shown the module itself."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        __import__(self._name)  # where another thread is importing it, this waits until that is done
        return getattr(sys.modules[self._name], attribute)

    def __repr__(self) -> str:
        return f"Late({self._name!r})"
