"""Keys: how fields are called in an environ, and which names the quick way may ever know."""

from __future__ import annotations

import pytest

from treadle.server._protocols.http.grammar import is_token
from treadle.server._protocols.http.keys import LONGEST, MOST, Keys, key_of

# What the careful way has to see: it may end the connection, or say how long the body is.
CAREFUL = ["Transfer-Encoding", "Expect", "Upgrade"]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Host", "HTTP_HOST"),
        ("x-forwarded-for", "HTTP_X_FORWARDED_FOR"),
        ("Content-Type", "CONTENT_TYPE"),
        ("content-length", "CONTENT_LENGTH"),
        ("CONTENT-LENGTH", "CONTENT_LENGTH"),
        ("Content-Encoding", "HTTP_CONTENT_ENCODING"),
        ("Content", "HTTP_CONTENT"),
        ("a", "HTTP_A"),
        ("a.b!c", "HTTP_A.B!C"),
    ],
)
def test_keys_are_those_of_rfc_3875_section_4_1_18(name: str, key: str) -> None:
    assert key_of(name) == key


@pytest.mark.parametrize("name", ["Host", "User-Agent", "Content-Length", "Content-Type", "Cookie", "Sec-CH-UA", "DNT"])
def test_known_names_are_known_as_they_are_sent(name: str) -> None:
    """As documents write them, in small letters, and with capitals as some libraries set them."""
    keys = Keys()
    assert keys[name] == keys[name.lower()] == keys[name.title()] == key_of(name)


def test_each_known_name_has_its_key() -> None:
    keys = Keys()
    assert all(is_token(name) and key == key_of(name) for name, key in keys.items())
    assert all({name, name.lower(), name.title()} <= keys.keys() for name in keys)
    assert len({name.lower() for name in keys}) >= 70


def test_none_has_an_underscore_and_none_is_for_the_careful_way_alone() -> None:
    names = {name.lower() for name in Keys()}
    assert not any("_" in name for name in names)
    assert names.isdisjoint(name.lower() for name in CAREFUL)


def test_a_name_that_is_not_known_is_none_of_its_neighbours() -> None:
    with pytest.raises(KeyError):
        Keys()["hOST"]


@pytest.mark.parametrize("name", ["X-Shop", "hOST", "a"])
def test_a_name_is_learnt_as_it_was_sent(name: str) -> None:
    keys = Keys()
    before = set(keys)
    keys.learn(name)
    assert keys[name] == key_of(name)
    assert set(keys) == before | {name}


@pytest.mark.parametrize("name", [form(name) for name in CAREFUL for form in (str, str.lower, str.upper, str.swapcase)])
def test_what_the_careful_way_has_to_see_is_never_learnt(name: str) -> None:
    keys = Keys()
    keys.learn(name)
    assert name not in keys


@pytest.mark.parametrize("name", ["X_Shop", "_", "Content_Length", "X-Forwarded_For"])
def test_a_name_with_an_underscore_is_never_learnt(name: str) -> None:
    """Its key is that of another, in whose place it would speak."""
    keys = Keys()
    keys.learn(name)
    assert name not in keys


def test_a_long_name_is_not_learnt() -> None:
    assert LONGEST == 64
    keys = Keys()
    for name in ("x" * LONGEST, "y" * (LONGEST + 1)):
        keys.learn(name)
    assert "x" * LONGEST in keys
    assert "y" * (LONGEST + 1) not in keys


def test_so_many_names_are_learnt_and_no_more() -> None:
    assert MOST == 1000
    keys = Keys()
    known = dict(keys)
    for number in range(MOST + 10):
        keys.learn(f"X-{number}")
    assert len(keys) == len(known) + MOST
    assert f"X-{MOST - 1}" in keys
    assert f"X-{MOST}" not in keys
    assert known.items() <= keys.items()


def test_each_has_names_of_its_own() -> None:
    Keys().learn("X-Shop")
    assert "X-Shop" not in Keys()
