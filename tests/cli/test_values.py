"""The kinds of value that options take."""

from __future__ import annotations

import click
import pytest

from treadle.cli.values import BindTo, FramingNamed, PerSecond, Seconds, is_toml_value_for


def test_where_to_listen_is_parsed_and_what_is_wrong_in_it_is_said() -> None:
    where = BindTo().convert("[::1]:5000", None, None)
    assert (where.host, where.port) == ("::1", 5000)
    assert BindTo().convert(where, None, None) is where
    with pytest.raises(click.BadParameter, match=r"^'5000' is not HOST:PORT"):
        BindTo().convert("5000", None, None)


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
    "text", ["line", "lines=3", "delimiter", "length-prefix", "length-prefix=x", "length-prefix=2,middle"]
)
def test_what_is_no_framing_is_said(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is no framing.*allowed: raw, lines, delimiter=BYTES"):
        FramingNamed().convert(text, None, None)


@pytest.mark.parametrize("text", ["0.001", "60", "1e3", 5])
def test_seconds_are_positive_numbers(text: str) -> None:
    assert Seconds().convert(text, None, None) == float(text)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", ""])
def test_seconds_refuse_what_no_timeout_can_be(text: str) -> None:
    with pytest.raises(click.BadParameter, match="seconds"):
        Seconds().convert(text, None, None)


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
