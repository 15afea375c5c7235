"""TransferLimit: until when a transfer may take, given how far it has come."""

from __future__ import annotations

from math import inf

from treadle._base.words import counted

__all__ = ["JAM", "NEVER", "STALL", "TransferLimit"]

STALL = 0.1  # seconds after the time of something that we came to it: we did not run in between; a guess
# Bytes of one message in the kernel, at which that may have held no more, so that its client had to wait; a guess.
JAM = 1 << 14
NEVER: tuple[float, str] = (inf, "")


class TransferLimit:
    """How slow a client may be in one direction.

    Args:
        what: "read" or "write"; the limits are called after it.
        timeout: seconds for one message, from its first byte to its last; None: no limit.
        rate: bytes a second, on average over the message; None: no limit.
        grace: seconds from its beginning in which the rate is not judged.
    """

    __slots__ = ("grace", "rate", "timeout", "what")

    def __init__(self, what: str, timeout: float | None, rate: float | None, grace: float) -> None:
        self.what = what
        self.timeout = timeout
        self.rate = rate
        self.grace = grace

    def end(self, since: float, passed: int) -> tuple[float, str]:
        """Return the end of a transfer that began at `since`, with `passed` bytes through; and which limit sets it."""
        timed = NEVER if self.timeout is None else (since + self.timeout, f"{self.what}_timeout")
        if self.rate is None:
            return timed
        return min(timed, (since + self.grace + passed / self.rate, f"min_{self.what}_rate"))

    def left(self, since: float, passed: int, now: float) -> float | None:
        """Return the seconds that are left; None: no limit.

        Raises:
            TimeoutError: none are.
        """
        end, why = self.end(since, passed)
        if end == inf:
            return None
        if end <= now:
            raise TimeoutError(
                f"the client was slower than {why} allows: {counted(passed, 'byte')} in {now - since:.3g} s"
            )
        return end - now
