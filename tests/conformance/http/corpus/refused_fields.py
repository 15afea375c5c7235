"""Fields that are wrong, too many or too large, and expectations that nobody meets."""

from __future__ import annotations

from conformance.http.corpus.entry import BAD, FIELDS, HEAD, Call, get, head, post, posted, refused

CONTROLS = [chr(code) for code in (*range(9), 11, 12, *range(14, 32), 127)]

# Lines between the Host and the empty line, as sent.
NAMES = {
    "blank-before-colon": "X-A : b",
    "tab-before-colon": "X-A\t: b",
    "blanks-before-colon": "X-A  : b",
    "blank-before-colon-known": "Accept : b",
    "blank-before-colon-connection": "Connection : close",
    "no-colon": "X-A b",
    "no-colon-one-word": "X-A",
    "no-colon-known": "Accept",
    "empty": ": b",
    "only-colon": ":",
    "blank-within": "X A: b",
    "tab-within": "X\tA: b",
    **{f"with-{ord(char):02x}": f"X{char}A: b" for char in '"(),/;<=>?@[\\]{}'},
    "nul-within": "X\0A: b",
    "nul-at-the-end": "X-A\0: b",
    "escape": "X\x1bA: b",
    "delete": "X\x7fA: b",
    "vertical-tab-before-colon": "X-A\x0b: b",
    "form-feed-before": "\x0cX-A: b",
    "cr-within": "X\rA: b",
    "lf-within": "X\nA: b",
    "obs-text": "X\xe9: b",
    "utf-8": "X\xc3\xa9: b",
    "nel-before-colon": "X-A\x85: b",
    "nbsp-before-colon": "X-A\xa0: b",
    "nbsp-before": "\xa0X-A: b",
    "wide-colon": "X-A\xef\xbc\x9a b",
    "kelvin": "X-\xe2\x84\xaa: b",
    "request-line": "GET /2 HTTP/1.1",
    "status-line": "HTTP/1.1 200 OK",
}
FOLDS = {
    "blank": "X-A: b\r\n c",
    "tab": "X-A: b\r\n\tc",
    "blanks": "X-A: b\r\n   c",
    "of-empty-value": "X-A:\r\n b",
    "of-only-blank": "X-A: b\r\n ",
    "of-only-tab": "X-A: b\r\n\t",
    "twice": "X-A: b\r\n c\r\n d",
    "known": "Accept: b\r\n c",
    "with-colon": "X-A: b\r\n X-B: c",
    "connection": "Connection:\r\n close",
    "content-type": "Content-Type: a/b;\r\n c=d",
}
ENDS = {
    "lf": "X-A: b\nX-B: c",
    "lf-known": "Accept: b\nX-B: c",
    "lf-at-the-end": "X-A: b\n",
    "cr": "X-A: b\rX-B: c",
    "cr-known": "Accept: b\rX-B: c",
    "cr-at-the-end": "X-A: b\r",
    "cr-at-the-end-known": "Accept: b\r",
    "two-cr": "X-A: b\r\r\nX-B: c",
    "lf-and-empty-line": "X-A: b\n\nGET /2 HTTP/1.1\r\nHost: a",
    "crlf-lf": "X-A: b\r\n\nX-B: c",
    "cr-before-value": "X-A:\rb",
    "lf-before-value": "X-A:\nb",
    "cr-alone": "\r",
    "lf-alone": "\n",
}

WITHOUT_HOST = {
    "blank-before-first": head("GET / HTTP/1.1", " X-A: b", "Host: a"),
    "tab-before-first": head("GET / HTTP/1.1", "\tX-A: b", "Host: a"),
    "blank-before-host": head("GET / HTTP/1.1", " Host: a"),
    "blank-only-first": head("GET / HTTP/1.1", " ", "Host: a"),
    "blank-before-colon-host": head("GET / HTTP/1.1", "Host : a"),
    "folded-host": head("GET / HTTP/1.1", "Host:", " a"),
    "lf-after-host": head("GET / HTTP/1.1", "Host: a\nX-A: b"),
    "cr-after-host": head("GET / HTTP/1.1", "Host: a\rX-A: b"),
    "last-empty-line-lf": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    "last-empty-line-two-cr": b"GET / HTTP/1.1\r\nHost: a\r\n\r\r\n",
    "last-line-lf": b"GET / HTTP/1.1\r\nHost: a\n\r\n",
    "no-empty-line": b"GET / HTTP/1.1\r\nHost: a\r\n",
}

FOLD = "a server MUST refuse, or put blanks in its place; we refuse"
CONTROL = "RFC 9110, 5.5: refused, or a blank in its place (CR, LF, NUL); the other controls may be kept, we keep none"
LARGE = frozenset({431})

ENTRIES = [
    *(refused(f"bad-name-{name}", "RFC 9112, 5.1", get(line)) for name, line in NAMES.items()),
    *(refused(f"bad-fold-{name}", "RFC 9112, 5.2", get(line), note=FOLD) for name, line in FOLDS.items()),
    *(refused(f"bad-end-{name}", "RFC 9112, 2.2", get(line)) for name, line in ENDS.items()),
    *(refused(f"bad-value-{ord(char):02x}", "RFC 9110, 5.5", get(f"X-A: b{char}c"), note=CONTROL) for char in CONTROLS),
    *(
        refused(f"bad-value-{name}-{ord(char):02x}", "RFC 9110, 5.5", get(line.replace("*", char)), note=CONTROL)
        for char in "\0\x0b\x7f"
        for name, line in {"only": "X-A: *", "first": "X-A:*b", "last": "X-A: b*", "known": "Accept: b*"}.items()
    ),
    *(refused(f"bad-head-{name}", "RFC 9112, 5", raw) for name, raw in WITHOUT_HOST.items()),
    refused(
        "bad-second-head",
        "RFC 9112, 5",
        get("X-A: b", target="/1") + get("X-A : b", target="/2"),
        calls=(Call("GET", "/1"),),
    ),
    refused("bad-head-behind-a-body", "RFC 9112, 6.3", post(b"hello") + get("X-A : b"), calls=(posted(b"hello"),)),
    refused("too-many-fields", "RFC 6585, 5", get(*(f"X-{n}: b" for n in range(FIELDS + 5))), LARGE),
    refused("too-many-fields-the-same", "RFC 6585, 5", get(*["X-A: b"] * (FIELDS + 5)), LARGE),
    refused("too-many-cookies", "RFC 6585, 5", get(*["Cookie: a=b"] * (FIELDS + 5)), LARGE),
    refused("too-many-empty-fields", "RFC 6585, 5", get(*["A:"] * (FIELDS + 5)), LARGE),
    refused("too-large-value", "RFC 6585, 5", get("X-A: " + "b" * HEAD), LARGE),
    refused("too-large-value-known", "RFC 6585, 5", get("Cookie: " + "b" * HEAD), LARGE),
    refused("too-large-name", "RFC 6585, 5", get("X" * HEAD + ": b"), LARGE),
    refused("too-large-together", "RFC 6585, 5", get(*(f"X-{n}: " + "b" * 300 for n in range(16))), LARGE),
    refused("too-large-blanks", "RFC 6585, 5", get("X-A:" + " " * HEAD + "b"), LARGE),
    refused("too-large-without-end", "RFC 6585, 5", b"GET / HTTP/1.1\r\nHost: a\r\nX-A: " + b"b" * 70_000, LARGE),
    refused(
        "too-many-empty-lines-before",
        "RFC 9112, 2.2",
        b"\r\n" * 2 * HEAD + get(),
        frozenset({400, 408, 431}),
        note="at least one is to be ignored, not any number",
    ),
    *(
        refused(f"expect-{name}", "RFC 9110, 10.1.1", post(b"hello", f"Expect: {value}"), frozenset({417}))
        for name, value in {
            "other": "coffee",
            "other-behind": "100-continue, coffee",
            "other-before": "coffee, 100-continue",
            "parameter": "coffee=1",
            "prefix": "100-continued",
            "suffix": "x100-continue",
            "number": "100",
        }.items()
    ),
    refused(
        "expect-other-second-line",
        "RFC 9110, 10.1.1",
        post(b"hello", "Expect: 100-continue", "Expect: coffee"),
        frozenset({417}),
    ),
    refused("expect-other-no-body", "RFC 9110, 10.1.1", get("Expect: coffee"), frozenset({417})),
    refused("expect-with-control", "RFC 9110, 5.5", get("Expect: 100-continue\x0b"), BAD),
]
