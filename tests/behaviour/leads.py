"""Who leads, where a test says so and not the time that a handler takes: see the fixture `blind_watchdog`."""

from __future__ import annotations

from treadle._dispatch.worker import current_worker
from treadle.server import Server

__all__ = ["depose"]


def depose(server: Server) -> None:
    """Take the lead away from this thread, if it leads, as the watchdog does after a while."""
    assert server._group is not None
    worker = current_worker()
    for driver in server._group.drivers:
        lead = driver.leadership.lead
        if lead is not None and lead.slot and worker is not None and lead in worker.stack():
            driver.leadership.promote_new_leader(lead)
            driver.leadership.wake_watchdog()
