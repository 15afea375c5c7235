"""Request lines and hosts that are wrong, and what is no HTTP/1.1 at all."""

from __future__ import annotations

from conformance.http.corpus.entry import BAD, CUT, LINE, UNKNOWN_CODING, UNKNOWN_VERSION, Call, get, head, refused

METHODS = {
    "empty": "",
    "two-words": "GE T",
    "paren": "GE(T",
    "quoted": '"GET"',
    "colon": "GET:",
    "slash": "GE/T",
    "at": "G@T",
    "comma": "GET,POST",
    "semicolon": "GET;a",
    "brace": "{GET}",
    "equals": "A=B",
    "nul": "GET\0",
    "escape": "\x1bGET",
    "backspace": "GET\b",
    "delete": "GET\x7f",
    "obs-text": "G\xc9T",
    "utf-8": "G\xc3\x89T",
    "nbsp": "GET\xa0",
}

# What stands between method and version, the blanks around it included.
TARGETS = {
    "missing": " ",
    "empty": "  ",
    "relative": " a/b ",
    "only-query": " ?a=b ",
    "only-fragment": " #a ",
    "fragment": " /a#b ",
    "empty-fragment": " /a# ",
    "fragment-in-query": " /a?b#c ",
    "absolute-fragment": " http://a/b#c ",
    "blank-within": " /a b ",
    "tab-within": " /a\tb ",
    "blank-in-query": " /a?b c ",
    "nul": " /a\0 ",
    "control": " /a\x01 ",
    "escape": " /a\x1b[31m ",
    "form-feed": " /a\x0c ",
    "vertical-tab": " /a\x0b ",
    "delete": " /a\x7f ",
    "obs-text": " /\xe9 ",
    "utf-8": " /\xc3\xa9 ",
    "utf-8-query": " /a?\xc3\xa9 ",
    "nel": " /\x85 ",
    "nbsp": " /\xa0 ",
    "bare-cr": " /a\rb ",
    "bare-lf": " /a\nb ",
    "asterisk": " * ",
    "asterisk-and-more": " *a ",
    "asterisk-query": " *?a ",
    "authority": " a:80 ",
    "host": " a.example ",
    "no-scheme": " ://a/b ",
    "absolute-no-host": " http:///b ",
    "absolute-only-scheme": " http:// ",
    "absolute-only-port": " http://:80/b ",
    "absolute-one-slash": " http:/a/b ",
    "absolute-no-slash": " http:a/b ",
    "absolute-user": " http://b@a/ ",
    "absolute-password": " http://b:c@a/ ",
    "absolute-empty-user": " http://@a/ ",
    "absolute-port-letters": " http://a:b/ ",
    "absolute-port-signed": " http://a:-1/ ",
    "absolute-two-ports": " http://a:80:80/ ",
    "absolute-open-bracket": " http://[::1/ ",
    "absolute-bare-ipv6": " http://::1/ ",
    "absolute-backslash": " http://a\\b/ ",
    "absolute-blank-host": " http://a b/ ",
    "absolute-obs-text": " http://\xe9/ ",
    "mailto": " mailto:a@b ",
    "backslash": " \\a ",
}

# The whole line.
LINES = {
    "only-method": "GET",
    "no-version": "GET /",
    "no-version-but-blank": "GET / ",
    "two-blanks-first": "GET  / HTTP/1.1",
    "two-blanks-second": "GET /  HTTP/1.1",
    "tab-first": "GET\t/ HTTP/1.1",
    "tab-second": "GET /\tHTTP/1.1",
    "tabs": "GET\t/\tHTTP/1.1",
    "vertical-tab": "GET\x0b/ HTTP/1.1",
    "form-feed": "GET /\x0cHTTP/1.1",
    "nbsp": "GET\xa0/ HTTP/1.1",
    "blank-before": " GET / HTTP/1.1",
    "tab-before": "\tGET / HTTP/1.1",
    "blank-behind": "GET / HTTP/1.1 ",
    "tab-behind": "GET / HTTP/1.1\t",
    "cr-behind": "GET / HTTP/1.1\r",
    "nul-behind": "GET / HTTP/1.1\0",
    "nul-before": "\0GET / HTTP/1.1",
    "bom-before": "\xef\xbb\xbfGET / HTTP/1.1",
    "word-behind": "GET / HTTP/1.1 a",
    "two-versions": "GET / HTTP/1.1 HTTP/1.1",
    "order": "HTTP/1.1 GET /",
    "response": "HTTP/1.1 200 OK",
    "only-blank": " ",
    "cr-before": "\rGET / HTTP/1.1",
}

VERSIONS = {
    "small": "http/1.1",
    "mixed": "Http/1.1",
    "other-name": "ICY/1.1",
    "tls": "HTTPS/1.1",
    "no-minor": "HTTP/1",
    "no-minor-but-dot": "HTTP/1.",
    "no-major": "HTTP/.1",
    "no-numbers": "HTTP/",
    "no-slash": "HTTP1.1",
    "only-name": "HTTP",
    "only-number": "1.1",
    "comma": "HTTP/1,1",
    "backslash": "HTTP\\1.1",
    "two-digit-minor": "HTTP/1.10",
    "two-digit-major": "HTTP/11.1",
    "leading-zero": "HTTP/01.1",
    "minor-with-zero": "HTTP/1.01",
    "signed": "HTTP/+1.1",
    "negative": "HTTP/1.-1",
    "letter": "HTTP/1.x",
    "letter-behind": "HTTP/1.1a",
    "three-numbers": "HTTP/1.1.1",
    "blank-within": "HTTP/ 1.1",
    "blank-before-slash": "HTTP /1.1",
    "superscript": "HTTP/1.\xb9",
    "wide-digit": "HTTP/1.\xef\xbc\x91",
}
OTHER_VERSIONS = ("0.0", "0.9", "2.0", "2.1", "3.0", "9.9")

HOSTS = {
    "empty": "",
    "only-blanks": " \t ",
    "blank-within": "a b",
    "tab-within": "a\tb",
    "two-names": "a, b",
    "url": "http://a",
    "slash": "a/b",
    "final-slash": "a/",
    "query": "a?b",
    "fragment": "a#b",
    "user": "b@a",
    "password": "b:c@a",
    "only-at": "@",
    "backslash": "a\\b",
    "quotes": '"a"',
    "angles": "<a>",
    "caret": "a^b",
    "bar": "a|b",
    "brace": "{a}",
    "backtick": "a`b",
    "only-port": ":80",
    "only-colon": ":",
    "port-letters": "a:b",
    "port-signed": "a:+80",
    "port-negative": "a:-1",
    "port-hex": "a:0x50",
    "port-underscore": "a:8_0",
    "port-superscript": "a:8\xb2",
    "port-blank": "a: 80",
    "blank-before-port": "a :80",
    "two-ports": "a:80:80",
    "ipv6-bare": "::1",
    "ipv6-open": "[::1",
    "ipv6-closed": "::1]",
    "ipv6-empty": "[]",
    "ipv6-name": "[a.example]",
    "ipv6-letters": "[::g]",
    "ipv6-two-gaps": "[1::2::3]",
    "ipv6-port-no-colon": "[::1]80",
    "ipv6-word-behind": "[::1]a",
    "ipv6-word-before": "a[::1]",
    "ipv6-bare-zone": "[fe80::1%eth0]",
    "brackets-within": "a[b]",
    "obs-text": "\xe9",
    "utf-8": "b\xc3\xbccher.example",
    "nul": "a\0b",
    "control": "a\x01",
    "delete": "a\x7f",
    "nel": "a\x85",
    "percent-no-hex": "a%zz",
    "lone-percent": "a%",
}

# The target of CONNECT.
AUTHORITIES = {
    "path": "/",
    "no-port": "a",
    "empty-port": "a:",
    "no-host": ":443",
    "port-letters": "a:b",
    "user": "b@a:443",
    "url": "http://a:443/",
    "path-behind": "a:443/b",
    "query-behind": "a:443?b",
    "asterisk": "*",
    "bare-ipv6": "::1:443",
}

HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(range(32)) + bytes.fromhex("20") + bytes(range(32, 64))
NOT_HTTP = {
    "tls": (HELLO, "a TLS handshake on a port that speaks plain HTTP"),
    "ssl2": (bytes.fromhex("802e0100020015000000100100800700c0"), "an old handshake"),
    "http-2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), "RFC 9113, 3.4: refused by its version, or cut"),
    "only-preface-of-http-2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "RFC 9113, 3.4: refused by its version, or cut"),
    "proxy": (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "a PROXY header where none is expected"),
    "proxy-2": (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12), "a PROXY header where none is expected"),
    "ssh": (b"SSH-2.0-OpenSSH_9.6\r\n", ""),
    "smtp": (b"EHLO a\r\n", ""),
    "redis": (b"*1\r\n$4\r\nPING\r\n", ""),
    "xml": (b'<?xml version="1.0"?>\r\n', ""),
    "nuls": (bytes(64), ""),
    "ones": (b"\xff" * 64, ""),
}

HOST_1_0 = "RFC 9112, 3.2 says 400 to any request with more than one Host, or a wrong one"
GOOD = Call("GET", "/1")
NO_WORD = BAD | {505, CUT}

ENTRIES = [
    *(
        refused(f"bad-method-{name}", "RFC 9110, 9.1", get(method=method), UNKNOWN_CODING)
        for name, method in METHODS.items()
    ),
    refused("bad-method-too-long", "RFC 9112, 3", get(method="A" * (LINE + 10)), frozenset({400, 414, 431, 501})),
    *(
        refused(f"bad-target-{name}", "RFC 9112, 3.2", head(f"GET{target}HTTP/1.1", "Host: a"))
        for name, target in TARGETS.items()
    ),
    refused("bad-target-post-asterisk", "RFC 9112, 3.2.4", get(target="*", method="POST")),
    refused("bad-target-options-asterisk-query", "RFC 9112, 3.2.4", get(target="*?a", method="OPTIONS")),
    refused("bad-target-options-two-asterisks", "RFC 9112, 3.2.4", get(target="**", method="OPTIONS")),
    refused("bad-target-too-long", "RFC 9112, 3", get(target="/" + "a" * LINE), frozenset({414})),
    refused("bad-target-query-too-long", "RFC 9112, 3", get(target="/?" + "a" * LINE), frozenset({414})),
    refused("bad-target-much-too-long", "RFC 9112, 3", get(target="/" + "a" * 70_000), frozenset({414})),
    refused("bad-target-without-end", "RFC 9112, 3", b"GET /" + b"a" * 70_000, frozenset({414})),
    *(
        refused(f"bad-line-{name}", "RFC 9112, 3", head(line, "Host: a"), UNKNOWN_VERSION)
        for name, line in LINES.items()
    ),
    refused(
        "bad-line-lf-before", "RFC 9112, 2.2", b"\n" + get(), note="a bare LF MAY be taken for a line's end; not by us"
    ),
    refused("bad-line-lf", "RFC 9112, 2.2", b"GET / HTTP/1.1\nHost: a\r\n\r\n", note="as above"),
    refused("bad-line-all-lf", "RFC 9112, 2.2", b"GET / HTTP/1.1\nHost: a\n\n", note="as above"),
    refused("bad-line-all-cr", "RFC 9112, 2.2", b"GET / HTTP/1.1\rHost: a\r\r"),
    refused("bad-line-lfcr", "RFC 9112, 2.2", b"GET / HTTP/1.1\n\rHost: a\n\r\n\r"),
    refused("bad-line-old", "RFC 9112, 2.3", b"GET /\r\n", UNKNOWN_VERSION, "HTTP/0.9"),
    refused("bad-line-blanks-before-crlf", "RFC 9112, 2.2", b"  \r\n" + get()),
    *(
        refused(f"bad-version-{name}", "RFC 9112, 2.3", get(version=version), UNKNOWN_VERSION)
        for name, version in VERSIONS.items()
    ),
    *(
        refused(f"bad-version-{version}", "RFC 9110, 15.6.6", get(version=f"HTTP/{version}"), frozenset({505}))
        for version in OTHER_VERSIONS
    ),
    refused("bad-host-missing", "RFC 9112, 3.2", head("GET / HTTP/1.1")),
    refused("bad-host-missing-with-others", "RFC 9112, 3.2", head("GET / HTTP/1.1", "X-Host: a", "Hosts: a")),
    refused("bad-host-missing-1.2", "RFC 9112, 3.2", head("GET / HTTP/1.2")),
    refused(
        "bad-host-missing-absolute",
        "RFC 9112, 3.2",
        head("GET http://a/ HTTP/1.1"),
        note="the target has it, and Host is due",
    ),
    refused("bad-host-missing-asterisk", "RFC 9112, 3.2", head("OPTIONS * HTTP/1.1")),
    refused("bad-host-twice", "RFC 9112, 3.2", head("GET / HTTP/1.1", "Host: a", "Host: b")),
    refused("bad-host-twice-the-same", "RFC 9112, 3.2", head("GET / HTTP/1.1", "Host: a", "Host: a")),
    refused("bad-host-twice-in-two-cases", "RFC 9112, 3.2", head("GET / HTTP/1.1", "Host: a", "X-A: b", "hOST: a")),
    refused("bad-host-twice-one-empty", "RFC 9112, 3.2", head("GET / HTTP/1.1", "Host: a", "Host:")),
    refused("bad-host-twice-absolute", "RFC 9112, 3.2", head("GET http://a/ HTTP/1.1", "Host: a", "Host: a")),
    refused("bad-host-twice-1.0", "RFC 9112, 3.2", head("GET / HTTP/1.0", "Host: a", "Host: b"), note=HOST_1_0),
    refused("bad-host-malformed-1.0", "RFC 9112, 3.2", head("GET / HTTP/1.0", "Host: a/b"), note=HOST_1_0),
    refused(
        "bad-host-malformed-absolute",
        "RFC 9112, 3.2",
        head("GET http://a/ HTTP/1.1", "Host: a/b"),
        note="the target wins, and a wrong Host is still wrong",
    ),
    refused(
        "bad-host-after-a-good-one",
        "RFC 9112, 3.2",
        get(target="/1") + head("GET /2 HTTP/1.1", "Host: a/b"),
        calls=(GOOD,),
    ),
    refused(
        "bad-host-missing-after-a-good-one", "RFC 9112, 3.2", get(target="/1") + head("GET /2 HTTP/1.1"), calls=(GOOD,)
    ),
    refused(
        "bad-host-empty-after-a-good-one",
        "RFC 9112, 3.2",
        get(target="/1") + head("GET /2 HTTP/1.1", "Host:"),
        calls=(GOOD,),
    ),
    *(
        refused(
            f"bad-host-{name}",
            "RFC 9110, 7.2",
            head("GET / HTTP/1.1", f"Host: {host}"),
            note="the grammar allows it, for URIs without authority; no http URI is"
            if name in {"empty", "only-blanks"}
            else "",
        )
        for name, host in HOSTS.items()
    ),
    *(
        refused(
            f"bad-authority-{name}", "RFC 9112, 3.2.3", get(method="CONNECT", target=target), UNKNOWN_CODING | {405}
        )
        for name, target in AUTHORITIES.items()
    ),
    *(refused(f"not-http-{name}", "RFC 9112, 2.2", raw, NO_WORD, note) for name, (raw, note) in NOT_HTTP.items()),
]
