"""By what a connection was closed: in words, for the log, and by the name that it is counted under."""

from __future__ import annotations

from dataclasses import fields

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
    "cause_of",
]

CLOSED = "the connection was closed"  # whatever for
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
    if why in NAMED:
        return why
    return NAMES.get(why, "tls_error" if why.startswith("[SSL") else "connection_lost")
