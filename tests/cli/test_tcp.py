"""`treadle tcp MODULE:HANDLER`, as a real process."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
from pathlib import Path

import pytest

from certificates import Authority
from programs import PATIENCE, TREADLE, Program, run
from tcp import ask, receive, receive_all

APP = """
import threading, time
from treadle.server import Lines, Messages, Protocol, Session

def shout(line, peer):
    return line.upper() + b"\\n"

def reverse(data, peer):
    return len(data).to_bytes(2, "big") + data[::-1]

def pid(line, peer):
    import os
    return b"%d\\n" % os.getpid()

def talk(conn):
    conn.sendall(b"hello\\n")
    conn.sendall(conn.readline())

def who(line, peer):
    return f"{peer}\\n".encode()

made = Messages(shout, Lines(), greeting=b"welcome\\n")
session = Session(talk)
number = 3

gates = [threading.Event() for _ in range(2)]

def wait_or_open(line, peer):
    gate = gates[int(line[-1:])]
    if line.startswith(b"slow"):
        gate.wait()
        time.sleep(0.01)  # why: to have been slow
    else:
        gate.set()
    return line + b"\\n"

kinds = Messages(wait_or_open, Lines(), kind=lambda line: line[:4])

async def later(line, peer):
    return line

class Store(Protocol):
    name, greeting, speaks_first, converse = "store", b"welcome\\n", False, None

    def decoder(self, limits, peer):
        return Lines().decoder(limits.max_message)

    def handle(self, line, peer):
        return shout(line, peer)

store = Store()

class Broken(Store):
    def over(self, message):
        pass

broken = Broken()

class Absent:
    def __getattr__(self, name):
        raise RuntimeError("not yet")

absent = Absent()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with app.py, which is the current one."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "broken.py").write_text("import no_such_thing\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2] / "src"), os.environ.get("PYTHONPATH", "")])
    )
    return tmp_path


def tcp(*options: str) -> Program:
    return Program([*TREADLE, "tcp", "--bind", "127.0.0.1:0", *options])


def connect(server: Program) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.wait_for_port()), PATIENCE)


@pytest.mark.parametrize(
    ("options", "question", "answer"),
    [
        (("app:shout", "--framing", "lines"), b"a\nb\r\n", b"A\nB\n"),
        (("app:shout",), b"raw", b"RAW\n"),
        (("app:shout", "--framing", "delimiter=\\0"), b"a\0b\0", b"A\nB\n"),
        (("app:shout", "--framing", "delimiter=--"), b"a-b--", b"A-B\n"),
        (("app:reverse", "--framing", "length-prefix=2"), b"\0\3abc", b"\0\3cba"),
        (("app:reverse", "--framing", "length-prefix=2,little"), b"\3\0abc", b"\0\3cba"),
        (("app:talk", "--session"), b"line\n", b"hello\nline\n"),
        (("app:talk", "--session", "--speaks-first"), b"line\n", b"hello\nline\n"),
        (("app:made",), b"x\n", b"welcome\nX\n"),
        (("app:store",), b"x\n", b"welcome\nX\n"),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_function_of_ones_own_is_served(options: tuple[str, ...], question: bytes, answer: bytes) -> None:
    with tcp(*options) as server:
        with connect(server) as client:
            assert ask(client, question, len(answer)) == answer
        server.send(signal.SIGTERM)
        assert server.wait() == 0, server.output


@pytest.mark.usefixtures("here")
def test_processes_share_the_clients_and_a_dead_one_is_replaced() -> None:
    with tcp("app:pid", "--framing", "lines", "--processes", "2") as server:
        found = server.wait_for(r"process (\d+) serves[\s\S]*process (\d+) serves")
        pids = {int(found[1]), int(found[2])}
        with connect(server) as client:
            first = int(receive_line(client))
            assert first in pids
            os.kill(first, signal.SIGKILL)
            assert receive_all(client) == b""
        server.wait_for(rf"process {first} ended by SIGKILL")
        with connect(server) as client:
            assert int(receive_line(client)) != first
        server.send(signal.SIGTERM)
        assert server.wait() == 0, server.output


def receive_line(client: socket.socket) -> bytes:
    client.sendall(b"?\n")
    return client.makefile("rb").readline()


@pytest.mark.usefixtures("here")
def test_processes_end_when_their_parent_is_killed() -> None:
    with tcp("app:pid", "--framing", "lines", "--processes", "1", "--drain-timeout", "5") as alone:
        alone.wait_for_port()
    with tcp("app:pid", "--framing", "lines", "--processes", "2") as server:
        found = server.wait_for(r"process (\d+) serves[\s\S]*process (\d+) serves")
        with connect(server) as client:
            assert receive_line(client)
            server.send(signal.SIGKILL)
            server.wait()
            assert client.recv(1) == b""
        for pid in (int(found[1]), int(found[2])):
            for _ in range(3000):
                try:
                    os.kill(pid, 0)
                except ProcessLookupError:
                    break
                os.sched_yield()
                signal.sigtimedwait([], 0.01)
            else:
                raise AssertionError(f"process {pid} lives on")


@pytest.mark.usefixtures("here")
def test_it_serves_a_unix_socket(here: Path) -> None:
    path = here / "s"
    with Program([*TREADLE, "tcp", "app:shout", "--framing", "lines", "--bind", f"unix:{path}"]) as server:
        server.wait_for(f"listens on unix:{re.escape(str(path))}")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(path))
            assert ask(client, b"a\n") == b"A\n"
        server.send(signal.SIGTERM)
        assert server.wait() == 0
    assert not path.exists()


def test_it_serves_tls_and_reloads_certificates_on_sighup(here: Path) -> None:
    old, new = Authority(here, "old"), Authority(here, "new")
    files = old.issue("127.0.0.1")
    options = ("--framing", "lines", "--certfile", str(files.certfile), "--keyfile", str(files.keyfile))
    with tcp("app:shout", *options) as server:
        with old.client_context().wrap_socket(connect(server), server_hostname="127.0.0.1") as client:
            assert ask(client, b"a\n") == b"A\n"
            new.issue("127.0.0.1")
            server.send(signal.SIGHUP)
            server.wait_for("the certificates are reloaded")
            with new.client_context().wrap_socket(connect(server), server_hostname="127.0.0.1") as other:
                assert ask(other, b"b\n") == b"B\n"
            assert ask(client, b"c\n") == b"C\n"
        server.send(signal.SIGTERM)
        assert server.wait() == 0, server.output


def test_the_handler_too_may_come_from_the_environment_or_the_file(here: Path) -> None:
    (here / "my.toml").write_text('[tcp]\nbind = "127.0.0.1:0"\nhandler = "app:talk"\nsession = true\n')
    file = Program([*TREADLE, "tcp", "--config", "my.toml"])
    variable = Program(
        [*TREADLE, "tcp", "--config", "my.toml"], env={"TREADLE_TCP_HANDLER": "app:made", "TREADLE_TCP_SESSION": "0"}
    )
    with file, variable:
        with connect(file) as client:
            assert ask(client, b"line\n", 11) == b"hello\nline\n"
        with connect(variable) as client:
            assert ask(client, b"x\n", 10) == b"welcome\nX\n"


def test_with_client_ca_clients_must_show_a_certificate(here: Path) -> None:
    authority = Authority(here)
    files = authority.issue("127.0.0.1")
    options = ("--certfile", str(files.certfile), "--keyfile", str(files.keyfile), "--client-ca", str(authority.ca))
    with tcp("app:shout", *options) as server:
        known = authority.client_context(authority.issue("alice"))
        with known.wrap_socket(connect(server), server_hostname="127.0.0.1") as client:
            assert ask(client, b"a", 2) == b"A\n"
        unknown = authority.client_context()
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask_secretly(unknown, connect(server))


def ask_secretly(context: ssl.SSLContext, plain: socket.socket) -> None:
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as client:
        client.sendall(b"a")
        if not client.recv(1):
            raise ConnectionError("closed without a word")


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.usefixtures("here")
def test_a_trusted_proxy_says_who_the_client_is(processes: str) -> None:
    trust = ("--proxy-trust", "10.0.0.0/8,unix", "--proxy-trust", "127.0.0.0/8")
    with tcp("app:who", "--framing", "lines", "--processes", processes, *trust) as server:
        for _ in range(4):
            with connect(server) as client:
                assert ask(client, b"PROXY TCP4 192.0.2.7 192.0.2.1 5 443\r\n?\n", 12) == b"192.0.2.7:5\n"
        assert server.wait_for(re.escape("PROXY UNKNOWN\\r\\nhello"))  # what is to be tried is to work
        server.send(signal.SIGTERM)
        assert server.wait() == 0, server.output


@pytest.mark.usefixtures("here")
def test_who_is_not_a_trusted_proxy_is_served_and_may_not_say_who_the_client_is() -> None:
    with tcp("app:who", "--framing", "lines", "--proxy-trust", "::1") as server:
        assert "PROXY" not in server.wait_for("talk to it.*").group()
        with connect(server) as client:
            assert ask(client, b"?\n", 9) == b"127.0.0.1"
        with connect(server) as client:
            client.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 5 443\r\n?\n")
            assert receive_all(client) == b""
        server.wait_for("to trust it: .*--proxy-trust 127.0.0.1")


@pytest.mark.parametrize(
    "options", [("app:kinds", "--reserve", "1"), ("app:wait_or_open", "--framing", "lines", "--reserve", "1")]
)
@pytest.mark.usefixtures("here")
def test_slow_messages_leave_a_thread_to_others(options: tuple[str, ...]) -> None:
    """Two that have been slow wait for a third, which finds one of the two threads free."""
    with tcp(*options, "--threads", "2") as server, connect(server) as one, connect(server) as two:
        with connect(server) as other:
            assert ask(other, b"open 0\n") == b"open 0\n"
            assert [ask(sock, b"slow 0\n") for sock in (one, two)] == [b"slow 0\n"] * 2
            for sock in (one, two):
                sock.sendall(b"slow 1\n")
            assert ask(other, b"open 1\n") == b"open 1\n"
            assert [receive(sock, 7) for sock in (one, two)] == [b"slow 1\n"] * 2
        server.send(signal.SIGTERM)
        assert server.wait() == 0


@pytest.mark.usefixtures("here")
def test_limits_are_enforced() -> None:
    limits = ("--max-message", "10", "--idle-timeout", "0.3", "--max-connections-per-host", "2", "--threads", "2")
    with tcp("app:shout", "--framing", "lines", *limits) as server:
        with connect(server) as long, connect(server) as idle:
            long.sendall(b"x" * 12)
            assert receive_all(long) == b""
            assert receive_all(idle) == b""
        with connect(server), connect(server), connect(server) as third:
            assert receive_all(third) == b""
            server.wait_for("127.0.0.1 has 2 connections already")


@pytest.mark.parametrize(
    ("options", "status", "complaint"),
    [
        (("app",), 2, "'app' is not MODULE:HANDLER, as in app:handle"),
        ((":shout",), 2, "':shout' is not MODULE:HANDLER, as in app:handle"),
        (("app:",), 2, "'app:' is not MODULE:HANDLER"),
        ((".app:shout",), 2, "'.app:shout' is not MODULE:HANDLER"),
        (("nothing:shout",), 2, "there is no module 'nothing'; is nothing.py in "),
        (("app:shoot",), 2, "app:shoot: no 'shoot' in it; it has shout, reverse, pid, talk, who, made"),
        (("app:shoot",), 2, "Store, store, Broken, broken, Absent"),
        (("app:number",), 2, "app:number is int, and cannot be called; allowed: MODULE:HANDLER, as in app:handle for"),
        (("app:number",), 2, "in app.py, Messages(handler, ...), Session(handler), or an object of your own that has"),
        (("app:Store",), 2, "app:Store: protocol=<class 'app.Store'> is a class; allowed: an object of it"),
        (("app:broken",), 2, "takes (message), and is called with (message, sent, error); give it such arguments"),
        (("app:store", "--framing", "lines"), 2, "app:store is a protocol already; drop --framing"),
        (("app:store", "--session"), 2, "app:store is a protocol already; drop --session"),
        (("app:later",), 2, "is a coroutine function; handler must be an ordinary one, which may block"),
        (("app:later", "--session"), 2, "is a coroutine function"),
        (("app:talk",), 2, "takes (conn), and is called with (message, peer)"),
        (("app:talk",), 2, "did you mean Session(...), with the command --session?"),
        (("app:shout", "--session"), 2, "takes (line, peer), and is called with (conn)"),
        (("app:shout", "--session"), 2, "did you mean Messages(...), with the command no --session?"),
        (("app:Lines",), 2, "is a class, and its objects are no bytes"),
        (("app:shout", "--framing", "line"), 2, "'line' is no framing; allowed: raw, lines"),
        (("app:shout", "--framing", "length-prefix=9"), 2, "must be 1 to 8 bytes"),
        (("app:shout", "--framing", "delimiter="), 2, "must be one byte or more"),
        (
            ("app:talk", "--session", "--framing", "lines"),
            2,
            "--session reads for itself, and has no use for --framing; drop one",
        ),
        (("app:talk", "--speaks-first"), 2, "--speaks-first needs --session"),
        (
            ("app:talk", "--session", "--reserve", "1"),
            2,
            "--reserve has no effect on a session, which holds its thread",
        ),
        (("app:session", "--reserve", "0"), 2, "app:session is a Session, which holds its thread; drop --reserve"),
        (("app:shout", "--reserve", "none"), 2, "'none' is not a whole number; allowed: 0 or more"),
        (("app:made", "--framing", "lines"), 2, "is a Messages already; drop --framing"),
        (("app:shout", "--certfile", "none.pem"), 66, "Error: --certfile: none.pem: No such file or directory"),
        (("app:shout", "--certfile", "app.py"), 66, "Error: --certfile: app.py: it holds no certificate"),
        (("app:shout", "--certfile", "app.py", "--keyfile", "none.key"), 66, "Error: --keyfile: none.key: No such"),
        (
            ("app:shout", "--proxy-trust", "me"),
            2,
            "Invalid value for '--proxy-trust': 'me' is not an address or a network",
        ),
        (("app:shout", "--client-ca", "app.py"), 2, "Error: --client-ca is of no use without --certfile"),
        (("nothing.py:shout",), 2, "there is no module 'nothing'; did you mean nothing:shout?"),
        (("app.py:shout",), 2, "there is no module 'app.py'; did you mean app:shout?"),
        (("broken:shout",), 78, "ModuleNotFoundError: No module named 'no_such_thing' (broken.py, line 1)"),
        ((), 2, "Missing argument 'MODULE:HANDLER'"),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_is_wrong_is_said(options: tuple[str, ...], status: int, complaint: str) -> None:
    ended, out, error = run(*TREADLE, "tcp", *options)
    assert (ended, out) == (status, "")
    assert complaint in " ".join(error.split())


@pytest.mark.usefixtures("here")
def test_a_key_log_that_cannot_be_written_is_no_fault_of_the_certificate(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("127.0.0.1")
    options = ("--certfile", str(files.certfile), "--keyfile", str(files.keyfile))
    ended, out, error = run(*TREADLE, "tcp", "app:shout", *options, env={"SSLKEYLOGFILE": "none/keys"})
    said = " ".join(error.split())
    assert (ended, out) == (73, "")
    assert "Error: none/keys: No such file or directory; SSLKEYLOGFILE has TLS keys written there" in said
    assert "certfile" not in said


@pytest.mark.parametrize(
    ("table", "status", "complaint"),
    [
        ("certfile = 'none.pem'", 66, "my.toml: [tcp] certfile: none.pem: No such file"),
        ("keyfile = 'none.pem'", 2, "my.toml: [tcp] keyfile is of no use without --certfile"),
        (
            "session = true\nframing = 'lines'",
            2,
            "my.toml: [tcp] session reads for itself, and has no use for my.toml:",
        ),
        ("session = true\nreserve = 1", 2, "my.toml: [tcp] reserve has no effect on a session"),
        ("speaks-first = true", 2, "my.toml: [tcp] speaks-first needs --session"),
    ],
)
def test_what_is_wrong_in_the_file_is_said_of_the_file(here: Path, table: str, status: int, complaint: str) -> None:
    (here / "my.toml").write_text(f"[tcp]\n{table}\n")
    ended, out, error = run(*TREADLE, "tcp", "app:shout", "--config", "my.toml")
    assert (ended, out) == (status, "")
    assert complaint in " ".join(error.split())


@pytest.mark.usefixtures("here")
def test_what_is_wrong_in_the_environment_is_said_of_the_variable() -> None:
    ended, out, error = run(*TREADLE, "tcp", "app:shout", env={"TREADLE_TCP_KEYFILE": "none.pem"})
    assert (ended, out) == (2, "")
    assert "TREADLE_TCP_KEYFILE is of no use without --certfile" in error


SYNTAX = "def shout(line, peer:\n"
RAISES = "def connect():\n    raise ValueError('no database')\n\nconnect()\n"
CHAINED = "try:\n    {}['url']\nexcept KeyError as missing:\n    raise RuntimeError('no url') from missing\n"


@pytest.mark.parametrize(
    ("source", "frames", "complaint"),
    [
        ("import no_such_thing\n", 1, "ModuleNotFoundError: No module named 'no_such_thing' (bad.py, line 1)"),
        (SYNTAX, 1, "SyntaxError: "),
        (RAISES, 2, "ValueError: no database (bad.py, line 2)"),
        (CHAINED, 2, "RuntimeError: no url (bad.py, line 4)"),
        ("import bad_too\n", 2, "ModuleNotFoundError: No module named 'neither' (bad_too.py, line 1)"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_in_its_own_frames(
    here: Path, source: str, frames: int, complaint: str
) -> None:
    (here / "bad.py").write_text(source)
    (here / "bad_too.py").write_text("import neither\n")
    ended, out, error = run(*TREADLE, "tcp", "bad:shout", "--bind", "127.0.0.1:0")
    assert (ended, out) == (78, "")
    assert error.splitlines()[-1].startswith(f"Error: cannot import bad: {complaint}")
    assert error.count('  File "') == error.count(f'  File "{here}') == frames


@pytest.mark.parametrize(
    ("handler", "status", "complaint"),
    [
        ("nothing:shout", 2, "there is no module 'nothing'"),
        ("app:shoot", 2, "no 'shoot' in it"),
        ("app:later", 2, "is a coroutine function"),
        ("broken:shout", 78, "cannot import broken"),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_is_wrong_in_every_process_is_said_once(handler: str, status: int, complaint: str) -> None:
    """And nothing is said to listen."""
    ended, out, error = run(*TREADLE, "tcp", handler, "--processes", "4", "--bind", "127.0.0.1:0")
    assert (ended, error.count(complaint)) == (status, 1), error
    assert "listens on" not in out


@pytest.mark.usefixtures("here")
def test_several_processes_say_once_where_they_listen() -> None:
    with tcp("app:pid", "--framing", "lines", "--processes", "3") as server:
        server.wait_for(r"(process \d+ serves[\s\S]*){3}")
        server.wait_for("treadle tcp listens on")  # another one may answer first
        with connect(server) as client:
            assert receive_line(client)
        server.send(signal.SIGTERM)
        assert server.wait() == 0
        assert server.output.count("treadle tcp listens on") == 1
