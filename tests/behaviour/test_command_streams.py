"""The command says what it does on standard output, what is wrong on standard error, and ends with a status that tells.

However it fails, nothing of that is on standard output, and the status is the one that the documents give.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from programs import PATIENCE, TREADLE, Program, run
from socketservers import until
from tcp import receive_all

if sys.platform == "win32":
    pytest.skip("its server is stopped by signals", allow_module_level=True)

ROOT = Path(__file__).parents[2]

APP = """
import os, threading

def shout(line, peer):
    return line.upper()

def hold(line, peer):
    peer.state["began"] = open("began", "w").close()
    threading.Event().wait()

def close_all(line, peer):
    os.closerange(3, 100)
"""
INTERRUPTED = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with modules to serve, which is the current one."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "broken.py").write_text("import no_such_thing\n")
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


@dataclass
class Command:
    """A command that serves at a path, in the current folder; its two streams are files."""

    process: subprocess.Popen[bytes]
    out: Path
    error: Path

    def end(self, *clients: socket.socket, by: int | None = signal.SIGTERM) -> tuple[int, str, str]:
        """End it; return its status and what it said on standard output and error.

        Args:
            clients: who is connected then; as clients do, they go when they have read the end.
            by: the signal; None: it ends of its own accord.
        """
        if by is not None:
            self.process.send_signal(by)
        for sock in clients:
            with sock:
                assert receive_all(sock) == b""
        return self.process.wait(PATIENCE), self.out.read_text(), self.error.read_text()


@contextmanager
def serving(*options: str, stdin: int = subprocess.DEVNULL, streams: str = "") -> Iterator[Command]:
    """Serve with these options; `streams` are redirections, as a shell takes them."""
    out, error = Path("out"), Path("error")
    bind = ("--bind", "unix:s") if stdin == subprocess.DEVNULL else ()
    with out.open("w") as first, error.open("w") as second:
        shell = ("sh", "-c", f'exec "$@" {streams}', "sh")
        process = subprocess.Popen([*shell, *TREADLE, *options, *bind], stdin=stdin, stdout=first, stderr=second)
    command = Command(process, out, error)
    try:
        yield command
    finally:
        process.kill()
        process.wait(PATIENCE)


@contextmanager
def client(message: bytes, answer: bytes) -> Iterator[socket.socket]:
    """A client that has got its answer, of a server that is about to listen, or to let in another."""
    clients: list[socket.socket] = []
    with ExitStack() as stack:

        def answered() -> bool:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.settimeout(PATIENCE)
            with suppress(OSError):
                sock.connect("s")
                sock.sendall(message)
                if not answer or sock.recv(len(answer)) == answer:
                    clients.append(sock)
                    return True
            sock.close()
            return False

        until(answered)
        yield clients[0]


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.usefixtures("here")
def test_what_it_does_is_on_standard_output_and_the_log_on_standard_error(processes: str) -> None:
    with serving("echo", "--processes", processes) as command:
        until(lambda: "listens on" in command.out.read_text())  # another process may answer before this is said
        with client(b"hello", b"hello") as sock:
            status, out, error = command.end(sock)
    assert status == 0
    assert "treadle echo listens on unix:s\n" in out
    assert re.search(r"(?m)^[\d-]+ [\d:,]+ threads \d/128  connections", out)
    assert "\nstopped: " in out
    assert "SIGTERM: stopping" not in out
    assert all(re.match(r"[\d-]+ [\d:,]+ INFO ", line) for line in error.splitlines()), error
    assert "SIGTERM: stopping" in error


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.usefixtures("here")
def test_a_quiet_command_says_nothing_unless_something_is_wrong(processes: str) -> None:
    with serving("echo", "--quiet", "--processes", processes) as command:
        with client(b"hello", b"hello") as sock:
            assert command.end(sock) == (0, "", "")


FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no disk that is always full")
NOT_SHOWN = [
    (">&-", "", "WARNING standard output is closed, so the status is not shown"),
    ("2>&-", "standard error is closed, so the log is not shown", ""),
    (">&- 2>&-", "", ""),
    pytest.param(
        ">/dev/full", "", "standard output cannot be written, so the status is not shown: No space left", marks=FULL
    ),
    pytest.param(
        "2>/dev/full", "standard error cannot be written, so the log is not shown: No space left", "", marks=FULL
    ),
    pytest.param(">/dev/full 2>/dev/full", "", "", marks=FULL),
]


@pytest.mark.parametrize(("streams", "on_output", "on_error"), NOT_SHOWN)
@pytest.mark.usefixtures("here")
def test_it_serves_though_a_stream_takes_nothing_and_says_so_once_on_the_other(
    streams: str, on_output: str, on_error: str
) -> None:
    with serving("echo", streams=streams) as command:
        for _ in range(3):
            with client(b"hello", b"hello"):
                pass
        status, out, error = command.end()
    assert status == 0
    for said, wanted in ((out, on_output), (error, on_error)):
        assert said.count("is not shown") == (1 if wanted else 0), said
        assert wanted in said
    assert "Traceback" not in out + error


@pytest.mark.usefixtures("here")
def test_a_quiet_command_misses_no_status() -> None:
    with serving("echo", "--quiet", streams=">&-") as command:
        with client(b"hello", b"hello") as sock:
            assert command.end(sock) == (0, "", "")


@pytest.mark.usefixtures("here")
def test_a_quiet_command_says_what_is_wrong() -> None:
    with serving("echo", "--quiet", "--max-connections", "1", "--at-max-connections", "reject") as command:
        with client(b"hello", b"hello") as served, client(b"", b"") as rejected:
            until(lambda: "rejected" in command.error.read_text())
            status, out, error = command.end(served, rejected)
    assert (status, out) == (0, "")
    assert re.fullmatch(r"[\d-]+ [\d:,]+ WARNING .*clients are rejected: .*\n", error)


@pytest.mark.parametrize(
    ("options", "levels"),
    [
        (("--log-level", "debug"), {"DEBUG", "INFO", "WARNING"}),
        ((), {"INFO", "WARNING"}),
        (("--log-level", "WARNING"), {"WARNING"}),
        (("--log-level", "error"), set()),
        (("--quiet", "--log-level", "info"), {"INFO", "WARNING"}),
    ],
)
@pytest.mark.usefixtures("here")
def test_the_log_begins_at_the_level_that_is_asked_for(options: tuple[str, ...], levels: set[str]) -> None:
    """A drain of no time cuts who is there: a warning, and a line about each of them at the level for details."""
    with serving("tcp", "app:hold", "--drain-timeout", "0", *options) as command:
        with client(b"x", b"") as sock:
            until(lambda: os.path.exists("began"))
            status, _, error = command.end(sock)
    assert status == 1
    # What the pool says when Python exits is not the command's any more, and has no level.
    assert set(re.findall(r"(?m)^[\d-]+ [\d:,]+ ([A-Z]+) ", error)) == levels


@pytest.mark.usefixtures("here")
def test_the_log_of_a_command_on_a_terminal_goes_where_standard_error_leads() -> None:
    """And not, as the live line's neighbour, to the terminal."""
    command = ("sh", "-c", 'exec "$@" 2>error', "sh", *TREADLE, "echo", "--bind", "127.0.0.1:0")
    with Program(command, terminal=True) as program:
        program.wait_for_port()
        program.wait_for(r"threads \d/128")
        program.send(signal.SIGTERM)
        assert program.wait() == 0
        assert "SIGTERM: stopping" not in program.output
    assert "INFO SIGTERM: stopping" in Path("error").read_text()


# Each of the ways to fail: the status, the options, and what is said.
AT_ONCE: list[tuple[int, tuple[str, ...], str]] = [
    (2, (), "Usage: treadle [OPTIONS] COMMAND"),
    (2, ("ecko",), "Did you mean 'echo'?"),
    (2, ("echo", "--thread", "5"), "'--threads'"),
    (2, ("echo", "--threads", "0"), "'0' is out of range"),
    (2, ("echo", "--log-level", "loud"), "'loud' is not one of"),
    (2, ("echo", "--keyfile", "x"), "of no use without --certfile"),
    (2, ("echo", "--config", "none.toml"), "none.toml: no such file"),
    (2, ("tcp",), "Missing argument 'MODULE:HANDLER'"),
    (2, ("tcp", "app:nothing"), "no 'nothing' in it"),
    (2, ("tcp", "nothing:shout"), "there is no module 'nothing'"),
    (66, ("echo", "--certfile", "none.pem"), "--certfile: none.pem: No such file"),
    (69, ("echo", "--bind", "unix:none/s"), "cannot listen on unix:none/s"),
    (77, ("echo", "--bind", "unix:/sys/s"), "cannot listen on unix:/sys/s: permission denied"),
    (78, ("tcp", "broken:shout"), "cannot import broken"),
    (130, ("tcp", "interrupted:shout"), ""),
]


@pytest.mark.parametrize(("status", "options", "complaint"), AT_ONCE)
@pytest.mark.usefixtures("here")
def test_what_fails_at_once_says_so_on_standard_error_alone(
    status: int, options: tuple[str, ...], complaint: str
) -> None:
    ended, out, error = run(*TREADLE, *options)
    assert (ended, out) == (status, "")
    assert complaint in " ".join(error.split())
    assert error if complaint else not error


@FULL
@pytest.mark.parametrize("streams", ["2>/dev/full", "2>&-"])
@pytest.mark.parametrize(("status", "options"), [(status, options) for status, options, _ in AT_ONCE])
@pytest.mark.usefixtures("here")
def test_the_status_is_the_same_though_nothing_can_be_said(status: int, options: tuple[str, ...], streams: str) -> None:
    assert run("sh", "-c", f'exec "$@" {streams}', "sh", *TREADLE, *options)[:2] == (status, "")


@FULL
@pytest.mark.parametrize("options", [("--help",), ("--version",), ("echo", "--help"), ("echo", "--print-config")])
def test_what_is_asked_for_and_cannot_be_written_is_status_74(options: tuple[str, ...]) -> None:
    status, _, error = run("sh", "-c", 'exec "$@" >/dev/full', "sh", *TREADLE, *options)
    assert (status, error) == (74, "Error: cannot write to standard output: No space left on device\n")


@pytest.mark.usefixtures("here")
def test_keys_of_tls_that_cannot_be_logged_are_status_73() -> None:
    certificate = ROOT / "tests" / "certificates.py"  # the log is opened before the file is read
    options = ("echo", "--certfile", str(certificate))
    status, out, error = run(*TREADLE, *options, env={"SSLKEYLOGFILE": "none/keys"})
    assert (status, out) == (73, "")
    assert "none/keys: No such file or directory" in error


@pytest.mark.usefixtures("here")
def test_a_server_whose_socket_is_shut_down_is_status_69() -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        with serving("echo", "--quiet", "--bind", "fd://0", stdin=owner.fileno()) as command:
            with socket.create_connection(owner.getsockname(), PATIENCE) as sock:
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
                owner.shutdown(socket.SHUT_RDWR)
                assert sock.recv(1) == b""
            status, out, error = command.end(by=None)
    assert (status, out) == (69, "")
    assert "Error: " in error


@pytest.mark.usefixtures("here")
def test_a_server_whose_descriptors_are_closed_is_status_71() -> None:
    with serving("tcp", "app:close_all", "--quiet") as command, client(b"x", b""):
        status, out, error = command.end(by=None)
    assert (status, out) == (71, "")
    assert "Error: [Errno 9]" in error


@pytest.mark.usefixtures("here")
def test_connections_that_are_cut_are_status_1() -> None:
    with serving("tcp", "app:hold", "--quiet", "--drain-timeout", "0") as command, client(b"x", b"") as sock:
        until(lambda: os.path.exists("began"))
        status, out, error = command.end(sock)
    assert (status, out) == (1, "")
    assert "WARNING" in error


def test_every_documented_status_is_one_that_is_tested_here() -> None:
    documented = re.findall(
        r"(?m)^\| (\d+) \| \S", (ROOT / "docs" / "server.md").read_text().partition("| status |")[2]
    )
    assert set(map(int, documented)) - {0} == {status for status, _, _ in AT_ONCE} | {1, 69, 71, 73, 74}
