"""Body: what a request carries, kept until all of it is there: in memory, and what is long in a file."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, BinaryIO

from treadle.server._protocols.http.refused import Refused

__all__ = ["EMPTY", "IN_MEMORY", "Body", "Empty"]

IN_MEMORY = 512 * 1024  # bytes of one body that are kept in memory, at most


class Empty(io.BytesIO):
    """The body of a request that has none: one object for all, so nobody can close it, or write into it."""

    def close(self) -> None:
        """Do nothing."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Stay where it is: at the beginning, which is the end."""
        return 0

    def write(self, data: Any, /) -> int:
        """Refuse."""
        raise io.UnsupportedOperation("write")

    def writelines(self, lines: Iterable[Any], /) -> None:
        """Refuse: what is inherited writes without `write`."""
        raise io.UnsupportedOperation("writelines")


EMPTY = Empty()


class _File(io.FileIO):
    """A file that is closed, without a warning, when nobody has it any more."""

    def __del__(self) -> None:
        self.close()

    def _dealloc_warn(self, source: object) -> None:
        """Say nothing, though `source`, which reads it, goes first: private, and what `io` asks then."""


class _Reader(io.BufferedReader):
    """Reads a file that is closed by another thread, perhaps as this one is: that is no error to be told of."""

    def close(self) -> None:
        """Close it, and the file."""
        with suppress(ValueError):
            super().close()


class Body:
    """One body, as it comes. For one thread at a time.

    Args:
        most: bytes that it may have, see `WSGI(max_body=...)`.
        folder: where its file is, if it needs one; None: where the system has temporary ones.
    """

    __slots__ = ("_file", "_folder", "_memory", "_most", "size")

    def __init__(self, most: int, folder: str | os.PathLike[str] | None) -> None:
        self._most = most
        self._folder = folder
        self._memory = io.BytesIO()
        self._file: io.FileIO | None = None
        self.size = 0

    def expect(self, size: int) -> None:
        """See that there is room for so many bytes more.

        Raises:
            Refused: the body is longer than allowed.
        """
        if self.size + size > self._most:
            raise Refused(413, f"the body is longer than max_body allows, {self._most} bytes")

    def write(self, data: bytes | memoryview) -> None:
        """Keep `data` behind what came before.

        Raises:
            Refused: the body is longer than allowed, or the disk has no room for it.
        """
        self.expect(len(data))
        self.size += len(data)
        if self.size <= IN_MEMORY:
            self._memory.write(data)
            return
        try:
            if self._file is None:
                self._file = _open(self._folder)
                with self._memory.getbuffer() as kept:
                    self._write(kept)
                self._memory = io.BytesIO()
            self._write(data)
        except OSError as error:
            self.drop()
            raise Refused(507, f"the body cannot be kept: {error}") from error

    def take(self, buffer: bytearray, most: int) -> int:
        """Take the first bytes out of `buffer`, `most` of them, or all; keep them as `write` does; return how many."""
        size = min(most, len(buffer))
        if size:
            with memoryview(buffer) as view, view[:size] as part:
                self.write(part)
            del buffer[:size]
        return size

    def _write(self, data: bytes | memoryview) -> None:
        with memoryview(data) as view:
            written = 0
            while written < len(view):
                written += self._file.write(view[written:])  # type: ignore[union-attr]  # there is one by now

    @property
    def in_file(self) -> bool:
        """Whether it is in a file."""
        return self._file is not None

    @property
    def file(self) -> BinaryIO | None:
        """The file that it is in; None: it is in memory."""
        return self._file

    def open(self) -> BinaryIO:
        """Return what reads it, and can seek; it is complete."""
        if self._file is None:
            self._memory.seek(0)
            return self._memory
        self._file.seek(0)
        return _Reader(self._file)

    def drop(self) -> None:
        """Let go of it."""
        self._memory = io.BytesIO()
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _open(folder: str | os.PathLike[str] | None) -> io.FileIO:
    """Return a new file that has no name, or loses it at once."""
    with tempfile.TemporaryFile(buffering=0, prefix="treadle-body-", dir=folder) as made:
        return _File(os.dup(made.fileno()), "r+")
