"""examples/{line,binary,redis}_server.py, run as a user runs them."""

from __future__ import annotations

import hashlib
import signal
import socket
import sys
from pathlib import Path

import pytest

from programs import PATIENCE, Program, run
from tcp import ask, receive_all

EXAMPLES = Path(__file__).parents[2] / "examples"


def served(name: str) -> Program:
    """Run an example in which nothing may be left open, or be used as it should no longer be."""
    return Program([sys.executable, "-W", "error", "-X", "dev", str(EXAMPLES / name), "0"])


def connect(server: Program) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.wait_for_port()), PATIENCE)


def end(server: Program) -> None:
    server.send(signal.SIGTERM)
    assert server.wait() == 0, server.output
    assert "Traceback" not in server.output
    assert "Warning" not in server.output


@pytest.mark.parametrize("name", ["echo_server.py", "line_server.py", "binary_server.py", "redis_server.py"])
def test_a_port_that_cannot_be_had_is_said_in_a_line(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        for port, why in ((str(owner.getsockname()[1]), "in use"), ("http", "'http'"), ("99999", "65535")):
            status, out, error = run(sys.executable, str(EXAMPLES / name), port)
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
    assert len((EXAMPLES / "redis_server.py").read_text().splitlines()) < 80
