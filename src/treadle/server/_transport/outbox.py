"""Outbox: what is answered and not sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["Outbox"]


class Outbox:
    """What one client is still to be sent, in order. For the thread that has its connection.

    Attributes:
        pieces: of bytes that nobody changes any more.
        unsent: bytes of them.
        since: when it began to hold something; 0: it is empty, as far as the leader knows.
        sent: bytes that the kernel has taken since.
    """

    __slots__ = ("pieces", "sent", "since", "unsent")

    def __init__(self) -> None:
        self.pieces: deque[memoryview] = deque()
        self.unsent = 0
        self.since = 0.0
        self.sent = 0

    def add(self, view: memoryview) -> None:
        """Keep what is still to be sent. What the handler may change by then is copied."""
        self.pieces.append(view if type(view.obj) is bytes else memoryview(view.tobytes()))
        self.unsent += len(view)

    def send(self, send: Callable[[Any], int], most: int | None) -> None:
        """Send what the kernel takes, at most so many bytes at once (None: all).

        Raises:
            OSError: it takes nothing more, for now or for ever.
        """
        pieces = self.pieces
        while pieces:
            view = pieces[0]
            piece = view if most is None else view[:most]
            sent = send(piece)
            self.unsent -= sent
            self.sent += sent
            if sent == len(view):
                pieces.popleft()
                continue
            pieces[0] = view[sent:]
            if sent < len(piece):
                return

    def clear(self) -> None:
        """Send nothing of it."""
        self.pieces.clear()
        self.unsent = 0
