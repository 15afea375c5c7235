"""Transfer: how far what one client is sent has come."""

from __future__ import annotations

import socket
import struct

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Transfer", "unacknowledged"]


class Transfer:
    """How far an answer that has to wait for its client has come, as the client takes it.

    What the kernel takes is no measure of a slow client: it asks for more when a third of its buffer is free, which may
    be a minute's worth. So bytes count when the client has acknowledged them, where the system tells.

    Attributes:
        since: when it began; 0: none is under way.
        sent: bytes that the kernel has taken since.
        taken: bytes that the client has taken since, when that was looked at last.
        moved: when it had taken more than at the look before.
    """

    __slots__ = ("moved", "owed", "sent", "since", "taken")

    def __init__(self) -> None:
        self.since = self.moved = 0.0
        self.sent = self.taken = 0
        self.owed = 0  # bytes that the kernel had, and the client had not, when it began

    def begin(self, now: float, owed: int) -> None:
        """Begin to count, anew if need be."""
        self.since = self.moved = now
        self.sent = self.taken = 0
        self.owed = owed

    def look(self, now: float, owed: int) -> None:
        """Note how far it has come: `owed` bytes are with the kernel now, and not with the client."""
        taken = self.sent + self.owed - owed
        if taken > self.taken:
            self.taken, self.moved = taken, now


def unacknowledged(sock: socket.socket) -> int:
    """Return how many bytes the kernel has that the client has not acknowledged; 0 where the system does not tell."""
    try:
        if hasattr(socket, "SO_NWRITE"):  # macOS
            return sock.getsockopt(socket.SOL_SOCKET, socket.SO_NWRITE)
        return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0])
    except (AttributeError, OSError, ValueError):  # the first: Windows; the last: it is closed
        return 0
