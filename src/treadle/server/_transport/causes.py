"""By what a connection was closed: in words, for the log, and by the name that it is counted under.

And Refusals: what the client is told of it, where the protocol has words for that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from treadle._base.log_throttle import LogThrottles, kind_of
from treadle._base.words import log
from treadle.server._transport.limits import Limits

__all__ = [
    "CLOSED",
    "CUT",
    "CUT_SHORT",
    "DROPPED",
    "FAULT",
    "HALF",
    "KILLED",
    "MALFORMED",
    "NO_HANDSHAKE",
    "UNTRUSTED",
    "Refusals",
    "cause_of",
    "is_of_phase",
]

CLOSED = "the connection was closed"  # whatever for
_log = logging.getLogger("treadle.server")

CUT = "cut at the end"  # of a stop
CUT_SHORT = "TLS cut short"  # it ended amid a message, without TLS's own goodbye
DROPPED = "the pool dropped its message"
FAULT = "a fault in treadle itself"
HALF = "its answer could not be made, or read from its file, to the end"
KILLED = "its thread was killed"
MALFORMED, UNTRUSTED = "no valid PROXY header", "PROXY header of an untrusted address"
NO_HANDSHAKE = "TLS handshake failed"

NAMED = {field.name for field in fields(Limits)} | {"evicted", "framing"}  # whose words are their names
NAMES = {
    CUT: "drain_timeout",
    CUT_SHORT: "tls_cut_short",
    DROPPED: "message_rejected",
    FAULT: "internal_error",
    HALF: "answer_failed",
    KILLED: "thread_killed",
    MALFORMED: "proxy_header",
    UNTRUSTED: "proxy_untrusted",
    NO_HANDSHAKE: "tls_handshake",
}


def cause_of(why: str) -> str:
    """Return the name that a connection closed for `why` is counted under; one for all that the system may say."""
    if why in NAMED or is_of_phase(why):
        return why
    return NAMES.get(why, "tls_error" if why.startswith("[SSL") else "connection_lost")


def is_of_phase(why: str) -> bool:
    """Whether it is the name of a limit of a phase of reading, as of a protocol of one's own."""
    return why not in NAMED and why.isidentifier() and why.endswith(("_timeout", "_rate"))


class Refusals:
    """What clients are told that are refused, or cut. For any thread.

    Args:
        limits: the user's own words, which win.
        throttles: which faults of the protocol's are told.
        name: the handler's, for logs.
        refusal: the protocol's, see `Protocol`; None: it has none.
    """

    __slots__ = ("limits", "name", "refusal", "throttles")

    def __init__(
        self,
        limits: Limits,
        throttles: LogThrottles,
        name: str = "",
        refusal: Callable[[str, Any], bytes | None] | None = None,
    ) -> None:
        self.limits = limits
        self.throttles = throttles
        self.name = name
        self.refusal = refusal

    def of(self, why: str, message: Any = None) -> bytes | None:
        """Return what a client is told that is cut by `why`, over `message`; None: nothing."""
        if self.refusal is None:
            return None
        try:
            told = self.refusal(why, message)
            if told is None or isinstance(told, bytes):
                return told
            raise TypeError(f"refusal() returned {type(told).__name__}; allowed: bytes, or None")
        except BaseException as error:
            throttle = self.throttles.of("refused", *kind_of(error))
            if throttle.begins():
                said = "%s: refusal() failed; the client is told nothing%s"
                log(_log, logging.WARNING, said, self.name, throttle.rest, error=error)
            return None

    @property
    def of_messages(self) -> bool:
        """Whether clients may be told that a message was rejected, and go on."""
        return self.limits.reject_messages_with is not None or self.refusal is not None

    def of_message(self, message: Any) -> bytes | None:
        """Return what a client is told in place of an answer, for the pool has rejected `message`."""
        told = self.limits.reject_messages_with
        return told if told is not None else self.of("message_rejected", message)

    def at_the_door(self, why: str) -> bytes:
        """Return what a client is told that is not let in; b"": nothing."""
        return self.limits.reject_connections_with or self.of(why) or b""
