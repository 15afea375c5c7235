"""Request: a record of what the decoder has found."""

from __future__ import annotations

import pytest

from treadle.server._protocols.http.request import Request


def test_it_holds_what_it_was_made_of() -> None:
    environ = {"REQUEST_METHOD": "GET"}
    request = Request(environ, "GET", "/users/7?a=b", "id-1", "GET /users/*", True, True)
    assert request.environ is environ
    assert (request.method, request.target, request.id) == ("GET", "/users/7?a=b", "id-1")
    assert (request.route, request.closes, request.old) == ("GET /users/*", True, True)


@pytest.mark.parametrize("closes", [False, True])
def test_it_is_not_old_and_has_neither_file_nor_entry_unless_told(closes: bool) -> None:
    request = Request({}, "GET", "/", "id-1", "GET /", closes)
    assert (request.closes, request.old, request.file, request.entry) == (closes, False, None, None)


def test_its_repr_says_method_and_target() -> None:
    assert repr(Request({}, "PUT", "/a?b=c", "id-1", "PUT /a", False)) == "<Request PUT /a?b=c>"


def test_it_takes_no_other_attributes() -> None:
    """One is made for each request, so a dict of its own would be dear."""
    assert not hasattr(Request({}, "GET", "/", "id-1", "GET /", False), "__dict__")
