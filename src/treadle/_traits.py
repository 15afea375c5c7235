"""Traits: what `Pool.options` gives a task."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

__all__ = ["PLAIN", "Traits"]


class Traits(NamedTuple):
    """What orders, logs and snapshots want to know of a task; one for all tasks of a view."""

    name: str | None = None
    priority: int = 0
    key: Hashable = None


PLAIN = Traits()
