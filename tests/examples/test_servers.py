"""examples/{line,binary,redis}_server.py, run as a user runs them."""

from __future__ import annotations

import hashlib
import signal
import socket
import sys
from pathlib import Path

from programs import PATIENCE, Program, run
from tcp import ask, receive_all

EXAMPLES = Path(__file__).parents[2] / "examples"


def served(name: str) -> Program:
    return Program([sys.executable, str(EXAMPLES / name), "0"])


def connect(server: Program) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.wait_for_port()), PATIENCE)


def end(server: Program) -> None:
    server.send(signal.SIGTERM)
    assert server.wait() == 0, server.output
    assert "Traceback" not in server.output


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


def test_the_redis_server_is_short_enough_to_be_read() -> None:
    assert len((EXAMPLES / "redis_server.py").read_text().splitlines()) < 80
