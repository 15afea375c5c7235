"""Values: no field of an answer can be taken for two, and what is none is told with what WSGI wants."""

from __future__ import annotations

import re
from typing import Any

import pytest

from treadle.server._protocols.wsgi.answering.names import HEADERS, Names
from treadle.server._protocols.wsgi.answering.values import encoded, line_of, text_of, wrong_header

# RFC 9110, section 5.5: what a field's value may not have, in the words of ASCII.
CONTROLS = [chr(code) for code in (*range(9), *range(10, 32), 127)]


class Text(str):
    """A str of a class of its own, as frameworks have."""


def test_lines_become_bytes_of_latin_1() -> None:
    assert encoded(["A: b\r\n", "C: \xe9\xff\x80\t \r\n"]) == b"A: b\r\nC: \xe9\xff\x80\t \r\n"
    assert encoded([]) == b""


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: f"{ord(control):#04x}")
def test_control_character_is_refused_and_the_field_that_has_it_is_told(control: str) -> None:
    with pytest.raises(ValueError, match=r"a header is 'C: x.*y', with a control character \(RFC 9110, section 5.5\)"):
        encoded(["A: b\r\n", f"C: x{control}y\r\n", "D: e\r\n"])


@pytest.mark.parametrize("end", ["\r\n", "\r\nSet-Cookie: a=b", "\n", "\r", "\r\n\r\nHTTP/1.1 200 OK"])
def test_two_lines_are_never_one_field(end: str) -> None:
    with pytest.raises(ValueError, match="with a control character"):
        encoded([f"Location: /{end}\r\n"])


@pytest.mark.parametrize("text", ["\u0100", "\u010a", "\u560a", "\U0001f600", "\ud800"])
def test_what_latin_1_does_not_have_is_refused(text: str) -> None:
    """U+010A and U+560A end with the byte of a line feed."""
    with pytest.raises(ValueError, match=r"a header has '.*'; WSGI \(PEP 3333\) wants latin-1"):
        encoded(["A: b\r\n", f"C: d{text}\r\n"])


@pytest.mark.parametrize(
    ("header", "line"),
    [
        (("Link", "</a>"), "Link: </a>\r\n"),
        (["Link", "</a>"], "Link: </a>\r\n"),
        (("Link", ""), "Link: \r\n"),
        ((Text("Link"), Text("</a>")), "Link: </a>\r\n"),
        (("Content-Length", "7"), "Content-Length: 7\r\n"),
    ],
)
def test_line_of_a_header(header: Any, line: str) -> None:
    names = Names()
    assert line_of(header, names) == line
    assert line_of(header, names) == line  # now that its name is known


@pytest.mark.parametrize(
    ("header", "kind", "why"),
    [
        (("A",), ValueError, "not enough values"),
        (("A", "b", "c"), ValueError, "too many values"),
        ("Link: a", ValueError, "too many values"),
        (None, TypeError, "None"),
        (7, TypeError, "7"),
        ((b"A", "b"), TypeError, "a header's name is b'A', bytes"),
        (([], "b"), TypeError, "unhashable"),
        (("A", b"b"), TypeError, "the value of A is b'b', bytes"),
        (("A", None), TypeError, "the value of A is None, NoneType"),
        (("A", 7), TypeError, "the value of A is 7, int"),
        (("A b", "c"), ValueError, "no token"),
        (("Connection", "close"), ValueError, "hop-by-hop"),
    ],
)
def test_wrong_header_is_told_with_what_it_is_and_what_wsgi_wants(header: Any, kind: type, why: str) -> None:
    with pytest.raises(kind, match=re.escape(why)) as caught:
        line_of(header, Names())
    assert str(caught.value).startswith(f"a header is {header!r}: ")
    assert str(caught.value).count(HEADERS) == 1
    assert caught.value.__suppress_context__


def test_value_of_another_class_of_str_is_taken_as_plain_text() -> None:
    assert type(text_of("A", Text("b"))) is str


def test_what_wsgi_wants_is_said_once() -> None:
    header = ("A", "b" * 5000)
    said = str(wrong_header(header, ValueError("it is odd")))
    assert said.endswith(f": it is odd; {HEADERS}")
    assert len(said) < 300
    assert str(wrong_header("x", TypeError(f"y; {HEADERS}"))) == f"a header is 'x': y; {HEADERS}"
