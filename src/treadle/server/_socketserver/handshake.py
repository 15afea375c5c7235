"""Handshake: a client's TLS handshake, done as far as what it has sent goes; and the wait for its end if that fails."""

from __future__ import annotations

import socket
import ssl
from math import inf

from treadle._base import clock
from treadle.server._accept.handshake import shake_hands
from treadle.server._transport.connection import plain_of

__all__ = ["Handshake"]

LINGER, LINGER_BYTES = 2.0, 1 << 16  # seconds, and bytes, after a refusal; those of Limits


class Handshake:
    """The handshake of one client.

    Args:
        timeout: seconds for all of it; None: no limit.
        polled: whether somebody polls the socket between two steps; else there is but one.

    Attributes:
        deadline: when the client is waited for no longer.
        refused: it has failed, and only the client's end is waited for.
    """

    __slots__ = ("deadline", "polled", "refused", "sock", "timeout", "unheard")

    def __init__(self, sock: ssl.SSLSocket, timeout: float | None, *, polled: bool) -> None:
        self.sock = sock
        self.timeout = timeout
        self.polled = polled
        self.deadline = inf if timeout is None else clock.now() + timeout
        self.refused = False
        self.unheard = 0  # bytes that the client has sent since

    def step(self) -> int:
        """Go on, on a thread; return what to wait for next, READ or WRITE; 0: it is done.

        Raises:
            OSError: it has failed, or taken too long.
        """
        before = self.sock.gettimeout()
        # Where nobody polls, it is done here and now; else as far as it goes, and a slow client holds no thread.
        self.sock.settimeout(0.0 if self.polled else self.timeout)
        try:
            wants = shake_hands(self.sock)
        finally:
            self.sock.settimeout(before)
        if wants and clock.now() >= self.deadline:
            raise TimeoutError(f"it took longer than handshake_timeout={self.timeout} s")
        return wants

    def refuse(self) -> bool:
        """Say no more, and await the client's end; return whether that is still to come.

        An alert says why. A close while bytes of the client's are unread would have the kernel send RST, and take it
        back. Below TLS, which has nothing more to say.
        """
        self.refused, self.deadline = True, clock.now() + LINGER
        try:
            plain_of(self.sock).shutdown(socket.SHUT_WR)
            if self.polled:
                self.sock.settimeout(0.0)
                return True
            while (left := self.deadline - clock.now()) > 0:
                self.sock.settimeout(left)
                if not self.lingers():
                    break
        except OSError:
            pass  # it has ended already
        return False

    def lingers(self) -> bool:
        """Throw away what a client sends that was refused; return False if it has ended, or sends too much."""
        try:
            size = len(plain_of(self.sock).recv(LINGER_BYTES))
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.unheard += size
        return size > 0 and self.unheard <= LINGER_BYTES
