"""The kinds of value that options take."""

from __future__ import annotations

import click
import pytest

from treadle.cli.values import Address, HostPort, Seconds, is_toml_value_for


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:5000", ("127.0.0.1", 5000)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("example.test:08", ("example.test", 8)),
    ],
)
def test_host_and_port_are_taken_apart(text: str, address: tuple[str, int]) -> None:
    assert HostPort().convert(text, None, None) == address


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("5000", "not HOST:PORT"),
        (":5000", "0.0.0.0:5000 listens on every address"),
        ("::1:5000", r"in brackets"),
        ("host:65536", "0 to 65535"),
        ("host:-1", "not a port"),
        ("host:", "not a port"),
        ("host:http", "not a port"),
        ("host:٣", "not a port"),
    ],
)
def test_what_is_wrong_in_an_address_is_said(text: str, complaint: str) -> None:
    with pytest.raises(click.BadParameter, match=complaint):
        HostPort().convert(text, None, None)


def test_an_address_is_written_as_it_is_read() -> None:
    for text in ("127.0.0.1:5000", "[::1]:5000"):
        assert str(HostPort().convert(text, None, None)) == text
    assert HostPort().convert(Address("a", 1), None, None) == Address("a", 1)


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
        (HostPort(), "a:1", True),
        (HostPort(), 5000, False),
    ],
)
def test_toml_values_keep_their_type(kind: object, value: object, fits: bool) -> None:
    assert is_toml_value_for(kind, value) is fits
