"""One step of a TLS handshake: what it waits for next, and what failures have in common."""

from __future__ import annotations

import ssl

from treadle.server._loop.poller import READ, WRITE

__all__ = ["reason_of", "shake_hands"]


def shake_hands(sock: ssl.SSLSocket) -> int:
    """Take a handshake as far as the socket's time-out lets it; return what to wait for, READ or WRITE; 0: it is done.

    Raises:
        OSError: it has failed, or the time-out has passed.
    """
    try:
        sock.do_handshake()
    except ssl.SSLWantWriteError:
        return WRITE
    except (ssl.SSLWantReadError, BlockingIOError):
        return READ
    return 0


def reason_of(error: Exception) -> tuple[str | int | None, ...]:
    """Return what handshakes have in common that fail alike."""
    return type(error).__name__, *(getattr(error, name, None) for name in ("errno", "reason", "verify_code"))
