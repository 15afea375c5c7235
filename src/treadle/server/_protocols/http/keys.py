"""Keys: what fields are called in an environ (RFC 3875, section 4.1.18), by their names as clients send them."""

from __future__ import annotations

__all__ = ["Keys", "key_of"]

MOST = 1000  # names beside those that are known from the start, as one client sends them; a guess
LONGEST = 64  # bytes of a name that is kept; a guess
# fmt: off
KNOWN = [
    "Accept", "Accept-Charset", "Accept-Encoding", "Accept-Language", "Access-Control-Request-Headers",
    "Access-Control-Request-Method", "Authorization", "Cache-Control", "CDN-Loop", "CF-Connecting-IP", "CF-IPCountry",
    "CF-Ray", "CF-Visitor", "Connection", "Content-Encoding", "Content-Language", "Content-Length", "Content-MD5",
    "Content-Range", "Content-Type", "Cookie", "Date", "DNT", "Early-Data", "Forwarded", "From", "Host",
    "HTTP2-Settings", "Idempotency-Key", "If-Match", "If-Modified-Since", "If-None-Match", "If-Range",
    "If-Unmodified-Since", "Keep-Alive", "Max-Forwards", "Origin", "Pragma", "Prefer", "Priority",
    "Proxy-Authorization", "Purpose", "Range", "Referer", "Sec-CH-UA", "Sec-CH-UA-Mobile", "Sec-CH-UA-Platform",
    "Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site", "Sec-Fetch-User", "Sec-GPC", "Sec-Purpose", "TE",
    "Traceparent", "Tracestate", "Trailer", "True-Client-IP", "Upgrade-Insecure-Requests", "User-Agent", "Via",
    "Warning", "X-Amzn-Trace-Id", "X-CSRF-Token", "X-Correlation-ID", "X-Forwarded-For", "X-Forwarded-Host",
    "X-Forwarded-Port", "X-Forwarded-Proto", "X-HTTP-Method-Override", "X-Real-IP", "X-Request-ID",
    "X-Requested-With",
]
# fmt: on
# Never here: what the careful way has to see, for it may end the connection, or say how long the body is.
CAREFUL = frozenset({"transfer-encoding", "expect", "upgrade"})


def key_of(name: str) -> str:
    """Return what the field `name`, a token, is called in an environ."""
    key = name.replace("-", "_").upper()
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


class Keys(dict[str, str]):
    """The keys of the names that the quick way knows. It grows by what clients send, to a ceiling."""

    def __init__(self) -> None:
        super().__init__()
        for name in KNOWN:
            for sent in (name, name.lower(), name.title()):
                self[sent] = key_of(name)
        self._most = len(self) + MOST

    def learn(self, name: str) -> None:
        """Have the quick way know `name` too, a token as it was sent, if it may and there is room.

        Not one with a "_", which has the same key as another with a "-": whoever sends it would speak in its place.
        """
        if len(self) < self._most and len(name) <= LONGEST and "_" not in name and name.lower() not in CAREFUL:
            self[name] = key_of(name)
