"""Readiness: what a descriptor is ready for at this very moment, asked of the system without a poller."""

from __future__ import annotations

import select

from treadle.server._loop.poller import READ

__all__ = ["has_ended", "ready_now"]

CAN_POLL = hasattr(select, "poll")


def ready_now(fd: int, events: int) -> int:
    """Return `events`, READ or WRITE, if the descriptor is ready for that, or has ended; else 0."""
    if CAN_POLL:
        poll = select.poll()
        poll.register(fd, select.POLLIN if events == READ else select.POLLOUT)
        ready = bool(poll.poll(0))
    else:
        reading, writing = ([fd], []) if events == READ else ([], [fd])
        ready = any(select.select(reading, writing, [], 0))
    return events if ready else 0


def has_ended(listener: int) -> bool:
    """Whether a listener is closed, or shut down: then it is "ready" for ever, and lets nobody in."""
    if listener < 0:
        return True
    if not CAN_POLL:
        return False
    poll = select.poll()
    half = getattr(select, "POLLRDHUP", 0)
    poll.register(listener, select.POLLIN | half)
    return any(event & (select.POLLHUP | select.POLLNVAL | half) for _, event in poll.poll(0))
