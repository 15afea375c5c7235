"""A kernel that takes what it is told to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

__all__ = ["Kernel"]


class Kernel:
    """Takes at most so many bytes at a time, and in all."""

    def __init__(self, takes: int, in_all: int, at_once: int | None = None) -> None:
        self.takes, self.left, self.at_once = takes, in_all, at_once
        self.torn = False
        self.taken = b""
        self.offered: list[int] = []

    def send(self, data: bytes | memoryview) -> int:
        self.offered.append(len(data))
        if not self.left:
            raise BlockingIOError
        took = bytes(data[: min(self.takes, self.left)])
        self.taken += took
        self.left -= len(took)
        return len(took)

    def send_views(self, views: Sequence[memoryview]) -> int:
        return self.send(b"".join(views)[: self.at_once])

    def send_file(self, file: IO[bytes], offset: int, size: int) -> int:
        file.seek(offset)
        return self.send(file.read(size))

    def tear(self) -> None:
        self.torn = True
