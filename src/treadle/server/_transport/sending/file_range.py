"""FileRange: part of a file, as an answer."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import Any

from treadle._base import checks
from treadle._base.words import counted
from treadle.server._transport.causes import HALF
from treadle.server._transport.sending.outbox import BLOCKED, BURST, Wire

__all__ = ["FileRange"]


class FileRange:
    """An answer that is in a file: the kernel sends it from there, at the client's pace, and holds no thread for it.

    With TLS it is read piece by piece. Whoever leads reads, so the file should be on a disk of this machine.

    Args:
        file: open for reading bytes, as by `open(path, "rb")`; a regular file. It is the server's from now on, and
            closed when it is sent, or will not be.
        offset: bytes before what is sent, 0 or more.
        size: bytes that are sent, 0 or more; None: all from `offset` on. A file that turns out shorter meanwhile has
            its client's connection reset, for it cannot be told otherwise.

    Raises:
        TypeError: an argument is of the wrong type; the file is open for text.
        ValueError: an argument is out of range; the file is closed, or shorter, or no regular one.
        OSError: the file has no descriptor, or its size cannot be had.
    """

    is_open = False
    is_last = True

    def __init__(self, file: Any, offset: int = 0, size: int | None = None) -> None:
        if not hasattr(file, "fileno") or hasattr(file, "encoding"):
            raise TypeError(f"file={file!r} is {type(file).__name__}; allowed: a file, as from open(path, 'rb')")
        checks.integer("offset", offset, least=0)
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"file={file!r} is no regular file; answer with the pieces that are read from it")
        have = max(0, found.st_size - offset)
        if size is not None and checks.integer("size", size, least=0) > have:
            raise ValueError(f"size={size!r}, but the file has {counted(have, 'byte')} from {offset} on")
        self._file = file
        self._offset = offset
        self.size = have if size is None else size

    def send(self, wire: Wire) -> int:
        """Give the kernel some of it; return how many bytes it took."""
        if not self.size:
            return 0
        try:
            sent = wire.send_file(self._file, self._offset, min(self.size, BURST))
        except BLOCKED:
            raise
        except OSError:  # of the file, or else the client is gone
            wire.tear()
            raise
        except ValueError:  # somebody has closed it
            sent = 0
        if not sent:
            wire.tear()
            raise ConnectionAbortedError(errno.ECONNABORTED, HALF)
        self._offset += sent
        self.size -= sent
        return sent

    def is_over(self) -> bool:
        """Whether all of it is sent."""
        return not self.size

    def drop(self) -> None:
        """Close it."""
        with suppress(Exception):  # of a network's file system, say, or of an object of the user's; nothing was written
            self._file.close()

    forget_threads = drop

    def __repr__(self) -> str:
        return f"FileRange({self._file!r}, {self._offset}, {self.size})"
