"""What a server shows of itself."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from treadle.events import PoolSnapshot
from treadle.server._group import EventLoopGroup
from treadle.server._serving.handlers import Handlers

__all__ = ["ServerSnapshot", "snapshot_of"]


@dataclass(frozen=True)
class ServerSnapshot:
    """A server at one instant.

    Attributes:
        name: the handler's name.
        state: "new", "serving", "leaving" (see `Server.run`), "stopping" or "stopped".
        addresses: where it listens, as `Server.addresses`; () before it was started.
        connections: that are open now.
        accepted: connections so far, `rejected_connections` of them included.
        closed_connections: that are over, of those that came in.
        closed_by: of them, how many by which limit or fault: a name of `Limits`, or of a limit that the protocol has
            for a phase of reading; "evicted"; "drain_timeout" (cut at the end of a stop); "framing" (which failed);
            "tls_handshake" (failed), "tls_cut_short" (ended amid a message, without TLS's goodbye), "tls_error" (after
            the handshake); "proxy_header" (no valid one), "proxy_untrusted" (a header of an address that may send
            none); "message_rejected" (by the pool, without `Limits.reject_messages_with`); "thread_killed" (amid a
            handler); "answer_failed" (amid the answer: what gave its pieces raised, or its file was too short);
            "connection_lost" (reset, broken, timed out by the system); "internal_error" (a fault of treadle). The
            others ended in order, or their handler raised, which `failures` counts.
        messages: whose handler was called so far, or that were answered without one (see `Messages`); a conversation of
            a Session counts as one, or, if it pauses, as one for each call.
        handled_inline: of them, those that the leading thread has handled or answered, which are no tasks of the pool.
        handed_over: of them, all others: those that were handled in tasks of the pool, and those over which the leading
            thread has lost the lead, for their handlers blocked.
        rejected_messages: that the pool had no room for, or shed.
        failures: handlers that raised, or returned what is no answer.
        expected_wait: seconds that a message would wait for a thread if it came now, as it went lately, where the
            protocol says how long it may (see `Protocol`); else 0.
        overdue: handlers that run now, and have for longer than `Limits.handler_timeout`, so that their connections
            were closed without them.
        slow_kinds: kinds of messages that are handed over, for they have been slow: each with about how many seconds
            they take, on average. Empty where messages have no kinds (see `Messages`).
        pool: the threads.
    """

    name: str
    state: str
    addresses: tuple[Any, ...]
    connections: int
    accepted: int
    rejected_connections: int
    closed_connections: int
    closed_by: Mapping[str, int]
    messages: int
    handled_inline: int
    handed_over: int
    rejected_messages: int
    failures: int
    expected_wait: float
    overdue: int
    slow_kinds: Mapping[Hashable, float]
    pool: PoolSnapshot


def _slow_kinds(handlers: list[Handlers]) -> dict[Hashable, float]:
    """Return what is slow in any event loop, and what it takes in the one where it takes longest."""
    slow: dict[Hashable, float] = {}
    for each in handlers:
        for kind, mean in [] if each.slowness.kinds is None else each.slowness.kinds.slow():
            slow[kind] = max(mean, slow.get(kind, 0.0))
    return slow


def snapshot_of(name: str, state: str, group: EventLoopGroup | None, pool: PoolSnapshot) -> ServerSnapshot:
    """Return what a server does now; `group` is None before it was started."""
    acceptors = [] if group is None else group.acceptors
    handlers = [] if group is None else [driver.handlers for driver in group.drivers]
    begun = sum(each.begun_inline() for each in handlers)
    lost = sum(each.lost_leads for each in handlers)
    followed = sum(each.begun_elsewhere() for each in handlers)
    rejected = sum(acceptor.rejected for acceptor in acceptors)
    return ServerSnapshot(
        name=name,
        state=state,
        addresses=() if group is None else tuple(listener.address for listener in group.listeners),
        connections=0 if group is None else group.limiter.connections,
        accepted=sum(acceptor.accepted for acceptor in acceptors),
        rejected_connections=rejected + (0 if group is None else group.tally.rejected),
        closed_connections=0 if group is None else group.tally.closed,
        closed_by={} if group is None else group.tally.causes(),
        messages=begun + followed,
        handled_inline=begun - lost,
        handed_over=followed + lost,
        rejected_messages=sum(each.rejected for each in handlers),
        expected_wait=max((each.wait_expected() for each in handlers), default=0.0),
        failures=sum(each.calls.failures for each in handlers),
        overdue=sum(each.calls.overdue.running for each in handlers if each.calls.overdue is not None),
        slow_kinds=_slow_kinds(handlers),
        pool=pool,
    )
