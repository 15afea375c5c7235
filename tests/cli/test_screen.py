"""What stands on the screen when a server ends, as a person sees it who has pressed Ctrl-C."""

from __future__ import annotations

import re
import signal
import socket
import sys
from pathlib import Path

import pytest

from programs import PATIENCE, TREADLE
from socketservers import until

if sys.platform == "win32":
    pytest.skip("Windows has no such terminals", allow_module_level=True)

from screen import Terminal

SLOW = """
import threading
def slow(message, peer): threading.Event().wait()
"""


def words(lines: list[str]) -> list[str]:
    """Return the lines without the date and time that logged ones begin with."""
    return [re.sub(r"^[\d-]+ [\d:,]+ ", "", line) for line in lines]


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_after_ctrl_c_the_last_words_stand_alone_on_a_line_and_the_live_line_is_gone(columns: int) -> None:
    with Terminal([*TREADLE, "echo", "--bind", "127.0.0.1:0"], columns=columns) as terminal:
        with socket.create_connection(("127.0.0.1", terminal.wait_for_port()), PATIENCE) as client:
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
            terminal.wait_for("messages 1" if columns > 60 else "connections 1")
            terminal.type("\x03")
            terminal.wait_for("SIGINT: stopping")
        assert terminal.wait() == 0
        shown = terminal.lines()
        said = "stopped: 1 message, 1 connection, 0 rejected, 0 cut"
        assert "".join(shown).endswith(said), shown
        assert shown[-1].endswith(said[-len(shown[-1]) :])
        assert said.startswith(shown[-(1 + (len(said) - 1) // columns)])
        assert not [line for line in shown if line.startswith("threads ")]
        assert "".join(shown).count("stopped:") == 1


def test_after_a_cut_it_is_said_once_what_was_cut_and_which_handler_still_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app.py").write_text(SLOW, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    command = [*TREADLE, "tcp", "app:slow", "--bind", "127.0.0.1:0", "--drain-timeout", "0.2"]
    with Terminal(command, columns=120) as terminal:
        with socket.create_connection(("127.0.0.1", terminal.wait_for_port()), PATIENCE) as client:
            client.sendall(b"hello")
            terminal.wait_for("handed over 1|threads 2")
            terminal.type("\x03")
            assert terminal.wait() == 1
    assert words(terminal.lines())[-4:] == [
        "INFO SIGINT: stopping; a second signal cuts at once",
        "WARNING slow: 1 connection was not done in time, and cut",
        "WARNING slow: 1 handler still runs 0.5 s after the stop, and left behind: slow",
        "stopped: 1 message, 1 connection, 0 rejected, 1 cut",
    ]


def test_a_log_line_is_shown_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """rich would make a picture of :100:, which an IPv6 address may hold, and a style of [red]."""
    monkeypatch.chdir(tmp_path)
    with Terminal([*TREADLE, "echo", "--bind", "unix:a:100:[red]b"]) as terminal:
        terminal.wait_for(r"threads \d/128")
    assert "INFO serving send_back on unix:a:100:[red]b" in words(terminal.lines())


def test_the_live_line_fits_into_a_terminal_that_columns_does_not_speak_of() -> None:
    with Terminal([*TREADLE, "echo", "--bind", "127.0.0.1:0"], columns=60, env={"COLUMNS": "200"}) as terminal:
        with socket.create_connection(("127.0.0.1", terminal.wait_for_port()), PATIENCE) as client:
            terminal.wait_for("connections 1")
            client.sendall(b"hello")
            terminal.wait_for("messages 1")
            assert len([line for line in terminal.lines() if line.startswith("threads ")]) == 1
            assert terminal.lines()[-1].startswith("threads ")


def test_the_cursor_is_shown_whatever_ends_or_stops_the_command() -> None:
    """After Ctrl-Z, Ctrl-\\ and kill -9 nobody would bring it back."""
    with Terminal([*TREADLE, "echo", "--bind", "127.0.0.1:0"]) as terminal:
        terminal.wait_for(r"threads \d/128")
        terminal.type("\x1c")
        assert terminal.wait() == -signal.SIGQUIT
        assert terminal.shows_cursor()


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_a_terminal_may_lack_the_letters_of_a_name(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [*TREADLE, "echo", "--bind", "unix:织机"]
    with Terminal(command, columns=40, env={"PYTHONIOENCODING": encoding}) as terminal:
        terminal.wait_for(r"threads \d/128")
        terminal.type("\x03")
        assert terminal.wait() == 0
    shown = "".join(terminal.lines()).replace(" ", "")
    assert "treadleecholistensonunix:" + ("织机" if encoding == "utf-8" else r"\u7ec7\u673a") in shown
    assert "".join(terminal.lines()).endswith("stopped: 0 messages, 0 connections, 0 rejected, 0 cut")


@pytest.mark.parametrize("options", [(), ("--quiet",), ("--processes", "2")])
def test_a_terminal_that_goes_away_is_no_reason_to_stop_where_hangups_are_ignored(
    options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    nohup = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh")  # the command of that name writes to a file in place of it
    with Terminal([*nohup, *TREADLE, "echo", "--bind", "unix:s", *options]) as terminal:
        until(lambda: answers("s"))
        terminal.hang_up()
        until(lambda: answers("s"))
        terminal.send(signal.SIGTERM)
        assert terminal.wait() == 0


def answers(path: str) -> bool:
    """Tell whether a server at `path` answers now."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        if client.connect_ex(path):
            return False
        client.sendall(b"hello")
        return client.recv(5) == b"hello"


def test_a_second_server_beside_the_first_says_what_to_do_and_draws_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        port = owner.getsockname()[1]
        with Terminal([*TREADLE, "echo", "--bind", f"127.0.0.1:{port}"], columns=200) as terminal:
            assert terminal.wait() == 69
        (line,) = terminal.lines()
    assert line.startswith(f"Error: cannot listen on 127.0.0.1:{port}: it is in use; ")


IN_AND_OUT = """
import os, signal, subprocess, sys
from treadle._cli import status
signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # what a shell does that gives its terminal away and takes it back
status.LIVE_EVERY = 0
with status.status_view() as view, subprocess.Popen([sys.executable, "-c", "input()"], process_group=0) as other:
    os.tcsetpgrp(0, other.pid)
    view.update(status.Status(1, 9, 0, 0, 0, 0, 0))
    os.tcsetpgrp(0, os.getpgrp())
    view.update(status.Status(2, 9, 0, 0, 0, 0, 0))
    other.kill()
"""


def test_in_the_background_of_a_shell_no_live_line_is_drawn_over_what_is_typed() -> None:
    with Terminal([sys.executable, "-c", IN_AND_OUT]) as terminal:
        assert terminal.wait() == 0
        assert "threads 2/9" in terminal.output
        assert "threads 1/9" not in terminal.output


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("hangups", [0, 2])
def test_a_server_stops_when_its_terminal_is_closed(processes: str, hangups: int) -> None:
    """Or nobody could stop it any more, and it would keep its port. A shell sends SIGHUP too, to all of its jobs."""
    address = ("127.0.0.1", 0)
    with Terminal([*TREADLE, "echo", "--bind", "127.0.0.1:0", "--processes", processes]) as terminal:
        address = ("127.0.0.1", terminal.wait_for_port())
        with socket.create_connection(address, PATIENCE) as client:
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
            terminal.hang_up()
            for _ in range(hangups):
                terminal.send(signal.SIGHUP)
            assert client.recv(1) == b""
        assert terminal.wait() == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, PATIENCE)


def test_a_hangup_at_a_terminal_that_is_open_asks_for_a_reload() -> None:
    with Terminal([*TREADLE, "echo", "--bind", "127.0.0.1:0"]) as terminal:
        terminal.wait_for_port()
        terminal.send(signal.SIGHUP)
        terminal.type("\x03")
        terminal.wait_for("SIGINT: stopping")
        assert terminal.wait() == 0
