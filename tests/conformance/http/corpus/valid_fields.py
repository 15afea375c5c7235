"""Fields that are right, and what the app sees of them."""

from __future__ import annotations

import string

from conformance.http.corpus.entry import BAD, Call, Entry, Text, get, head

VCHAR = "".join(map(chr, range(0x21, 0x7F)))
OBS_TEXT = "".join(map(chr, range(0x80, 0x100)))

# The line; the key in the environ, and its value.
FIELDS: dict[str, tuple[str, str, Text]] = {
    "plain": ("X-A: b", "HTTP_X_A", "b"),
    "no-blank": ("X-A:b", "HTTP_X_A", "b"),
    "two-blanks": ("X-A:  b", "HTTP_X_A", "b"),
    "tab": ("X-A:\tb", "HTTP_X_A", "b"),
    "blank-behind": ("X-A: b ", "HTTP_X_A", "b"),
    "tab-behind": ("X-A: b\t", "HTTP_X_A", "b"),
    "blanks-around": ("X-A: \t b \t ", "HTTP_X_A", "b"),
    "blanks-within": ("X-A: b  c\td", "HTTP_X_A", "b  c\td"),
    "empty": ("X-A:", "HTTP_X_A", ""),
    "only-blank": ("X-A: ", "HTTP_X_A", ""),
    "only-tabs": ("X-A:\t \t", "HTTP_X_A", ""),
    "colon-in-value": ("X-A: b:c", "HTTP_X_A", "b:c"),
    "colon-first": ("X-A::b", "HTTP_X_A", ":b"),
    "field-in-value": ("X-A: X-B: c", "HTTP_X_A", "X-B: c"),
    "lone-quote": ('X-A: "b', "HTTP_X_A", '"b'),
    "commas": ("X-A: ,,b,,", "HTTP_X_A", ",,b,,"),
    "every-vchar": (f"X-A: {VCHAR}", "HTTP_X_A", VCHAR),
    "every-obs-text": (f"X-A: {OBS_TEXT}", "HTTP_X_A", OBS_TEXT),
    "utf-8": ("X-A: \xc3\xa9", "HTTP_X_A", "\xc3\xa9"),
    "nel-at-the-ends": ("X-A: \x85b\x85", "HTTP_X_A", "\x85b\x85"),
    "nbsp-at-the-ends": ("X-A:\xa0b\xa0", "HTTP_X_A", "\xa0b\xa0"),
    "small-letters": ("x-a: b", "HTTP_X_A", "b"),
    "capitals": ("X-AB: c", "HTTP_X_AB", "c"),
    "mixed-letters": ("xX-aB: c", "HTTP_XX_AB", "c"),
    "name-of-one-letter": ("A: b", "HTTP_A", "b"),
    "name-of-a-digit": ("1: b", "HTTP_1", "b"),
    "name-of-a-hyphen": ("-: b", "HTTP__", "b"),
    "name-long": ("X" * 200 + ": b", "HTTP_" + "X" * 200, "b"),
    "value-long": ("X-A: " + "b" * 3000, "HTTP_X_A", "b" * 3000),
    "known-name": ("User-Agent: a/1 (b; c)", "HTTP_USER_AGENT", "a/1 (b; c)"),
    "known-name-small": ("user-agent: a", "HTTP_USER_AGENT", "a"),
    "known-name-odd": ("uSER-aGENT: a", "HTTP_USER_AGENT", "a"),
    "known-name-no-blank": ("Accept:*/*", "HTTP_ACCEPT", "*/*"),
    "known-name-empty": ("Accept:", "HTTP_ACCEPT", ""),
    "content-type": ("Content-Type: a/b; c=d", "CONTENT_TYPE", "a/b; c=d"),
    "cookie": ("Cookie: a=b; c=d", "HTTP_COOKIE", "a=b; c=d"),
    "te": ("TE: trailers", "HTTP_TE", "trailers"),
    "authorization": ("Authorization: Basic YTpi", "HTTP_AUTHORIZATION", "Basic YTpi"),
    "name-like-a-variable": ("Wsgi.Input: b", "HTTP_WSGI.INPUT", "b"),
    "twice": ("X-A: b\r\nX-A: c", "HTTP_X_A", ("b,c", "b, c")),
    "twice-in-two-cases": ("X-A: b\r\nx-a: c", "HTTP_X_A", ("b,c", "b, c")),
    "known-twice": ("Accept: b\r\nAccept: c", "HTTP_ACCEPT", ("b,c", "b, c")),
    "twice-and-others-between": ("X-A: b\r\nX-B: 1\r\nX-A: c", "HTTP_X_A", ("b,c", "b, c")),
    "cookie-twice": ("Cookie: a=b\r\nCookie: c=d", "HTTP_COOKIE", "a=b; c=d"),
}

UNDERSCORE = "the grammar allows it, but in the environ it would be somebody else's name: it must not arrive there"
UPGRADE = "a server may ignore it"

ENTRIES = [
    *(
        Entry(f"field-{name}", get(line), "RFC 9110, 5.5", (Call("GET", "/", environ={key: value}),))
        for name, (line, key, value) in FIELDS.items()
    ),
    Entry(
        "field-name-of-all-token-characters",
        get("!#$%&'*+-.^`|~09azAZ: b"),
        "RFC 9110, 5.6.2",
        (Call("GET", "/"),),
        note="how an app sees such a name is not said anywhere",
    ),
    Entry(
        "field-underscore",
        get("X_A: b"),
        "RFC 9110, 5.1",
        (Call("GET", "/", absent=("HTTP_X_A",)),),
        may_refuse=BAD,
        note=UNDERSCORE,
    ),
    Entry(
        "field-underscore-behind-its-twin",
        get("X-A: b", "X_A: c"),
        "RFC 9110, 5.1",
        (Call("GET", "/", environ={"HTTP_X_A": "b"}),),
        may_refuse=BAD,
        note=UNDERSCORE,
    ),
    Entry(
        "field-underscore-before-its-twin",
        get("X_A: c", "X-A: b"),
        "RFC 9110, 5.1",
        (Call("GET", "/", environ={"HTTP_X_A": "b"}),),
        may_refuse=BAD,
        note=UNDERSCORE,
    ),
    Entry(
        "field-underscore-length",
        get("Content_Length: 5"),
        "RFC 9110, 5.1",
        (Call("GET", "/"),),
        may_refuse=BAD,
        note=UNDERSCORE,
    ),
    Entry(
        "field-underscore-coding",
        get("Transfer_Encoding: chunked"),
        "RFC 9110, 5.1",
        (Call("GET", "/", absent=("HTTP_TRANSFER_ENCODING",)),),
        may_refuse=BAD,
        note=UNDERSCORE,
    ),
    Entry(
        "field-underscore-type",
        get("Content_Type: b", "Content-Type: c"),
        "RFC 9110, 5.1",
        (Call("GET", "/", environ={"CONTENT_TYPE": "c"}),),
        may_refuse=BAD,
        note=UNDERSCORE,
    ),
    Entry(
        "field-content-type-twice",
        get("Content-Type: b", "Content-Type: c"),
        "RFC 9110, 5.3",
        (Call("GET", "/", environ={"CONTENT_TYPE": ("b", "c", "b,c", "b, c")}),),
        may_refuse=BAD,
        note="not a list, so wrong; which of the two counts is nobody's to say",
    ),
    Entry(
        "field-many",
        get(*(f"X-{n}: {n}" for n in range(30))),
        "RFC 9110, 5.4",
        (Call("GET", "/", environ={f"HTTP_X_{n}": str(n) for n in range(30)}),),
    ),
    Entry(
        "field-host-last",
        head("GET / HTTP/1.1", "X-A: b", "Host: c"),
        "RFC 9110, 7.2",
        (Call("GET", "/", environ={"HTTP_HOST": "c", "HTTP_X_A": "b"}),),
    ),
    Entry(
        "field-host-small",
        head("GET / HTTP/1.1", "host: c"),
        "RFC 9110, 5.1",
        (Call("GET", "/", environ={"HTTP_HOST": "c"}),),
    ),
    Entry(
        "field-host-blanks",
        head("GET / HTTP/1.1", "Host:\t c \t"),
        "RFC 9110, 5.5",
        (Call("GET", "/", environ={"HTTP_HOST": "c"}),),
    ),
    Entry(
        "field-host-no-blank",
        head("GET / HTTP/1.1", "Host:c"),
        "RFC 9110, 5.5",
        (Call("GET", "/", environ={"HTTP_HOST": "c"}),),
    ),
    Entry(
        "field-host-changes",
        head("GET /1 HTTP/1.1", "Host: b") + head("GET /2 HTTP/1.1", "Host: c"),
        "RFC 9110, 7.2",
        (Call("GET", "/1", environ={"HTTP_HOST": "b"}), Call("GET", "/2", environ={"HTTP_HOST": "c"})),
    ),
    Entry(
        "field-not-kept",
        get("X-A: b", target="/1") + get(target="/2"),
        "RFC 9110, 3.3",
        (Call("GET", "/1", environ={"HTTP_X_A": "b"}), Call("GET", "/2", absent=("HTTP_X_A",))),
        note="requests of a connection know nothing of each other",
    ),
    Entry(
        "field-every-letter",
        get(f"{string.ascii_letters}-{string.digits}: b"),
        "RFC 9110, 5.6.2",
        (
            Call(
                "GET",
                "/",
                environ={f"HTTP_{(string.ascii_letters + '-' + string.digits).upper().replace('-', '_')}": "b"},
            ),
        ),
    ),
    Entry(
        "upgrade-h2c",
        get("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"),
        "RFC 9110, 7.8",
        (Call("GET", "/"),),
        note=UPGRADE,
    ),
    Entry(
        "upgrade-websocket",
        get(
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ),
        "RFC 9110, 7.8",
        (Call("GET", "/"),),
        note=UPGRADE,
    ),
    Entry(
        "upgrade-unknown",
        get("Connection: upgrade", "Upgrade: a/1, b"),
        "RFC 9110, 7.8",
        (Call("GET", "/"),),
        note=UPGRADE,
    ),
    Entry(
        "upgrade-1.0",
        get("Connection: upgrade", "Upgrade: h2c", version="HTTP/1.0"),
        "RFC 9110, 7.8",
        (Call("GET", "/"),),
        keeps=False,
        note="MUST be ignored in HTTP/1.0",
    ),
]
