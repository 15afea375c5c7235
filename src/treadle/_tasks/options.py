"""TaskOptions: what `Pool.options` gives a task."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

__all__ = ["PLAIN", "TaskOptions"]


class TaskOptions(NamedTuple):
    """What orders, logs and snapshots want to know of a task; one for all tasks of a view."""

    name: str | None = None
    priority: int = 0
    key: Hashable = None

    def named(self, name: str) -> TaskOptions:
        """Return the same with another name, for a task of the same view."""
        named = Named(name, self.priority, self.key)
        named.original = self
        return named

    def belong_to(self, options: TaskOptions) -> bool:
        """Whether a task that has these is of the view whose tasks have `options`."""
        return self is options


class Named(TaskOptions):
    """Those of one task, beside others that have the original."""

    original: TaskOptions

    def belong_to(self, options: TaskOptions) -> bool:
        """As those that it was made of."""
        return self.original.belong_to(options)


PLAIN = TaskOptions()
