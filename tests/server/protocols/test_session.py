"""Session: reading, writing, and what is raised."""

from __future__ import annotations

import errno
import logging
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import pytest

from socketservers import until
from tcp import PATIENCE, ask, client, receive, receive_all
from treadle.errors import MessageTooLong
from treadle.server import CloseConnection, Connection, Limits, Server, Session


def serving(handler: Callable[[Connection], object], **limits: object) -> Server:
    return Server(Session(handler), "127.0.0.1:0", max_workers=2, limits=Limits(**limits))  # type: ignore[arg-type]


def test_what_was_read_with_the_first_byte_is_not_lost() -> None:
    def talk(conn: Connection) -> None:
        assert conn.recv(2) == b"ab"
        assert conn.recv() == b"cde\nfg"
        conn.sendall(b"ok")

    with serving(talk) as server, client(server) as sock:
        assert ask(sock, b"abcde\nfg", 2) == b"ok"


def test_lines_and_sizes_may_be_mixed() -> None:
    def talk(conn: Connection) -> None:
        size = int(conn.readline())
        conn.sendall(conn.recv_exactly(size)[::-1])
        assert conn.readline() == b"last"
        assert conn.readline() == b""
        with pytest.raises(EOFError, match="ended after 0 of 1 byte"):
            conn.recv_exactly(1)
        assert conn.recv_exactly(0) == b""

    with serving(talk) as server, client(server) as sock:
        for byte in b"3\nabc":
            sock.sendall(bytes([byte]))
        assert receive(sock, 3) == b"cba"
        sock.sendall(b"last")
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b""
        assert server.snapshot().failures == 0


def test_what_is_too_long_is_an_error() -> None:
    def talk(conn: Connection) -> None:
        with pytest.raises(MessageTooLong):
            conn.recv_exactly(101)
        with pytest.raises(MessageTooLong):
            conn.readline()
        conn.sendall(b"ok")

    with serving(talk, max_message=100) as server, client(server) as sock:
        assert ask(sock, b"x" * 102, 2) == b"ok"


def test_a_conversation_that_ends_at_a_message_that_is_too_long_is_counted_as_closed_by_that() -> None:
    with serving(lambda conn: conn.readline(), max_message=100) as server, client(server) as sock:
        sock.sendall(b"x" * 102)
        assert receive_all(sock) == b""
        sock.close()
    assert server.snapshot().closed_by == {"max_message": 1}


def test_a_client_that_leaves_is_no_failure_of_the_handler(caplog: pytest.LogCaptureFixture) -> None:
    def talk(conn: Connection) -> None:
        conn.recv()
        while True:
            conn.sendall(b"x" * 100_000)

    with serving(talk) as server:
        with client(server) as sock:
            sock.sendall(b"go")
            assert sock.recv(1)
        with client(server) as sock:  # the thread is free again
            sock.sendall(b"go")
            assert sock.recv(1)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_client_that_ends_in_the_middle_is_no_failure_of_the_handler(caplog: pytest.LogCaptureFixture) -> None:
    def talk(conn: Connection) -> None:
        conn.sendall(b"hello")
        conn.recv_exactly(10)

    with serving(talk) as server:
        with client(server) as sock:
            sock.sendall(b"half")
            sock.shutdown(socket.SHUT_WR)
            assert receive_all(sock) == b"hello"
        assert server.snapshot().failures == 0
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_line_that_is_too_long_is_an_error_however_it_comes() -> None:
    def talk(conn: Connection) -> None:
        assert conn.readline() == b"y" * 100 + b"\n"
        with pytest.raises(MessageTooLong):
            conn.readline()
        conn.sendall(b"ok")

    with serving(talk, max_message=100) as server, client(server) as sock:
        assert ask(sock, b"y" * 100 + b"\n" + b"x" * 101 + b"\n", 2) == b"ok"  # whole, in one piece


def test_a_client_that_sends_too_much_is_no_failure_of_the_handlers(caplog: pytest.LogCaptureFixture) -> None:
    """It is one line of the log for many, as with messages."""
    with serving(lambda conn: conn.readline() and None, max_message=100) as server:
        for _ in range(3):
            with client(server) as sock:
                sock.sendall(b"x" * 200)
                assert receive_all(sock) == b""
        until(lambda: server.snapshot().closed_connections == 3)
        seen = server.snapshot()
    assert (seen.failures, seen.closed_by) == (0, {"max_message": 3})
    assert [record.levelname for record in caplog.records if "message" in record.getMessage()] == ["WARNING"]
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("cut_by", ["write_timeout", "stop"])
def test_who_has_got_a_part_of_an_answer_can_tell_that_it_is_one(cut_by: str) -> None:
    """By a reset; else it would take the beginning of a file for the file. With TLS it can tell anyway."""
    sending = threading.Event()

    def talk(conn: Connection) -> None:
        conn.readline()
        sending.set()
        conn.sendall(bytes(1 << 26))

    with serving(talk, write_timeout=0.2 if cut_by == "write_timeout" else None) as server, client(server) as sock:
        sock.sendall(b"x\n")
        assert sending.wait(PATIENCE)
        if cut_by == "stop":
            server.stop(0.2)
        poller = select.poll()
        poller.register(sock, 0)
        until(lambda: poller.poll(0))
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET


@pytest.mark.parametrize("error", [FileNotFoundError, EOFError])
def test_an_error_of_the_handlers_own_is_a_failure(error: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    def talk(conn: Connection) -> None:
        raise error("of its own")

    with serving(talk) as server, client(server) as sock:
        sock.sendall(b"x")
        assert receive_all(sock) == b""
    assert "of its own" in caplog.text


def test_a_session_may_end_with_a_last_word_or_half_closed() -> None:
    def talk(conn: Connection) -> None:
        if conn.readline() == b"quit\n":
            raise CloseConnection(b"bye")
        with conn:
            conn.sendall(b"first")
        assert conn.recv() == b"after"

    with serving(talk) as server:
        with client(server) as sock:
            sock.sendall(b"quit\n")
            assert receive_all(sock) == b"bye"
        with client(server) as sock:
            sock.sendall(b"half\n")
            assert receive_all(sock) == b"first"
            sock.sendall(b"after")
        assert server.snapshot().failures == 0


@pytest.mark.parametrize("when", ["at its deadline", "in a lull"])
def test_half_a_line_that_a_stop_cuts_is_no_line(when: str) -> None:
    seen: list[object] = []
    goes_on = threading.Event()

    def talk(conn: Connection) -> None:
        conn.sendall(conn.readline())
        assert goes_on.wait(PATIENCE)
        try:
            seen.append(conn.readline())
        except EOFError as error:
            seen.append(type(error))
            raise

    server = serving(talk).start()
    with client(server) as sock:
        assert ask(sock, b"whole\npay 1", 6) == b"whole\n"
        assert server._group is not None
        ((driver, conn),) = [(driver, conn) for driver in server._group.drivers for conn in driver.io.connections()]
        if when == "in a lull":  # which the half line has ended too late
            driver.loop.post(partial(driver.reaper.cut, conn, "the server stops"))
            until(lambda: conn.ending.last)
            goes_on.set()
        else:
            goes_on.set()
            assert server.stop(0.0) == 1
        assert receive_all(sock) == b""
    server.stop()
    until(lambda: seen)
    assert seen == [EOFError]
    assert server.snapshot().failures == 0
    assert server.snapshot().closed_by == ({} if when == "in a lull" else {"drain_timeout": 1})


def test_a_handler_that_pauses_is_called_again_with_what_is_left() -> None:
    left = [b"third", b"second", b"first"]

    def talk(conn: Connection) -> object:
        with conn:
            assert conn.readline() == left.pop() + b"\n"
            conn.sendall(b"%d" % len(left))
            return conn.pause() if left else None

    with serving(talk) as server, client(server) as sock:
        assert ask(sock, b"first\n", 1) == b"2"
        assert ask(sock, b"second\nthird\n", 2) == b"10"
        assert receive_all(sock) == b""
        assert server.snapshot().messages == 3


def test_a_pause_is_no_end_to_what_a_with_statement_holds_unless_it_raises() -> None:
    def talk(conn: Connection) -> object:
        with conn:
            conn.pause()
            conn.sendall(conn.readline())
        with suppress(ZeroDivisionError), conn:
            conn.pause()
            raise ZeroDivisionError
        with pytest.raises(OSError, match="pipe"):
            conn.sendall(b"closed")
        return conn.pause()

    with serving(talk) as server, client(server) as sock:
        sock.sendall(b"line\n")
        assert receive_all(sock) == b"line\n"


def steps(conn: Connection) -> Iterator[bytes]:
    yield conn.readline()


def test_a_class_whose_making_is_the_conversation_may_be_the_handler() -> None:
    class Talk:
        def __init__(self, conn: Connection) -> None:
            conn.sendall(conn.readline().upper())

    with serving(Talk) as server, client(server) as sock:
        assert ask(sock, b"hello\n") == b"HELLO\n"


def test_bad_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="handler=3 is int"):
        Session(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="speaks_first=1 is int"):
        Session(print, speaks_first=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"takes \(line, peer\), and is called with \(conn\).* did you mean Messages"):
        Session(lambda line, peer: line)  # type: ignore[misc, arg-type]
    with pytest.raises(TypeError, match="is a generator function"):
        Session(steps)
    assert repr(Session(print)) == "Session(print)"
