r"""Grammar: the parts of a request's head, as RFC 9110 and RFC 9112 have them, over latin-1 text.

Possessive throughout (`++`, `*+`): what matches is never tried again in another way, so no text takes long to refuse.
No `\s`, `\d` or `$`, which take more than the RFCs do, nor `str.strip`, `int` and `splitlines`, for the same reason.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv6Address

__all__ = ["FIELD", "QUICK", "REQUEST_LINE", "TOKEN", "is_host", "is_token"]

TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"  # RFC 9110, section 5.6.2
VALUE = r"[!-~\x80-\xff]++(?:[ \t]++[!-~\x80-\xff]++)*+"  # section 5.5: a field's value, without blanks at its ends
# RFC 3986, section 3.3, and what browsers leave as it is beside (URL Standard, path and query percent-encode sets):
# `[]^{|}` and a `%` that begins nothing; in queries "`" and "\" as well.
PATH = r"/[!$-;=@-\[\]^_a-~]*+"
QUERY = r"[!$-;=?-~]*+"

# RFC 9112, section 3: single blanks, a visible target, and nothing but digits in the version.
REQUEST_LINE = re.compile(rf"({TOKEN}) ([!-~]++) HTTP/([0-9])\.([0-9])")
# Section 5: no blank before the colon, and no line that begins with one (section 5.2).
FIELD = re.compile(rf"({TOKEN}):[ \t]*+((?:{VALUE})?+)[ \t]*+")
ORIGIN_FORM = re.compile(rf"({PATH})(?:\?({QUERY}))?+")
# Section 3.2.2: of the schemes that a server of HTTP is asked for. An authority with a user is refused (RFC 9110,
# section 4.2.4).
ABSOLUTE_FORM = re.compile(rf"(?i:https?)://([^/?#@]++)({PATH})?+(?:\?({QUERY}))?+")

# All of a head whose every part is plain, and its end: method and path, method, path, query, and the fields' lines.
QUICK = re.compile(
    rf"((?!CONNECT )([A-Z]{{1,20}}+) ({PATH}))(?:\?({QUERY}))?+ HTTP/1\.1((?:\r\n{TOKEN}: {VALUE})++)\r\n\r\n"
)

# RFC 3986, section 3.2.2: a registered name, which an IPv4 address is too, or an address in brackets; and a port.
HOST = re.compile(r"(?:((?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})++)|\[([0-9A-Fa-f:.]++)\])(?::[0-9]{0,5})?")
_token = re.compile(TOKEN)


def is_token(text: str) -> bool:
    """Whether `text` is a token, as methods and names of fields are (RFC 9110, section 5.6.2)."""
    return _token.fullmatch(text) is not None


def is_host(text: str) -> bool:
    """Whether `text` may stand in a Host field: it is a host, and perhaps a port (RFC 9110, section 7.2).

    It is not empty, as it would be for a target that has no authority: those of HTTP have one.
    """
    match = HOST.fullmatch(text)
    if match is None:
        return False
    if match[2] is None:
        return True
    try:
        IPv6Address(match[2])
    except AddressValueError:
        return False
    return True
