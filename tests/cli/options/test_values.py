"""The kinds of value that options take."""

from __future__ import annotations

import re
import tomllib

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle._cli.options.values import (
    BindTo,
    Count,
    Escaped,
    FramingNamed,
    Names,
    Number,
    PerSecond,
    Seconds,
    Size,
    Trusted,
    UrlPath,
    escaped,
    in_toml,
    is_toml_value_for,
    sized,
    unescaped,
    written,
)


def test_where_to_listen_is_parsed_and_what_is_wrong_in_it_is_said() -> None:
    where = BindTo().convert("[::1]:5000", None, None)
    assert (where.host, where.port) == ("::1", 5000)
    assert BindTo().convert(where, None, None) is where
    with pytest.raises(click.BadParameter, match=r"^'5000' is not HOST:PORT"):
        BindTo().convert("5000", None, None)


def test_whom_to_trust_is_parsed_by_commas_and_what_is_wrong_in_it_is_said() -> None:
    assert Trusted().convert("10.0.0.0/8, ::1,unix", None, None) == ("10.0.0.0/8", "::1", "unix")
    assert Trusted().convert(("::1",), None, None) == ("::1",)
    with pytest.raises(click.BadParameter, match=r"^'proxy.example' is not an address or a network"):
        Trusted().convert("::1,proxy.example", None, None)


@pytest.mark.parametrize("text", ["127.0.0.1:1,::1", "127.0.0.1:1 ::1", " 127.0.0.1:1,  ::1,\n"])
def test_several_addresses_in_a_variable_are_separated_by_commas_or_blanks(text: str) -> None:
    for kind in (BindTo(), Trusted()):
        assert kind.split_envvar_value(text) == ["127.0.0.1:1", "::1"]


@pytest.mark.parametrize(
    ("text", "framing"),
    [
        ("raw", "Raw()"),
        ("lines", "Lines()"),
        ("delimiter=--", "Delimiter(b'--')"),
        (r"delimiter=\r\n\x00", r"Delimiter(b'\r\n\x00')"),
        ("delimiter==", "Delimiter(b'=')"),
        ("length-prefix=4", "LengthPrefix(4, 'big')"),
        ("length-prefix=2,little", "LengthPrefix(2, 'little')"),
    ],
)
def test_a_framing_is_named(text: str, framing: str) -> None:
    made = FramingNamed().convert(text, None, None)
    assert repr(made) == framing
    assert FramingNamed().convert(made, None, None) is made


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("line", ""),
        ("lines=3", ""),
        ("delimiter", ""),
        ("delimiter=", ": BYTES are missing, and must be one byte or more"),
        (r"delimiter=\q", r": \\q is no escape"),
        ("length-prefix", ""),
        ("length-prefix=", ": SIZE is '', and must be 1 to 8 bytes"),
        ("length-prefix=x", ": SIZE is 'x', and must be 1 to 8 bytes"),
        ("length-prefix=9", ": SIZE is '9', and must be 1 to 8 bytes"),
        ("length-prefix=2,middle", ": the order is 'middle', and must be big or little"),
    ],
)
def test_what_is_no_framing_is_said_with_what_is_allowed_once(text: str, why: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is no framing" + why) as caught:
        FramingNamed().convert(text, None, None)
    assert str(caught.value).count("allowed: ") == 1
    assert "allowed: raw, lines, delimiter=BYTES" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("busy", b"busy"),
        ("", b""),
        (r"a\n\r\t\\n", b"a\n\r\t\\n"),
        (r"\0\x00\xfF\377\1", b"\0\0\xff\xff\1"),
        ("谢谢", "谢谢".encode()),
    ],
)
def test_bytes_are_written_with_escapes(text: str, data: bytes) -> None:
    assert Escaped().convert(text, None, None) == data
    assert Escaped().convert(data, None, None) == data


@pytest.mark.parametrize("text", [r"\q", "\\", r"\x1", r"\u4e2d", r"\400"])
def test_an_escape_that_stands_for_no_byte_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is no escape|is more than a byte"):
        Escaped().convert(text, None, None)


@pytest.mark.parametrize("text", ["0.001", "60", "1e3", 5])
def test_seconds_are_positive_numbers(text: str) -> None:
    assert Seconds().convert(text, None, None) == float(text)


def test_none_is_no_limit_where_that_is_allowed() -> None:
    for kind in (Seconds(none=True), PerSecond(none=True), Count(none=True)):
        assert kind.convert("none", None, None) is kind.convert("NONE", None, None) is None
        assert is_toml_value_for(kind, "none")


def test_zero_is_allowed_where_it_means_something() -> None:
    assert Seconds(zero=True).convert("0", None, None) == 0
    assert Count(zero=True).convert(0, None, None) == 0


@pytest.mark.parametrize("text", ["1.5", "many", "", "inf"])
def test_counts_are_whole_numbers(text: str) -> None:
    assert Count().convert("7", None, None) == 7
    with pytest.raises(click.BadParameter, match=f"^'{text}' is not a whole number; allowed: more than 0$"):
        Count().convert(text, None, None)


@pytest.mark.parametrize(
    ("kind", "value", "allowed"),
    [
        (Count(), "0", "more than 0"),
        (Count(), "-1", "more than 0"),
        (Count(none=True), -1, "more than 0, or none for no limit"),
        (Count(zero=True), "-1", "0 or more"),
        (Seconds(), "0", "more than 0 seconds"),
        (Seconds(), "inf", "more than 0 seconds"),
        (Seconds(zero=True, none=True), "-0.5", "0 seconds or more, or none for no limit"),
        (Seconds(none=True), "1e999", "more than 0 seconds, or none for no limit"),
        (PerSecond(none=True), "0", "more than 0 a second, or none for no limit"),
        (PerSecond(), "-inf", "more than 0 a second"),
    ],
)
def test_a_number_out_of_range_is_said_to_be_one(kind: Number, value: object, allowed: str) -> None:
    with pytest.raises(click.BadParameter, match=f"^{re.escape(repr(value))} is out of range; allowed: {allowed}$"):
        kind.convert(value, None, None)


@pytest.mark.parametrize("kind", [Seconds(), PerSecond()])
@pytest.mark.parametrize("text", ["nan", "soon", "", "none", "1,5"])
def test_what_is_no_number_is_said_to_be_none(kind: Number, text: str) -> None:
    with pytest.raises(click.BadParameter, match=f"^'{text}' is not a {kind.what}; allowed: more than 0"):
        kind.convert(text, None, None)


@pytest.mark.parametrize(
    ("kind", "value", "fits"),
    [
        (click.IntRange(1), 5, True),
        (click.IntRange(1), True, False),
        (click.IntRange(1), 5.5, False),
        (click.IntRange(1), "5", False),
        (Seconds(), 5, True),
        (Seconds(), 0.5, True),
        (Seconds(), False, False),
        (Seconds(), "5", False),
        (Seconds(), "none", False),
        (Count(), 5, True),
        (Count(), 5.5, False),
        (Count(), True, False),
        (PerSecond(), 5, True),
        (PerSecond(), "5", False),
        (BindTo(), "a:1", True),
        (BindTo(), 5000, False),
        (click.BOOL, True, True),
        (click.BOOL, 1, False),
    ],
)
def test_toml_values_keep_their_type(kind: object, value: object, fits: bool) -> None:
    assert is_toml_value_for(kind, value) is fits


@given(st.binary() | st.text().map(str.encode))
def test_bytes_are_written_as_they_are_read(data: bytes) -> None:
    text = escaped(data)
    assert unescaped(text) == data
    assert text.isprintable()


def test_bytes_are_written_to_be_read_by_people() -> None:
    assert escaped("BUSY \\ 谢谢\r\n\0".encode() + b"\xff") == r"BUSY \\ 谢谢\r\n\x00\xff"


@given(st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans())
def test_a_value_in_toml_is_read_as_the_same(value: bool | float | str) -> None:
    assert tomllib.loads(f"key = {in_toml(value)}") == {"key": value}


def test_a_backslash_in_toml_stays_one() -> None:
    assert in_toml(r"BUSY\n") == r"'BUSY\n'"
    assert in_toml(r"it's\n") == '"it\'s\\\\n"'


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (BindTo(), "[::1]:5000"),
        (BindTo(), "unix:/run/app.sock?mode=660"),
        (Trusted(), "10.0.0.0/8,::1,unix"),
        (FramingNamed(), "raw"),
        (FramingNamed(), "lines"),
        (FramingNamed(), r"delimiter=\r\n"),
        (FramingNamed(), "length-prefix=4"),
        (FramingNamed(), "length-prefix=2,little"),
        (Escaped(), r"BUSY\n"),
        (Seconds(), 0.5),
        (Count(), 7),
        (click.STRING, "text"),
        (click.BOOL, True),
    ],
)
def test_what_is_converted_can_be_written_again(kind: click.ParamType[object], text: object) -> None:
    value = written(kind.convert(text, None, None))
    assert value == text
    assert is_toml_value_for(kind, value)


@pytest.mark.parametrize(
    ("text", "size"),
    [("65536", 65536), (7, 7), ("64k", 65536), ("64K", 65536), (" 1m ", 1 << 20), ("3g", 3 << 30)],
)
def test_a_size_may_have_a_unit(text: str | int, size: int) -> None:
    assert Size().convert(text, None, None) == size
    assert is_toml_value_for(Size(), text)


@pytest.mark.parametrize("text", ["", "k", "1.5m", "1kb", "1 t", "-1k", "0"])
def test_what_is_no_size_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"allowed: more than 0, as 65536, 64k, 1m or 1g"):
        Size().convert(text, None, None)
    assert not is_toml_value_for(Size(), 1.5)


@given(st.integers(min_value=0, max_value=1 << 50))
def test_a_size_is_said_as_it_may_be_given(size: int) -> None:
    assert Size(zero=True).convert(sized(size).removesuffix(" bytes"), None, None) == size


def test_names_in_a_variable_are_separated_by_commas_or_blanks() -> None:
    assert Names().split_envvar_value("token, key  user") == ["token", "key", "user"]


@pytest.mark.parametrize("text", ["/", "/healthz", "/a/b.c-d~e", "/%20"])
def test_a_path_of_a_url_begins_with_a_slash(text: str) -> None:
    assert UrlPath().convert(text, None, None) == text


@pytest.mark.parametrize("text", ["", "healthz", "/a b", "/a?b", "/a#b", "/ä", "/a\n"])
def test_what_is_no_path_of_a_url_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is no path; it begins with a slash|which a path has not"):
        UrlPath().convert(text, None, None)
    assert UrlPath(empty=True).convert("", None, None) == ""
