"""examples/{line,binary,redis}_server.py, run as a user runs them."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import shutil
import signal
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from programs import PATIENCE, Program, run
from tcp import ask, receive_all
from treadle.errors import MessageTooLong

EXAMPLES = Path(__file__).parents[2] / "examples"


def served(name: str) -> Program:
    """Run an example in which nothing may be left open, or be used as it should no longer be."""
    return Program([sys.executable, "-W", "error", "-X", "dev", str(EXAMPLES / name), "0"])


@functools.cache
def redis_server() -> ModuleType:
    """Return the example as a module, which serves nothing."""
    spec = importlib.util.spec_from_file_location("redis_server", EXAMPLES / "redis_server.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def connect(server: Program) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.wait_for_port()), PATIENCE)


def end(server: Program) -> None:
    server.send(signal.SIGTERM)
    assert server.wait() == 0, server.output
    assert "Traceback" not in server.output
    assert "Warning" not in server.output


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("echo_server.py", ()),
        ("handmade_pool.py", ("127.0.0.1",)),
        ("line_server.py", ()),
        ("binary_server.py", ()),
        ("redis_server.py", ()),
        ("web_app.py", ()),
    ],
)
def test_a_port_that_cannot_be_had_is_said_in_a_line(name: str, host: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        for port, why in ((str(owner.getsockname()[1]), "in use"), ("http", "'http'"), ("99999", "65535")):
            status, out, error = run(sys.executable, str(EXAMPLES / name), *host, port)
            assert (status, out) == (1, "")
            assert why in error.lower()
            assert len(error.splitlines()) == 1


def test_the_line_server_counts_words_in_its_database() -> None:
    with served("line_server.py") as server:
        with connect(server) as one, connect(server) as two:
            assert ask(one, b"", 12) == b"which word?\n"
            assert ask(one, b"warp\nweft\n", 14) == b"warp 1\nweft 1\n"
            assert ask(two, b"warp\r\n", 19) == b"which word?\nwarp 2\n"
            two.sendall(b"quit\nwarp\n")
            assert receive_all(two) == b"bye\n"
        end(server)


def test_the_binary_server_answers_its_own_client() -> None:
    with served("binary_server.py") as server:
        port = str(server.wait_for_port())
        status, out, _ = run(sys.executable, str(EXAMPLES / "binary_server.py"), port, "warp", "weft")
        assert status == 0
        assert out.splitlines() == [f"{word} {hashlib.sha256(word.encode()).hexdigest()}" for word in ("warp", "weft")]
        end(server)


def test_the_redis_server_speaks_resp_in_any_split() -> None:
    said = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$2\r\n12\r\nPING\r\n*2\r\n$4\r\nINCR\r\n$1\r\na\r\nGET a\r\nGET b\r\nNO\r\n"
    answers = b"+OK\r\n+PONG\r\n:13\r\n$2\r\n13\r\n$-1\r\n-ERR unknown command or wrong number of arguments\r\n"
    with served("redis_server.py") as server:
        with connect(server) as client:
            assert ask(client, said, len(answers)) == answers
            for byte in said:
                client.sendall(bytes([byte]))
            assert ask(client, b"", len(answers)) == answers
            client.sendall(b"QUIT\r\n")
            assert receive_all(client) == b"+OK\r\n"
        end(server)


def test_the_redis_server_takes_the_greeting_of_clients_of_today() -> None:
    """They speak RESP3, in which nothing has a sign of its own."""
    with served("redis_server.py") as server:
        with connect(server) as client:
            assert ask(client, b"GET b\r\n", 5) == b"$-1\r\n"
            assert ask(client, b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n", 19) == b"%1\r\n$5\r\nproto\r\n:3\r\n"
            assert ask(client, b"GET b\r\n", 3) == b"_\r\n"
            assert ask(client, b"INCRBY b 3\r\n", 4) == b":3\r\n"
            assert ask(client, b"CLIENT SETINFO LIB-NAME x\r\n", 20).startswith(b"-ERR unknown command")
        end(server)


def test_the_redis_server_echoes_which_is_how_redis_cli_pipe_ends() -> None:
    """`redis-cli --pipe` sends no more than that at its end, and waits 15 seconds for the answer."""
    with served("redis_server.py") as server:
        with connect(server) as client:
            assert ask(client, b"*2\r\n$4\r\nECHO\r\n$5\r\na\r\nb\0\r\n", 11) == b"$5\r\na\r\nb\0\r\n"
        end(server)


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not installed (Debian: redis-tools)")
def test_the_redis_server_is_one_to_redis_cli() -> None:
    commands = "".join(f"*3\r\n$3\r\nSET\r\n$6\r\nk{n:05}\r\n$1\r\nv\r\n" for n in range(10_000))
    with served("redis_server.py") as server:
        client = ["redis-cli", "-p", str(server.wait_for_port())]
        assert run(*client, "set", "loom", "treadle") == (0, "OK\n", "")
        assert run(*client, "get", "loom") == (0, "treadle\n", "")
        assert run(*client, "incr", "count") == (0, "1\n", "")
        piped = subprocess.run([*client, "--pipe"], input=commands.encode(), capture_output=True, timeout=PATIENCE)
        assert b"errors: 0, replies: 10000" in piped.stdout
        assert run(*client, "get", "k09999") == (0, "v\n", "")
        end(server)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"*x\r\n", "expected * and a number, got b'*x'"),
        (b"*-1\r\n", "expected * and a number, got b'*-1'"),
        (b"*2\r\n$3\r\nGET\r\n:1\r\n", "expected $ and a number, got b':1'"),
        (b"*1\r\n$3\r\nPING\r\n", r"expected \r\n after 3 bytes, got b'G\r'"),
        (b"*2\r\n$4\r\nPING\r\n$" + b"9" * 5_000 + b"\r\n", "expected $ and a number, got b'$999"),
    ],
)
def test_the_redis_server_closes_who_is_no_client_and_says_why(sent: bytes, said: str) -> None:
    with served("redis_server.py") as server:
        with connect(server) as other, connect(server) as client:
            assert ask(other, b"*1\r\n$4\r\nPI", 0) == b""  # half a command, which the other's fault does not touch
            client.sendall(b"PING\r\n" + sent)
            assert receive_all(client) == b"+PONG\r\n"
            assert ask(other, b"NG\r\n", 7) == b"+PONG\r\n"
            port = client.getsockname()[1]
        end(server)
    (line,) = [line for line in server.output.splitlines() if line.startswith("WARNING")]
    assert f":{port}: closed, for what it sent makes no message: " in line
    assert said in line


COMMANDS = st.lists(st.lists(st.binary(max_size=20), min_size=1, max_size=4), max_size=6)


@given(COMMANDS, st.data())
def test_the_redis_servers_framing_gives_the_same_in_pieces_of_any_size(
    commands: list[list[bytes]], data: st.DataObject
) -> None:
    sent = b"".join(
        b"*%d\r\n%s" % (len(command), b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in command))
        for command in commands
    )
    cuts = sorted({0, len(sent), *data.draw(st.lists(st.integers(0, len(sent))))})
    for pieces in ([sent], [bytes([byte]) for byte in sent], [sent[a:b] for a, b in pairwise(cuts)]):
        decoder = redis_server().Resp().decoder(1000)
        assert [command for piece in pieces for command in decoder.feed(piece)] == commands
        assert decoder.held == 0


class Watched(bytearray):
    """Counts the bytes that are looked at, or copied."""

    looked = 0

    def find(self, wanted: Any, start: Any = 0, *end: Any) -> int:
        Watched.looked += len(self) - start
        return super().find(wanted, start, *end)

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        Watched.looked += len(found) if isinstance(key, slice) else 1
        return found


@pytest.mark.parametrize("form", [b"*2\r\n$4\r\nECHO\r\n$980000\r\n%s\r\n", b"ECHO %s\r\n"], ids=["word", "line"])
def test_the_redis_servers_framing_looks_at_each_byte_of_an_unfinished_command_once(
    form: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small the pieces that it comes in; then nobody can hold the others up with it."""
    example = redis_server()
    monkeypatch.setattr(example, "bytearray", Watched, raising=False)  # what the module finds before the builtin
    monkeypatch.setattr(Watched, "looked", 0)
    sent = form % (b"x" * 980_000)
    decoder = example.Resp().decoder(1_000_000)
    commands = [command for start in range(0, len(sent), 100) for command in decoder.feed(sent[start : start + 100])]
    assert commands == [[b"ECHO", b"x" * 980_000]]
    assert len(sent) <= Watched.looked <= 3 * len(sent)  # found, cut out, made bytes


def test_the_redis_servers_framing_ends_what_is_longer_than_a_message_may_be() -> None:
    for longest in (b"x" * 100, b"*1\r\n$99\r\n" + b"x" * 91):
        decoder = redis_server().Resp().decoder(100)
        assert [*decoder.feed(longest[:50]), *decoder.feed(longest[50:])] == []
        assert decoder.held == 100
        with pytest.raises(MessageTooLong):
            list(decoder.feed(b"x"))


def test_the_redis_server_counts_no_words() -> None:
    answer = b"-ERR value is not an integer or out of range\r\n"
    with served("redis_server.py") as server:
        with connect(server) as client:
            assert ask(client, b"SET x hello\r\n", 5) == b"+OK\r\n"
            for command in (b"INCR x", b"INCRBY n many", b"INCR x"):
                assert ask(client, command + b"\r\n", len(answer)) == answer
            assert ask(client, b"GET x\r\n", 11) == b"$5\r\nhello\r\n"
        end(server)


def test_the_redis_server_is_short_enough_to_be_read() -> None:
    assert len((EXAMPLES / "redis_server.py").read_text().splitlines()) < 110
