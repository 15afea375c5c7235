"""Bodies that are right, by Content-Length and in chunks, with trailers and expectations."""

from __future__ import annotations

from conformance.http.corpus.entry import BAD, BODY, FIELDS, Call, Entry, chunked, get, head, post, posted

HELLO = b"5\r\nhello\r\n0\r\n\r\n"

# What stands behind the head of a chunked POST; the body.
CHUNKS = {
    "one": (HELLO, b"hello"),
    "none": (b"0\r\n\r\n", b""),
    "two": (b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", b"hello"),
    "of-one-byte": (b"1\r\nh\r\n" * 5 + b"0\r\n\r\n", b"hhhhh"),
    "capital-hex": (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    "small-hex": (b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    "two-hex-digits": (b"1F\r\n" + b"b" * 31 + b"\r\n0\r\n\r\n", b"b" * 31),
    "leading-zero": (b"05\r\nhello\r\n0\r\n\r\n", b"hello"),
    "leading-zeros": (b"0005\r\nhello\r\n0\r\n\r\n", b"hello"),
    "last-of-zeros": (b"5\r\nhello\r\n000\r\n\r\n", b"hello"),
    "crlf-in-data": (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
    "last-chunk-in-data": (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
    "request-in-data": (b"12\r\nGET / HTTP/1.1\r\n\r\n\r\n0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"),
    "every-byte": (b"100\r\n" + bytes(range(256)) + b"\r\n0\r\n\r\n", bytes(range(256))),
    "large": (b"1000\r\n" + b"b" * 4096 + b"\r\n1000\r\n" + b"c" * 4096 + b"\r\n0\r\n\r\n", b"b" * 4096 + b"c" * 4096),
}

# What may stand behind a chunk's size.
EXTENSIONS = {
    "name": b";a",
    "value": b";a=b",
    "quoted": b';a="b"',
    "quoted-empty": b';a=""',
    "quoted-semicolon": b';a="b;c"',
    "quoted-blank": b';a="b c\td"',
    "quoted-pair": b';a="b\\"c\\\\"',
    "quoted-obs-text": b';a="\xe9"',
    "several": b';a;b=c;d="e"',
    "blank-before": b" ;a",
    "tab-before": b"\t;a",
    "blank-behind-semicolon": b"; a",
    "blanks-around-equals": b";a = b",
    "blanks-everywhere": b' \t; \ta \t= \t"b" ; c',
    "all-token-characters": b";!#$%&'*+-.^_`|~09az=!#$%&'*+-.^_`|~09AZ",
}

# Trailers that may come.
TRAILERS = {
    "one": ("X-Checksum: b",),
    "two": ("X-Checksum: b", "X-Other: c"),
    "empty": ("X-Checksum:",),
    "blanks": ("X-Checksum: \t b \t ",),
    "obs-text": ("X-Checksum: \xe9",),
    "twice": ("X-Checksum: b", "X-Checksum: c"),
    "colon": ("X-Checksum: b:c",),
}
# Trailers that nobody may send, but that do not touch where a message ends.
DOUBTFUL_TRAILERS = {
    "authorization": "Authorization: b",
    "cookie": "Cookie: b=c",
    "content-type": "Content-Type: b",
    "cache-control": "Cache-Control: no-store",
    "connection": "Connection: close",
    "expect": "Expect: 100-continue",
    "te": "TE: trailers",
}
# The keys in the environ that would be theirs.
HIDDEN = ("HTTP_X_CHECKSUM", "HTTP_X_OTHER", "HTTP_AUTHORIZATION", "HTTP_COOKIE", "CONTENT_TYPE", "HTTP_CACHE_CONTROL")

CODINGS = {
    "capitals": "Transfer-Encoding: CHUNKED",
    "mixed": "Transfer-Encoding: Chunked",
    "no-blank": "Transfer-Encoding:chunked",
    "blanks": "Transfer-Encoding: \t chunked \t ",
    "small-name": "transfer-encoding: chunked",
    "odd-name": "tRANSFER-eNCODING: chunked",
}

# The value of Content-Length for a body of five bytes.
LENGTHS = {"plain": " 5", "no-blank": "5", "blanks": " \t 5", "tab-behind": " 5\t", "blank-behind": " 5 "}
ZEROS = {"leading-zero": "05", "leading-zeros": "00000005"}

NOT_MERGED = "RFC 9110, 6.5.1 lets nobody take a trailer for a field of the head"
WRONG_TRAILER = "a sender MUST NOT, what a recipient does is its choice: refused or left out"


def sized(value: str, body: bytes = b"hello", method: str = "POST") -> bytes:
    """Return a request whose Content-Length is given as text, blanks included."""
    return head(f"{method} /p HTTP/1.1", "Host: a", f"Content-Length:{value}") + body


def expecting(value: str, body: bytes, version: str = "HTTP/1.1") -> bytes:
    """Return a POST that expects something."""
    return head(f"POST /p {version}", "Host: a", f"Expect: {value}", f"Content-Length: {len(body)}") + body


ENTRIES = [
    *(
        Entry(f"length-{name}", sized(value), "RFC 9112, 6.2", (posted(b"hello", CONTENT_LENGTH="5"),))
        for name, value in LENGTHS.items()
    ),
    *(
        Entry(
            f"length-{name}",
            sized(" " + value),
            "RFC 9110, 8.6",
            (posted(b"hello", CONTENT_LENGTH=("5", value)),),
            note="1*DIGIT allows zeros in front",
        )
        for name, value in ZEROS.items()
    ),
    Entry(
        "length-thirty-zeros",
        sized(" " + "0" * 30 + "5"),
        "RFC 9110, 8.6",
        (posted(b"hello"),),
        may_refuse=BAD | {413},
        note="1*DIGIT has no end, a server's patience has",
    ),
    Entry("length-0", sized(" 0", b""), "RFC 9112, 6.3", (posted(b"", CONTENT_LENGTH="0"),)),
    Entry("length-00", sized(" 00", b""), "RFC 9110, 8.6", (posted(b"", CONTENT_LENGTH=("0", "00")),)),
    Entry(
        "length-small-name",
        head("POST /p HTTP/1.1", "host: a", "content-length: 5") + b"hello",
        "RFC 9110, 5.1",
        (posted(b"hello", CONTENT_LENGTH="5"),),
    ),
    Entry(
        "length-before-host",
        head("POST /p HTTP/1.1", "Content-Length: 5", "Host: a") + b"hello",
        "RFC 9110, 5.3",
        (posted(b"hello", CONTENT_LENGTH="5"),),
    ),
    *(
        Entry(
            f"body-{method.lower()}",
            sized(" 5", method=method),
            "RFC 9110, 9.3",
            (Call(method, "/p", body=b"hello", environ={"CONTENT_LENGTH": "5"}),),
            note="any request may have a body, and the next begins behind it",
        )
        for method in ("GET", "HEAD", "DELETE", "OPTIONS", "PUT", "PATCH", "BREW")
    ),
    Entry(
        "body-none-post",
        head("POST /p HTTP/1.1", "Host: a"),
        "RFC 9112, 6.3",
        (posted(b""),),
        note="a server MAY ask for a length with 411; ours takes it for none",
        may_refuse=frozenset({411}),
    ),
    Entry(
        "body-1.0",
        head("POST /p HTTP/1.0", "Content-Length: 5") + b"hello",
        "RFC 9112, 6.3",
        (posted(b"hello"),),
        keeps=False,
    ),
    Entry(
        "body-1.0-keep-alive",
        head("POST /p HTTP/1.0", "Connection: keep-alive", "Content-Length: 5") + b"hello",
        "RFC 9112, 9.3",
        (posted(b"hello"),),
    ),
    Entry("body-close", post(b"hello", "Connection: close"), "RFC 9112, 9.6", (posted(b"hello"),), keeps=False),
    Entry("body-every-byte", post(bytes(range(256))), "RFC 9110, 6.4", (posted(bytes(range(256))),)),
    Entry("body-only-crlf", post(b"\r\n\r\n"), "RFC 9112, 2.2", (posted(b"\r\n\r\n"),)),
    Entry("body-like-a-request", post(get()), "RFC 9112, 6.3", (posted(get()),)),
    Entry("body-like-chunks", post(HELLO), "RFC 9112, 6.3", (posted(HELLO),)),
    Entry("body-largest", post(b"b" * BODY), "RFC 9112, 6.2", (posted(b"b" * BODY),)),
    Entry(
        "body-and-another", post(b"hello") + get(target="/2"), "RFC 9112, 6.3", (posted(b"hello"), Call("GET", "/2"))
    ),
    Entry(
        "body-crlf-behind",
        post(b"hello") + b"\r\n",
        "RFC 9112, 2.2",
        (posted(b"hello"),),
        note="old clients send one behind a body: it is the empty line before the next request",
    ),
    *(Entry(f"chunks-{name}", chunked(raw), "RFC 9112, 7.1", (posted(body),)) for name, (raw, body) in CHUNKS.items()),
    *(
        Entry(
            f"chunk-extension-{name}",
            chunked(b"5" + raw + b"\r\nhello\r\n0\r\n\r\n"),
            "RFC 9112, 7.1.1",
            (posted(b"hello"),),
        )
        for name, raw in EXTENSIONS.items()
    ),
    Entry(
        "chunk-extension-of-the-last", chunked(b'5\r\nhello\r\n0;a="b"\r\n\r\n'), "RFC 9112, 7.1.1", (posted(b"hello"),)
    ),
    *(
        Entry(
            f"trailer-{name}",
            chunked(b"5\r\nhello\r\n0\r\n" + head(*lines)),
            "RFC 9112, 7.1.2",
            (Call("POST", "/p", body=b"hello", absent=HIDDEN),),
            note=NOT_MERGED,
        )
        for name, lines in TRAILERS.items()
    ),
    Entry(
        "trailer-announced",
        chunked(b"5\r\nhello\r\n0\r\nX-Checksum: b\r\n\r\n", "Trailer: X-Checksum"),
        "RFC 9110, 6.6.2",
        (Call("POST", "/p", body=b"hello", absent=HIDDEN),),
    ),
    Entry(
        "trailer-of-the-same-name",
        chunked(b"5\r\nhello\r\n0\r\nX-A: c\r\n\r\n", "X-A: b"),
        "RFC 9110, 6.5.1",
        (posted(b"hello", HTTP_X_A="b"),),
        note=NOT_MERGED,
    ),
    Entry(
        "trailer-many",
        chunked(b"5\r\nhello\r\n0\r\n" + head(*(f"X-{n}: b" for n in range(FIELDS + 5)))),
        "RFC 9110, 6.5.1",
        (posted(b"hello"),),
        may_refuse=BAD | {431},
        note="as many as the server takes fields, or as fit in so many bytes",
    ),
    *(
        Entry(
            f"trailer-{name}",
            chunked(b"5\r\nhello\r\n0\r\n" + head(line)),
            "RFC 9110, 6.5.1",
            (Call("POST", "/p", body=b"hello", absent=HIDDEN),),
            may_refuse=BAD,
            note=WRONG_TRAILER,
        )
        for name, line in DOUBTFUL_TRAILERS.items()
    ),
    *(
        Entry(f"coding-{name}", post(HELLO, line, length=False), "RFC 9112, 7", (posted(b"hello"),))
        for name, line in CODINGS.items()
    ),
    Entry(
        "coding-empty-elements",
        post(HELLO, "Transfer-Encoding: ,chunked ,", length=False),
        "RFC 9110, 5.6.1",
        (posted(b"hello"),),
        may_refuse=frozenset({400, 501}),
        note="a recipient MUST take some empty elements of a list, but here many a proxy reads otherwise: either",
    ),
    Entry(
        "coding-get",
        head("GET /p HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + HELLO,
        "RFC 9112, 6.1",
        (Call("GET", "/p", body=b"hello"),),
    ),
    Entry(
        "coding-1.2",
        head("POST /p HTTP/1.2", "Host: a", "Transfer-Encoding: chunked") + HELLO,
        "RFC 9110, 2.5",
        (posted(b"hello"),),
    ),
    Entry("coding-close", chunked(HELLO, "Connection: close"), "RFC 9112, 9.6", (posted(b"hello"),), keeps=False),
    Entry(
        "chunks-and-another", chunked(HELLO) + get(target="/2"), "RFC 9112, 7.1", (posted(b"hello"), Call("GET", "/2"))
    ),
    Entry("chunks-twice", chunked(HELLO) * 2, "RFC 9112, 7.1", (posted(b"hello"),) * 2),
    Entry("chunks-crlf-behind", chunked(HELLO) + b"\r\n", "RFC 9112, 2.2", (posted(b"hello"),)),
    Entry("expect-100", expecting("100-continue", b"hello"), "RFC 9110, 10.1.1", (posted(b"hello"),)),
    Entry("expect-100-capitals", expecting("100-Continue", b"hello"), "RFC 9110, 10.1.1", (posted(b"hello"),)),
    Entry("expect-100-chunked", chunked(HELLO, "Expect: 100-continue"), "RFC 9110, 10.1.1", (posted(b"hello"),)),
    Entry("expect-100-no-body", get("Expect: 100-continue"), "RFC 9110, 10.1.1", (Call("GET", "/"),)),
    Entry("expect-100-empty-body", expecting("100-continue", b""), "RFC 9110, 10.1.1", (posted(b""),)),
    Entry(
        "expect-100-close",
        post(b"hello", "Connection: close", "Expect: 100-continue"),
        "RFC 9110, 10.1.1",
        (posted(b"hello"),),
        keeps=False,
    ),
    Entry(
        "expect-100-1.0",
        expecting("100-continue", b"hello", "HTTP/1.0"),
        "RFC 9110, 10.1.1",
        (posted(b"hello"),),
        keeps=False,
        note="MUST be ignored in HTTP/1.0: such a client takes 100 for the answer",
    ),
    Entry(
        "expect-100-twice",
        expecting("100-continue, 100-continue", b"hello"),
        "RFC 9110, 10.1.1",
        (posted(b"hello"),),
        may_refuse=frozenset({417}),
        note="a list of what is known; 417 is allowed for all but the one member",
    ),
]
