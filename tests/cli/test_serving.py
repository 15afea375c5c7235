"""What the serving commands share. Most of it is shown by the commands: test_echo.py and test_tcp.py."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from programs import TREADLE, Program, run
from socketservers import until
from treadle._cli import serving
from treadle._cli.commands import commands
from treadle._cli.echo import echo
from treadle._cli.tcp import tcp
from treadle.orders import Fair, Fifo, Levels
from treadle.server import Limits, Lines, Messages, Session
from treadle.server._accept.listen import Listener
from treadle.server._group import leaders_of

DOCS = Path(__file__).parents[2] / "docs"
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


@pytest.mark.parametrize(
    ("kind", "options", "reserve"),
    [
        (None, [], None),
        (None, ["--reserve", "0"], None),
        (None, ["--reserve", "2"], 2),
        (bytes.lower, [], 1),
        (bytes.lower, ["--reserve", "3", "--order", "fair"], 3),
        (bytes.lower, ["--reserve", "0", "--order", "fair"], 0),
    ],
)
def test_slow_messages_leave_threads_to_others_within_the_order_as_those_of_a_server_do(
    kind: Callable[[bytes], bytes] | None, options: list[str], reserve: int | None
) -> None:
    context = tcp.make_context("tcp", ["app:f", "--threads", "8", *options])
    order = serving._order(Messages(lambda line, peer: line, Lines(), kind=kind), context.params)
    if reserve is None:
        assert order == context.params["order"]
        return
    assert isinstance(order, Levels)
    assert order.reserve == reserve * leaders_of(8)
    assert order.looks_at == (Fair() if "fair" in options else Fifo()).looks_at


def test_of_a_conversation_no_thread_is_reserved() -> None:
    context = tcp.make_context("tcp", ["app:f", "--session"])
    assert serving._order(Session(lambda conn: None), context.params) == "fifo"


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


INTERRUPTED_SPEAKER = """
import os, signal, click
from treadle.server._once import Once
from treadle._cli.serving import _be_a_child
class Wrong(click.ClickException):
    exit_code = 78
    def show(self, file=None):
        os.kill(os.getpid(), signal.SIGTERM)
        print("said", flush=True)
def make(): raise Wrong("it is wrong")
with Once() as served, Once() as complained:
    os._exit(_be_a_child(make, "", served, complained, None, [], 0))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no signal masks")
def test_what_is_wrong_is_said_to_its_end_though_the_parent_stops_all() -> None:
    """It does as soon as the first process has ended, which need not be the one that speaks."""
    assert run(sys.executable, "-c", INTERRUPTED_SPEAKER) == (78, "said\n", "")


def test_a_system_that_has_no_process_to_give_is_status_71(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(number: int, listeners: Sequence[Listener], *args: object, **options: object) -> int:
        for listener in listeners:  # as the end of the process does
            listener.sock.close()
        raise OSError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(serving, "serve_in_processes", refuse)
    result = CliRunner().invoke(echo, ["--bind", "127.0.0.1:0", "--processes", "2"])
    assert (result.exit_code, result.stdout) == (71, "")
    assert f"Error: [Errno {errno.EAGAIN}] no more processes" in result.stderr


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


def test_both_documents_give_the_same_choices() -> None:
    for option in tcp.params:
        if isinstance(option.type, click.Choice):
            for name in ("server.md", "server.zh.md"):
                (row,) = re.findall(rf"^\| `{option.opts[0]}` .*$", (DOCS / name).read_text(), re.MULTILINE)
                assert all(f"`{choice}`" in row for choice in option.type.choices), row


STREAMS = {
    "no standard output": ">&-",
    "no standard error": "2>&-",
    "none at all": "<&- >&- 2>&-",
    "a full disk": ">/dev/full",
    "a full disk for both": ">/dev/full 2>/dev/full",
}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no disk that is always full")
@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("streams", STREAMS.values(), ids=list(STREAMS))
def test_a_command_serves_and_ends_in_order_though_nothing_can_be_said(
    tmp_path: Path, streams: str, processes: str
) -> None:
    path = str(tmp_path / "s")

    def answers() -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            if sock.connect_ex(path):
                return False
            sock.sendall(b"hello")
            return sock.recv(5) == b"hello"

    command = ("sh", "-c", f'exec "$@" {streams}', "sh", *TREADLE, "echo", "--bind", f"unix:{path}")
    with Program([*command, "--processes", processes]) as program:
        until(answers)
        program.send(signal.SIGTERM)
        assert program.wait() == 0, program.output
