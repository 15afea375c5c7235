"""Refused: a request that gets an error in place of an answer, by HTTP's own rules or by a limit."""

from __future__ import annotations

__all__ = ["Refused"]


class Refused(Exception):
    """The request is answered with an error, and its connection ends: nobody can say where the next one would begin.

    Args:
        status: of the answer, 400 to 599.
        why: for the log, and for whoever has sent it; names the rule's place in an RFC, or the limit.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(status, why)
        self.status = status
        self.why = why

    def __str__(self) -> str:
        return f"{self.status}, {self.why}"
