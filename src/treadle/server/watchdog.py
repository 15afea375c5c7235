"""Watchdog: the thread that notices a leader stuck in a handler, and leads when nobody else can.

It looks every millisecond while messages are handled, and sleeps when none have been for a while. What it looks at are
two fields that the leader writes anyway: the slot, which holds a connection while its handler runs, and the count of
messages. The slot full and the count unchanged since the last look: the leader has been in one handler all the time.

Handlers that block for less than that are never caught so, and yet would be quicker on several threads. So it also
keeps a sample: if the leader was inside handlers at most looks, and yet used little of a processor, handlers block,
and from then on all messages go to the pool, until they turn out to be quick.
"""

from __future__ import annotations

import logging
from threading import Thread
from typing import TYPE_CHECKING

from treadle.clock import now, read_clock
from treadle.threads import start_thread

if TYPE_CHECKING:
    from treadle.server.lane import Lane, Lead

__all__ = ["Watchdog"]

_log = logging.getLogger("treadle.server")

LOOK = 0.001  # seconds between two looks, and so about how long one handler may hold up the others
RELAXED = 0.005  # the same, while all is quick: looks each millisecond take 7 % of an echo server, these 2 % (measured)
CALM = 1000  # looks without a slow handler, after which it relaxes; a guess
LAST_LOOK = 0.1  # seconds between two looks at a leader that is leaving, who rouses us
DROWSY = 50  # looks without a message before it sleeps; a guess
SAMPLE = 32  # looks that are judged together; a guess
INSIDE = 0.7  # of a sample: so often was the leader inside a handler ...
AT_WORK = 0.5  # ... while it used less than this share of a processor: handlers block
FEW = 16  # messages between two leaders that were deposed: fewer, and handlers block in general; a guess


class Watchdog:
    """Watches over one lane's leader. Its thread ends when the lane is over."""

    def __init__(self, lane: Lane, name: str) -> None:
        self.lane = lane
        self.deposed = 0  # leaders
        self._deposed_at = -FEW  # at which count of messages, the last one
        self._sample = Sample(lane)
        self.thread: Thread = start_thread(self._watch, name)

    def _watch(self) -> None:
        lane = self.lane
        seen, quiet, calm = -1, 0, 0
        while not lane.over:
            if lane.vacant:
                calm = 0
                with lane.lock:
                    lane.vacant = False
                lane.caretake()
                continue
            lead, turns = lane.lead, lane.turns
            if lead is not None and lead.slot and turns == seen:
                self._depose(lead)
            elif turns == seen:
                quiet += 1
                if quiet > DROWSY and self._sleep(lead, turns):
                    quiet = 0
                    continue
            else:
                quiet = 0
            if lead is not None:
                self._sample.look(lead)
            seen = turns
            # A look makes the leader wait for the interpreter, so while all is quick there are fewer; but one that
            # finds a handler running is followed by another soon.
            calm += 1
            relaxed = calm > CALM and not (lead is not None and lead.slot)
            lane.mail.acquire(True, RELAXED if relaxed else LOOK)
        while lane.lead is not None:  # on its way out
            lane.mail.acquire(True, LAST_LOOK)
        lane.close()

    def _depose(self, lead: Lead) -> None:
        lane = self.lane
        if not lane.depose(lead):
            return
        self.deposed += 1
        if lane.turns - self._deposed_at < FEW:
            lane.spread_out()
        self._deposed_at = lane.turns

    def _sleep(self, lead: Lead | None, turns: int) -> bool:
        """Sleep until roused; False: no, something is going on."""
        lane = self.lane
        lane.asleep = True
        # First written, then looked: so either we see that a handler has begun, or its leader sees that we sleep.
        if lane.turns != turns or (lead is not None and lead.slot) or lane.vacant or lane.over:
            lane.asleep = False
            return False
        lane.mail.acquire()
        return True


class Sample:
    """Tells from what the leader was seen doing whether handlers block in general."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
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
            self.lane.spread_out()
        self._restart(lead)


def _worked(lead: Lead | None) -> float | None:
    """Return the seconds of a processor that a leader's thread has used; None: nobody knows."""
    return None if lead is None or lead.clock is None else read_clock(lead.clock)
