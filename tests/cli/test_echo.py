"""`treadle echo`: the server by itself on real sockets, then the command as a real process."""

from __future__ import annotations

import errno
import re
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Condition, Thread

import click
import pytest

from programs import PATIENCE, TREADLE, Program, run
from treadle.cli import echo as module
from treadle.cli.echo import Burst, EchoServer, listen
from treadle.cli.status import Status
from treadle.cli.values import Address

LINGER_ZERO = b"\1\0\0\0\0\0\0\0"  # close sends RST


class Serving:
    """An EchoServer on a thread, whose status can be awaited."""

    def __init__(self, server: EchoServer, address: tuple[str, int], tick: float) -> None:
        self.server = server
        self.tick = tick
        self.address = address
        self.busiest = 0
        self.turns = 0
        self._status: Status | None = None
        self._changed = Condition()

    def watch(self, status: Status) -> float:
        with self._changed:
            self._status = status
            self.busiest = max(self.busiest, status.busy)
            self.turns += 1
            self._changed.notify_all()
        return self.tick

    def wait_for(self, wanted: Callable[[Status], bool]) -> None:
        with self._changed:
            reached = self._changed.wait_for(lambda: self._status is not None and wanted(self._status), PATIENCE)
        assert reached, self._status

    def wait_for_turns(self, count: int) -> None:
        with self._changed:
            last = self.turns + count
            assert self._changed.wait_for(lambda: self.turns >= last, PATIENCE)

    @contextmanager
    def client(self) -> Iterator[socket.socket]:
        with socket.create_connection(self.address, PATIENCE) as client:
            yield client


@contextmanager
def serving(
    *,
    threads: int = 2,
    max_connections: int = 100,
    idle_timeout: float = PATIENCE,
    listener: socket.socket | None = None,
    tick: float = 0.01,
) -> Iterator[Serving]:
    listener = listener or listen(Address("127.0.0.1", 0))
    address = listener.getsockname()
    server = EchoServer(listener, threads=threads, max_connections=max_connections, idle_timeout=idle_timeout)
    running = Serving(server, address, tick)
    thread = Thread(target=server.serve, args=(running.watch,))
    thread.start()
    try:
        yield running
    finally:
        server.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        server.close()


class ScriptedListener(socket.socket):
    """A listener whose accept fails as told before it does what it should."""

    def __init__(self, *failures: OSError) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self.failures = list(failures)
        self.accepts = 0
        self.bind(("127.0.0.1", 0))
        self.listen()

    def accept(self) -> tuple[socket.socket, object]:
        self.accepts += 1
        if self.failures:
            raise self.failures.pop(0)
        return super().accept()


def talk(client: socket.socket, data: bytes = b"hello\n") -> None:
    client.sendall(data)
    assert client.recv(100) == data


def messages(caplog: pytest.LogCaptureFixture, wanted: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if wanted in record.getMessage()]


def test_more_than_one_chunk_comes_back_whole() -> None:
    data = bytes(range(256)) * 4096  # 1 MB: more than socket buffers and chunk hold
    with serving() as running, running.client() as client:
        sender = Thread(target=client.sendall, args=(data,))
        sender.start()
        received = bytearray()
        while len(received) < len(data):
            received += client.recv(65536)
        sender.join(PATIENCE)
    assert received == data


def test_a_client_beyond_the_threads_waits_its_turn_and_is_then_served() -> None:
    with serving(threads=2) as running, running.client() as first, running.client() as second:
        talk(first)
        talk(second)
        with running.client() as third:
            third.sendall(b"third")
            running.wait_for(lambda status: (status.busy, status.connections, status.waiting) == (2, 3, 1))
            assert not select.select([third], [], [], 0)[0]
            first.close()
            assert third.recv(100) == b"third"


def test_handlers_never_outnumber_the_threads() -> None:
    with serving(threads=3) as running, ExitStack() as stack:
        clients = [stack.enter_context(running.client()) for _ in range(20)]
        for client in clients:
            client.sendall(b"x")
        for client in clients:
            assert client.recv(1) == b"x"
            client.close()
        running.wait_for(lambda status: status.served == 20)
        assert running.busiest <= 3


def test_clients_beyond_the_connections_are_closed_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with serving(threads=1, max_connections=2) as running, running.client() as first, running.client():
        talk(first)
        for _ in range(3):
            with running.client() as refused:
                assert refused.recv(1) == b""
        running.wait_for(lambda status: (status.rejected, status.connections) == (3, 2))
        assert len(messages(caplog, "refusing clients: all 2 connections are taken")) == 1
        first.close()
        running.wait_for(lambda status: status.served == 1)
        with running.client() as admitted:
            running.wait_for(lambda status: status.connections == 2)
            assert not select.select([admitted], [], [], 0)[0]


def test_a_pool_that_takes_no_task_costs_that_client_only(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as running:
        running.server._pool.shutdown()
        for _ in range(2):
            with running.client() as refused:
                assert refused.recv(1) == b""
        running.wait_for(lambda status: (status.rejected, status.connections) == (2, 0))
    assert len(messages(caplog, "refusing clients")) == 1


def test_a_silent_client_loses_its_thread_to_one_that_waits() -> None:
    with serving(threads=1, idle_timeout=0.05) as running, running.client() as silent, running.client() as next_one:
        assert silent.recv(1) == b""
        talk(next_one)


def test_a_client_that_resets_is_ordinary(caplog: pytest.LogCaptureFixture) -> None:
    with serving(threads=1) as running:
        with running.client() as rude:
            talk(rude)
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
        with running.client() as client:
            talk(client)
    assert not caplog.records


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOBUFS, errno.EPROTO])
def test_an_accept_error_pauses_and_is_logged_once(
    number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "ACCEPT_PAUSE", 0.01)
    listener = ScriptedListener(*(OSError(number, "scripted") for _ in range(3)))
    with serving(listener=listener, tick=3600.0) as running, running.client() as client:
        talk(client)
    assert len(messages(caplog, "cannot accept connections for now: scripted")) == 1


def test_an_accept_error_never_makes_the_loop_spin_and_its_pause_can_be_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ACCEPT_PAUSE", 3600.0)
    listener = ScriptedListener(*(OSError(errno.EMFILE, "scripted") for _ in range(1000)))
    with serving(listener=listener) as running, running.client():
        running.wait_for_turns(1)
        while not listener.accepts:
            running.wait_for_turns(1)
        running.wait_for_turns(10)
        assert listener.accepts == 1


def test_a_client_that_leaves_the_backlog_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "ACCEPT_PAUSE", 3600.0)  # there is to be none
    listener = ScriptedListener(*(ConnectionAbortedError(errno.ECONNABORTED, "scripted") for _ in range(3)))
    with serving(listener=listener) as running, running.client() as client:
        talk(client)
    assert not caplog.records


def test_stop_cuts_clients_that_are_served_and_clients_that_wait() -> None:
    with serving(threads=1) as running, running.client() as served, running.client() as waiting:
        talk(served)
        running.wait_for(lambda status: status.waiting == 1)
        running.server.stop()
        assert served.recv(1) == b""
        assert waiting.recv(1) == b""


def test_stop_frees_a_handler_whose_client_does_not_read() -> None:
    with serving(threads=1) as running, running.client() as client:
        client.setblocking(False)
        try:
            while select.select([], [client], [], 0.2)[1]:
                client.send(b"x" * 65536)
        except BlockingIOError:
            pass
        running.wait_for(lambda status: status.busy == 1)


def test_stop_may_be_called_again_and_after_the_end() -> None:
    with serving() as running:
        running.server.stop()
        running.server.stop()
    running.server.stop()


def test_stop_wakes_a_loop_that_nothing_else_would() -> None:
    with serving(tick=3600.0) as running:
        running.wait_for(lambda status: True)


def test_a_burst_begins_once_and_again_after_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 9.0, 18.0, 28.0, 29.0])
    monkeypatch.setattr(module, "now", lambda: next(times))
    burst = Burst(10.0)
    assert [burst.begins() for _ in range(5)] == [True, False, False, True, False]


@pytest.mark.parametrize(
    ("number", "status", "complaint"),
    [
        (errno.EACCES, 77, "no permission to listen on port 80"),
        (errno.EADDRINUSE, 69, "port 80 on 127.0.0.1 is in use.*--bind 127.0.0.1:81"),
        (errno.EADDRNOTAVAIL, 69, "127.0.0.1 is not an address of this machine"),
        (errno.ENOBUFS, 69, "cannot listen on 127.0.0.1:80: scripted"),
    ],
)
def test_an_address_that_cannot_be_had_is_explained(
    number: int, status: int, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> socket.socket:
        raise OSError(number, "scripted")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(click.ClickException, match=complaint) as caught:
        listen(Address("127.0.0.1", 80))
    assert caught.value.exit_code == status


def echo(*options: str, **settings: object) -> Program:
    return Program([*TREADLE, "echo", "--bind", "127.0.0.1:0", *options], **settings)  # type: ignore[arg-type]


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


def test_it_says_where_it_listens_how_to_talk_to_it_and_its_ceilings() -> None:
    with echo("--threads", "5", "--max-connections", "9") as server:
        port = server.wait_for_port()
        server.wait_for(rf"printf 'hello\\n' \| nc -q1 127\.0\.0\.1 {port}\n")
        server.wait_for("5 threads, 9 connections")
        with connect(port) as client:
            client.sendall(b"hello\n")
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b"hello\n"
            assert client.recv(100) == b""


def test_threads_beyond_the_connections_are_not_promised() -> None:
    with echo("--max-connections", "9") as server:
        server.wait_for("9 threads, 9 connections")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_status_0_while_clients_hold_every_thread(number: signal.Signals) -> None:
    with echo("--threads", "1", "--idle-timeout", "3600") as server:
        port = server.wait_for_port()
        with connect(port) as client, connect(port) as waiting:
            talk(client)
            server.send(number)
            assert server.wait() == 0, server.output
            assert client.recv(1) == b""
            assert waiting.recv(1) == b""
        assert "stopped: served 1, rejected 0" in server.output
        assert "Traceback" not in server.output


DEAF = """
import signal, sys, threading
from treadle.cli import status
from treadle.cli.main import main
status.PLAIN_EVERY = 3600.0
threading.Thread(target=threading.Event().wait, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
sys.argv = ["treadle", "echo", "--bind", "127.0.0.1:0"]
sys.exit(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no signal masks")
def test_a_signal_that_does_not_interrupt_the_main_thread_is_heard_at_once() -> None:
    """The system may hand a signal to any thread. Here another takes it, while the selector sleeps for an hour."""
    with Program([sys.executable, "-c", DEAF]) as server:
        server.wait_for_port()
        server.wait_for("threads 0/128")
        server.send(signal.SIGTERM)
        assert server.wait() == 0


def test_elsewhere_than_on_a_terminal_it_logs_plain_lines() -> None:
    with echo("--threads", "2") as server:
        server.wait_for(r"(?m)^\d{4}-\d\d-\d\d [\d:,]+ threads 0/2  connections 0  waiting 0  served 0  rejected 0$")
        with connect(server.wait_for_port()) as client:
            talk(client)
            server.wait_for("threads 1/2  connections 1  waiting 0")
        server.send(signal.SIGTERM)
        assert server.wait() == 0
        assert "\x1b" not in server.output


def test_on_a_terminal_it_keeps_a_live_line_with_log_lines_above() -> None:
    with echo("--threads", "2", "--max-connections", "2", terminal=True) as server:
        port = server.wait_for_port()
        server.wait_for("threads 0/2  connections 0  waiting 0  served 0  rejected 0")
        if (tasks := Path(f"/proc/{server.pid}/task")).exists():
            assert len(list(tasks.iterdir())) == 1, "the live line is no reason to start a thread"
        with connect(port) as client, connect(port), connect(port) as refused:
            talk(client)
            assert refused.recv(1) == b""
            server.wait_for("refusing clients: all 2 connections are taken")
            server.wait_for("connections 2  waiting 0  served 0  rejected 1")
        server.wait_for("connections 0  waiting 0  served 2  rejected 1")
        server.send(signal.SIGINT)
        assert server.wait() == 0
        assert re.search(r"\x1b\[(1A\x1b\[)?2K", server.output), "the line was not rewritten in place"
        assert server.output.rindex("\x1b[?25h") > server.output.rindex("\x1b[?25l"), "the cursor stayed hidden"


def test_a_dumb_terminal_gets_plain_lines() -> None:
    with echo(terminal=True, env={"TERM": "dumb"}) as server:
        server.wait_for("threads 0/128  connections 0")
        assert "\x1b" not in server.output


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit on open files to run into")
def test_running_out_of_descriptors_ends_nothing() -> None:
    with echo(descriptors=40) as server:
        server.wait_for("the limit on open files, 40, comes before 1128 connections")
        port = server.wait_for_port()
        with ExitStack() as stack:
            clients = [stack.enter_context(connect(port)) for _ in range(60)]
            talk(clients[0])
            server.wait_for("cannot accept connections for now: Too many open files")
        with connect(port) as client:
            talk(client)
        server.send(signal.SIGTERM)
        assert server.wait() == 0
        assert server.output.count("cannot accept") == 1


def test_a_port_in_use_is_named_with_status_69() -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        port = owner.getsockname()[1]
        status, out, error = run(*TREADLE, "echo", "--bind", f"127.0.0.1:{port}")
    assert (status, out) == (69, "")
    assert f"port {port} on 127.0.0.1 is in use" in error


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--thread", "5"), "'--threads'"),
        (("--threads", "0"), "0 is not in the range"),
        (("--threads", "many"), "'many' is not a valid integer"),
        (("--max-connections", "-1"), "-1 is not in the range"),
        (("--idle-timeout", "0"), "positive"),
        (("--bind", "5000"), "not HOST:PORT"),
        (("--bind", "no such host:5000"), "cannot find the address of host 'no such host'"),
        (("extra",), "unexpected extra argument"),
    ],
)
def test_bad_options_are_status_2(options: tuple[str, ...], complaint: str) -> None:
    status, out, error = run(*TREADLE, "echo", *options)
    assert (status, out) == (2, "")
    assert complaint in error
    assert "Traceback" not in error


def test_its_table_of_a_file_and_its_variables_set_it(tmp_path: Path) -> None:
    path = tmp_path / "treadle.toml"
    path.write_text('[echo]\nbind = "127.0.0.1:0"\nthreads = 7\nmax-connections = 8\nidle-timeout = 5\n')
    with Program([*TREADLE, "echo", "--config", str(path)], env={"TREADLE_ECHO_MAX_CONNECTIONS": "9"}) as server:
        server.wait_for("7 threads, 9 connections")
    path.write_text("[echo]\nthread = 7\n")
    status, _, error = run(*TREADLE, "echo", "--config", str(path))
    assert status == 2
    assert f"{path}: [echo] has no key 'thread'; did you mean 'threads'?" in error
