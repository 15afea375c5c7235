"""The options that serving commands share."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from treadle._cli.commands import commands
from treadle._cli.echo import echo
from treadle._cli.options.table import SHARED, Option, from_limits, with_options
from treadle._cli.options.values import Count, PerSecond, Seconds, Size, UrlPath
from treadle._cli.tcp import tcp
from treadle._cli.web.wsgi import wsgi
from treadle.server import Limits

DOCS = Path(__file__).parents[3] / "docs"
BY_CODE_ONLY = {  # few need them
    "max_unsent",
    "spool_memory",
    "spool_file",
    "spool_folder",
    "min_rate_grace",
    "linger_timeout",
    "max_linger_bytes",
}


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
    # Not `reject_messages_with`: it is bytes, and an empty one is written as such.
    [
        field.name
        for field in fields(Limits)
        if str(field.type).endswith("| None") and field.name not in BY_CODE_ONLY | {"reject_messages_with"}
    ],
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
    context = tcp.make_context("tcp", ["app:f", "--drain-timeout", "0", "--queue-size", "0"])
    assert (context.params["drain_timeout"], context.params["queue_size"]) == (0, 0)


def test_what_was_begun_may_be_given_as_long_as_it_takes(tmp_path: Path) -> None:
    path = tmp_path / "treadle.toml"
    path.write_text('[tcp]\ndrain-timeout = "none"\n')
    for arguments in (["--drain-timeout", "none"], ["--config", str(path)]):
        context = tcp.make_context("tcp", ["app:f", *arguments], auto_envvar_prefix="TREADLE_TCP")
        assert context.params["drain_timeout"] is None


SEVERAL = ["127.0.0.1:5001", "[::1]:5002", "unix:/run/x"]


@pytest.mark.parametrize("way", ["flags", "file", "commas", "blanks"])
def test_it_may_listen_at_several_addresses(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "treadle.toml"
    path.write_text(f"[tcp]\nbind = {SEVERAL}\n")
    arguments = [part for one in SEVERAL for part in ("--bind", one)] if way == "flags" else []
    if way == "file":
        arguments = ["--config", str(path)]
    elif way != "flags":
        monkeypatch.setenv("TREADLE_TCP_BIND", (", " if way == "commas" else " ").join(SEVERAL))
    context = tcp.make_context("tcp", ["app:f", *arguments], auto_envvar_prefix="TREADLE_TCP")
    assert [bind.text for bind in context.params["bind"]] == SEVERAL


def test_a_path_in_a_flag_or_a_file_may_hold_what_separates_addresses_in_a_variable(tmp_path: Path) -> None:
    path = tmp_path / "treadle.toml"
    path.write_text('[tcp]\nbind = "unix:/run/a, b"\n')
    for arguments in (["--bind", "unix:/run/a, b"], ["--config", str(path)]):
        context = tcp.make_context("tcp", ["app:f", *arguments], auto_envvar_prefix="TREADLE_TCP")
        assert [bind.path for bind in context.params["bind"]] == ["/run/a, b"]


def test_the_level_of_the_log_depends_on_quiet_unless_it_is_given() -> None:
    for arguments, level in (
        ([], "info"),
        (["--quiet"], "warning"),
        (["--quiet", "--log-level", "INFO"], "info"),
        (["--log-level", "debug", "--quiet"], "debug"),
    ):
        context = echo.make_context("echo", list(arguments))
        assert context.params["log_level"] == level


def test_a_printed_file_leaves_a_quiet_command_quiet(tmp_path: Path) -> None:
    path = tmp_path / "printed.toml"
    path.write_text(CliRunner().invoke(commands, ["echo", "--print-config"]).stdout)
    for arguments, level in (([], "info"), (["--quiet"], "warning"), (["--quiet", "--log-level", "debug"], "debug")):
        context = echo.make_context("echo", ["--config", str(path), *arguments])
        assert context.params["log_level"] == level


def rows_of(name: str) -> dict[str, tuple[str, str]]:
    """Return, by flag, the key and the default that a document's table of options gives."""
    rows = re.findall(
        r"^\| `(--[\w-]+|MODULE:HANDLER)` \| (\S*) ?\| (.*?) ?\| .+ \|$", (DOCS / name).read_text(), re.MULTILINE
    )
    return {flag: (key.strip("`"), default) for flag, key, default in rows}


@pytest.mark.parametrize("name", ["server.md", "server.zh.md"])
def test_every_option_stands_in_the_table_of_the_documents_and_no_other(name: str) -> None:
    rows = rows_of(name)
    flags = {"MODULE:HANDLER" if option.name == "handler" else option.opts[0]: option for option in tcp.params}
    assert set(rows) == set(flags)
    for flag, (key, default) in rows.items():
        option = flags[flag]
        assert key == (option.opts[0].lstrip("-") if option.expose_value else "")
        if type(option.default) in (int, float, str):
            assert default == f"`{str(option.default).removesuffix('.0')}`", flag
        elif option.name in Limits.__slots__ and option.name not in ("reject_connections_with", "reject_messages_with"):
            assert default == "`none`", flag


@pytest.mark.parametrize(
    ("command", "name"), [(tcp, "server.md"), (tcp, "server.zh.md"), (wsgi, "web.md"), (wsgi, "web.zh.md")]
)
def test_documents_give_all_choices(command: click.Command, name: str) -> None:
    for option in command.params:
        if isinstance(option.type, click.Choice):
            (row,) = re.findall(rf"^\| `{option.opts[0]}` .*$", (DOCS / name).read_text(), re.MULTILINE)
            assert all(f"`{choice}`" in row for choice in option.type.choices), row


# How the documents of `treadle wsgi` call the units of its options.
UNITS = {
    "web.md": {Size: "bytes", Seconds: "seconds", Count: "number", PerSecond: ".+ a second", UrlPath: "path"},
    "web.zh.md": {Size: "字节", Seconds: "秒", Count: "个", PerSecond: ".+每秒", UrlPath: "路径"},
}


@pytest.mark.parametrize("name", UNITS)
def test_every_option_of_a_web_server_stands_in_its_documents_with_its_unit_and_default(name: str) -> None:
    found = re.findall(
        r"^\| `(--[\w-]+|MODULE:APP)` \| (.*?) ?\| (.*?) ?\| .+ \|$", (DOCS / name).read_text(), re.MULTILINE
    )
    rows = {flag: (unit, default) for flag, unit, default in found}
    flags = {"MODULE:APP" if option.name == "app" else option.opts[0]: option for option in wsgi.params}
    assert len(found) == len(rows)
    assert set(rows) == set(flags)
    for flag, (unit, default) in rows.items():
        option = flags[flag]
        if type(option.type) in UNITS[name]:
            assert re.fullmatch(UNITS[name][type(option.type)], unit), flag
        if type(option.default) in (int, float, str) and option.default != "":
            assert default == f"`{str(option.default).removesuffix('.0')}`", flag
        elif isinstance(option.default, tuple):
            assert default == f"`{option.default[0]}`", flag
        else:  # there is none
            assert default.startswith("`") == (option.name in ("script_name", "log_level")), flag


@pytest.mark.parametrize("name", ["coming-from.md", "coming-from.zh.md"])
def test_options_beside_those_of_other_servers_exist_and_have_the_defaults_that_are_told(name: str) -> None:
    options = {option.opts[0]: option for option in wsgi.params} | {"MODULE:APP": wsgi.params[1]}
    rows = re.findall(r"^\| .*?\| (`-.*?|`MODULE:APP`) \| (.*?) ?\| [^|]*\|$", (DOCS / name).read_text(), re.MULTILINE)
    assert len(rows) >= 40
    for flags, default in rows:
        for flag in re.findall(r"`([^`]+)`", flags):
            option = options[flag]
            if default.startswith("`"):
                told = option.default[0] if isinstance(option.default, tuple) else option.default
                assert option.name == "log_level" or default in (f"`{str(told).removesuffix('.0')}`", '`""`'), flag


@pytest.mark.parametrize("name", UNITS)
def test_each_status_that_an_option_names_stands_in_its_row(name: str) -> None:
    for option in wsgi.params:
        for status in re.findall(r"\((\d{3})\)", getattr(option, "help", None) or ""):
            (row,) = re.findall(rf"^\| `{option.opts[0]}` .*$", (DOCS / name).read_text(), re.MULTILINE)
            assert status in row


def test_a_command_has_the_options_that_it_asks_for_in_that_order_with_its_own_defaults() -> None:
    own = Option("--loud", is_flag=True)

    @with_options({"Where": ("loud", "bind"), "Else": ("threads",)}, own=[own], threads={"default": 3})
    def command(**options: object) -> None:
        """Do nothing."""

    params = click.command(command).params
    assert [param.name for param in params] == ["loud", "bind", "threads"]
    assert params[-1].default == 3
    shared = {option.name: option for option in SHARED}
    assert "default" not in shared["threads"]._how


def test_no_two_options_have_the_same_name() -> None:
    names = [option.name for option in SHARED]
    assert len(set(names)) == len(names)


def test_an_option_may_be_called_otherwise_than_the_limit_that_it_sets() -> None:
    option = from_limits("--request-timeout", Seconds(none=True), "Time.", field="handler_timeout")
    assert (option.name, option._how["default"]) == ("request_timeout", "none")
