"""Grammar: which texts are which parts of a head, character by character, and that none takes long to refuse."""

from __future__ import annotations

import re
import tracemalloc
from itertools import product
from string import ascii_letters, ascii_uppercase, digits

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.server._protocols.http.grammar import (
    ABSOLUTE_FORM,
    FIELD,
    ORIGIN_FORM,
    QUICK,
    REQUEST_LINE,
    is_host,
    is_token,
)

ALL = [chr(code) for code in range(256)]  # all that latin-1 makes of bytes
TCHARS = set("!#$%&'*+-.^_`|~" + digits + ascii_letters)  # RFC 9110, section 5.6.2
VISIBLE = {chr(code) for code in range(0x21, 0x7F)}  # RFC 5234, appendix B.1
OBS_TEXT = {chr(code) for code in range(0x80, 0x100)}  # RFC 9110, section 5.5
PCHARS = set("-._~!$&'()*+,;=:@%" + digits + ascii_letters)  # RFC 3986, section 3.3
IN_PATHS = PCHARS | set("/[]^{|}")
IN_QUERIES = IN_PATHS | set("?`\\")


def taken(before: str, after: str, pattern: re.Pattern[str]) -> set[str]:
    """Return the characters that the pattern takes between two texts."""
    return {char for char in ALL if pattern.fullmatch(f"{before}{char}{after}")}


# -- tokens and fields ------------------------------------------------------------------------------------------------


def test_a_token_is_of_the_characters_of_rfc_9110_section_5_6_2() -> None:
    for before, after in (("", ""), ("a", ""), ("", "a"), ("a", "a")):
        assert {char for char in ALL if is_token(f"{before}{char}{after}")} == TCHARS


@pytest.mark.parametrize("text", ["", "a\n", "\na", "a b", "\u0410", "a\u0661", "\uff21"])
def test_what_is_empty_or_ends_with_a_line_or_is_not_ascii_is_no_token(text: str) -> None:
    assert not is_token(text)


def test_a_name_of_a_field_is_a_token_and_the_colon_follows_at_once() -> None:
    """RFC 9112, section 5.1."""
    assert taken("", "a: b", FIELD) == TCHARS
    assert taken("a", ": b", FIELD) == TCHARS | {":"}  # where the value is ": b"
    assert FIELD.fullmatch("a:: b")
    assert not FIELD.fullmatch(": b")
    assert not FIELD.fullmatch("a")
    assert not FIELD.fullmatch("")


def test_a_value_of_a_field_is_of_the_characters_of_rfc_9110_section_5_5() -> None:
    inside = VISIBLE | OBS_TEXT | {" ", "\t"}
    assert taken("a: b", "c", FIELD) == inside
    assert taken("a: ", "", FIELD) == inside
    for char in ALL:
        match = FIELD.fullmatch(f"a: {char}")
        assert match is None or match[2] == char.strip(" \t")


@pytest.mark.parametrize(
    "line", ["a: b\n", "a: b\r", "a: b\r\n", "\na: b", " a: b", "\ta: b", "a : b", "a\t: b", "a: \u0410"]
)
def test_no_field_has_ends_of_lines_or_blanks_before_its_colon(line: str) -> None:
    """RFC 9112, sections 2.2, 5.1 and 5.2."""
    assert FIELD.fullmatch(line) is None


@pytest.mark.parametrize(("before", "after"), [*product(["", " ", "\t", " \t ", "  "], repeat=2)])
@pytest.mark.parametrize("value", ["", "b", "b c", "b \t c", "b:c", ":", ",", "\xa0b\x85", "\xe9"])
def test_blanks_around_a_value_are_none_of_it(before: str, after: str, value: str) -> None:
    """RFC 9112, section 5: blanks and tabs, and nothing else that Python calls white."""
    match = FIELD.fullmatch(f"Name:{before}{value}{after}")
    assert match is not None
    assert match.groups() == ("Name", value)


# -- the request line -------------------------------------------------------------------------------------------------


def test_a_request_line_is_taken_apart() -> None:
    match = REQUEST_LINE.fullmatch("M-SEARCH http://a/b?c HTTP/2.3")
    assert match is not None
    assert match.groups() == ("M-SEARCH", "http://a/b?c", "2", "3")


def test_a_request_line_is_a_token_a_visible_target_and_a_version() -> None:
    """RFC 9112, sections 2.3, 3.1 and 3.2."""
    assert taken("", " / HTTP/1.1", REQUEST_LINE) == TCHARS
    assert taken("GET ", " HTTP/1.1", REQUEST_LINE) == VISIBLE
    assert taken("GET /", " HTTP/1.1", REQUEST_LINE) == VISIBLE
    assert taken("GET / HTTP/", ".1", REQUEST_LINE) == set(digits)
    assert taken("GET / HTTP/1.", "", REQUEST_LINE) == set(digits)
    assert taken("GET / HTTP/1", "1", REQUEST_LINE) == {"."}
    assert taken("GET / HTTP", "1.1", REQUEST_LINE) == {"/"}
    assert taken("GET", "/ HTTP/1.1", REQUEST_LINE) == {" "}
    assert taken("GET /", "HTTP/1.1", REQUEST_LINE) == {" "}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "GET",
        "GET /",
        "GET / ",
        "GET  HTTP/1.1",
        " / HTTP/1.1",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        " GET / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / HTTP/1.1\n",
        "GET / HTTP/1.1\r",
        "GET / http/1.1",
        "GET / HTTP/11.1",
        "GET / HTTP/1.11",
        "GET / HTTP/1",
        "GET / HTTP/1.\u0661",
        "GET / HTTPS/1.1",
        "GET / a HTTP/1.1",
    ],
)
def test_nothing_else_is_a_request_line(line: str) -> None:
    assert REQUEST_LINE.fullmatch(line) is None


# -- targets ----------------------------------------------------------------------------------------------------------


def test_paths_are_of_the_characters_of_rfc_3986_and_what_browsers_leave() -> None:
    assert taken("/", "", ORIGIN_FORM) == IN_PATHS | {"?"}  # with which the query begins
    assert taken("/a", "b", ORIGIN_FORM) == IN_PATHS | {"?"}


def test_queries_are_of_the_characters_of_rfc_3986_and_what_browsers_leave() -> None:
    assert taken("/?", "", ORIGIN_FORM) == IN_QUERIES
    assert taken("/a?b", "c", ORIGIN_FORM) == IN_QUERIES


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", None),
        ("/?", "/", ""),
        ("/a/b", "/a/b", None),
        ("/a?b=c", "/a", "b=c"),
        ("/a?b?c", "/a", "b?c"),
        ("//a", "//a", None),
        ("/%zz%", "/%zz%", None),
        ("/a?/b", "/a", "/b"),
    ],
)
def test_origin_form_is_a_path_and_perhaps_a_query(target: str, path: str, query: str | None) -> None:
    """RFC 9112, section 3.2.1."""
    match = ORIGIN_FORM.fullmatch(target)
    assert match is not None
    assert match.groups() == (path, query)


@pytest.mark.parametrize("target", ["", "a", "?a", "*", "a/b", "/a#b", "/a?b#c", "/a\n", "/\u0410", "http://a/"])
def test_nothing_else_is_origin_form(target: str) -> None:
    assert ORIGIN_FORM.fullmatch(target) is None


@pytest.mark.parametrize("scheme", ["http", "HTTP", "https", "HTTPS", "hTtPs"])
@pytest.mark.parametrize(
    ("rest", "parts"),
    [
        ("a", ("a", None, None)),
        ("a/", ("a", "/", None)),
        ("a?", ("a", None, "")),
        ("a?b", ("a", None, "b")),
        ("a:8000/b/c?d=e", ("a:8000", "/b/c", "d=e")),
        ("[::1]:80/b", ("[::1]:80", "/b", None)),
        ("a b", ("a b", None, None)),  # which is no host: that is judged apart
    ],
)
def test_absolute_form_is_taken_apart(scheme: str, rest: str, parts: tuple[str | None, ...]) -> None:
    """RFC 9112, section 3.2.2."""
    match = ABSOLUTE_FORM.fullmatch(f"{scheme}://{rest}")
    assert match is not None
    assert match.groups() == parts


@pytest.mark.parametrize(
    "target",
    [
        "http://",
        "http:///a",
        "http://?a",
        "http:/a",
        "http:a",
        "ftp://a/",
        "httpss://a/",
        "xhttp://a/",
        "://a/",
        "//a/",
    ],
)
def test_a_target_without_an_authority_or_of_another_scheme_is_not_absolute_form(target: str) -> None:
    assert ABSOLUTE_FORM.fullmatch(target) is None


@pytest.mark.parametrize("target", ["http://u@a/", "http://u:p@a/", "http://@a/", "http://a@"])
def test_an_authority_with_a_user_is_refused(target: str) -> None:
    """RFC 9110, section 4.2.4."""
    assert ABSOLUTE_FORM.fullmatch(target) is None


@pytest.mark.parametrize(
    "target", ["http://a#b", "http://a/#b", "http://a/?#b", "http://a/ ", "http://a/b`", "http://a/\n"]
)
def test_absolute_form_has_paths_and_queries_of_the_same_characters(target: str) -> None:
    assert ABSOLUTE_FORM.fullmatch(target) is None


# -- hosts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "a",
        "example.com",
        "EXAMPLE.com.",
        "127.0.0.1",
        "1",
        "a_b",
        "a-b~c",
        "a%41%aF",
        "!$&'()*+,;=",
        "[::1]",
        "[::]",
        "[2001:DB8::1]",
        "[::ffff:127.0.0.1]",
    ],
)
@pytest.mark.parametrize("port", ["", ":", ":0", ":80", ":65535", ":99999"])
def test_hosts_are_those_of_rfc_9110_section_7_2(host: str, port: str) -> None:
    assert is_host(host + port)


def test_a_registered_name_is_of_the_characters_of_rfc_3986_section_3_2_2() -> None:
    allowed = set("-._~!$&'()*+,;=" + digits + ascii_letters)
    assert {char for char in ALL if is_host(f"a{char}b")} == allowed
    assert {char for char in ALL if is_host(char)} == allowed
    assert {char for char in ALL if is_host(f"a%{char}0")} == set("0123456789abcdefABCDEF")
    assert {char for char in ALL if is_host(f"a%0{char}")} == set("0123456789abcdefABCDEF")


def test_a_port_is_of_digits() -> None:
    assert {char for char in ALL if is_host(f"a:{char}")} == set(digits)
    assert {char for char in ALL if is_host(f"[::1]:8{char}")} == set(digits)


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":",
        ":80",
        "a:123456",
        "a:80:80",
        "a:+80",
        "a:\u0661",
        "a\n",
        "a:80\n",
        "a%",
        "a%4",
        "a%g0",
        "a b",
        "a, b",
        "u@a",
        "a/b",
        "http://a",
        "\u0430",
        "[]",
        "[",
        "[::1",
        "::1",
        "::1]",
        "[::1]a",
        "a[::1]",
        "[::1]\n",
        "[:::1]",
        "[1]",
        "[127.0.0.1]",
        "[::1%25eth0]",
        "[v1.a]",
        "[::12345]",
        "[1:2:3:4:5:6:7:8:9]",
        "[::g]",
        "[[::1]]",
    ],
)
def test_nothing_else_is_a_host(host: str) -> None:
    """An empty one is none, for every target of HTTP has an authority (RFC 9110, section 7.2)."""
    assert not is_host(host)


# -- the quick way ----------------------------------------------------------------------------------------------------

PLAIN = "GET /a?b HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n"


def head(method: str = "GET", target: str = "/", version: str = "HTTP/1.1", fields: str = "Host: a\r\n") -> str:
    return f"{method} {target} {version}\r\n{fields}\r\n"


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        (PLAIN, ("GET /a", "GET", "/a", "b", "\r\nHost: a\r\nAccept: */*")),
        (head(), ("GET /", "GET", "/", None, "\r\nHost: a")),
        (head(target="/?"), ("GET /", "GET", "/", "", "\r\nHost: a")),
        (head("A"), ("A /", "A", "/", None, "\r\nHost: a")),
        (head("X" * 20), (f"{'X' * 20} /", "X" * 20, "/", None, "\r\nHost: a")),
        (head("CONNECTS"), ("CONNECTS /", "CONNECTS", "/", None, "\r\nHost: a")),
        (head(fields="a: b  \tc\r\nd: :\r\n"), ("GET /", "GET", "/", None, "\r\na: b  \tc\r\nd: :")),
        (head(fields="a: \xe9\r\n"), ("GET /", "GET", "/", None, "\r\na: \xe9")),
    ],
)
def test_a_plain_head_goes_the_quick_way(text: str, groups: tuple[str | None, ...]) -> None:
    match = QUICK.match(text + "whatever is behind")
    assert match is not None
    assert match.groups() == groups
    assert match.end() == len(text)


@pytest.mark.parametrize(
    "text",
    [
        PLAIN[:-1],
        PLAIN[:-2],
        PLAIN.replace("\r\n", "\n"),
        "\r\n" + PLAIN,
        " " + PLAIN,
        head(fields=""),
        head("CONNECT"),
        head(""),
        head("X" * 21),
        head("get"),
        head("M-SEARCH"),
        head("GET1"),
        head("GET "),
        head(target=""),
        head(target="*"),
        head(target="http://a/"),
        head(target="/a#b"),
        head(target="/ "),
        head(version="HTTP/1.0"),
        head(version="HTTP/1.2"),
        head(version="HTTP/2.1"),
        head(version="http/1.1"),
        head(version="HTTP/1x1"),
        head(version="HTTP/1.1 "),
        head(fields="a:b\r\n"),
        head(fields="a:\tb\r\n"),
        head(fields="a:  b\r\n"),
        head(fields="a: \r\n"),
        head(fields="a:\r\n"),
        head(fields="a: b \r\n"),
        head(fields="a: b\t\r\n"),
        head(fields="a : b\r\n"),
        head(fields=": b\r\n"),
        head(fields="a\r\n"),
        head(fields="a: b\r\n c\r\n"),
        head(fields="a: b\nc: d\r\n"),
        head(fields="a: b\rc: d\r\n"),
        head(fields="a: b\0\r\n"),
        head(fields="a: b\x7f\r\n"),
    ],
)
def test_what_is_not_plain_in_every_part_goes_the_careful_way(text: str) -> None:
    assert QUICK.match(text) is None


def test_the_quick_way_takes_methods_of_capitals_and_plain_characters_alone() -> None:
    assert {char for char in ALL if QUICK.match(head(char))} == set(ascii_uppercase)
    assert {char for char in ALL if QUICK.match(head(target=f"/{char}"))} == IN_PATHS | {"?"}
    assert {char for char in ALL if QUICK.match(head(target=f"/?{char}"))} == IN_QUERIES
    assert {char for char in ALL if QUICK.match(head(fields=f"{char}: b\r\n"))} == TCHARS
    assert {char for char in ALL if QUICK.match(head(fields=f"a: {char}\r\n"))} == VISIBLE | OBS_TEXT


HEADS = st.builds(
    head,
    st.sampled_from(["GET", "CONNECT", "X-Y", "get", ""]) | st.text(max_size=3),
    st.sampled_from(["/", "/a?b", "*", "/\xe9", "http://a/"]) | st.text(max_size=5),
    st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/1.1 "]),
    st.lists(
        st.builds(
            "{}{}{}\r\n".format,
            st.sampled_from(["a", "Host", "", "a b", "\xe9"]),
            st.sampled_from([": ", ":", " : ", ":  ", ""]),
            st.sampled_from(["b", "", "b ", "b c", "\n", "\xe9", "\x85", "\r"]),
        ),
        max_size=3,
    ).map("".join),
)


@given(HEADS)
def test_what_is_quick_is_right_in_every_part(text: str) -> None:
    match = QUICK.match(text)
    if match is None:
        return
    line, *fields = text[: match.end() - 4].split("\r\n")
    begun = REQUEST_LINE.fullmatch(line)
    assert begun is not None
    assert begun.groups() == (match[2], match[3] + ("" if match[4] is None else f"?{match[4]}"), "1", "1")
    assert ORIGIN_FORM.fullmatch(begun[2])
    for field in fields:
        found = FIELD.fullmatch(field)
        assert found is not None
        assert f"{found[1]}: {found[2]}" == field


# -- how long it takes ------------------------------------------------------------------------------------------------

LONG = 200_000  # where any pattern that tried each way anew would need hours


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (QUICK, "GET /" + "a" * LONG + "\n"),
        (QUICK, "GET /?" + "?" * LONG + "\n"),
        (QUICK, "GET / HTTP/1.1\r\n" + "a: b\r\n" * (LONG // 6) + "\n"),
        (QUICK, "GET / HTTP/1.1\r\na: " + "b \t" * (LONG // 3) + "\n"),
        (FIELD, "a:" + " \t" * (LONG // 2) + "\n"),
        (FIELD, "a: " + "b \t" * (LONG // 3) + "\n"),
        (REQUEST_LINE, "!" * LONG),
        (REQUEST_LINE, "GET " + "/" * LONG),
        (ABSOLUTE_FORM, "http://" + "a" * LONG + "@"),
        (ABSOLUTE_FORM, "http://a/" + "a" * LONG + "\n"),
    ],
)
def test_no_text_takes_long_to_refuse(pattern: re.Pattern[str], text: str) -> None:
    """Nothing is tried again in another way, so no places to come back to are kept."""
    pattern.match("")
    tracemalloc.start()
    try:
        assert pattern.fullmatch(text) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < LONG
