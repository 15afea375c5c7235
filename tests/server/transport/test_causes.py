"""By what connections are counted: names that stay, whatever words the log or the system has."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import fields

import pytest

from treadle.server import Limits, ServerSnapshot
from treadle.server._transport import causes as module
from treadle.server._transport.causes import cause_of


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
def test_a_limit_is_counted_by_its_name(name: str) -> None:
    assert cause_of(name) == name


def test_what_tls_says_is_one_name() -> None:
    assert cause_of("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:2580)") == "tls_error"


@pytest.mark.parametrize("words", [os.strerror(errno.ECONNRESET), os.strerror(errno.EPIPE), "SSLEOFError", "whatever"])
def test_what_the_system_says_is_no_name(words: str) -> None:
    assert cause_of(words) == "connection_lost"


def test_every_name_is_an_identifier_and_stands_in_the_docstring() -> None:
    names = {cause_of(getattr(module, constant)) for constant in module.__all__ if constant.isupper()}
    assert len(names) == len([constant for constant in module.__all__ if constant.isupper()])
    told = set(re.findall(r'"(\w+)"', str(ServerSnapshot.__doc__).partition("closed_by:")[2]))
    assert names | {"evicted", "framing", "connection_lost", "tls_error"} <= told
    assert all(name.isidentifier() for name in told)
