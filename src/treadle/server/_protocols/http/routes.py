"""Routes: what requests have in common that take about as long, so that a slow one does not slow the others."""

from __future__ import annotations

import re

__all__ = ["Routes"]

MOST = 4096  # paths that are kept with their routes; a guess
LONGEST = 200  # bytes of a route, as for every kind of message
# What a path is told apart by, and no route: numbers, UUIDs, and long tokens, which have a digit or are longer still.
TOLD = re.compile(
    r"(?<=/)(?:[0-9]++|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|(?=[^/]*[0-9])[^/]{16,}+|[^/]{40,}+)(?=/|\Z)"
)


class Routes(dict[str, str]):
    """The routes of methods and paths, as in "GET /users/7": "GET /users/*". From any thread."""

    def find(self, line: str) -> str:
        """Return the route of a method and a path."""
        route = self.get(line)
        return self._fold(line) if route is None else route

    def _fold(self, line: str) -> str:
        route = TOLD.sub("*", line)[:LONGEST]
        if len(self) >= MOST:
            self.clear()
        if len(line) <= LONGEST:
            self[line] = route
        return route
