"""Head: each rule of RFC 9110 and RFC 9112 that a head is judged by, at either side of its edge."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.server._protocols.http.head import MOST_DIGITS, Head, judge, judge_fields
from treadle.server._protocols.http.refused import Refused

FIRST = "GET / HTTP/1.1"
HOST = "Host: a"


def told(*fields: str, first: str = "POST / HTTP/1.1") -> Head:
    """Return what such a head says."""
    return judge([first, HOST, *fields])


def refusal(*lines: str) -> tuple[int, str]:
    """Return status and reason with which these lines are refused."""
    with pytest.raises(Refused) as caught:
        judge(list(lines))
    return caught.value.status, caught.value.why


def status_of(*fields: str, first: str = "POST / HTTP/1.1") -> int:
    """Return the status with which such a head is refused."""
    return refusal(first, HOST, *fields)[0]


# -- the request line -------------------------------------------------------------------------------------------------


def test_a_head_is_taken_apart() -> None:
    head = judge(["GET /a?b=c HTTP/1.1", "Host: a:80", "X-Y:  z "])
    assert (head.method, head.target, head.path, head.query) == ("GET", "/a?b=c", "/a", "b=c")
    assert (head.version, head.is_old) == ("HTTP/1.1", False)
    assert head.fields == {"host": "a:80", "x-y": "z"}
    assert (head.length, head.continues, head.closes) == (0, False, False)


@pytest.mark.parametrize(
    "line", ["", "GET", "GET /", "GET  / HTTP/1.1", "GET / HTTP/1.1 ", "GET / HTTP/11", " GET / HTTP/1.1"]
)
def test_a_malformed_request_line_is_400_by_rfc_9112_section_3(line: str) -> None:
    assert refusal(line, HOST) == (400, "the request line is malformed (RFC 9112, section 3)")


@pytest.mark.parametrize("version", ["HTTP/0.9", "HTTP/2.0", "HTTP/9.1", "HTTP/0.1"])
def test_another_major_version_is_505_by_rfc_9110_section_15_6_6(version: str) -> None:
    status, why = refusal(f"GET / {version}", HOST)
    assert status == 505
    assert version in why


@pytest.mark.parametrize(
    ("sent", "version", "old"),
    [("1.0", "HTTP/1.0", True), ("1.1", "HTTP/1.1", False), ("1.2", "HTTP/1.1", False), ("1.9", "HTTP/1.1", False)],
)
def test_a_higher_minor_version_is_taken_as_ours_by_rfc_9110_section_2_5(sent: str, version: str, old: bool) -> None:
    head = judge([f"GET / HTTP/{sent}", HOST])
    assert (head.version, head.is_old) == (version, old)


# -- fields -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["", " a: b", "\ta", "a", "a : b", ": b", "a: b\r", "a: b\0", "a\n: b", "a: \x7f"])
def test_a_malformed_or_folded_field_is_400_by_rfc_9112_section_5(line: str) -> None:
    assert refusal(FIRST, HOST, line) == (400, "a field is malformed, or folded over two lines (RFC 9112, section 5)")


def test_lines_of_one_name_are_one_field_by_rfc_9110_section_5_2() -> None:
    assert judge_fields(["A: 1", "b: 2", "a: 3", "a:", "A: 4, 5"]) == {"a": "1, 3, , 4, 5", "b": "2"}


def test_cookies_are_joined_by_semicolons_by_rfc_9113_section_8_2_3() -> None:
    assert judge_fields(["Cookie: a=1", "cookie: b=2", "COOKIE: c"]) == {"cookie": "a=1; b=2; c"}
    assert judge_fields(["Set-Cookie: a", "Set-Cookie: b"]) == {"set-cookie": "a, b"}


@pytest.mark.parametrize(
    ("name", "value"), [("Content-Length", "1"), ("Content-Type", "a"), ("Host", "a"), ("Transfer-Encoding", "chunked")]
)
def test_two_of_what_there_is_one_of_are_400_by_rfc_9110_section_5_3(name: str, value: str) -> None:
    """Though they are equal: who merges them, and who takes the first, would differ."""
    lines = [f"{name}: {value}", f"{name.lower()}: {value}"]
    if name != "Host":
        lines.append(HOST)
    assert refusal(FIRST, *lines) == (400, f"there are two fields {name.lower()} (RFC 9110, section 5.3)")


def test_no_fields_are_none() -> None:
    assert judge_fields([]) == {}
    assert judge_fields(["a:"]) == {"a": ""}


# -- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "path", "query"),
    [
        ("GET", "/", "/", ""),
        ("GET", "/a?", "/a", ""),
        ("OPTIONS", "/a?b", "/a", "b"),
        ("OPTIONS", "*", "*", ""),
        ("GET", "http://b", "/", ""),
        ("GET", "http://b/", "/", ""),
        ("GET", "http://b?c", "/", "c"),
        ("GET", "https://b:1/c?d", "/c", "d"),
        ("OPTIONS", "http://b", "*", ""),  # section 3.2.4
        ("OPTIONS", "http://b/", "/", ""),
    ],
)
@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_targets_have_the_forms_of_rfc_9112_section_3_2(
    method: str, target: str, path: str, query: str, version: str
) -> None:
    head = judge([f"{method} {target} {version}", HOST])
    assert (head.target, head.path, head.query) == (target, path, query)


@pytest.mark.parametrize(
    "target",
    [
        "a",
        "?a",
        "a/b",
        "**",
        "/a#b",
        "/\\",
        "ftp://a/",
        "http://",
        "http:///a",
        "http://u@a/",
        "http://a b",
        "http://[::1/",
    ],
)
def test_another_target_is_400_by_rfc_9112_section_3_2(target: str) -> None:
    assert status_of(first=f"GET {target} HTTP/1.1") == 400


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ('/a?b={"c":1}', "'\"' is sent as %22"),
        ("/a<b", "'<' is sent as %3C"),
        ("/a\\b", "'\\\\' is sent as %5C"),
        ("/a#b", "'#' is not sent"),
    ],
)
def test_which_character_a_target_may_not_have_is_said(target: str, why: str) -> None:
    assert refusal(f"GET {target} HTTP/1.1", HOST) == (400, f"the target is malformed: {why} (RFC 9112, section 3.2)")


@pytest.mark.parametrize("target", ["http://a:b/", "http://a%zz/", "http://[1]/", "http://a:123456/", "http://:80/"])
def test_an_authority_that_is_no_host_is_400(target: str) -> None:
    assert refusal(f"GET {target} HTTP/1.1", HOST) == (400, "the target is malformed (RFC 9112, section 3.2)")


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "options"])
def test_the_asterisk_is_for_options_alone_by_rfc_9112_section_3_2_4(method: str) -> None:
    why = "the target * is for OPTIONS alone (RFC 9112, section 3.2.4)"
    assert refusal(f"{method} * HTTP/1.1", HOST) == (400, why)


@pytest.mark.parametrize("target", ["a:80", "a:", "[::1]:80", "[::1]:"])
def test_connect_is_501_by_rfc_9110_section_9_3_6(target: str) -> None:
    assert refusal(f"CONNECT {target} HTTP/1.1", HOST) == (501, "there are no tunnels here (RFC 9110, section 9.3.6)")


@pytest.mark.parametrize("target", ["a", "/", "*", "http://a:80/", "[::1]", "a:b", ":80", "[a]:80"])
def test_connect_without_host_and_port_is_400_by_rfc_9112_section_3_2_3(target: str) -> None:
    assert refusal(f"CONNECT {target} HTTP/1.1", HOST) == (
        400,
        "CONNECT has no host and port (RFC 9112, section 3.2.3)",
    )


# -- Host -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/", "http://b/"])
def test_a_missing_host_is_400_by_rfc_9112_section_3_2(target: str) -> None:
    """Also where the target names the host."""
    assert refusal(f"GET {target} HTTP/1.1", "a: b") == (400, "there is no Host field (RFC 9112, section 3.2)")


@pytest.mark.parametrize("target", ["/", "http://b/"])
@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.parametrize("host", ["", "a b", "a/b", "u@a", "a:b", "a, a", ":80"])
def test_a_malformed_host_is_400_by_rfc_9112_section_3_2(target: str, version: str, host: str) -> None:
    status, why = refusal(f"GET {target} {version}", f"Host: {host}")
    assert status == 400
    assert "malformed" in why
    assert "RFC 9110, section 7.2" in why


def test_http_1_0_needs_no_host() -> None:
    assert "host" not in judge(["GET / HTTP/1.0"]).fields


@pytest.mark.parametrize("lines", [["GET http://b:1/ HTTP/1.1", HOST], ["GET http://b:1/ HTTP/1.0"]])
def test_the_targets_host_takes_the_place_of_the_field_by_rfc_9112_section_3_2_2(lines: list[str]) -> None:
    assert judge(lines).fields["host"] == "b:1"


# -- Connection -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "closes", "old_closes"),
    [
        ([], False, True),
        (["Connection:"], False, True),
        (["Connection: close"], True, True),
        (["Connection: CLOSE"], True, True),
        (["Connection: keep-alive"], False, False),
        (["Connection: Keep-Alive"], False, False),
        (["Connection: a, \tclose\t ,b"], True, True),
        (["Connection: a", "connection: close"], True, True),
        (["Connection: keep-alive, close"], True, True),
        (["Connection: upgrade, keep-alive"], False, False),
        (["Connection: closed"], False, True),
        (["Connection: close-not"], False, True),
        (["Connection: \xa0close"], False, True),  # which is no blank
        (["Keep-Alive: close"], False, True),
    ],
)
def test_a_connection_goes_on_as_rfc_9112_section_9_3_says(fields: list[str], closes: bool, old_closes: bool) -> None:
    assert judge([FIRST, HOST, *fields]).closes is closes
    assert judge(["GET / HTTP/1.0", HOST, *fields]).closes is old_closes


# -- the length of the body -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "length"),
    [
        ("0", 0),
        ("00", 0),
        ("1", 1),
        ("007", 7),
        ("9" * MOST_DIGITS, 10**18 - 1),
        ("0" * 50 + "1" + "0" * (MOST_DIGITS - 1), 10**17),
    ],
)
def test_a_content_length_is_a_number_by_rfc_9110_section_8_6(value: str, length: int) -> None:
    head = told(f"Content-Length: {value}")
    assert (head.length, head.fields["content-length"]) == (length, value)


@pytest.mark.parametrize(
    "value", ["", "+5", "-5", "5.0", "5,5", "5, 5", "5 5", "0x5", "5a", "1_0", "\xb2", "\xb9", "5\xa0", "five"]
)
def test_what_is_no_number_is_400_by_rfc_9110_section_8_6(value: str) -> None:
    assert refusal(FIRST, HOST, f"Content-Length: {value}") == (
        400,
        "Content-Length is no number (RFC 9110, section 8.6)",
    )


@pytest.mark.parametrize("value", ["1" + "0" * MOST_DIGITS, "0001" + "0" * MOST_DIGITS, "9" * 5000])
def test_a_length_that_no_disk_holds_is_413(value: str) -> None:
    """Python takes long for numbers of many digits, and from 4,300 on none."""
    assert status_of(f"Content-Length: {value}") == 413


@pytest.mark.parametrize("coding", ["chunked", "CHUNKED", "Chunked", "chunked \t"])
def test_the_length_of_chunks_is_not_known(coding: str) -> None:
    """RFC 9112, sections 6.1 and 7: names of codings are told apart without regard to case."""
    assert told(f"Transfer-Encoding: {coding}").length is None


@pytest.mark.parametrize("coding", ["chunked", "gzip", ""])
def test_length_and_coding_together_are_400_by_rfc_9112_section_6_1(coding: str) -> None:
    assert refusal(FIRST, HOST, "Content-Length: 0", f"Transfer-Encoding: {coding}") == (
        400,
        "there are both Content-Length and Transfer-Encoding (RFC 9112, section 6.1)",
    )


@pytest.mark.parametrize("coding", ["chunked", "gzip", ""])
def test_http_1_0_has_no_codings_by_rfc_9112_section_6_1(coding: str) -> None:
    assert refusal("POST / HTTP/1.0", f"Transfer-Encoding: {coding}") == (
        400,
        "HTTP/1.0 has no Transfer-Encoding (RFC 9112, section 6.1)",
    )


@pytest.mark.parametrize(
    "coding",
    [
        "",
        "gzip",
        "identity",
        "chunked, gzip",
        "chunked, chunked",
        "chunked,",
        ",chunked",
        "gzip, , chunked",
        "gzip, chunked, chunked",
        "chunked;a=b",
        "a b, chunked",
        "gzip;q=1, chunked",
        "xchunked",
        "\x0bchunked",
        "\xa0chunked",
        '"chunked"',
    ],
)
def test_a_coding_that_does_not_end_with_chunked_is_400_by_rfc_9112_section_6_3(coding: str) -> None:
    assert status_of(f"Transfer-Encoding: {coding}") == 400


@pytest.mark.parametrize("coding", ["gzip, chunked", "gzip,chunked", "gzip \t,\t CHUNKED", "a, b, chunked"])
def test_codings_before_chunked_are_501_by_rfc_9112_section_6_1(coding: str) -> None:
    assert status_of(f"Transfer-Encoding: {coding}") == 501


# -- Expect -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expected", ["100-continue", "100-Continue"])
@pytest.mark.parametrize(
    ("body", "continues"),
    [
        (["Content-Length: 1"], True),
        (["Transfer-Encoding: chunked"], True),
        (["Content-Length: 0"], False),
        ([], False),
    ],
)
def test_who_expects_100_continues_if_there_is_a_body_by_rfc_9110_section_10_1_1(
    expected: str, body: list[str], continues: bool
) -> None:
    assert told(f"Expect: {expected}", *body).continues is continues
    assert told(*body).continues is False


@pytest.mark.parametrize("expected", ["", "200-ok", "100-continue, 100-continue", "100-continue;a=b", "100"])
def test_another_expectation_is_417_by_rfc_9110_section_10_1_1(expected: str) -> None:
    assert refusal(FIRST, HOST, f"Expect: {expected}") == (
        417,
        "no expectation but 100-continue is met here (RFC 9110, section 10.1.1)",
    )


@pytest.mark.parametrize("expected", ["100-continue", "200-ok"])
def test_what_http_1_0_expects_is_ignored_by_rfc_9110_section_10_1_1(expected: str) -> None:
    head = told(f"Expect: {expected}", "Content-Length: 1", first="POST / HTTP/1.0")
    assert (head.continues, head.length) == (False, 1)


# -- all of it --------------------------------------------------------------------------------------------------------

LINES = st.lists(
    st.sampled_from(
        [HOST, "Host: b", "Content-Length: 1", "Transfer-Encoding: chunked", "Connection: close", "Expect: x"]
    )
    | st.text(st.characters(max_codepoint=255), max_size=12),
    max_size=5,
)
REQUESTS = st.sampled_from(
    [FIRST, "OPTIONS * HTTP/1.1", "CONNECT a:1 HTTP/1.1", "GET / HTTP/1.0", "GET http://b HTTP/1.1"]
)


@given(REQUESTS | st.text(st.characters(max_codepoint=255), max_size=12), LINES)
def test_whatever_the_lines_are_they_are_a_head_or_refused(first: str, fields: list[str]) -> None:
    try:
        head = judge([first, *fields])
    except Refused as error:
        refused = error
    else:
        assert head.path.startswith("/") or head.path == "*"
        assert head.is_old or head.fields["host"]
        assert all(name == name.lower() for name in head.fields)
        return
    assert 400 <= refused.status <= 599
    assert "RFC" in refused.why or "max_body" in refused.why
