"""Once: what one of several processes says for all of them."""

from __future__ import annotations

import mmap
import os
from types import TracebackType

__all__ = ["Once"]


class Once:
    """A turn that the first of several processes takes; the others find it taken. Make it before they are forked.

    It is a byte in a pipe, which the system hands to one reader alone. Leaving the block closes it in this process.
    """

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        os.write(writer, b".")
        os.close(writer)  # so that the others come to the end at once, and wait for nothing
        self._taken = mmap.mmap(-1, 1)  # shared with what is forked

    def take(self) -> bool:
        """Take the turn, if nobody has; tell whether it was had."""
        had = os.read(self._reader, 1) != b""
        self._taken[0] = 1
        return had

    @property
    def taken(self) -> bool:
        """Whether a process has taken it."""
        return self._taken[0] == 1

    def __enter__(self) -> Once:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._reader)
        self._taken.close()
