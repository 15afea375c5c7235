"""In what our decoder and two parsers of others differ over the same bytes, and why none of that matters.

Neither is right in all. What they let pass that RFC 9112 has refused, and what they refuse that it allows, is below.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

from conformance.http.decoding import Outcome

__all__ = ["BOTH", "H11", "HTTPTOOLS", "IT_ENDS", "difference", "has_reason", "mutated"]

ODD = b'\r\n\t :;,=+-_0159afx"\\/?#*\0\x0b\x7f\x80\xff'

IT_ENDS = "it sees the end of the connection where we go on"
IT_GOES_ON = "it goes on where we see the end of the connection"
OTHERWISE = "both see requests, and not the same"

# The difference, as a pattern; why it is none that matters.
BOTH = {
    r"we refuse: 400, the Host field is": "they do not look into Host",
    r"we refuse: 400, the target is malformed": "they look at a target's characters at most",
    r"we refuse: 400, the target \* is for OPTIONS": "they do not look at what a target is for",
    r"we refuse: 400, CONNECT has no host and port": "they do not look at what a target is for",
    r"we refuse: 501, there are no tunnels here": "that is for who uses them to say",
    r"we refuse: 417, ": "that is for who uses them to say",
    r"we refuse: 505, ": "they take any version, or some",
    r"we refuse: 413, Content-Length is more than": "that is for who uses them to say",
    r"we refuse: 400, HTTP/1.0 has no Transfer-Encoding": "a choice: RFC 9112, 6.1 calls it faulty framing",
    r"we refuse: 400, the field [a-z-]+ is not for trailers": "they hand trailers on",
    r"we refuse: 400, there are two fields content-type": "a choice: nobody can say which counts",
    r"we refuse: 400, a chunk's size, or its extension": "they skip extensions, or take blanks behind a size",
    r"it refuses: (illegal chunk header|Invalid character in chunk)": "blanks at a `;` or `=` are bad, and allowed",
}
H11 = {
    r"we refuse: 400, a field is malformed": "it unfolds lines, and takes a bare LF, and most controls",
    r"we refuse: 400, the request line is malformed": "it takes a bare LF for a line's end",
    r"we refuse: 400, a LF stands without its CR": "it takes a bare LF for a line's end",
    r"we refuse: 400, there are two fields content-length": "it takes equal ones for one",
    r"we refuse: 400, there are both Content-Length": "it goes by Transfer-Encoding, as RFC 9112, 6.3 allows too",
    r"we refuse: 400, Content-Length is no number": "it takes a list of equal ones for one",
    r"we refuse: 400, there is no Host field": "it takes a higher minor version for HTTP/1.0",
    r"it refuses: no request line received": "it ignores no empty line before a request",
    r"it refuses: bad Content-Length": "it takes 20 digits, zeros included",
    IT_ENDS: "it keeps no connection of HTTP/1.0",
}
HTTPTOOLS = {
    r"we refuse: 400, there is no Host field": "it does not look for Host",
    r"we refuse: 400, there are two fields host": "it does not look for Host",
    r"we refuse: 400, there are two fields transfer-encoding": "it goes by the last coding",
    r"we refuse: 501, no Transfer-Encoding but chunked": "that is for who uses it to say",
    r"we refuse: 400, Transfer-Encoding does not end": "it goes by the last coding",
    r"we refuse: 400, the request line is malformed": "it takes several blanks, and bytes above 0x7f in a target",
    r"it refuses: (Invalid method encountered|Expected space after method)": "it knows those it has numbers for",
    r"it refuses: Invalid HTTP version": "it knows 1.0, 1.1 and 2.0, and 1.2 is 1.1",
    r"it refuses: Request has invalid `Transfer-Encoding`": "it keeps blanks behind a value",
    IT_ENDS: "it takes what stands behind an Upgrade for another protocol's, the body included",
    IT_GOES_ON: "of HTTP/1.0, it lets keep-alive win over close in one list",
}


def mutated(raw: bytes, random_one: random.Random) -> bytes:
    """Return it with a few bytes put in, changed, left out, or there twice."""
    data = bytearray(raw)
    for _ in range(random_one.choice((1, 1, 1, 2, 3))):
        at, how = random_one.randrange(len(data) + 1), random_one.randrange(4)
        if how == 0:
            data[at:at] = bytes([random_one.choice(ODD)])
        elif how == 1:
            data[at : at + 1] = bytes([random_one.choice(ODD)])
        elif how == 2:
            del data[at : at + random_one.choice((1, 1, 2, 4))]
        else:
            begin = random_one.randrange(len(data) + 1)
            data[at:at] = data[begin : begin + random_one.randrange(1, 20)]
    return bytes(data)


def difference(we: Outcome, it: Outcome) -> str:
    """Return in what they differ; "" if they do not. What is said of a connection that is over does not count."""
    ours_first, its_first = we.requests[: len(it.requests)], it.requests[: len(we.requests)]
    goes_on = not we.over or len(we.requests) > len(it.requests)
    if it.over and goes_on and it.requests and len(ours_first) == len(it.requests):
        *before, (method, target, _) = it.requests
        if (
            ours_first[:-1] == before
            and ours_first[-1][:2] == (method, target)
            and (we.requests != it.requests or we.refused)
        ):
            return IT_ENDS
    if ours_first != its_first:
        return OTHERWISE
    more, its_more = len(we.requests) > len(its_first), len(it.requests) > len(ours_first)
    if we.over and its_more:
        return IT_GOES_ON
    if we.refused and (its_more or not it.refused):
        return f"we refuse: {we.refused}"
    if it.refused and (more or not (we.refused or we.over)):
        return f"it refuses: {it.refused}"
    return OTHERWISE if more or its_more else ""


def has_reason(told: str, reasons: Mapping[str, str]) -> bool:
    """Whether a difference is none, or one of those that `reasons` explain."""
    return not told or any(re.match(pattern, told) for pattern in reasons)
