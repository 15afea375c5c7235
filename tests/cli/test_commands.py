"""The group of commands."""

from __future__ import annotations

from importlib.metadata import version

import click
import pytest

from programs import TREADLE, run
from treadle._cli.commands import commands


def test_help_lists_every_command() -> None:
    status, out, _ = run(*TREADLE, "--help")
    assert status == 0
    assert all(name in out for name in commands.commands)


def test_version_is_that_of_the_package() -> None:
    status, out, _ = run(*TREADLE, "--version")
    assert (status, out.split()[-1]) == (0, version("treadle"))


def test_an_unknown_command_is_status_2_with_a_suggestion() -> None:
    status, _, error = run(*TREADLE, "ecko")
    assert status == 2
    assert "'echo'" in error


@pytest.mark.parametrize("name", sorted(commands.commands))
def test_every_option_says_what_it_does(name: str) -> None:
    command = commands.commands[name]
    assert command.help
    bare = [option.opts for option in command.params if isinstance(option, click.Option) and not option.help]
    assert not bare
