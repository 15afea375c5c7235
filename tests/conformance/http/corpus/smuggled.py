"""Requests with another one hidden in them, for which two readers would see different ends.

Each is one of three things: refused; one request, with what is hidden as its body; or cut where the RFCs cut it. The
hidden ones are for "/inner". The forms are public knowledge, named as they are known: the first of two names is what
the reader in front goes by, the second is what the reader behind does.
"""

from __future__ import annotations

from conformance.http.corpus.entry import BAD, UNKNOWN_CODING, Call, Entry, get, head, post, posted, refused

INNER = get(target="/inner")
SEEN = Call("GET", "/inner")
LENGTH = f"Content-Length: {len(INNER)}"
ENDED = b"0\r\n\r\n" + INNER  # for who reads chunks the body ends at once
ONE_CHUNK = b"%x\r\n" % len(INNER) + INNER + b"\r\n0\r\n\r\n"  # for who reads chunks it is all body

# Ways to say that the body is in chunks that one reader takes and another overlooks; each beside a Content-Length.
DISGUISES = {
    "plain": "Transfer-Encoding: chunked",
    "tab": "Transfer-Encoding:\tchunked",
    "no-blank": "Transfer-Encoding:chunked",
    "small": "transfer-encoding: chunked",
    "x": "Transfer-Encoding: xchunked",
    "cow": "Transfer-Encoding: cow, chunked",
    "chunked-cow": "Transfer-Encoding: chunked, cow",
    "identity-first": "Transfer-Encoding: identity, chunked",
    "two-lines": "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
    "two-lines-other-order": "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
    "blank-before-colon": "Transfer-Encoding : chunked",
    "blank-in-front": " Transfer-Encoding: chunked",
    "blank-in-front-of-second-line": "X-A: b\r\n Transfer-Encoding: chunked",
    "behind-lf": "X-A: b\nTransfer-Encoding: chunked",
    "behind-cr": "X-A: b\rTransfer-Encoding: chunked",
    "behind-lfcr": "X-A: b\n\rTransfer-Encoding: chunked",
    "folded-name": "Transfer-Encoding\r\n : chunked",
    "folded-value": "Transfer-Encoding:\r\n chunked",
    "folded-within": "Transfer-Encoding: chun\r\n ked",
    "vertical-tab": "Transfer-Encoding:\x0bchunked",
    "form-feed": "Transfer-Encoding: chunked\x0c",
    "nul": "Transfer-Encoding: chunked\0",
    "nul-in-front": "\0Transfer-Encoding: chunked",
    "cr-behind": "Transfer-Encoding: chunked\r",
    "cr-in-name": "Transfer-\rEncoding: chunked",
    "lf-in-front": "\nTransfer-Encoding: chunked",
    "quoted": 'Transfer-Encoding: "chunked"',
    "comma-in-front": "Transfer-Encoding: ,chunked",
    "delete": "Transfer-Encoding: \x7fchunked",
    "obs-text": "Transfer-Encoding: \xffchunked",
    "nbsp": "Transfer-Encoding:\xa0chunked",
    "no-colon": "Transfer-Encoding chunked",
    "blank-for-hyphen": "Transfer Encoding: chunked",
    "name-with-slash": "Transfer/Encoding: chunked",
    "semicolon": "Transfer-Encoding: chunked;q=1",
    "empty": "Transfer-Encoding:",
    "underscore-in-value": "Transfer-Encoding: chunked_",
}

# Fields that look like it and are others: the body is what Content-Length says.
STRANGERS = {
    "underscore": "Transfer_Encoding: chunked",
    "digit-behind": "Transfer-Encoding2: chunked",
    "x-in-front": "X-Transfer-Encoding: chunked",
    "no-hyphen": "TransferEncoding: chunked",
    "two-hyphens": "Transfer--Encoding: chunked",
    "dot": "Transfer.Encoding: chunked",
    "content-encoding": "Content-Encoding: chunked",
    "te": "TE: chunked",
    "trailer": "Trailer: Transfer-Encoding",
    "upgrade": "Upgrade: chunked",
    "in-a-value": "X-A: b, Transfer-Encoding: chunked",
}

# Ways to tell the length that one reader takes and another overlooks; the body of a GET is the hidden request.
LENGTHS = {
    "blank-before-colon": f"Content-Length : {len(INNER)}",
    "tab-before-colon": f"Content-Length\t: {len(INNER)}",
    "blank-in-front": f"X-A: b\r\n {LENGTH}",
    "folded": f"Content-Length:\r\n {len(INNER)}",
    "behind-lf": f"X-A: b\n{LENGTH}",
    "behind-cr": f"X-A: b\r{LENGTH}",
    "two": f"Content-Length: 0\r\n{LENGTH}",
    "two-other-order": f"{LENGTH}\r\nContent-Length: 0",
    "two-equal": f"{LENGTH}\r\n{LENGTH}",
    "list": f"Content-Length: 0, {len(INNER)}",
    "plus": f"Content-Length: +{len(INNER)}",
    "minus": f"Content-Length: -{len(INNER)}",
    "hex": f"Content-Length: 0x{len(INNER):x}",
    "underscore": f"Content-Length: {len(INNER) // 10}_{len(INNER) % 10}",
    "nul": f"{LENGTH}\0",
    "vertical-tab": f"Content-Length:\x0b{len(INNER)}",
    "point": f"{LENGTH}.0",
    "empty": f"Content-Length:\r\nX-A: {len(INNER)}",
    "word": f"Content-Length: bytes={len(INNER)}",
    "expect-folded": f"Expect:\r\n 100-continue\r\n{LENGTH}",
}

# In chunks: what a reader sees for whom an LF ends a line, a size is a number of C's, or any two bytes end a chunk.
TRICKS = {
    "term-ext": b"5;\nhello\r\n" + ENDED,
    "ext-term": b"5;a\nhello\r\n" + ENDED,
    "term-spill": b"5\r\nhello\n" + ENDED,
    "spill-term": b"5\r\nhelloXX" + ENDED,
    "one-two": b"5\r\nhello\n2\r\nXX\r\n" + ENDED,
    "zero-two": b"5\r\nhello5\r\nhello\r\n" + ENDED,
    "two-zero": b"5\r\nhello\r\n\r\n" + ENDED,
    "lf-in-quotes": b'5;a="\n' + ONE_CHUNK,
    "cr-for-crlf": b"5\rhello\r" + ENDED,
    "cr-in-extension": b"5;\rhello\r\n" + ENDED,
    "overflow-64": b"10000000000000000\r\n" + ENDED,
    "overflow-32": b"100000000\r\n" + ENDED,
    "overflow-to-five": b"10000000000000005\r\nhello\r\n" + ENDED,
    "negative": b"-1\r\n" + ENDED,
    "hex-prefix": b"0x0\r\n\r\n" + INNER,
    "hex-prefix-of-more": b"0x%x\r\n" % len(INNER) + INNER + b"\r\n0\r\n\r\n",
    "plus": b"+0\r\n\r\n" + INNER,
    "underscore": b"0_0\r\n\r\n" + INNER,
    "blank-within": b"0 0\r\n\r\n" + INNER,
    "no-size": b"\r\n\r\n" + INNER,
    "vertical-tab": b"0\x0b\r\n\r\n" + INNER,
    "nul": b"0\0\r\n\r\n" + INNER,
    "last-lf": b"0\n\n" + INNER,
    "last-half": b"0\r\n\n" + INNER,
    "last-cr": b"0\r\n\r\r" + INNER,
    "trailer-of-no-name": b"0\r\n" + INNER,
    "trailer-length": b"0\r\n" + f"{LENGTH}\r\n\r\n".encode() + INNER,
    "trailer-coding": b"0\r\nTransfer-Encoding: chunked\r\n\r\n" + ONE_CHUNK,
    "trailer-lf": b"0\r\nX-A: b\n\n" + INNER,
    "trailer-folded": b"0\r\nX-A: b\r\n \r\n\r\n" + INNER,
}

HEAD_TRICKS = {
    "lf-for-empty-line": b"GET / HTTP/1.1\r\nHost: a\r\n\n" + INNER,
    "two-lf": b"GET / HTTP/1.1\nHost: a\n\n" + INNER,
    "cr-for-empty-line": b"GET / HTTP/1.1\r\nHost: a\r\n\r" + INNER,
    "crcrlf": b"GET / HTTP/1.1\r\nHost: a\r\n\r\r\n" + INNER,
    "blank-line-of-blank": b"GET / HTTP/1.1\r\nHost: a\r\n \r\n\r\n" + INNER,
    "line-in-line": b"GET / HTTP/1.1\r\n" + INNER,
    "lf-in-target": b"GET /\nGET /inner HTTP/1.1\r\nHost: a\r\n\r\n",
    "cr-in-target": b"GET /\rGET /inner HTTP/1.1\r\nHost: a\r\n\r\n",
    "two-hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + INNER,
    "host-in-value-behind-lf": b"GET / HTTP/1.1\r\nHost: a\nHost: b\r\n\r\n" + INNER,
    "old": b"GET /\r\n" + INNER,
}

HIDDEN_BODY = Call("POST", "/p", body=INNER)

ENTRIES = [
    *(refused(f"cl-te-{name}", "RFC 9112, 6.3", post(ENDED, line), UNKNOWN_CODING) for name, line in DISGUISES.items()),
    *(
        refused(
            f"te-cl-{name}", "RFC 9112, 6.3", post(ONE_CHUNK, line, "Content-Length: 4", length=False), UNKNOWN_CODING
        )
        for name, line in DISGUISES.items()
        if name in {"plain", "tab", "x", "blank-before-colon", "vertical-tab", "behind-lf", "two-lines"}
    ),
    *(
        Entry(
            f"cl-te-not-{name}",
            post(INNER, line),
            "RFC 9112, 6.3",
            (HIDDEN_BODY,),
            note="another field: the body is as long as Content-Length says",
        )
        for name, line in STRANGERS.items()
        if name != "underscore"
    ),
    Entry(
        "cl-te-not-underscore",
        post(INNER, STRANGERS["underscore"]),
        "RFC 9112, 6.3",
        (HIDDEN_BODY,),
        may_refuse=BAD,
        note="no name of the environ may come of it; a server may refuse it at once",
    ),
    *(
        refused(f"te-te-{name}", "RFC 9112, 6.1", post(ENDED, line, length=False), UNKNOWN_CODING)
        for name, line in DISGUISES.items()
        if name not in {"plain", "tab", "no-blank", "small", "comma-in-front"}
    ),
    *(refused(f"0-cl-{name}", "RFC 9112, 6.3", get(line) + INNER, BAD | {417}) for name, line in LENGTHS.items()),
    refused("0-cl-expect-unknown", "RFC 9110, 10.1.1", get("Expect: y 100-continue", LENGTH) + INNER, frozenset({417})),
    refused("0-cl-second-in-small-letters", "RFC 9112, 6.3", post(INNER, "content-length:0")),
    *(
        refused(
            f"chunk-trick-{name}", "RFC 9112, 7.1", post(raw, "Transfer-Encoding: chunked", length=False), BAD | {413}
        )
        for name, raw in TRICKS.items()
    ),
    *(refused(f"head-trick-{name}", "RFC 9112, 2.2", raw, UNKNOWN_CODING | {505}) for name, raw in HEAD_TRICKS.items()),
    refused(
        "te-1.0",
        "RFC 9112, 6.1",
        head("POST /p HTTP/1.0", "Connection: keep-alive", "Transfer-Encoding: chunked") + ENDED,
        UNKNOWN_CODING,
    ),
    # One request, and what is hidden is its body.
    *(
        Entry(
            f"body-hides-{method.lower()}",
            head(f"{method} /p HTTP/1.1", "Host: a", LENGTH) + INNER,
            "RFC 9112, 6.3",
            (Call(method, "/p", body=INNER),),
            note="no method makes a body another request",
        )
        for method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "TRACE")
    ),
    Entry(
        "body-hides-in-chunk",
        post(ONE_CHUNK, "Transfer-Encoding: chunked", length=False),
        "RFC 9112, 7.1",
        (HIDDEN_BODY,),
    ),
    Entry(
        "body-hides-in-chunk-of-get",
        head("GET /p HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + ONE_CHUNK,
        "RFC 9112, 6.3",
        (Call("GET", "/p", body=INNER),),
    ),
    Entry(
        "body-hides-length-0-and-underscore",
        post(INNER, "Content_Length: 0"),
        "RFC 9112, 6.3",
        (HIDDEN_BODY,),
        may_refuse=BAD,
        note="no name of the environ may come of it; a server may refuse it at once",
    ),
    Entry("body-hides-another-length", post(INNER, "X-Content-Length: 0"), "RFC 9112, 6.3", (HIDDEN_BODY,)),
    Entry(
        "body-hides-connection-names-length",
        post(INNER, "Connection: Content-Length"),
        "RFC 9110, 7.6.1",
        (HIDDEN_BODY,),
        note="a field that is named as of this hop is still read at this hop",
    ),
    Entry(
        "body-hides-connection-names-coding",
        post(ONE_CHUNK, "Connection: Transfer-Encoding", "Transfer-Encoding: chunked", length=False),
        "RFC 9110, 7.6.1",
        (HIDDEN_BODY,),
    ),
    Entry("body-hides-upgrade", post(INNER, "Connection: Upgrade", "Upgrade: h2c"), "RFC 9110, 7.8", (HIDDEN_BODY,)),
    Entry("body-hides-expect", post(INNER, "Expect: 100-continue"), "RFC 9110, 10.1.1", (HIDDEN_BODY,)),
    Entry(
        "body-hides-expect-of-get",
        get("Expect: 100-continue", LENGTH, target="/p") + INNER,
        "RFC 9110, 10.1.1",
        (Call("GET", "/p", body=INNER),),
    ),
    Entry("body-hides-1.0", head("POST /p HTTP/1.0", LENGTH) + INNER, "RFC 9112, 6.3", (HIDDEN_BODY,), keeps=False),
    # Cut where the RFCs cut.
    Entry("cut-behind-length", post(b"hello") + INNER, "RFC 9112, 6.3", (posted(b"hello"), SEEN)),
    Entry("cut-behind-length-0", post(b"") + INNER, "RFC 9112, 6.3", (posted(b""), SEEN)),
    Entry(
        "cut-behind-no-length",
        head("POST /p HTTP/1.1", "Host: a") + INNER,
        "RFC 9112, 6.3",
        (posted(b""), SEEN),
        note="without a length there is no body",
    ),
    Entry("cut-behind-no-length-get", get("Content-Type: b") + INNER, "RFC 9112, 6.3", (Call("GET", "/"), SEEN)),
    Entry(
        "cut-behind-chunks",
        post(ENDED, "Transfer-Encoding: chunked", length=False),
        "RFC 9112, 7.1",
        (posted(b""), SEEN),
    ),
    Entry(
        "cut-behind-chunks-and-trailer",
        post(b"0\r\nX-A: b\r\n\r\n" + INNER, "Transfer-Encoding: chunked", length=False),
        "RFC 9112, 7.1.2",
        (posted(b""), SEEN),
    ),
    Entry(
        "cut-behind-last-with-extension",
        post(b"0;a\r\n\r\n" + INNER, "Transfer-Encoding: chunked", length=False),
        "RFC 9112, 7.1.1",
        (posted(b""), SEEN),
    ),
    Entry(
        "cut-behind-last-of-many-zeros",
        post(b"00000000\r\n\r\n" + INNER, "Transfer-Encoding: chunked", length=False),
        "RFC 9112, 7.1",
        (posted(b""), SEEN),
    ),
    Entry(
        "cut-behind-1.0",
        head("POST /p HTTP/1.0", "Host: a") + INNER,
        "RFC 9112, 9.3",
        (posted(b""),),
        keeps=False,
        note="no length, no body, and no second request",
    ),
    Entry(
        "cut-behind-1.0-keep-alive",
        head("POST /p HTTP/1.0", "Connection: keep-alive") + INNER,
        "RFC 9112, 9.3",
        (posted(b""), SEEN),
    ),
    Entry("cut-behind-close", get("Connection: close") + INNER, "RFC 9112, 9.6", (Call("GET", "/"),), keeps=False),
    Entry(
        "cut-behind-upgrade",
        get("Connection: Upgrade", "Upgrade: h2c") + INNER,
        "RFC 9110, 7.8",
        (Call("GET", "/"), SEEN),
    ),
    refused("cut-short-length", "RFC 9112, 6.3", post(b"hel(o)").replace(b": 6", b": 3"), BAD, calls=(posted(b"hel"),)),
    refused(
        "cut-long-length",
        "RFC 9112, 6.3",
        head("POST /p HTTP/1.1", "Host: a", "Content-Length: 9") + INNER,
        UNKNOWN_CODING | {505},
        note="the first bytes of the next are the body; what is left is no request",
        calls=(posted(INNER[:9]),),
    ),
]
