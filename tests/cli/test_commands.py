"""The group of commands."""

from __future__ import annotations

import re
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from textwrap import dedent

import click
import pytest

from programs import TREADLE, Program, run
from treadle._cli.commands import commands
from treadle._cli.options.config import ConfiguredCommand


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


def test_help_says_where_more_is_said_and_shows_commands_that_work() -> None:
    _, out, _ = run(*TREADLE, "--help")
    assert "docs/server.md" in out
    assert run(sys.executable, *re.findall(r"python (-m pydoc \S+)", out)[0].split())[0] == 0
    examples = re.findall(r"(?m)^ +(treadle echo --\S+)", out)
    assert examples
    for example in examples:
        assert run(*TREADLE, *example.split()[1:])[0] == 0


def test_the_version_that_a_dockerfile_installs_is_no_option() -> None:
    status, _, error = run(*TREADLE, "echo", "--print-config", env={"TREADLE_VERSION": "1.2"})
    assert status == 0
    assert "TREADLE_VERSION is unknown" in error


@pytest.mark.parametrize("name", sorted(commands.commands))
def test_the_examples_of_a_command_work(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are run as they stand, with what is to be served in the file that they name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "src"))
    _, out, _ = run(*TREADLE, name, "--help", env={"COLUMNS": "200"})
    examples = out.partition("Example")[2]
    program = re.search(r"(?m)^( +)(def .*\n)(\1 .*\n)+", examples)
    if program:
        (tmp_path / "app.py").write_text(dedent(program[0]))
    lines = re.findall(r"(?m)^ +((?:[A-Z_]+=\S+ )?treadle .*)$", examples)
    assert lines
    for line in lines:
        variables, command = re.findall(r"^((?:[A-Z_]+=\S+ )*)treadle (.*)$", line)[0]
        if "--print-config" in command:
            assert run("sh", "-c", f'{variables}"$@" {command}', "sh", *TREADLE)[0] == 0
        else:
            with Program(["sh", "-c", f'exec "$@" {command} --bind 127.0.0.1:0', "sh", *TREADLE]) as server:
                server.wait_for_port()
                server.send(signal.SIGTERM)
                assert server.wait() == 0


@pytest.mark.parametrize("columns", ["40", "80", "200"])
@pytest.mark.parametrize("name", sorted(commands.commands))
def test_help_fits_the_terminal_and_breaks_no_variable(name: str, columns: str) -> None:
    _, out, _ = run(*TREADLE, name, "--help", env={"COLUMNS": columns})
    variables = [f"TREADLE_{name.upper()}_{str(param.name).upper()}" for param in commands.commands[name].params]
    words = set(re.findall(r"\w+", out))
    assert [variable for variable in variables if variable not in words] == [f"TREADLE_{name.upper()}_PRINT_CONFIG"]
    if columns != "40":  # where examples, and the longest variables, are longer than a line
        assert [line for line in out.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("name", sorted(commands.commands))
def test_every_option_has_a_title_and_says_its_variable(name: str) -> None:
    command = commands.commands[name]
    assert isinstance(command, ConfiguredCommand)
    titled = [name for names in command.groups.values() for name in names]
    assert sorted(titled) == sorted(str(param.name) for param in command.params if param.expose_value)
    _, out, _ = run(*TREADLE, name, "--help")
    for option in titled:
        assert f"[env var: TREADLE_{name}_{option}".upper() in out.upper()


@pytest.mark.parametrize("name", sorted(commands.commands))
def test_every_option_says_what_it_does(name: str) -> None:
    command = commands.commands[name]
    assert command.help
    bare = [option.opts for option in command.params if isinstance(option, click.Option) and not option.help]
    assert not bare
