"""What the serving commands share. Most of it is shown by the commands: test_echo.py and test_tcp.py."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    "name",
    # Not `refusal`: it is bytes, and an empty one is written as such.
    [field.name for field in fields(Limits) if str(field.type).endswith("| None") and field.name != "refusal"],
)
def test_a_limit_that_may_be_none_is_set_so_by_flag_and_environment_and_file(name: str, tmp_path: Path) -> None:
    flag = name.replace("_", "-")
    path = tmp_path / "treadle.toml"
    path.write_text(f'[tcp]\n{flag} = "none"\n')
    for arguments, variable in (([f"--{flag}", "none"], {}), ([], {name: "none"}), (["--config", str(path)], {})):
        with pytest.MonkeyPatch.context() as patch:
            for key, value in variable.items():
                patch.setenv(f"TREADLE_TCP_{key.upper()}", value)
            context = tcp.make_context("tcp", ["app:f", *arguments], auto_envvar_prefix="TREADLE_TCP")
        assert context.params[name] is None


def test_what_was_begun_may_be_given_no_time_at_all() -> None:
    """As `stop(0)` does."""
    context = tcp.make_context("tcp", ["app:f", "--drain", "0", "--queue-size", "0"])
    assert (context.params["drain"], context.params["queue_size"]) == (0, 0)
