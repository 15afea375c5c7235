"""Descriptors that the server waits with, and somebody closes: it does not spin, ends at once, and says why."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from programs import PATIENCE, TREADLE, Program
from socketservers import HTTP, Hello, loop_of, manager_of, until
from tcp import ask, client, driver_of, receive_all
from treadle.server import Connection, Lines, Messages, Peer, Server, Session

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it lays hands on epoll's descriptor")

SAID = "a descriptor of the server's own was closed by somebody else"


def take_away(poller: Any) -> None:
    """Have the poller's number be that of something else, as it may be when it was closed."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, poller._epoll.fileno(), inheritable=False)
    os.close(nothing)


def echo(line: bytes, peer: Peer) -> bytes:
    return line + b"\n"


@pytest.mark.parametrize("loops", [1, 2])
@pytest.mark.parametrize("which", [0, -1])
def test_a_poller_that_is_closed_under_its_leader_ends_the_server(
    loops: int, which: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("treadle.server._group._loops_wanted", lambda dispatcher: loops)
    with Server(Messages(echo, Lines()), "127.0.0.1:0", max_workers=2 * loops) as server:
        assert server._group is not None
        with client(server) as one, client(server) as two:
            for sock in (one, two):  # one in each event loop
                assert ask(sock, b"x\n") == b"x\n"
            driver = server._group.drivers[which]
            driver.loop.post(lambda: take_away(driver.loop.poller))
            assert receive_all(one) == receive_all(two) == b""
        until(lambda: server.snapshot().state == "stopped")
        until(lambda: SAID in caplog.text)
        with pytest.raises(ConnectionRefusedError), client(server):
            pass
        assert server.stop() == 2
        assert not any(watchdog.thread.is_alive() for watchdog in server._group.watchdogs)
    assert caplog.text.count(SAID) == len(caplog.records) == 1


def test_a_poller_that_is_closed_under_its_fallback_leader_ends_the_server(caplog: pytest.LogCaptureFixture) -> None:
    began, gate = threading.Event(), threading.Event()

    def talk(conn: Connection) -> None:
        began.set()
        assert gate.wait(PATIENCE)

    with Server(Session(talk), "127.0.0.1:0", max_workers=1) as server, client(server) as sock:
        sock.sendall(b"x")
        assert began.wait(PATIENCE)
        driver = driver_of(server)
        driver.loop.post(lambda: take_away(driver.loop.poller))
        until(lambda: server.snapshot().state == "stopped")
        assert receive_all(sock) == b""
        gate.set()
        assert server.stop() == 1
    assert caplog.text.count(SAID) == 1


CLOSES = """
import os, sys, threading
from treadle.server import Lines, Messages, Server

go = threading.Event()

def close():
    go.wait()
    os.closerange(3, 100)
    print("closed", flush=True)

def handle(line, peer):
    if sys.argv[1] == "inside":
        os.closerange(3, 100)
    else:
        go.set()

def tell(snapshot):
    print(f"on {server}", flush=True)
    return 3600.0

threading.Thread(target=close, daemon=True).start()
server = Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2)
try:
    server._watch = tell
    server.run(1.0)
except OSError as error:
    print(f"raised {error.errno}: {error}", flush=True)
    sys.exit(3)
"""


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_run_raises_when_all_descriptors_were_closed(where: str) -> None:
    """From outside of the threads that wait with them it may go unnoticed until a signal comes."""
    with Program([sys.executable, "-c", CLOSES, where]) as program:
        port = int(program.wait_for(r"on 127\.0\.0\.1:(\d+)\n").group(1))
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            sock.sendall(b"x\n")
            if where == "outside":
                program.wait_for("closed")
                program.send(signal.SIGTERM)
            assert program.wait() == 3, program.output
    assert f"raised {errno.EBADF}: [Errno {errno.EBADF}] {SAID}, as os.closerange does; start anew" in program.output


def test_the_command_says_so_and_ends_with_a_status_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "closing.py").write_text("import os\ndef handle(line, peer):\n    os.closerange(3, 100)\n")
    command = [*TREADLE, "tcp", "closing:handle", "--bind", "127.0.0.1:0"]
    with Program(command, env={"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}) as program:
        with socket.create_connection(("127.0.0.1", program.wait_for_port()), PATIENCE) as sock:
            sock.sendall(b"x\n")
            assert program.wait() == 71, program.output
    assert f"Error: [Errno {errno.EBADF}] {SAID}" in " ".join(program.output.split())


def test_a_pool_mix_in_whose_poller_is_closed_raises_and_can_be_closed() -> None:
    raised: list[BaseException] = []

    def serve() -> None:
        try:
            server.serve_forever()
        except OSError as error:
            raised.append(error)

    server = HTTP(("127.0.0.1", 0), Hello)
    thread = threading.Thread(target=serve)
    thread.start()
    until(lambda: manager_of(server).loop)
    take_away(loop_of(server).poller)
    with socket.create_connection(("127.0.0.1", server.server_port), PATIENCE):
        thread.join(PATIENCE)
    server.server_close()
    assert not thread.is_alive()
    assert [error.errno for error in raised if isinstance(error, OSError)] == [errno.EINVAL]
