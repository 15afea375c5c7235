"""Spool: an answer that its handler makes piece by piece, while the leader sends what there is.

What the client has not taken is kept: in memory up to a mark, then in a file without a name, up to another, and then
the handler's thread waits. The file is written, and read, in a circle, so it never gets larger than its mark. It is
not sent by `sendfile`, for that has the kernel refer to it until the client has acknowledged what was sent, and so what
is written over it meanwhile would be sent in its place.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections import deque
from collections.abc import Callable
from itertools import islice
from threading import Condition, Lock
from typing import Any

from treadle.server._transport.causes import HALF
from treadle.server._transport.sending.outbox import VIEWS, Wire, view_of

__all__ = ["ClientLeft", "Spool"]

OVERHEAD = 64  # bytes that a piece takes in memory beside its own, about
CHUNK = 1 << 16  # bytes that are read from the file at once, at most


class ClientLeft(ConnectionAbortedError):
    """The connection is over: what is added would be for nobody."""


class Spool:
    """What a handler makes for one client. `add`, `complete` and `fail` are for its thread, all else for the leader's.

    Args:
        memory: bytes that are kept in memory, at most; but one piece is, if there is no file.
        most: bytes that are kept in the file, at most; 0: there is none.
        folder: where the file is; None: where the system has such files.
        tell: called by the handler's thread when there is something to be sent again; False: nobody will send it.

    Attributes:
        made: bytes that the handler has made so far.
    """

    is_last = True

    def __init__(self, memory: int, most: int, folder: str | os.PathLike[str] | None, tell: Callable[[], bool]) -> None:
        self.is_open = True
        self.made = 0
        self._memory = memory
        self._most = most
        self._folder = folder
        self._tell = tell
        # All that follows is guarded by the lock, but for what is in the file.
        self._lock = Lock()
        self._room = Condition(self._lock)
        self._pieces: deque[memoryview] = deque()  # those in the file come after them
        self._kept = 0  # bytes of them
        self._file: Any = None
        self._begin = self._end = 0  # of what is in the file; counted on, though it is written in a circle
        self._writing = False  # into the file, without the lock
        self._spilled = False  # something was, since it was empty
        self._told = False  # the leader knows that there is something
        self._complete = self._failed = self._dropped = False

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return self._kept + self._end - self._begin

    # -- for the handler's thread -----------------------------------------------------------------------------------

    def add(self, piece: Any) -> None:
        """Have `piece` sent behind those before it; wait if there is no room for it.

        Raises:
            TypeError: it is no bytes.
            ClientLeft: the client has left, or was cut.
            OSError: it cannot be written to the file: the disk is full, say.
        """
        try:
            view = view_of(piece)
        except TypeError:
            raise TypeError(f"a piece of an answer is {type(piece).__name__}; allowed: bytes") from None
        if type(view.obj) is not bytes:  # which may be changed by then
            view = memoryview(view.tobytes())
        self.made += len(view)
        if self._dropped:
            raise ClientLeft(errno.ECONNABORTED, "the client has left")
        left = len(view)
        while left:
            taken = self._take(view)
            left -= taken
            if left:  # else it is the leader's, and slices of one buffer count each other without a lock
                view = view[taken:]
            if not self._told:
                self._told = True
                if not self._tell():
                    self.drop()

    def _take(self, view: memoryview) -> int:
        """Keep some of `view`, or all; return how many bytes."""
        with self._lock:
            while not self._dropped:
                if self._begin == self._end and self._fits(view):
                    if self._spilled:
                        self._spilled = False
                        self._file.truncate(0)
                    self._pieces.append(view)
                    self._kept += len(view)
                    return len(view)
                free = self._most - (self._end - self._begin)
                if free > 0 and self._most:
                    self._writing = self._spilled = True
                    break
                self._room.wait()
            else:
                raise ClientLeft(errno.ECONNABORTED, "the client has left")
        at = self._end % self._most
        return self._write(view[: min(free, self._most - at)], at)

    def _fits(self, view: memoryview) -> bool:
        """Whether it is to be kept in memory."""
        needed = self._kept + len(view) + OVERHEAD * (len(self._pieces) + 1)
        return needed <= self._memory or not (self._most or self._pieces)

    def _write(self, view: memoryview, at: int) -> int:
        """Write all of `view` into the file; return how many bytes that is."""
        written = 0
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0, prefix="treadle-", dir=self._folder)  # noqa: SIM115
            while written < len(view):
                written += _write_at(self._file, view[written:], at + written)
        finally:
            with self._lock:
                self._writing = False
                self._end += written
                if self._dropped:
                    self._begin = self._end
                    self._close()
        return written

    def complete(self) -> None:
        """That was all."""
        self._complete = True

    def fail(self) -> None:
        """There will be no more, though that was not all; the client is to see that."""
        self._failed = self._complete = True

    # -- for the leader's ---------------------------------------------------------------------------------------------

    def send(self, wire: Wire) -> int:
        """Give the kernel some of what there is; return how many bytes it took."""
        with self._lock:
            if self._pieces:
                sent = self._send_pieces(wire)
            elif self._begin < self._end:
                sent = wire.send(self._read(wire))
                self._begin += sent
            elif self._failed:
                wire.tear()
                raise ConnectionAbortedError(errno.ECONNABORTED, HALF)
            else:
                sent = 0
            if not self.size:  # nobody may ask again before there is more
                self._told = self._complete
            self._room.notify()
        return sent

    def _read(self, wire: Wire) -> bytes:
        """Return what comes next in the file."""
        at = self._begin % self._most
        size = min(self._end - self._begin, self._most - at, CHUNK)
        try:
            data = os.pread(self._file.fileno(), size, at)
        except OSError as error:
            wire.tear()
            raise ConnectionAbortedError(errno.ECONNABORTED, HALF) from error
        if not data:
            wire.tear()
            raise ConnectionAbortedError(errno.ECONNABORTED, HALF)
        return data

    def _send_pieces(self, wire: Wire) -> int:
        pieces = self._pieces
        sent = left = wire.send_views(list(islice(pieces, VIEWS)))
        self._kept -= sent
        while left:
            view = pieces[0]
            if left < len(view):
                pieces[0] = view[left:]
                break
            left -= len(view)
            pieces.popleft()
        return sent

    def is_over(self) -> bool:
        """Whether all of it is sent."""
        with self._lock:
            return self._complete and not (self.size or self._failed)

    def drop(self) -> None:
        """Let go of it: it is over, or will not be sent. Whoever adds to it is told."""
        with self._lock:
            self._dropped = True
            self._tell = _nobody  # which keeps its connection
            self._pieces.clear()
            self._kept, self._begin = 0, self._end
            if not self._writing:
                self._close()
            self._room.notify()

    def forget_threads(self) -> None:
        """In a forked child, be dropped; another thread of the parent may have had the lock."""
        self._lock = Lock()
        self._room = Condition(self._lock)
        self._writing = False
        self.drop()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _nobody() -> bool:
    """Tell nobody that there is something to be sent."""
    return False


def _write_at(file: Any, view: memoryview, at: int) -> int:
    """Write some of `view` into the file, and leave its position to whoever reads; return how many bytes."""
    return os.pwrite(file.fileno(), view, at)
