"""What is said wrongly of a body's length: Content-Length, Transfer-Encoding, and both."""

from __future__ import annotations

from conformance.http.corpus.entry import BAD, BODY, UNKNOWN_CODING, chunked, get, head, post, refused
from conformance.http.corpus.valid_bodies import HELLO, expecting, sized

TOO_LARGE = frozenset({413})

# The value behind the colon.
LENGTHS = {
    "empty": "",
    "only-blank": " ",
    "plus": " +5",
    "minus": " -5",
    "minus-one": " -1",
    "minus-zero": " -0",
    "list": " 5,5",
    "list-blank": " 5, 5",
    "list-of-two": " 5, 6",
    "list-empty-element": " ,5",
    "list-final-comma": " 5,",
    "two-words": " 5 5",
    "tab-within": " 5\t5",
    "hex": " 0x5",
    "hex-letter": " a",
    "octal": " 0o5",
    "underscore": " 1_0",
    "point": " 5.0",
    "exponent": " 5e0",
    "superscript": " \xb2",
    "arabic-digit": " \xd9\xa5",
    "wide-digit": " \xef\xbc\x95",
    "letters": " five",
    "letter-behind": " 5b",
    "quoted": ' "5"',
    "semicolon": " 5;a",
    "nul": " 5\0",
    "nul-before": " \x005",
    "vertical-tab": " \x0b5",
    "form-feed": " 5\x0c",
    "nbsp": " \xa05",
    "nel": " 5\x85",
    "bare-cr": " 5\r",
    "bare-lf": " 5\nX-A: b",
    "folded": "\r\n 5",
    "folded-behind": " 5\r\n ",
}

CODINGS = {
    "identity": "identity",
    "gzip": "gzip",
    "gzip-chunked": "gzip, chunked",
    "chunked-gzip": "chunked, gzip",
    "chunked-twice": "chunked, chunked",
    "chunked-identity": "chunked, identity",
    "identity-chunked": "identity, chunked",
    "empty": "",
    "only-comma": ",",
    "x-before": "xchunked",
    "x-behind": "chunkedx",
    "hyphen": "x-chunked",
    "cut": "chunke",
    "parameter": "chunked;a=b",
    "semicolon": "chunked;",
    "quoted": '"chunked"',
    "single-quoted": "'chunked'",
    "two-words": "chunked chunked",
    "word-before": "a chunked",
    "brackets": "[chunked]",
    "equals": "chunked=1",
    "number": "1",
    "vertical-tab": "\x0bchunked",
    "vertical-tab-behind": "chunked\x0b",
    "form-feed": "\x0cchunked",
    "nul": "chunked\0",
    "control": "\x01chunked",
    "delete": "chunked\x7f",
    "nbsp": "\xa0chunked",
    "nel": "chunked\x85",
    "obs-text": "chunked\xff",
    "long-s": "chun\xc5\xbfked",
    "kelvin": "chun\xe2\x84\xaaed",
    "bare-cr": "chunked\r",
    "bare-lf": "chunked\nX-A: b",
    "cr-before": "\rchunked",
    "lf-before": "\nchunked",
    "folded": "\r\n chunked",
    "folded-behind": "chunked\r\n , identity",
}

# Fields that say it twice, with a body in chunks behind them.
BOTH = {
    "length-and-coding": ("Content-Length: 15", "Transfer-Encoding: chunked"),
    "coding-and-length": ("Transfer-Encoding: chunked", "Content-Length: 15"),
    "length-0-and-coding": ("Content-Length: 0", "Transfer-Encoding: chunked"),
    "wrong-length-and-coding": ("Content-Length: a", "Transfer-Encoding: chunked"),
    "length-and-identity": ("Content-Length: 15", "Transfer-Encoding: identity"),
    "length-and-empty-coding": ("Content-Length: 15", "Transfer-Encoding:"),
    "length-and-unknown-coding": ("Content-Length: 15", "Transfer-Encoding: xchunked"),
    "coding-twice": ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    "coding-and-identity": ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
    "identity-and-coding": ("Transfer-Encoding: identity", "Transfer-Encoding: chunked"),
    "coding-and-empty": ("Transfer-Encoding: chunked", "Transfer-Encoding:"),
    "coding-twice-in-two-cases": ("Transfer-Encoding: chunked", "transfer-encoding: x"),
    "coding-blank-before-colon": ("Transfer-Encoding : chunked",),
    "coding-tab-before-colon": ("Transfer-Encoding\t: chunked",),
    "coding-nul-in-name": ("Transfer\0-Encoding: chunked",),
    "coding-blank-before": ("X-A: b", " Transfer-Encoding: chunked"),
    "coding-behind-a-bare-lf": ("X-A: b\nTransfer-Encoding: chunked",),
    "coding-behind-a-bare-cr": ("X-A: b\rTransfer-Encoding: chunked",),
    "coding-no-colon": ("Transfer-Encoding chunked",),
    "length-blank-before-colon": ("Content-Length : 15",),
    "length-behind-a-bare-lf": ("X-A: b\nContent-Length: 15",),
    "length-no-colon": ("Content-Length 15",),
}
SAME = "RFC 9110, 8.6 lets a recipient take equal ones for one; we do not"
WITH_BOTH = "RFC 9112, 6.1 lets a server go by the coding and close, or refuse; we refuse"


def both(*fields: str, version: str = "HTTP/1.1") -> bytes:
    """Return a POST with these fields, and a body in chunks, of 15 bytes in all."""
    return head(f"POST /p {version}", "Host: a", *fields) + HELLO


ENTRIES = [
    *(
        refused(f"bad-length-{name}", "RFC 9112, 6.3", sized(value), note=SAME if name.startswith("list") else "")
        for name, value in LENGTHS.items()
    ),
    refused("bad-length-twice", "RFC 9112, 6.3", post(b"hello", "Content-Length: 5"), note=SAME),
    refused("bad-length-twice-0", "RFC 9112, 6.3", post(b"", "Content-Length: 0"), note=SAME),
    refused("bad-length-twice-other", "RFC 9112, 6.3", post(b"hello", "Content-Length: 6")),
    refused("bad-length-twice-in-two-cases", "RFC 9112, 6.3", post(b"hello", "content-length: 0")),
    refused("bad-length-twice-with-zero", "RFC 9112, 6.3", post(b"hello", "Content-Length: 05")),
    refused("bad-length-twice-one-empty", "RFC 9112, 6.3", post(b"hello", "Content-Length:")),
    refused("bad-length-twice-get", "RFC 9112, 6.3", get("Content-Length: 0", "Content-Length: 0"), note=SAME),
    refused("bad-length-get", "RFC 9112, 6.3", get("Content-Length: a")),
    refused("bad-length-1.0", "RFC 9112, 6.3", head("POST / HTTP/1.0", "Content-Length: +5") + b"hello"),
    refused("bad-length-over-the-limit", "RFC 9110, 15.5.14", sized(f" {BODY + 1}", b"b" * (BODY + 1)), TOO_LARGE),
    refused("bad-length-over-the-limit-no-body", "RFC 9110, 15.5.14", sized(f" {BODY * 1000}", b""), TOO_LARGE),
    refused("bad-length-2-to-the-63", "RFC 9110, 8.6", sized(f" {2**63}"), TOO_LARGE | BAD),
    refused("bad-length-2-to-the-64-and-5", "RFC 9110, 8.6", sized(f" {2**64 + 5}"), TOO_LARGE | BAD),
    refused(
        "bad-length-of-1000-digits",
        "RFC 9110, 8.6",
        sized(" " + "9" * 1000),
        TOO_LARGE | BAD,
        note="a thousand digits become no number unharmed",
    ),
    refused("bad-length-expected", "RFC 9110, 10.1.1", post(b"b" * (BODY + 1), "Expect: 100-continue"), TOO_LARGE),
    refused(
        "bad-coding-expected",
        "RFC 9112, 6.1",
        expecting("100-continue\r\nTransfer-Encoding: chunked", HELLO),
        note=WITH_BOTH,
    ),
    *(
        refused(
            f"bad-coding-{name}",
            "RFC 9112, 6.1",
            post(HELLO, f"Transfer-Encoding: {value}", length=False),
            UNKNOWN_CODING,
        )
        for name, value in CODINGS.items()
    ),
    refused("bad-coding-folded-at-once", "RFC 9112, 5.2", post(HELLO, "Transfer-Encoding:\r\n\tchunked", length=False)),
    refused("bad-coding-get", "RFC 9112, 6.1", get("Transfer-Encoding: gzip"), UNKNOWN_CODING),
    refused(
        "bad-coding-1.0",
        "RFC 9112, 6.1",
        both("Transfer-Encoding: chunked", version="HTTP/1.0"),
        UNKNOWN_CODING,
        note="faulty framing by RFC 9112, 6.1; the connection would have to end in any case",
    ),
    refused(
        "bad-coding-1.0-keep-alive",
        "RFC 9112, 6.1",
        both("Connection: keep-alive", "Transfer-Encoding: chunked", version="HTTP/1.0"),
        UNKNOWN_CODING,
    ),
    refused(
        "bad-coding-1.0-and-length",
        "RFC 9112, 6.1",
        both("Transfer-Encoding: chunked", "Content-Length: 15", version="HTTP/1.0"),
        UNKNOWN_CODING,
    ),
    *(
        refused(
            f"bad-both-{name}",
            "RFC 9112, 6.3",
            both(*fields),
            UNKNOWN_CODING,
            note=WITH_BOTH if len(fields) == 2 else "",
        )
        for name, fields in BOTH.items()
    ),
    refused(
        "bad-chunks-over-the-limit",
        "RFC 9110, 15.5.14",
        chunked(
            b"1000\r\n" + b"b" * 4096 + b"\r\n1000\r\n" + b"b" * 4096 + b"\r\n1000\r\n" + b"b" * 4096 + b"\r\n0\r\n\r\n"
        ),
        TOO_LARGE,
    ),
    refused(
        "bad-chunks-of-one-byte-over-the-limit",
        "RFC 9110, 15.5.14",
        chunked(b"1\r\nb\r\n" * (BODY + 1) + b"0\r\n\r\n"),
        TOO_LARGE,
    ),
    refused("bad-chunk-over-the-limit", "RFC 9110, 15.5.14", chunked(b"FFFFFFF\r\nhello"), TOO_LARGE),
]
