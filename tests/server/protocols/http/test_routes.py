"""Routes: which requests are of one kind, and that what is kept of them is bounded."""

from __future__ import annotations

import pytest

from treadle.server._protocols.http.routes import LONGEST, MOST, Routes

UUID = "123e4567-e89b-12d3-a456-426614174000"
LETTERS_UUID = "deadbeef-dead-beef-dead-beefdeadbeef"


@pytest.mark.parametrize(
    ("line", "route"),
    [
        ("GET /", "GET /"),
        ("OPTIONS *", "OPTIONS *"),
        ("GET /users", "GET /users"),
        ("GET /users/7", "GET /users/*"),
        ("GET /users/0123456789", "GET /users/*"),
        ("GET /7/users/8/", "GET /*/users/*/"),
        ("GET /1/2/3", "GET /*/*/*"),
        ("GET /7a", "GET /7a"),
        ("GET /a7", "GET /a7"),
        ("GET /v1/users", "GET /v1/users"),
        ("GET /-7", "GET /-7"),
        ("GET /7.5", "GET /7.5"),
        ("7 /a", "7 /a"),  # a method is no part of the path
        ("GET 7", "GET 7"),
    ],
)
def test_numbers_are_folded_where_they_are_a_whole_part(line: str, route: str) -> None:
    assert Routes().find(line) == route


@pytest.mark.parametrize(
    "uuid", [UUID, UUID.upper(), LETTERS_UUID, LETTERS_UUID.upper(), "a" * 8 + "-aaaa" * 3 + "-" + "a" * 12]
)
def test_uuids_are_folded(uuid: str) -> None:
    assert Routes().find(f"GET /orders/{uuid}/lines") == "GET /orders/*/lines"


@pytest.mark.parametrize(
    "near", [LETTERS_UUID[:-1], f"{LETTERS_UUID}a", LETTERS_UUID.replace("b", "g"), LETTERS_UUID[1:]]
)
def test_what_is_nearly_a_uuid_and_has_no_digit_is_kept(near: str) -> None:
    assert not any(char.isdigit() for char in near)
    assert Routes().find(f"GET /{near}/a") == f"GET /{near}/a"


@pytest.mark.parametrize(
    ("part", "folds"),
    [
        ("a" * 14 + "1", False),
        ("a" * 15 + "1", True),
        ("1" + "a" * 15, True),
        ("a" * 7 + "5" + "-" * 8, True),
        ("a" * 15 + "0", True),
        ("a" * 15 + "9", True),
        ("a" * 16, False),
        ("a" * 39, False),
        ("a" * 20 + "1", True),
        ("a" * 40, True),
        ("a" * 50, True),
    ],
)
def test_long_tokens_are_folded_if_they_have_a_digit_or_are_longer_still(part: str, folds: bool) -> None:
    for path, folded in ((f"/{part}", "/*"), (f"/{part}/a", "/*/a")):
        assert Routes().find(f"GET {path}") == f"GET {folded if folds else path}"


def test_a_digit_of_the_next_part_makes_no_token_of_this_one() -> None:
    assert Routes().find(f"GET /{'a' * 20}/b1") == f"GET /{'a' * 20}/b1"


def test_methods_have_routes_of_their_own() -> None:
    assert Routes().find("PUT /users/7") == "PUT /users/*" != Routes().find("GET /users/7")


def test_a_route_is_at_most_200_bytes() -> None:
    line = "GET " + "/abc" * 60
    assert Routes().find(line) == line[:200]
    assert LONGEST == 200


def test_it_is_cut_after_it_is_folded() -> None:
    assert Routes().find(f"GET /{'1' * 300}/a") == "GET /*/a"


def test_what_was_found_is_kept() -> None:
    routes = Routes()
    assert routes.find("GET /users/7") is routes.find("GET /users/7")
    assert routes == {"GET /users/7": "GET /users/*"}


@pytest.mark.parametrize(("longer", "kept"), [(0, 1), (1, 0)])
def test_a_path_that_is_long_is_not_kept(longer: int, kept: int) -> None:
    """Or what is kept would be as much as clients care to send."""
    routes = Routes()
    line = "GET /" + "a/" * 97 + "b" + "c" * longer
    assert len(line) == LONGEST + longer
    routes.find(line)
    assert len(routes) == kept


def test_it_begins_anew_when_it_is_full() -> None:
    assert MOST == 4096
    routes = Routes()
    for number in range(MOST):
        routes.find(f"GET /a/{number}")
    assert len(routes) == MOST
    assert routes.find("GET /a/0") == "GET /a/*"  # it is known, and makes nothing longer
    assert len(routes) == MOST
    assert routes.find("GET /b/1") == "GET /b/*"
    assert routes == {"GET /b/1": "GET /b/*"}
