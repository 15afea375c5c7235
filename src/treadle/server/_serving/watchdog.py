"""Watchdog: the thread that notices a leader stuck in a handler, and leads when nobody else can.

It looks now and then while messages are handled, and sleeps when none have been for a while. What it looks at are two
fields that the leader writes anyway: the slot, which holds a connection while its handler runs, and the count of
messages. The slot full and the count unchanged since the last look: the leader has been in one handler all the time.

Each look makes the leader wait for the interpreter's lock. So it looks every millisecond where handlers were slow
lately, and the longer all have been quick, the more seldom: what the first slow one then costs the others is a small
part of the time since the last.

Handlers that block for less than that are never caught so, and yet would be quicker on several threads. So it also
keeps a sample: if the leader was inside handlers at most looks, and yet used little of a processor, handlers block,
and from then on all messages go to the pool, until they turn out to be quick.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import TYPE_CHECKING

from treadle._base.clock import now, read_clock
from treadle._base.threads import start_thread

if TYPE_CHECKING:
    from treadle.server._serving.driver import Driver
    from treadle.server._serving.leadership import Lead

__all__ = ["Watchdog"]

LOOK = 0.001  # seconds between two looks, and so about how long one handler may hold up the others
SELDOM = 0.005  # the same, at most, while all is quick: looks at 1 ms take 5 % of an echo server, these 2 % (measured)
SHARE = 0.01  # of the time since a handler was slow, that is waited before the next look
LAST_LOOK = 0.1  # seconds between two looks at a leader that is leaving, who wakes us
DROWSY = 50  # looks without a message before it sleeps; a guess
SAMPLE = 32  # looks that are judged together; a guess
INSIDE = 0.7  # of a sample: so often was the leader inside a handler ...
AT_WORK = 0.5  # ... while it used less than this share of a processor: handlers block
FEW = 16  # messages between two leaders that lost the lead: fewer, and handlers block in general; a guess


class Watchdog:
    """Watches over one event loop's leader. Its thread ends when the loop is over."""

    def __init__(self, driver: Driver, name: str) -> None:
        self.driver = driver
        self.leadership = driver.leadership
        self.promotions = 0  # of new leaders, for the old one was stuck
        self._promoted_at = -FEW  # at which count of messages, the last one
        self._sample = Sample(driver.handlers.slowness.offload)
        self.thread: Thread = start_thread(self._watch, name)

    def _watch(self) -> None:
        leadership, loop = self.leadership, self.driver.loop
        seen, quiet, slow_at, confirms = -1, 0, now(), False
        while not loop.over:
            if leadership.vacant:
                with loop.lock:
                    leadership.vacant = False
                self.driver.lead_as_fallback()
                slow_at = now()
                continue
            lead, turns = leadership.lead, leadership.turns
            inside = lead is not None and bool(lead.slot)
            if lead is not None and inside and turns == seen:
                self._promote_new_leader(lead)
            elif turns == seen:
                quiet += 1
                if quiet > DROWSY and self._sleep(lead, turns):
                    quiet = 0
                    continue
            else:
                quiet = 0
            if lead is not None:
                self._sample.look(lead)
            if leadership.is_to_look:
                leadership.look_again(now())
            seen = turns
            confirms = inside and not confirms  # who was inside is looked at again soon, once
            seldom = min(max(LOOK, (now() - slow_at) * SHARE), SELDOM)
            leadership.watchdog_wakeup.acquire(True, LOOK if confirms else seldom)
        while leadership.lead is not None:  # on its way out
            leadership.watchdog_wakeup.acquire(True, LAST_LOOK)
        self.driver.close()

    def _promote_new_leader(self, lead: Lead) -> None:
        leadership = self.leadership
        if not leadership.promote_new_leader(lead):
            return
        self.promotions += 1
        # Where kinds are known it was a slow one, and others need not be.
        if leadership.turns - self._promoted_at < FEW and self.driver.handlers.slowness.kinds is None:
            self.driver.handlers.slowness.offload()
        self._promoted_at = leadership.turns

    def _sleep(self, lead: Lead | None, turns: int) -> bool:
        """Sleep until woken; False: no, something is going on."""
        leadership = self.leadership
        leadership.watchdog_sleeps = True
        # First written, then looked: so either we see that a handler has begun, or its leader sees that we sleep.
        busy = leadership.turns != turns or (lead is not None and bool(lead.slot)) or leadership.vacant
        if busy or self.driver.loop.over or leadership.is_to_look:
            leadership.watchdog_sleeps = False
            return False
        leadership.watchdog_wakeup.acquire()
        return True


class Sample:
    """Tells from what the leader was seen doing whether handlers block in general; calls `found` if they do."""

    def __init__(self, found: Callable[[], object]) -> None:
        self.found = found
        self._restart(None)

    def _restart(self, lead: Lead | None) -> None:
        self._lead = lead
        self._looks = self._inside = 0
        self._since = now()
        self._worked = _worked(lead)

    def look(self, lead: Lead) -> None:
        """Note what the leader does now."""
        if lead is not self._lead:
            self._restart(lead)
        self._looks += 1
        self._inside += bool(lead.slot)
        if self._looks < SAMPLE:
            return
        before, after = self._worked, _worked(lead)
        blocked = before is not None and after is not None and after - before < AT_WORK * (now() - self._since)
        if blocked and self._inside > INSIDE * SAMPLE:
            self.found()
        self._restart(lead)


def _worked(lead: Lead | None) -> float | None:
    """Return the seconds of a processor that a leader's thread has used; None: nobody knows."""
    return None if lead is None or lead.clock is None else read_clock(lead.clock)
