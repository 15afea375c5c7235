"""What the serving commands share. Most of it is shown by the commands: test_echo.py and test_tcp.py."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from programs import TREADLE, Program, run
from socketservers import until
from treadle._cli import serving
from treadle._cli.echo import echo
from treadle._cli.tcp import tcp
from treadle._cli.web.wsgi import wsgi
from treadle.orders import Adaptive, Fair, Fifo, Levels, Order
from treadle.server import WSGI, Lines, Messages, Session
from treadle.server._accept.listen import Listener
from treadle.server._group import leaders_of
from treadle.server._server import usual_reserve


@pytest.mark.parametrize(
    ("kind", "options", "reserve"),
    [
        (None, [], None),
        (None, ["--reserve", "0"], None),
        (None, ["--reserve", "2"], 2),
        (bytes.lower, [], usual_reserve(True, 8)),
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


@pytest.mark.parametrize(("timeout", "order"), [("none", Fifo()), ("10", Adaptive())])
def test_a_command_without_the_option_leaves_the_order_to_the_protocol(timeout: str, order: Order) -> None:
    context = wsgi.make_context("wsgi", ["shop", "--queue-timeout", timeout])
    protocol = WSGI(lambda environ, start_response: [], queue_timeout=context.params["queue_timeout"])
    for reserve in (None, 0):  # such messages have kinds, and so levels in any case
        made = serving._order(protocol, context.params | {"reserve": reserve})
        assert isinstance(made, Levels)
        assert type(made._levels[0].order) is type(order)


def test_of_a_conversation_no_thread_is_reserved() -> None:
    context = tcp.make_context("tcp", ["app:f", "--session"])
    assert serving._order(Session(lambda conn: None), context.params) == "fifo"


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
