"""Chunks and trailers that are wrong. The head is right each time."""

from __future__ import annotations

from conformance.http.corpus.entry import BAD, HEAD, chunked, head, refused

REST = b"\r\nhello\r\n0\r\n\r\n"

# What stands where the size of a chunk of five bytes should.
SIZES = {
    "empty": b"",
    "minus": b"-5",
    "minus-one": b"-1",
    "plus": b"+5",
    "blank-before": b" 5",
    "tab-before": b"\t5",
    "blank-behind": b"5 ",
    "tab-behind": b"5\t",
    "blank-within": b"0 5",
    "hex-prefix": b"0x5",
    "hex-prefix-capital": b"0X5",
    "hex-suffix": b"5h",
    "underscore": b"0_5",
    "no-hex": b"g",
    "no-hex-behind": b"5g",
    "comma": b"5,5",
    "point": b"5.0",
    "quoted": b'"5"',
    "superscript": b"\xb2",
    "wide-digit": b"\xef\xbc\x95",
    "nul": b"5\0",
    "nul-before": b"\x005",
    "vertical-tab": b"5\x0b",
    "form-feed": b"\x0c5",
    "nbsp": b"\xa05",
    "nel": b"5\x85",
    "two-words": b"5 5",
    "crlf-before": b"\r\n5",
    "colon": b"5:",
    "equals": b"5=a",
    "name": b"five",
}
# Sizes that no number of 64 bits holds.
TOO_LONG = {
    "2-to-the-64-and-5": b"10000000000000005",
    "all-ones": b"FFFFFFFFFFFFFFFF",
    "minus-of-63-bits": b"8000000000000005",
    "2-to-the-32-and-5": b"100000005",
    "of-a-thousand-digits": b"F" * 1000,
}

EXTENSIONS = {
    "empty": b"5;",
    "two-semicolons": b"5;;a",
    "final-semicolon": b"5;a;",
    "empty-value": b"5;a=",
    "empty-name": b"5;=a",
    "two-equals": b"5;a==b",
    "blank-in-name": b"5;a b",
    "blank-in-value": b"5;a=b c",
    "blank-behind": b"5;a ",
    "blank-behind-value": b"5;a=b ",
    "no-semicolon": b"5 a",
    "comma": b"5;a,b",
    "colon": b"5;a:b",
    "slash": b"5;a=b/c",
    "open-quote": b'5;a="b',
    "only-quote": b'5;a="',
    "word-behind-quote": b'5;a="b"c',
    "word-before-quote": b'5;a=b"c"',
    "quoted-name": b'5;"a"=b',
    "quoted-pair-at-the-end": b'5;a="b\\"',
    "nul": b"5;a\0",
    "nul-in-quotes": b'5;a="\0"',
    "control": b"5;a\x01",
    "delete-in-quotes": b'5;a="\x7f"',
    "vertical-tab": b"5\x0b;a",
    "obs-text": b"5;\xe9",
    "obs-text-value": b"5;a=\xe9",
    "only": b";a",
    "bare-lf": b"5;a\nb",
    "bare-cr": b"5;a\rb",
    "bare-cr-at-the-end": b"5;a\r",
    "bare-lf-in-quotes": b'5;a="\n"',
    "bare-cr-in-quotes": b'5;a="\r"',
    "crlf-in-quotes": b'5;a="\r\n"',
}

# All that stands behind the head.
BODIES = {
    "lf-behind-size": b"5\nhello\r\n0\r\n\r\n",
    "cr-behind-size": b"5\rhello\r\n0\r\n\r\n",
    "two-cr-behind-size": b"5\r\r\nhello\r\n0\r\n\r\n",
    "lfcr-behind-size": b"5\n\rhello\r\n0\r\n\r\n",
    "nothing-behind-data": b"5\r\nhello0\r\n\r\n",
    "lf-behind-data": b"5\r\nhello\n0\r\n\r\n",
    "cr-behind-data": b"5\r\nhello\r0\r\n\r\n",
    "lfcr-behind-data": b"5\r\nhello\n\r0\r\n\r\n",
    "two-cr-behind-data": b"5\r\nhello\r\r\n0\r\n\r\n",
    "two-letters-behind-data": b"5\r\nhelloXX0\r\n\r\n",
    "blank-behind-data": b"5\r\nhello \r\n0\r\n\r\n",
    "two-crlf-behind-data": b"5\r\nhello\r\n\r\n0\r\n\r\n",
    "more-data": b"5\r\nhello!\r\n0\r\n\r\n",
    "less-data": b"6\r\nhello\r\n0\r\n\r\n",
    "much-less-data": b"9\r\nhello\r\n0\r\n\r\n",
    "no-last": b"5\r\nhello\r\n",
    "no-data": b"\r\n\r\n",
    "only-crlf": b"\r\n",
    "plain-body": b"hello",
    "all-lf": b"5\nhello\n0\n\n",
    "last-lf": b"5\r\nhello\r\n0\n\n",
    "last-lf-first": b"5\r\nhello\r\n0\n\r\n",
    "last-lf-second": b"5\r\nhello\r\n0\r\n\n",
    "last-two-cr": b"5\r\nhello\r\n0\r\n\r\r\n",
    "last-cr": b"5\r\nhello\r\n0\r\r\n\r\n",
    "last-blank": b"5\r\nhello\r\n0 \r\n\r\n",
    "last-minus": b"5\r\nhello\r\n-0\r\n\r\n",
    "last-hex": b"5\r\nhello\r\n0x0\r\n\r\n",
    "last-one-crlf": b"5\r\nhello\r\n0\r\n",
    "second-size": b"5\r\nhello\r\n+1\r\n!\r\n0\r\n\r\n",
    "second-extension": b"5\r\nhello\r\n1;\r\n!\r\n0\r\n\r\n",
}

# What stands between the last chunk and the empty line.
FRAMING = {
    "content-length": "Content-Length: 5",
    "content-length-0": "content-length: 0",
    "transfer-encoding": "Transfer-Encoding: chunked",
    "transfer-encoding-small": "transfer-encoding: identity",
    "host": "Host: a",
    "host-behind-another": "X-Checksum: b\r\nhost: c",
}
TRAILERS = {
    "no-colon": "X-Checksum",
    "blank-before-colon": "X-Checksum : b",
    "empty-name": ": b",
    "name": "X(: b",
    "obs-text-name": "X\xe9: b",
    "blank-before": " X-Checksum: b",
    "folded": "X-Checksum: b\r\n c",
    "nul": "X-Checksum: b\0",
    "control": "X-Checksum: b\x0b",
    "delete": "X-Checksum: b\x7f",
    "bare-cr": "X-Checksum: b\rc",
    "bare-lf": "X-Checksum: b\nX-Other: c",
    "bare-lf-first": "\nX-Checksum: b",
    "request": "GET /2 HTTP/1.1\r\nHost: a",
}
LAST = b"5\r\nhello\r\n0\r\n"

ENTRIES = [
    *(refused(f"bad-size-{name}", "RFC 9112, 7.1", chunked(size + REST)) for name, size in SIZES.items()),
    *(
        refused(
            f"bad-size-{name}",
            "RFC 9112, 7.1",
            chunked(size + REST),
            BAD | {413},
            note="a recipient MUST see that it is too large, and take no remainder for it",
        )
        for name, size in TOO_LONG.items()
    ),
    *(refused(f"bad-extension-{name}", "RFC 9112, 7.1.1", chunked(size + REST)) for name, size in EXTENSIONS.items()),
    refused("bad-extension-too-long", "RFC 9112, 7.1.1", chunked(b"5;" + b"a" * 70_000 + REST), BAD | {413, 431}),
    refused("bad-extension-without-end", "RFC 9112, 7.1.1", chunked(b"5;" + b"a" * 70_000), BAD | {413, 431}),
    refused(
        "bad-extensions-too-many",
        "RFC 9112, 7.1.1",
        chunked((b"1;" + b"a" * 90 + b"\r\nb\r\n") * 2000 + b"0\r\n\r\n"),
        BAD | {413, 431},
        note="a server bounds them for a request, not for a chunk alone: here 180 KB for 2 KB",
    ),
    *(refused(f"bad-chunks-{name}", "RFC 9112, 7.1", chunked(raw)) for name, raw in BODIES.items()),
    *(
        refused(
            f"bad-trailer-{name}",
            "RFC 9110, 6.5.1",
            chunked(LAST + head(line)),
            note="nobody may send it, and who looks for it is fooled: refused, not left out",
        )
        for name, line in FRAMING.items()
    ),
    *(refused(f"bad-trailer-{name}", "RFC 9112, 5.1", chunked(LAST + head(line))) for name, line in TRAILERS.items()),
    refused("bad-trailers-too-large", "RFC 6585, 5", chunked(LAST + head("X-A: " + "b" * 2 * HEAD)), BAD | {431}),
    refused("bad-trailers-without-end", "RFC 6585, 5", chunked(LAST + b"X-A: " + b"b" * 70_000), BAD | {431}),
]
