"""ConnectionLimiter: who may come in. It counts connections, in all and by address, and how fast they come."""

from __future__ import annotations

import ipaddress
from threading import Lock
from typing import Any

from treadle._base import clock
from treadle._base.words import all_of, counted
from treadle.server._accept.proxy import Proxies
from treadle.server._transport.limits import Limits
from treadle.server._transport.peer import host_of

__all__ = ["ConnectionLimiter", "limit_of"]

IPV6_NETWORK = 64  # bits that one customer is given, and so all that tells two customers apart (RFC 6177)


class ConnectionLimiter:
    """Counts connections against the limits. Safe to use from any thread.

    Args:
        proxies: whose connections count by the client that they are for, once that is known, and by no address before.
    """

    def __init__(self, limits: Limits, proxies: Proxies | None = None) -> None:
        self.limits = limits
        self.proxies = proxies
        self._lock = Lock()
        # Below: guarded by _lock.
        self.connections = 0
        self._by_address: dict[str, int] = {}
        self._tokens = self._most = max(1.0, limits.accept_rate or 0.0)
        self._filled = clock.now()

    def forget_threads(self) -> None:
        """In a forked child, count anew: the connections are the parent's, and another thread may have had the lock."""
        self._lock = Lock()
        self.connections = 0
        self._by_address = {}

    def full(self) -> bool:
        """Whether no more connections may come in before one leaves."""
        with self._lock:
            return self.connections >= self.limits.max_connections

    def delay(self) -> float:
        """Seconds until the rate allows one more connection; 0: now."""
        rate = self.limits.accept_rate
        if rate is None:
            return 0.0
        with self._lock:
            now = clock.now()
            self._tokens = min(self._most, self._tokens + (now - self._filled) * rate)
            self._filled = now
            return max(0.0, (1.0 - self._tokens) / rate)

    def crowded(self, address: Any) -> str | None:
        """Return why none may come in from `address` whatever room there is; None: one may."""
        key = self._key(address)
        with self._lock:
            return self._crowded(key)

    def _crowded(self, key: str | None) -> str | None:
        count = 0 if key is None else self._by_address.get(key, 0)
        if key is None or count < (self.limits.max_connections_per_host or 0):
            return None
        return f"{key} has {counted(count, 'connection')} already (max_connections_per_host)"

    def enter(self, address: Any) -> str | None:
        """Count in a connection from `address`; or return why it must not come in."""
        limits, key = self.limits, self._key(address)
        with self._lock:
            if self.connections >= limits.max_connections:
                return f"{all_of(limits.max_connections, 'connection')} taken (max_connections)"
            refusal = self._add(key)
            if refusal is not None:
                return refusal
            self.connections += 1
            if limits.accept_rate is not None:
                self._tokens -= 1.0
        return None

    def enter_behind(self, address: Any) -> str | None:
        """Count a proxy's connection, which came in before, by its client's address; or return why it must not stay."""
        key = self._key(address, behind=True)
        with self._lock:
            return self._add(key)

    def _add(self, key: str | None) -> str | None:
        refusal = self._crowded(key)
        if refusal is None and key is not None:
            self._by_address[key] = self._by_address.get(key, 0) + 1
        return refusal

    def leave(self, address: Any, *, behind: bool = False) -> bool:
        """Count out a connection from `address`, or for it, `behind` a proxy; return whether there was no room."""
        key = self._key(address, behind=behind)
        with self._lock:
            was_full = self.connections >= self.limits.max_connections
            self.connections -= 1
            if key is not None:
                left = self._by_address[key] - 1
                if left:
                    self._by_address[key] = left
                else:
                    del self._by_address[key]
        return was_full

    def _key(self, address: Any, *, behind: bool = False) -> str | None:
        """Return under what an address is counted; None: it is not."""
        if self.limits.max_connections_per_host is None or not isinstance(address, tuple):
            return None
        if not behind and self.proxies is not None and address in self.proxies:
            return None
        host = host_of(address[:2]).partition("%")[0]
        if ":" not in host:
            return host
        network = ipaddress.IPv6Network((host, IPV6_NETWORK), strict=False)
        # The number of the interface: its name may be another one, or gone, by the time that the client leaves.
        return f"{network}%{address[3]}" if address[3] else str(network)


def limit_of(refusal: str) -> str:
    """Return by which limit it is that somebody must not come in."""
    return refusal.rpartition("(")[2].removesuffix(")")
