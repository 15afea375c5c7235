"""FileWrapper: a file as an answer, which the kernel sends where it can (`wsgi.file_wrapper`, PEP 3333)."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from typing import Any

from treadle.server._transport.sending.file_range import FileRange

__all__ = ["FileWrapper"]

BLOCK = 64 * 1024  # bytes read at once, by default, where the kernel cannot send it


class FileWrapper:
    """What an application returns to have a file sent: an iterable of its blocks, for whoever looks at it so.

    Args:
        filelike: what has `read`.
        block_size: bytes that are read at once.
    """

    def __init__(self, filelike: Any, block_size: int = BLOCK) -> None:
        self.filelike = filelike
        self.block_size = block_size
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        data: bytes = self.filelike.read(self.block_size)
        if not data:
            raise StopIteration
        return data

    def range(self, length: int | None) -> FileRange | None:
        """Return what is left of it, for the kernel to send, `length` bytes at most; None: it has to be read.

        It has a descriptor of its own, so that the application's file can be closed by now.
        """
        if not _is_plain(self.filelike):
            return None
        try:
            number = self.filelike.fileno()
            if not stat.S_ISREG(os.fstat(number).st_mode):
                return None
            at = self.filelike.tell()
            left = max(0, os.fstat(number).st_size - at)
            if not left:  # it is empty; or one of /proc, whose size the system does not say
                return None
            copy = os.fdopen(os.dup(number), "rb", buffering=0)
        except (AttributeError, OSError, ValueError, TypeError):  # it is no file; or one that cannot say where it is
            return None
        return FileRange(copy, at, left if length is None else min(left, length))


def _is_plain(filelike: Any) -> bool:
    """Whether what is read from it is what the file has: of one of GzipFile, say, the descriptor has it packed."""
    file = getattr(filelike, "file", filelike)  # of a temporary one, or one of Django's
    if isinstance(file, (io.BufferedReader, io.BufferedRandom)):
        file = file.raw
    return isinstance(file, io.FileIO) or not isinstance(file, io.IOBase)
