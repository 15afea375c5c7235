"""Names: which fields an application may have in its answers, and how many names are kept."""

from __future__ import annotations

from typing import Any

import pytest

from treadle.server._protocols.wsgi.answering.names import HEADERS, LONGEST, MOST, Names


@pytest.mark.parametrize("name", ["Link", "X-Powered-By", "set-cookie", "x_under", "!#$%&'*+-.^_`|~0aZ"])
def test_line_begins_with_the_name_as_the_application_writes_it(name: str) -> None:
    names = Names()
    assert names.learn(name) == f"{name}: "
    assert names == {name: f"{name}: "}


@pytest.mark.parametrize("name", ["Content-Length", "content-length", "DATE", "Server"])
def test_what_the_server_has_a_say_in_is_looked_at_each_time(name: str) -> None:
    names = Names()
    assert names.learn(name) == ""
    assert names.get(name) == ""


@pytest.mark.parametrize(
    "name",
    [
        "Connection",
        "Keep-Alive",
        "Proxy-Authenticate",
        "Proxy-Authorization",
        "Proxy-Connection",
        "TE",
        "Trailer",
        "Trailers",
        "Transfer-Encoding",
        "UPGRADE",
    ],
)
def test_what_is_said_of_one_connection_is_not_the_applications_to_say(name: str) -> None:
    names = Names()
    with pytest.raises(ValueError, match=f"the header {name} is hop-by-hop: .*PEP 3333"):
        names.learn(name)
    assert not names


@pytest.mark.parametrize("name", ["", "A B", "A:", " A", "A ", "A\r\nB", "A\n", "A\0", "Ä", "A\u212a", "(A)", "A/B"])
def test_no_token_is_no_name(name: str) -> None:
    names = Names()
    with pytest.raises(ValueError, match=r"a header's name is .*, which is no token \(RFC 9110, section 5.6.2\)"):
        names.learn(name)
    assert not names


@pytest.mark.parametrize("name", [b"Link", None, 7])
def test_name_that_is_no_str_is_told_with_what_wsgi_wants(name: Any) -> None:
    with pytest.raises(TypeError, match=r"a header's name is .*, (bytes|NoneType|int); ") as caught:
        Names().learn(name)
    assert str(caught.value).endswith(HEADERS)


def test_names_that_an_application_makes_up_are_kept_to_a_ceiling_and_no_long_one() -> None:
    names = Names()
    at_most, too_long = "n" * LONGEST, "n" * (LONGEST + 1)
    assert names.learn(too_long) == f"{too_long}: "
    assert not names
    names.learn(at_most)
    for number in range(MOST + 10):
        assert names.learn(f"X-{number}") == f"X-{number}: "
    assert len(names) == MOST
    assert at_most in names
