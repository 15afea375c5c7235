"""Stopping: SIGTERM to a real process, with requests in every state; nobody is let down who could be answered."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from behaviour.web.scene import PATIENCE, Caller, request, until
from programs import TREADLE, Program

APP = """
import os, threading

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/hold":
        open("held", "w").close()
        with open("gate") as gate:  # a pipe, until somebody opens it to write
            gate.read()
    text = path.encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
    return [text]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with shop.py, and a gate, which is the current one."""
    (tmp_path / "shop.py").write_text(APP)
    os.mkfifo(tmp_path / "gate")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3] / "src"))
    return tmp_path


def serving(*options: str) -> Program:
    return Program([*TREADLE, "wsgi", "shop", "--bind", "127.0.0.1:0", "--ready", "/readyz", *options])


def come(stack: ExitStack, port: int) -> Caller:
    return Caller(stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE)))


def open_gate(here: Path) -> None:
    (here / "gate").write_text("")


def test_what_was_begun_and_what_comes_in_time_is_answered_and_the_rest_is_closed(here: Path) -> None:
    with serving() as program, ExitStack() as stack:
        port = program.wait_for_port()
        held, kept, silent, half, pipelined = (come(stack, port) for _ in range(5))
        for caller in (kept, silent):
            assert caller.get("/first").body == b"/first"
        half.send(request("/half", method="POST", body=b"0123456789")[:-1])
        held.send(request("/hold"))
        until((here / "held").exists)
        program.send(signal.SIGTERM)
        program.wait_for("SIGTERM: stopping")
        pipelined.send(request("/1") + request("/2"))
        first, second = pipelined.answer(), pipelined.answer()
        assert [first.body, second.body] == [b"/1", b"/2"]
        assert half.send(b"9").answer("POST").body == b"/half"
        assert silent.ends()
        open_gate(here)
        answer = held.answer()
        assert (answer.body, answer.fields[b"connection"]) == (b"/hold", b"close")
        assert program.wait() == 0, program.output


def test_who_waits_in_the_kernel_is_answered(here: Path) -> None:
    """While the process is stopped it accepts nobody; all that comes meanwhile is the kernel's."""
    with serving("--threads", "1") as program, ExitStack() as stack:
        port = program.wait_for_port()
        assert come(stack, port).get("/first").status == 200
        program.send(signal.SIGSTOP)
        waiting = [come(stack, port).send(request(f"/{number}", "Connection: close")) for number in range(20)]
        program.send(signal.SIGTERM)
        program.send(signal.SIGCONT)
        for number, caller in enumerate(waiting):
            answer = caller.answer()
            assert (answer.status, answer.body) == (200, b"/%d" % number)
        assert program.wait() == 0, program.output


def test_what_does_not_end_in_time_is_cut_and_the_status_is_told(here: Path) -> None:
    with serving("--drain-timeout", "0.2") as program, ExitStack() as stack:
        held = come(stack, program.wait_for_port()).send(request("/hold"))
        until((here / "held").exists)
        program.send(signal.SIGTERM)
        assert held.ends()
        assert program.wait() != 0, program.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_waits_for_nobody(here: Path, number: signal.Signals) -> None:
    with serving("--drain-timeout", "none") as program, ExitStack() as stack:
        held = come(stack, program.wait_for_port()).send(request("/hold"))
        until((here / "held").exists)
        program.send(signal.SIGTERM)
        program.wait_for("SIGTERM: stopping")
        program.send(number)
        assert held.ends()
        assert program.wait() != 0, program.output


def test_during_the_delay_all_goes_on_and_only_readiness_says_no(here: Path) -> None:
    with serving("--drain-delay", "60") as program, ExitStack() as stack:
        port = program.wait_for_port()
        kept = come(stack, port)
        assert kept.get("/readyz").status == 200
        program.send(signal.SIGTERM)
        program.wait_for("drain_delay")
        for _ in range(3):
            assert kept.get("/kept").body == b"/kept"
            assert kept.get("/readyz").status == 503
            new = come(stack, port).get("/new")
            assert new.body == b"/new"
            assert b"connection" not in new.fields  # it goes on
        program.send(signal.SIGTERM)
        assert kept.ends()
        assert program.wait() == 0, program.output
