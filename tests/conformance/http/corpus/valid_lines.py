"""Request lines, versions, hosts and connections that are right: each is answered by the app."""

from __future__ import annotations

from conformance.http.corpus.entry import BAD, UNKNOWN_CODING, Call, Entry, Text, get, head

METHODS = {
    "get": "GET",
    "head": "HEAD",
    "post": "POST",
    "put": "PUT",
    "delete": "DELETE",
    "options": "OPTIONS",
    "patch": "PATCH",
    "trace": "TRACE",
    "propfind": "PROPFIND",
    "m-search": "M-SEARCH",
    "unknown": "BREW",
    "in-small-letters": "get",
    "of-one-character": "G",
    "of-a-digit": "1",
    "of-twenty-letters": "ABCDEFGHIJKLMNOPQRST",
    "of-all-token-characters": "!#$%&'*+-.^_`|~09azAZ",
}

# Target; path and query as the app sees them.
TARGETS = {
    "root": ("/", "/", ""),
    "path": ("/a/b.c", "/a/b.c", ""),
    "query": ("/a?b=c&d=e", "/a", "b=c&d=e"),
    "empty-query": ("/a?", "/a", ""),
    "root-query": ("/?a", "/", "a"),
    "second-question-mark": ("/a?b?c", "/a", "b?c"),
    "slash-in-query": ("/a?b=/c/d", "/a", "b=/c/d"),
    "two-slashes": ("//a/b", "//a/b", ""),
    "only-slashes": ("///", "///", ""),
    "slashes-within": ("/a//b", "/a//b", ""),
    "dots": ("/a/../b/./c", "/a/../b/./c", ""),
    "percent-letter": ("/%41%62", "/Ab", ""),
    "percent-small-hex": ("/%c3%a9", "/\xc3\xa9", ""),
    "percent-not-utf-8": ("/%FF", "/\xff", ""),
    "percent-slash": ("/a%2Fb", "/a/b", ""),
    "percent-dots": ("/%2e%2e/a", "/../a", ""),
    "percent-blank": ("/a%20b", "/a b", ""),
    "percent-question-mark": ("/a%3Fb?c", "/a?b", "c"),
    "percent-hash": ("/a%23b", "/a#b", ""),
    "percent-percent": ("/a%2541", "/a%41", ""),
    "percent-in-query": ("/a?b=%20%C3%A9", "/a", "b=%20%C3%A9"),
    "plus": ("/a+b?c+d", "/a+b", "c+d"),
    "parameters": ("/a;b=c;d", "/a;b=c;d", ""),
    "colon-and-at": ("/a:b@c", "/a:b@c", ""),
    "all-of-pchar": ("/-._~!$&'()*+,;=:@", "/-._~!$&'()*+,;=:@", ""),
    "all-of-query": ("/a?-._~!$&'()*+,;=:@/?", "/a", "-._~!$&'()*+,;=:@/?"),
    "slash-asterisk": ("/*", "/*", ""),
    "url-as-path": ("/http://b/c", "/http://b/c", ""),
    "url-as-query": ("/a?http://b/c", "/a", "http://b/c"),
}

# What RFC 3986 has no place for, and clients send: browsers leave most of these as they are. All are accepted.
RAW_TARGETS = {
    "lone-percent": ("/100%", "/100%", ""),
    "percent-no-hex": ("/%zz", "/%zz", ""),
    "percent-one-hex": ("/%4", "/%4", ""),
    "percent-u": ("/%u0041", "/%u0041", ""),
    "lone-percent-in-query": ("/a?%", "/a", "%"),
    "percent-no-hex-in-query": ("/a?b=%zz", "/a", "b=%zz"),
    "braces": ("/{a}", "/{a}", ""),
    "bar": ("/a|b", "/a|b", ""),
    "caret": ("/a^b", "/a^b", ""),
    "brackets": ("/a[1]", "/a[1]", ""),
    "raw-query": ("/a?{b}|^[c]", "/a", "{b}|^[c]"),
}
# And these, which not every server that is right takes.
DOUBTFUL_TARGETS = {
    "backslash-in-query": ("/a?b\\c", "/a", "b\\c"),
    "backtick-in-query": ("/a?b`c", "/a", "b`c"),
    "backslash": ("/a\\b", "/a\\b", ""),
    "quote": ('/a"b', '/a"b', ""),
    "angles": ("/<a>", "/<a>", ""),
    "percent-nul": ("/a%00", "/a\x00", ""),
    "percent-crlf": ("/a%0D%0Ab", "/a\r\nb", ""),
}

# Fields and target; path, query, and the host that the app sees: the target's, whatever Host says.
ABSOLUTE: dict[str, tuple[str, Text, str, Text]] = {
    "absolute": ("http://a/b", "/b", "", "a"),
    "absolute-query": ("http://a/b?c", "/b", "c", "a"),
    "absolute-no-path": ("http://a", ("/", ""), "", "a"),
    "absolute-query-no-path": ("http://a?b", ("/", ""), "b", "a"),
    "absolute-capitals": ("HTTP://a/b", "/b", "", "a"),
    "absolute-port": ("http://a:8080/b", "/b", "", "a:8080"),
    "absolute-ipv6": ("http://[::1]:8080/b", "/b", "", "[::1]:8080"),
    "absolute-other-host": ("http://b.example/c", "/c", "", "b.example"),
    "absolute-two-slashes": ("http://a//b", "//b", "", "a"),
    "absolute-at-in-path": ("http://a/b@c", "/b@c", "", "a"),
    "absolute-at-in-query": ("http://a?b@c", ("/", ""), "b@c", "a"),
    "absolute-empty-port": ("http://a:/b", "/b", "", ("a:", "a")),
}

HOSTS = {
    "name": "a.b.example",
    "capitals": "A.Example",
    "port": "a:8080",
    "port-0": "a:0",
    "empty-port": "a:",
    "ipv4": "127.0.0.1",
    "ipv4-port": "127.0.0.1:80",
    "ipv6": "[::1]",
    "ipv6-port": "[::1]:8080",
    "ipv6-any": "[::]",
    "ipv6-long": "[2001:db8:0:0:1:2:3:4]",
    "ipv6-capitals": "[2001:DB8::F]",
    "ipv6-with-ipv4": "[::ffff:127.0.0.1]",
    "digit": "1",
    "underscore": "a_b",
    "hyphens": "a--b.example",
    "final-dot": "a.example.",
    "tilde": "a~b",
}
DOUBTFUL_HOSTS = {
    "percent": "%61",
    "comma": "a,b",
    "semicolon": "a;b=c",
    "exclamation-mark": "a!",
    "port-99999": "a:99999",
    "ip-of-the-future": "[v1.a:b]",
    "zone": "[fe80::1%25eth0]",
}

# Fields; whether the connection is kept.
CONNECTIONS: dict[str, tuple[tuple[str, ...], bool]] = {
    "close": (("Connection: close",), False),
    "close-capitals": (("Connection: CLOSE",), False),
    "close-in-small-name": (("connection: close",), False),
    "close-tab": (("Connection:\tclose\t",), False),
    "close-first": (("Connection: close, TE", "TE: trailers"), False),
    "close-last": (("Connection: TE ,\tclose", "TE: trailers"), False),
    "close-and-empty": (("Connection: ,, close ,",), False),
    "close-second-line": (("Connection: keep-alive", "Connection: close"), False),
    "close-first-line": (("Connection: close", "Connection: keep-alive"), False),
    "keep-alive": (("Connection: keep-alive",), True),
    "keep-alive-list": (("Connection: keep-alive, x-a", "X-A: b"), True),
    "keep-alive-and-close": (("Connection: keep-alive, close",), False),
    "empty": (("Connection:",), True),
    "closed": (("Connection: closed",), True),
    "not-close": (("Connection: not-close, close-not",), True),
    "quoted-close": (('Connection: "close"',), True),
    "proxy-connection": (("Proxy-Connection: close",), True),
    "keep-alive-field": (("Keep-Alive: timeout=5, max=1",), True),
    "names-host": (("Connection: host",), True),
    "names-content-length": (("Connection: content-length", "Content-Length: 0"), True),
}
OLD_CONNECTIONS: dict[str, tuple[tuple[str, ...], bool]] = {
    "none": ((), False),
    "close": (("Connection: close",), False),
    "keep-alive": (("Connection: keep-alive",), True),
    "keep-alive-capitals": (("Connection: Keep-Alive",), True),
    "keep-alive-list": (("Connection: x-a, keep-alive",), True),
    "keep-alive-and-close": (("Connection: keep-alive, close",), False),
    "keep-alive-field": (("Keep-Alive: timeout=5",), False),
}

RAW = "RFC 3986 wants these encoded; RFC 9112, 3.2 says SHOULD for a refusal, and browsers send them: accepted"
DOUBT = "no part of a URI, but harmless: refused or handed on as it is"
EITHER = "the grammar of RFC 3986 allows it, and nothing answers to it: taken or refused"
FOREIGN = "RFC 9110, 7.4 lets a server refuse a URI that it does not serve"


def _line(target: str, path: Text | None, query: str) -> tuple[bytes, tuple[Call, ...]]:
    return get(target=target), (Call("GET", path, query, environ={"RAW_URI": target}),)


ENTRIES = [
    *(
        Entry(f"method-{name}", get(target="/m", method=method), "RFC 9110, 9.1", (Call(method, "/m"),))
        for name, method in METHODS.items()
    ),
    *(
        Entry(f"target-{name}", raw, "RFC 9112, 3.2.1", calls)
        for name, given in TARGETS.items()
        for raw, calls in [_line(*given)]
    ),
    *(
        Entry(f"target-{name}", raw, "RFC 9112, 3.2", calls, note=RAW)
        for name, given in RAW_TARGETS.items()
        for raw, calls in [_line(*given)]
    ),
    *(
        Entry(f"target-{name}", raw, "RFC 9112, 3.2", calls, may_refuse=BAD, note=DOUBT)
        for name, given in DOUBTFUL_TARGETS.items()
        for raw, calls in [_line(*given)]
    ),
    *(
        Entry(name, get(target=target), "RFC 9112, 3.2.2", (Call("GET", path, query, environ={"HTTP_HOST": host}),))
        for name, (target, path, query, host) in ABSOLUTE.items()
    ),
    Entry(
        "absolute-https",
        get(target="https://a/b"),
        "RFC 9110, 7.4",
        (Call("GET", "/b"),),
        may_refuse=frozenset({400, 421}),
        note=FOREIGN,
    ),
    Entry(
        "absolute-ftp",
        get(target="ftp://a/b"),
        "RFC 9110, 7.4",
        (Call("GET", "/b"),),
        may_refuse=frozenset({400, 421}),
        note=FOREIGN,
    ),
    Entry(
        "absolute-1.0-no-host",
        head("GET http://a/b HTTP/1.0"),
        "RFC 9112, 3.2.2",
        (Call("GET", "/b"),),
        keeps=False,
    ),
    Entry("absolute-options", get(target="http://a", method="OPTIONS"), "RFC 9112, 3.2.4", (Call("OPTIONS", None),)),
    Entry("asterisk", get(target="*", method="OPTIONS"), "RFC 9112, 3.2.4", (Call("OPTIONS", None),)),
    Entry(
        "asterisk-1.0",
        head("OPTIONS * HTTP/1.0"),
        "RFC 9112, 3.2.4",
        (Call("OPTIONS", None),),
        keeps=False,
    ),
    *(
        Entry(
            f"authority-{name}",
            head(f"CONNECT {target} HTTP/1.1", f"Host: {target}"),
            "RFC 9112, 3.2.3",
            (Call("CONNECT", None),),
            keeps=None,
            may_refuse=UNKNOWN_CODING | {405},
            note="an origin server may not know CONNECT (RFC 9110, 9.3.6): refused, or the app's to refuse",
        )
        for name, target in {"name": "a:443", "ipv6": "[::1]:443"}.items()
    ),
    *(
        Entry(
            f"host-{name}",
            head("GET / HTTP/1.1", f"Host: {host}"),
            "RFC 9110, 7.2",
            (Call("GET", "/", environ={"HTTP_HOST": host}),),
        )
        for name, host in HOSTS.items()
    ),
    *(
        Entry(
            f"host-{name}",
            head("GET / HTTP/1.1", f"Host: {host}"),
            "RFC 9110, 7.2",
            (Call("GET", "/", environ={"HTTP_HOST": host}),),
            may_refuse=BAD,
            note=EITHER,
        )
        for name, host in DOUBTFUL_HOSTS.items()
    ),
    *(
        Entry(f"connection-{name}", get(*fields), "RFC 9112, 9.3", (Call("GET", "/"),), keeps=keeps)
        for name, (fields, keeps) in CONNECTIONS.items()
    ),
    *(
        Entry(
            f"connection-1.0-{name}",
            get(*fields, version="HTTP/1.0"),
            "RFC 9112, 9.3",
            (Call("GET", "/", environ={"SERVER_PROTOCOL": "HTTP/1.0"}),),
            keeps=keeps,
        )
        for name, (fields, keeps) in OLD_CONNECTIONS.items()
    ),
    Entry("version-1.0-no-host", head("GET / HTTP/1.0"), "RFC 9112, 3.2", (Call("GET", "/"),), keeps=False),
    Entry(
        "version-1.1",
        get(target="/v"),
        "RFC 9112, 2.3",
        (Call("GET", "/v", environ={"SERVER_PROTOCOL": "HTTP/1.1"}),),
    ),
    *(
        Entry(
            f"version-{version}",
            get(version=f"HTTP/{version}"),
            "RFC 9110, 2.5",
            (Call("GET", "/"),),
            note="a higher minor version is the server's own highest; SERVER_PROTOCOL may be either",
        )
        for version in ("1.2", "1.9")
    ),
    Entry(
        "version-1.2-close",
        get("Connection: close", version="HTTP/1.2"),
        "RFC 9112, 9.3",
        (Call("GET", "/"),),
        keeps=False,
    ),
    Entry("crlf-before", b"\r\n" + get(), "RFC 9112, 2.2", (Call("GET", "/"),)),
    Entry(
        "two-crlf-before",
        b"\r\n\r\n" + get(),
        "RFC 9112, 2.2",
        (Call("GET", "/"),),
        may_refuse=BAD,
        note="at least one SHOULD be ignored; more may be refused",
    ),
    Entry("crlf-behind", get() + b"\r\n", "RFC 9112, 2.2", (Call("GET", "/"),)),
    Entry("line-long", get(target="/" + "a" * 900), "RFC 9112, 3", (Call("GET", "/" + "a" * 900),)),
    Entry("query-long", get(target="/?" + "a" * 900), "RFC 9112, 3", (Call("GET", "/", "a" * 900),)),
    Entry(
        "two-requests", get(target="/1") + get(target="/2"), "RFC 9112, 9.3.2", (Call("GET", "/1"), Call("GET", "/2"))
    ),
    Entry(
        "five-requests",
        b"".join(get(target=f"/{n}") for n in range(5)),
        "RFC 9112, 9.3.2",
        tuple(Call("GET", f"/{n}") for n in range(5)),
    ),
    Entry(
        "close-before-another",
        get("Connection: close", target="/1") + get(target="/2"),
        "RFC 9112, 9.6",
        (Call("GET", "/1"),),
        keeps=False,
        note="after a request that closes none is served",
    ),
]
