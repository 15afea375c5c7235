"""Limits: how many clients, how much of them, and for how long."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import Literal

from treadle._base import checks

__all__ = ["Limits", "Phase"]

AT_CEILING = ("pause", "reject", "evict_idle")
COUNTS = {
    "max_connections": 1,
    "max_message": 1,
    "max_unsent": 0,
    "spool_memory": 0,
    "spool_file": 0,
    "max_linger_bytes": 0,
}  # and the least of each
LENGTHS = ("handshake_timeout", "min_rate_grace", "linger_timeout")  # seconds, never without limit
TIMEOUTS = ("read_timeout", "write_timeout", "handler_timeout", "idle_timeout", "max_age")  # seconds, or None
RATES = ("accept_rate", "min_read_rate", "min_write_rate")  # more than 0, or None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a server allows its clients. None: no limit.

    Args:
        max_connections: connections at a time, 1 or more.
        max_connections_per_host: of them, from one address, 1 or more; an IPv6 address counts by its /64 (RFC 6177).
            Behind a proxy that hides the clients' addresses this limits the proxy; see `Server(proxy=...)`.
        accept_rate: connections let in a second, more than 0; a second's worth may come at once.
        at_max_connections: what happens to clients beyond `max_connections`. "pause": they wait in the kernel's queue.
            "reject": they are told `reject_connections_with` and closed. "evict_idle": the connection that has been
            idle for longest is closed for them; if none is idle, they are rejected. Clients beyond
            `max_connections_per_host` are always rejected.
        reject_connections_with: what rejected clients are told; it should fit into a packet.
        reject_messages_with: what a client is told instead of an answer to a message that the pool has no room for, or
            sheds, as the pool's `when_full` and `order` say; the client may go on then. None: its connection is closed.
        max_message: bytes of one message, complete or not, 1 or more. A longer one closes its connection.
        max_unsent: bytes of answers, 0 or more, that may wait for a client that reads slowly before nothing more is
            read from it. One answer may be longer.
        spool_memory: bytes of an answer that a handler makes piece by piece, 0 or more, that are kept in memory while
            the client has not taken those before,
        spool_file: and bytes of it, 0 or more, that are kept in a file then, which is removed with it. When these are
            reached as well, the handler's thread waits. 0: there is no file.
        spool_folder: where these files are, a folder that is there when the server starts; None: where the system has
            temporary ones.
        handshake_timeout: seconds, more than 0, for the TLS handshake, and a proxy's header before it, together.
        read_timeout: seconds from the first byte of a message to its last, more than 0.
        write_timeout: seconds, more than 0, in which a client must take some of what waits for it. One that takes it
            steadily has as long as `min_write_rate` allows.
        handler_timeout: seconds, more than 0, for the handler of one message. Then its connection is closed; the
            handler runs on, for no thread can be killed, and what it returns is dropped, but it sees the time as a
            deadline (see `treadle.deadline`), and so do the tasks it submits. Not for a Session, whose handler lasts as
            long as the connection.
        idle_timeout: seconds between messages, more than 0.
        max_age: seconds, more than 0, after which a connection is closed when no message is under way in it.
        min_read_rate: bytes a second of a message, more than 0, on average.
        min_write_rate: the same for what waits for the client; by default that of ASP.NET's server, Kestrel.
        min_rate_grace: seconds, more than 0, before these rates are judged.
        linger_timeout: seconds, 0 or more, that a client's end is awaited after the last answer; what it still sends is
            thrown away, so that the answer is not lost to a reset (RFC 9112, section 9.6).
        max_linger_bytes: bytes thrown away so, 0 or more, before the connection is closed anyway.

    Raises:
        TypeError, ValueError: a value is of the wrong type, or out of range.
    """

    max_connections: int = 10_000
    max_connections_per_host: int | None = None
    accept_rate: float | None = None
    at_max_connections: Literal["pause", "reject", "evict_idle"] = "pause"
    reject_connections_with: bytes = b""
    reject_messages_with: bytes | None = None
    max_message: int = 1 << 20
    max_unsent: int = 1 << 16
    spool_memory: int = 1 << 18
    spool_file: int = 1 << 30
    spool_folder: str | os.PathLike[str] | None = None
    handshake_timeout: float = 10.0
    read_timeout: float | None = 30.0
    write_timeout: float | None = 30.0
    handler_timeout: float | None = None
    idle_timeout: float | None = 75.0
    max_age: float | None = None
    min_read_rate: float | None = None
    min_write_rate: float | None = 240.0
    min_rate_grace: float = 30.0
    linger_timeout: float = 2.0
    max_linger_bytes: int = 1 << 16

    def __post_init__(self) -> None:
        for name, least in COUNTS.items():
            checks.integer(name, getattr(self, name), least=least)
        checks.integer_or_none("max_connections_per_host", self.max_connections_per_host, least=1)
        checks.one_of("at_max_connections", self.at_max_connections, AT_CEILING)
        if not isinstance(self.reject_connections_with, bytes):
            told = self.reject_connections_with
            raise TypeError(f"reject_connections_with={told!r} is {type(told).__name__}; allowed: bytes")
        if not isinstance(self.reject_messages_with, (bytes, type(None))):
            told = self.reject_messages_with
            raise TypeError(f"reject_messages_with={told!r} is {type(told).__name__}; allowed: bytes, or None")
        folder = self.spool_folder
        if not isinstance(folder, (str, os.PathLike, type(None))):
            raise TypeError(f"spool_folder={folder!r} is {type(folder).__name__}; allowed: a path, or None")
        for name in LENGTHS:
            checks.duration(name, getattr(self, name))
        for name in (*TIMEOUTS, *RATES, "handshake_timeout", "min_rate_grace"):
            _more_than_0(name, getattr(self, name))

    def __repr__(self) -> str:
        changed = [field for field in fields(self) if getattr(self, field.name) != field.default]
        return f"Limits({', '.join(f'{field.name}={getattr(self, field.name)!r}' for field in changed)})"


@dataclass(frozen=True, slots=True)
class Phase:
    """How long one phase of reading a message may take, such as its head, or its body. None: no limit.

    Args:
        timeout: seconds from its first byte to its last, more than 0.
        min_rate: bytes a second, more than 0, on average, after `Limits.min_rate_grace`.
        anew: whether the timeout begins anew whenever some of it comes; else it is for all of it.

    Raises:
        TypeError, ValueError: a value is of the wrong type, or out of range.
    """

    timeout: float | None
    min_rate: float | None = None
    anew: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        _more_than_0("timeout", self.timeout)
        _more_than_0("min_rate", self.min_rate)
        checks.boolean("anew", self.anew)


def _more_than_0(name: str, value: object) -> None:
    if checks.seconds(name, value) == 0:
        unit = "a second" if name in RATES or name == "min_rate" else "seconds"
        none = "" if name in LENGTHS else ", or None for no limit"
        raise ValueError(f"{name}={value!r}; allowed: more than 0 {unit}{none}")
