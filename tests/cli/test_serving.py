"""What the serving commands share. Most of it is shown by the commands: test_echo.py and test_tcp.py."""

from __future__ import annotations

from dataclasses import fields

from treadle.cli.echo import echo
from treadle.cli.tcp import tcp
from treadle.server import Limits

BY_CODE_ONLY = {"write_buffer", "rate_grace", "linger", "linger_bytes"}  # few need them


def test_every_limit_is_an_option_with_the_same_default() -> None:
    for command in (echo, tcp):
        options = {option.name: option for option in command.params}
        for field in fields(Limits):
            if field.name not in BY_CODE_ONLY:
                assert options[field.name].default == field.default or field.default is None


def test_both_commands_have_the_same_options() -> None:
    own = {"handler", "framing", "session", "speaks_first"}
    assert {option.name for option in tcp.params} - own == {option.name for option in echo.params}
