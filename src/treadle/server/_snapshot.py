"""What a server shows of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from treadle.events import PoolSnapshot
from treadle.server._group import EventLoopGroup

__all__ = ["ServerSnapshot", "snapshot_of"]


@dataclass(frozen=True)
class ServerSnapshot:
    """A server at one instant.

    Attributes:
        name: the handler's name.
        state: "new", "serving", "stopping" or "stopped".
        addresses: where it listens, as `Server.addresses`; () before it was started.
        connections: that are open now.
        accepted: connections so far, `rejected_connections` of them included.
        closed_connections: that are over, of those that came in.
        closed_by: of them, how many by which limit or fault: a name of `Limits`; "evicted"; "drain_timeout" (cut at the
            end of a stop); "framing" (which failed); "tls_handshake" (failed), "tls_cut_short" (ended amid a message,
            without TLS's goodbye), "tls_error" (after the handshake); "proxy_header" (no valid one), "proxy_untrusted"
            (a header of an address that may send none); "message_rejected" (by the pool, without
            `Limits.reject_messages_with`); "thread_killed" (amid a handler); "connection_lost" (reset, broken, timed
            out by the system); "internal_error" (a fault of treadle). The others ended in order, or their
            handler raised, which `failures` counts.
        messages: whose handler was called so far; a conversation of a Session counts as one.
        handled_inline: of them, those that the leading thread has handled, which are no tasks of the pool.
        handed_over: of them, all others: those that were handled in tasks of the pool, and those over which the leading
            thread has lost the lead, for their handlers blocked.
        rejected_messages: that the pool had no room for, or shed.
        failures: handlers that raised, or returned what is no answer.
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
    pool: PoolSnapshot


def snapshot_of(name: str, state: str, fleet: EventLoopGroup | None, pool: PoolSnapshot) -> ServerSnapshot:
    """Return what a server does now; `fleet` is None before it was started."""
    acceptors = [] if fleet is None else fleet.acceptors
    lanes = [] if fleet is None else fleet.lanes
    begun = sum(lane.turns - lane.shakes for lane in lanes)  # by leaders
    deposals = sum(lane.handling.deposals for lane in lanes)
    followed = sum(lane.handling.followed for lane in lanes)
    return ServerSnapshot(
        name=name,
        state=state,
        addresses=() if fleet is None else tuple(listener.address for listener in fleet.listeners),
        connections=0 if fleet is None else fleet.gate.connections,
        accepted=sum(acceptor.accepted for acceptor in acceptors),
        rejected_connections=sum(acceptor.rejected for acceptor in acceptors)
        + (0 if fleet is None else fleet.rejected),
        closed_connections=0 if fleet is None else fleet.closed,
        closed_by={} if fleet is None else fleet.causes(),
        messages=begun + followed,
        handled_inline=begun - deposals,
        handed_over=followed + deposals,
        rejected_messages=sum(lane.handling.rejected for lane in lanes),
        failures=sum(lane.handling.failures for lane in lanes),
        pool=pool,
    )
