"""Outbox: what one client is still to be sent, in order; bytes, and what is more than bytes."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Protocol

from treadle.server._transport.sending.transfer import Transfer

__all__ = ["BLOCKED", "BURST", "UNTOLD", "VIEWS", "OpenPart", "Outbox", "Part", "Wire", "view_of"]

BLOCKED = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
BURST = 1 << 20  # bytes that one client is given before the others have their turn, about; a guess
UNTOLD = 64  # answers that are over, and that the protocol was not told of, before the client has to wait; a guess
VIEWS = 64  # that the kernel is given at once, at most; it takes 1,024 (UIO_MAXIOV)


class Wire(Protocol):
    """What bytes are given to: one client's connection. Its methods raise OSError when the kernel takes none."""

    @property
    def send(self) -> Callable[[Any], int]:
        """Give it some bytes; return how many it took."""

    @property
    def at_once(self) -> int | None:
        """Bytes of views that it is given at once, at most; None: all."""

    def send_views(self, views: Sequence[memoryview]) -> int:
        """Give it several views at once; return how many bytes it took."""

    def send_file(self, file: Any, offset: int, size: int) -> int:
        """Give it bytes of a file; return how many it took; 0: the file has none there."""

    def tear(self) -> None:
        """Have the client see that what it was sent is not the whole."""


class Part(Protocol):
    """Something to be sent that is more than bytes. It is the Outbox's, and is told when it is over.

    Attributes:
        is_open: it is still being made, and so its size is not known.
    """

    is_open: bool

    @property
    def is_last(self) -> bool:
        """Whether nothing may follow before it is sent, for it may keep a file open."""

    @property
    def size(self) -> int:
        """Bytes that are left of it, as far as they are known."""

    def send(self, wire: Wire) -> int:
        """Give the kernel some of it; return how many bytes it took; 0: there are none, for now or for ever.

        Raises:
            OSError: the kernel takes none, or there will be none though more were promised.
        """

    def is_over(self) -> bool:
        """Whether all of it is sent."""

    def drop(self) -> None:
        """Let go of it: it is over, or will not be sent."""

    def forget_threads(self) -> None:
        """Let go of it in a forked child."""


class OpenPart(Part, Protocol):
    """A Part that a handler adds to."""

    @property
    def made(self) -> int:
        """Bytes that it has made so far."""


class Outbox:
    """What one client is still to be sent, in order.

    For the thread that has its connection; but while `filling` is set and another thread than the leader has that, for
    the leader.

    Attributes:
        pieces: views of bytes that nobody changes any more, and Parts.
        unsent: bytes of them, as far as they are known.
        parts: how many of them are Parts that nothing may follow.
        total: bytes that were sent, but for what the leader sent the short way.
        filling: a Part that a handler adds to; None: none does.
        transfer: how far they have come.
        untold: answers that are over, and that the protocol is about to be told of; guarded by the loop's lock.
        batch: sends the answers that wait for that of the handler that runs; None: there are none, or nobody takes
            connections away from handlers.
    """

    __slots__ = ("batch", "filling", "parts", "pieces", "total", "transfer", "unsent", "untold")

    def __init__(self) -> None:
        self.pieces: deque[memoryview | Part] = deque()
        self.unsent = self.parts = self.total = self.untold = 0
        self.filling: OpenPart | None = None
        self.transfer = Transfer()
        self.batch: Callable[[], object] | None = None

    def has_room(self, most: int) -> bool:
        """Whether another answer may follow, if `most` bytes may wait."""
        return self.unsent <= most and not self.parts and self.filling is None and self.untold < UNTOLD

    def add(self, view: memoryview) -> None:
        """Keep what is still to be sent. What the handler may change by then is copied."""
        self.pieces.append(view if type(view.obj) is bytes else memoryview(view.tobytes()))
        self.unsent += len(view)

    def add_part(self, part: Part) -> None:
        """Keep what is more than bytes."""
        self.pieces.append(part)
        self.parts += part.is_last
        self.unsent += part.size

    def fill(self, part: OpenPart) -> None:
        """Keep what is made from now on."""
        self.pieces.append(part)
        self.parts += part.is_last
        self.filling = part

    def send(self, wire: Wire) -> None:
        """Give the kernel what it takes, but not much more than BURST.

        Raises:
            OSError: it takes nothing more, for now or for ever.
        """
        pieces, sent, more = self.pieces, 0, True
        while pieces and more and sent < BURST:
            piece = pieces[0]
            if isinstance(piece, memoryview):
                took, more = self._send_views(wire)
            else:
                took, more = self._send_part(wire, piece)
            sent += took
            self.total += took
            self.transfer.sent += took

    def _send_views(self, wire: Wire) -> tuple[int, bool]:
        """Give it the views that come first; return how many bytes it took, and whether to go on."""
        pieces, views = self.pieces, list[memoryview]()
        for piece in islice(pieces, VIEWS):
            if not isinstance(piece, memoryview):
                break
            views.append(piece)
        offered = sum(map(len, views))
        sent = left = wire.send_views(views)
        self.unsent -= sent
        for view in views:
            if left < len(view):
                pieces[0] = view[left:]
                break
            left -= len(view)
            pieces.popleft()
        return sent, sent >= min(offered, wire.at_once or offered)

    def _send_part(self, wire: Wire, part: Part) -> tuple[int, bool]:
        """The same for what comes first, and is more than bytes."""
        sent = part.send(wire)
        self.unsent -= 0 if part.is_open else sent
        over = part.is_over()
        if over:
            self.pieces.popleft()
            self.parts -= part.is_last
            part.drop()
        return sent, over or sent > 0

    def seal(self) -> None:
        """The handler has added its last: what is left of that counts as bytes that wait."""
        part, self.filling = self.filling, None
        if part is not None:
            part.is_open = False
            self.unsent += part.size

    def is_dry(self) -> bool:
        """Whether there is nothing to be sent before a handler has made more."""
        return not self.pieces or (self.pieces[0] is self.filling and self.filling.size == 0)

    def clear(self) -> None:
        """Send nothing of it."""
        with suppress(IndexError):  # one by one, for another thread may do so as well
            while True:
                piece = self.pieces.popleft()
                if not isinstance(piece, memoryview):
                    piece.drop()
        self.unsent = self.parts = 0

    def forget_threads(self) -> None:
        """In a forked child, send nothing of it."""
        for piece in list(self.pieces):
            if not isinstance(piece, memoryview):
                piece.forget_threads()


def view_of(answer: Any) -> memoryview:
    """Return the bytes of an answer.

    Raises:
        TypeError: it has none.
    """
    view = memoryview(answer)
    if not view.nbytes:  # which could not be cast
        return memoryview(b"")
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())
