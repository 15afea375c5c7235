"""Names: of the fields of answers, checked once each."""

from __future__ import annotations

from treadle._base.words import brief
from treadle.server._protocols.http.grammar import is_token

__all__ = ["HEADERS", "Names"]

MOST = 1000  # names that are kept; a guess
LONGEST = 64  # bytes of a name that is kept; a guess
HEADERS = "WSGI (PEP 3333) wants a list of tuples of two str: a field's name and its value"
# RFC 9110, section 7.6.1: what is said of one connection is the server's to say, and no application's (PEP 3333).
# fmt: off
HOP_BY_HOP = frozenset([
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "trailers", "transfer-encoding", "upgrade",
])
# fmt: on
LOOKED_AT = frozenset({"content-length", "date", "server"})


class Names(dict[str, str]):
    """The names that were checked, and how their lines begin; "" for what has to be looked at each time."""

    def learn(self, name: object) -> str:
        """Check `name`, and return how its line begins; "": its value is to be looked at.

        Raises:
            TypeError: it is no str.
            ValueError: it is no token, or not the application's to say.
        """
        if not isinstance(name, str):
            raise TypeError(f"a header's name is {brief(name)}, {type(name).__name__}; {HEADERS}")
        if not is_token(name):
            raise ValueError(f"a header's name is {brief(name)}, which is no token (RFC 9110, section 5.6.2)")
        small = name.lower()
        if small in HOP_BY_HOP:
            raise ValueError(f"the header {name} is hop-by-hop: it is for the server to say (PEP 3333)")
        begins = "" if small in LOOKED_AT else f"{name}: "
        if len(self) < MOST and len(name) <= LONGEST:
            self[name] = begins
        return begins
