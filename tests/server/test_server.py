"""Server: start, serve, stop, reload, look."""

from __future__ import annotations

import array
import inspect
import logging
import os
import queue
import re
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Any

import pytest

from certificates import Authority
from programs import run
from socketservers import until
from tcp import PATIENCE, ask, client, receive_all
from treadle import Pool
from treadle.errors import BindError, PoolClosed
from treadle.server import (
    Certificates,
    CloseConnection,
    Connection,
    Delimiter,
    LengthPrefix,
    Limits,
    Lines,
    Messages,
    Peer,
    Server,
    Session,
)
from treadle.server._accept.listen import open_listeners
from treadle.server._server import LAST_WORDS, usual_reserve


def checking() -> ssl.SSLContext:
    """Return a context that no server can use."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.check_hostname = True
    return context


def echo(data: bytes, peer: Peer) -> bytes:
    return data


def shout(line: bytes, peer: Peer) -> bytes:
    return line.upper() + b"\n"


def test_a_function_becomes_a_server() -> None:
    with Server(Messages(shout, Lines()), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        assert ask(sock, b"hello\n") == b"HELLO\n"
        assert ask(sock, b"one\ntwo\r\nthree\n", 14) == b"ONE\nTWO\nTHREE\n"


def test_what_comes_in_any_split_is_answered_in_order() -> None:
    with Server(Messages(shout, Lines()), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        for byte in b"a\nbc\n\nd\n":
            sock.sendall(bytes([byte]))
        assert ask(sock, b"", 8) == b"A\nBC\n\nD\n"


@pytest.mark.parametrize("framing", [Delimiter(b"\0\0"), LengthPrefix(2), LengthPrefix(4, "little")])
def test_each_framing_serves(framing: Delimiter | LengthPrefix) -> None:
    def pack(data: bytes) -> bytes:
        return framing.pack(data) if isinstance(framing, LengthPrefix) else data + framing.delimiter

    server = Server(Messages(lambda data, peer: pack(data[::-1]), framing), "127.0.0.1:0", max_workers=2)
    with server, client(server) as sock:
        assert ask(sock, pack(b"abc") + pack(b"") + pack(b"xy")) == pack(b"cba") + pack(b"") + pack(b"yx")


def test_a_big_message_passes_through_small_buffers() -> None:
    data = bytes(range(256)) * 40_000
    server = Server(
        Messages(lambda data, peer: data, LengthPrefix(4)), "127.0.0.1:0", limits=Limits(max_message=len(data))
    )
    with server, client(server) as sock:
        sender = threading.Thread(target=sock.sendall, args=(len(data).to_bytes(4, "big") + data,))
        sender.start()
        assert ask(sock, b"", len(data)) == data
        sender.join(PATIENCE)


def test_a_handler_that_raises_closes_its_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    def divide(line: bytes, peer: Peer) -> bytes:
        return b"%d\n" % (100 // int(line))

    with Server(Messages(divide, Lines()), "127.0.0.1:0", max_workers=2) as server:
        with client(server) as good, client(server) as bad:
            assert ask(good, b"5\n", 3) == b"20\n"
            bad.sendall(b"4\n0\n5\n")
            assert receive_all(bad) == b"25\n"
            assert ask(good, b"2\n", 3) == b"50\n"
            (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
            port = bad.getsockname()[1]
            assert record.getMessage().startswith(f"127.0.0.1:{port}: handler")
            assert "message 2" in record.getMessage()
            assert record.exc_info is not None
            assert record.exc_info[0] is ZeroDivisionError
        assert server.snapshot().failures == 1


def test_a_handler_that_returns_no_bytes_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(Messages(lambda data, peer: "text"), "127.0.0.1:0", max_workers=2)  # type: ignore[arg-type,return-value]
    with server, client(server) as sock:
        sock.sendall(b"x")
        assert receive_all(sock) == b""
    assert "returned str; allowed: bytes, a FileRange, a list of these" in caplog.text


def test_nothing_is_handled_after_an_answer_that_is_no_bytes() -> None:
    handled: list[bytes] = []

    def answer(line: bytes, peer: Peer) -> object:
        handled.append(line)
        return "text" if line == b"2" else line

    with Server(Messages(answer, Lines()), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:  # type: ignore[arg-type]
        sock.sendall(b"1\n2\n3\n")
        assert receive_all(sock) == b"1"
        assert handled == [b"1", b"2"]


def test_an_answer_may_be_anything_that_holds_bytes() -> None:
    kinds = {b"1": bytearray(b"a"), b"2": memoryview(b"b"), b"3": array.array("b", b"c"), b"4": b"d"}
    server = Server(Messages(lambda line, peer: kinds[line], Lines()), "127.0.0.1:0", max_workers=2)  # type: ignore[arg-type,return-value]
    with server, client(server) as sock:
        assert ask(sock, b"1\n2\n3\n4\n", 4) == b"abcd"


def test_a_handler_may_end_the_connection_with_a_last_word() -> None:
    def quit(line: bytes, peer: Peer) -> bytes:
        if line == b"quit":
            raise CloseConnection(b"bye\n")
        return line + b"\n"

    with Server(Messages(quit, Lines()), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        sock.sendall(b"a\nquit\nb\n")
        assert receive_all(sock) == b"a\nbye\n"


def test_a_greeting_is_sent_first() -> None:
    server = Server(Messages(echo, greeting=b"220 ready\r\n"), "127.0.0.1:0", max_workers=2)
    with server, client(server) as sock:
        assert ask(sock, b"", 11) == b"220 ready\r\n"
        assert ask(sock, b"x") == b"x"


def test_peer_keeps_state_for_its_connection() -> None:
    def count(data: bytes, peer: Peer) -> bytes:
        peer.state["n"] = peer.state.get("n", 0) + 1
        return b"%d %s\n" % (peer.state["n"], str(peer).encode())

    with Server(Messages(count, Lines()), "127.0.0.1:0", max_workers=2) as server:
        with client(server) as one, client(server) as two:
            name = "{}:{}\n".format(*one.getsockname()).encode()
            assert ask(one, b"\n", 2 + len(name)) == b"1 " + name
            assert ask(one, b"\n", 2 + len(name)) == b"2 " + name
            assert ask(two, b"\n", 2) == b"1 "


def test_session_holds_a_conversation() -> None:
    def talk(conn: Connection) -> None:
        name = conn.readline().strip()
        conn.sendall(b"hello " + name + b"\n")
        assert conn.recv_exactly(3) == b"123"
        while data := conn.recv(2):
            conn.sendall(data + b".")

    with Server(Session(talk), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        assert ask(sock, b"bob\n12", 10) == b"hello bob\n"
        assert ask(sock, b"3abc", 5) == b"ab.c."
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b""


def test_session_may_speak_first() -> None:
    def greet(conn: Connection) -> None:
        conn.sendall(b"220 hello\r\n")
        conn.sendall(conn.readline().upper())

    server = Server(Session(greet, speaks_first=True), "127.0.0.1:0", max_workers=2)
    with server, client(server) as sock:
        assert ask(sock, b"", 11) == b"220 hello\r\n"
        sock.sendall(b"quit\r\n")
        assert receive_all(sock) == b"QUIT\r\n"


def test_a_session_begins_with_the_first_byte_and_not_before() -> None:
    began = threading.Event()

    def talk(conn: Connection) -> None:
        began.set()
        conn.sendall(conn.recv())

    with Server(Session(talk), "127.0.0.1:0", max_workers=1) as server:
        with client(server), client(server), client(server) as talker:
            assert ask(talker, b"x") == b"x"
            assert server.snapshot().handed_over == 1


def test_many_slow_handlers_run_at_once_and_the_quick_ones_go_on() -> None:
    gate, inside = threading.Event(), threading.Semaphore(0)

    def handle(data: bytes, peer: Peer) -> bytes:
        if data == b"wait":
            inside.release()
            assert gate.wait(PATIENCE)
        return data

    with Server(Messages(handle), "127.0.0.1:0", max_workers=4) as server:
        with client(server) as a, client(server) as b, client(server) as c, client(server) as quick:
            for slow in (a, b, c):
                slow.sendall(b"wait")
                assert inside.acquire(timeout=PATIENCE)
            for _ in range(100):
                assert ask(quick, b"ping") == b"ping"
            gate.set()
            for slow in (a, b, c):
                assert ask(slow, b"", 4) == b"wait"
            assert ask(a, b"ping") == b"ping"


def test_when_every_thread_is_in_a_handler_messages_wait_and_are_not_lost() -> None:
    gate, inside = threading.Event(), threading.Semaphore(0)

    def handle(line: bytes, peer: Peer) -> bytes:
        if line == b"wait":
            inside.release()
            assert gate.wait(PATIENCE)
        return line + b"\n"

    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2) as server:
        with client(server) as a, client(server) as b, client(server) as c:
            for slow in (a, b):
                slow.sendall(b"wait\n")
                assert inside.acquire(timeout=PATIENCE)
            c.sendall(b"1\n2\n")
            with client(server) as d:  # is let in
                d.sendall(b"x\n")
                c.sendall(b"3\n")
                gate.set()
                assert ask(c, b"", 6) == b"1\n2\n3\n"
                assert ask(d, b"", 2) == b"x\n"
            assert ask(a, b"", 5) == b"wait\n"
            assert ask(b, b"", 5) == b"wait\n"
            assert server.snapshot().pool.threads == 2


def test_a_pool_is_shared_with_tasks_of_its_owner() -> None:
    with Pool(1) as pool:
        with Server(Messages(echo), "127.0.0.1:0", pool=pool) as server, client(server) as sock:
            for number in range(20):
                assert ask(sock, b"x") == b"x"
                assert pool.submit(lambda n: n + 1, number).result(PATIENCE) == number + 1
        assert pool.submit(len, "abc").result(PATIENCE) == 3


def test_stop_from_a_handler_does_not_wait_for_itself() -> None:
    def stop(data: bytes, peer: Peer) -> bytes:
        server.stop()
        return b"stopping"

    server = Server(Messages(stop), "127.0.0.1:0", max_workers=2)
    with server, client(server) as sock:
        sock.sendall(b"x")
        assert receive_all(sock) == b"stopping"


class Stuck(logging.Handler):
    """A log handler that blocks, and with it all who log meanwhile, from the first record on that matches."""

    def __init__(self, pattern: str) -> None:
        super().__init__()
        self.pattern = pattern
        self.inside, self.gate = threading.Event(), threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if re.search(self.pattern, record.getMessage()):
            self.inside.set()
            self.gate.wait(PATIENCE)


@contextmanager
def stuck(pattern: str, server: Server) -> Iterator[Stuck]:
    """Have the server's threads get stuck in what matches; they are let go, and have ended, afterwards."""
    handler, logger = Stuck(pattern), logging.getLogger("treadle.server")
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        handler.gate.set()
        logger.removeHandler(handler)
        server.stop(0.0)
        server._pool.shutdown(timeout=PATIENCE)
        assert server._group is not None
        for watchdog in server._group.watchdogs:
            watchdog.thread.join(PATIENCE)
            assert not watchdog.thread.is_alive()


@pytest.mark.parametrize("loops", [1, 2])
def test_a_leader_that_is_stuck_in_a_log_handler_does_not_keep_stop(
    loops: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clients are cut and counted, and nobody can connect any more, though it closes nothing itself."""
    monkeypatch.setattr("treadle.server._group._loops_wanted", lambda dispatcher: loops)
    server = Server(Messages(shout, Lines()), "127.0.0.1:0", max_workers=2 * loops, limits=Limits(max_message=10))
    with stuck("makes no message", server.start()) as handler, client(server) as bad, client(server) as idle:
        assert ask(idle, b"x\n") == b"X\n"
        bad.sendall(bytes(100))
        assert handler.inside.wait(PATIENCE)
        assert server.stop(0.0) == 2
        assert server.snapshot().state == "stopped"
        assert receive_all(idle) == b""
        with pytest.raises(ConnectionRefusedError), client(server):
            pass
        assert server.stop() == 2


def test_clients_that_wait_in_the_queue_of_a_stuck_leader_are_counted_too() -> None:
    server = Server(Messages(shout, Lines()), "127.0.0.1:0", max_workers=2, limits=Limits(max_message=10))
    with stuck("makes no message", server.start()) as handler, client(server) as bad:
        bad.sendall(bytes(100))
        assert handler.inside.wait(PATIENCE)
        with client(server) as late, client(server) as later:
            assert server.stop(0.0) == 3
            assert receive_all(late) == receive_all(later) == b""


def test_threads_that_are_stuck_in_the_log_of_a_failing_handler_do_not_keep_stop() -> None:
    def fail(line: bytes, peer: Peer) -> bytes:
        raise ValueError(line)

    server = Server(Messages(fail, Lines()), "127.0.0.1:0", max_workers=2)
    with stuck("failed on message", server.start()) as handler:
        with client(server) as a, client(server) as b, client(server) as c:
            for sock in (a, b, c):
                sock.sendall(b"x\n")
            assert handler.inside.wait(PATIENCE)
            assert server.stop(0.5) == 3
            assert receive_all(a) == receive_all(b) == receive_all(c) == b""


def test_a_log_handler_that_waits_for_a_lock_which_a_handler_holds_does_not_keep_stop() -> None:
    lock, inside, gate = threading.Lock(), threading.Event(), threading.Event()

    def handle(line: bytes, peer: Peer) -> bytes:
        with lock:
            inside.set()
            gate.wait(PATIENCE)
        return line

    class Wants(Stuck):
        def emit(self, record: logging.LogRecord) -> None:
            with lock:
                pass

    server = Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2, limits=Limits(max_message=10)).start()
    with stuck("nothing", server), client(server) as sock:
        logging.getLogger("treadle.server").addHandler(wants := Wants(""))
        try:
            sock.sendall(b"x\n")
            assert inside.wait(PATIENCE)
            assert server.stop(0.0) == 1
        finally:
            gate.set()
            logging.getLogger("treadle.server").removeHandler(wants)


def test_stop_from_a_handler_ends_in_time_though_the_leader_is_stuck() -> None:
    """Nobody waits for it but `run`, in whichever thread that is."""

    def stop(line: bytes, peer: Peer) -> bytes:
        assert handler.inside.wait(PATIENCE)
        server.stop(0.0)
        return b"stopping"

    cut: list[int] = []
    server = Server(Messages(stop, Lines()), "127.0.0.1:0", max_workers=2, limits=Limits(max_message=10)).start()
    with stuck("makes no message", server) as handler, client(server) as sock, client(server) as bad:
        runs = threading.Thread(target=lambda: cut.append(server.run()))
        runs.start()
        sock.sendall(b"x\n")
        bad.sendall(bytes(100))
        runs.join(PATIENCE)
        assert len(cut) == 1


@pytest.mark.parametrize("drain", [0.0, 300.0])
def test_what_start_calls_may_stop_the_server(tmp_path: Path, drain: float) -> None:
    """So may a signal handler meanwhile; neither waits for what cannot come."""
    files = Authority(tmp_path).issue("127.0.0.1")

    def make() -> ssl.SSLContext:
        assert server.stop(drain) == 0
        return Certificates(files.certfile, files.keyfile)()

    server = Server(Messages(echo), "127.0.0.1:0", max_workers=2, tls=make)
    server.start()
    assert server.snapshot().state == "stopped"
    with pytest.raises(ConnectionRefusedError), client(server):
        pass


def test_a_server_that_is_stopped_while_another_thread_starts_it_does_not_serve(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("127.0.0.1")
    stoppers: list[threading.Thread] = []

    def make() -> ssl.SSLContext:
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        stoppers.append(stopper)
        until(lambda: server.snapshot().state == "stopping")
        return Certificates(files.certfile, files.keyfile)()

    server = Server(Messages(echo), "127.0.0.1:0", max_workers=2, tls=make)
    server.start()
    assert server.snapshot().state == "stopped"
    stoppers[0].join(PATIENCE)
    assert not stoppers[0].is_alive()
    with pytest.raises(ConnectionRefusedError), client(server):
        pass


def test_a_signal_handler_may_stop_a_server_that_is_being_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(Messages(echo), "127.0.0.1:0", max_workers=2).start()
    heard: list[int] = []

    def interrupt() -> None:
        notify_all()
        if not heard:
            heard.append(1)
            signal.raise_signal(signal.SIGTERM)

    notify_all = server._changed.notify_all
    monkeypatch.setattr(server._changed, "notify_all", interrupt)
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(server.stop(0)))
    try:
        assert server.stop() == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [1, 0]


def test_stop_is_idempotent_and_start_is_not() -> None:
    server = Server(Messages(echo), "127.0.0.1:0", max_workers=1)
    server.start()
    assert server.stop() == 0
    assert server.stop() == 0
    with pytest.raises(RuntimeError, match="the server is stopped"):
        server.start()
    assert Server(Messages(echo)).stop() == 0


# -- addresses -----------------------------------------------------------------------------------------------------


def test_its_address_is_as_the_socket_module_gives_it() -> None:
    with Server(Messages(echo), "127.0.0.1:0", max_workers=1) as server:
        host, port = server.address
        assert (host, type(port), server.addresses) == ("127.0.0.1", int, (server.address,))
        assert str(server) == f"127.0.0.1:{port}"
        assert repr(server) == f"<Server Messages(echo, Raw()) serving on 127.0.0.1:{port}>"
        with socket.create_connection(server.address, PATIENCE) as sock:
            assert sock.getpeername() == server.address
            assert ask(sock, b"x") == b"x"
    assert server.address == (host, port), "it can still be asked where it was"
    assert repr(server) == f"<Server Messages(echo, Raw()) stopped on 127.0.0.1:{port}>"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this system has no IPv6")
def test_an_address_of_ipv6_has_four_parts() -> None:
    with Server(Messages(echo), "[::1]:0", max_workers=1) as server:
        assert (server.address[0], *server.address[2:]) == ("::1", 0, 0)
        assert str(server) == f"[::1]:{server.address[1]}"
        with client(server) as sock:
            assert sock.getpeername() == server.address


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no UNIX sockets")
def test_of_several_addresses_the_first_is_the_address_and_all_are_served(tmp_path: Path) -> None:
    """In the words of `bind`, and in its order."""
    path = os.path.relpath(tmp_path / "s")  # that of tmp_path may be too long
    with socket.create_server(("127.0.0.1", 0)) as ours:
        bind: list[Any] = [f"unix:{path}", "127.0.0.1:0", ours]
        server = Server(Messages(echo), bind, max_workers=1)
        bind.clear()  # it has asked for these, whatever becomes of the list
        with server:
            assert server.address == path
            assert server.addresses == server.snapshot().addresses == (path, server.addresses[1], ours.getsockname())
            assert str(server) == f"unix:{path}, 127.0.0.1:{server.addresses[1][1]}, 127.0.0.1:{ours.getsockname()[1]}"
            for address in server.addresses:
                with socket.socket(socket.AF_UNIX if address == path else socket.AF_INET) as sock:
                    sock.settimeout(PATIENCE)
                    sock.connect(address)
                    assert ask(sock, b"x") == b"x"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract names")
def test_an_abstract_name_is_bytes() -> None:
    name = f"treadle-{os.getpid()}-address"
    with Server(Messages(echo), f"unix:@{name}", max_workers=1) as server:
        assert server.address == b"\0" + name.encode()
        assert str(server) == f"unix:@{name}"


def test_before_the_start_there_is_no_address_and_words_say_what_is_asked_for() -> None:
    server = Server(Messages(echo), ["127.0.0.1:0", "unix:/run/x"], max_workers=1)
    with pytest.raises(RuntimeError, match=r"no address before start\(\) has returned; it is new"):
        server.address  # noqa: B018
    assert server.addresses == server.snapshot().addresses == ()
    assert str(server) == "127.0.0.1:0, unix:/run/x"
    assert repr(server) == "<Server Messages(echo, Raw()) new on 127.0.0.1:0, unix:/run/x>"


def test_if_one_address_cannot_be_had_the_error_names_it_and_nobody_is_served_at_the_others() -> None:
    given = open_listeners("127.0.0.1:0")[0]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = "{}:{}".format(*taken.getsockname())
        server = Server(Messages(echo), [given, wanted], max_workers=1)
        with pytest.raises(BindError, match="in use") as caught:
            server.start()
    assert caught.value.bind == wanted
    assert server.snapshot().state == "stopped"
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(given.address, PATIENCE)


def test_a_subclass_keeps_its_type() -> None:
    """Which mypy checks here."""

    class Counting(Server):
        count = 3

    with Counting(Messages(echo), "127.0.0.1:0", max_workers=1) as server:
        assert server.count == 3
    assert Counting(Messages(echo), "127.0.0.1:0", max_workers=1).start().stop() + server.count == 3


# -- without a limit -----------------------------------------------------------------------------------------------


class Held:
    """A handler that is held up until it is let go."""

    def __init__(self) -> None:
        self.inside, self.gate = threading.Event(), threading.Event()

    def __call__(self, data: bytes, peer: Peer) -> bytes:
        self.inside.set()
        assert self.gate.wait(PATIENCE)
        return data


def test_a_stop_without_a_limit_waits_for_what_was_begun() -> None:
    held, cut = Held(), queue.Queue[int]()
    server = Server(Messages(held), "127.0.0.1:0", max_workers=2).start()
    with client(server) as sock:
        sock.sendall(b"x")
        assert held.inside.wait(PATIENCE)
        stopper = threading.Thread(target=lambda: cut.put(server.stop(None)))
        stopper.start()
        until(lambda: server.snapshot().state == "stopping")
        assert server._deadline == inf
        held.gate.set()
        assert receive_all(sock) == b"x"
    assert cut.get(timeout=PATIENCE) == 0
    stopper.join(PATIENCE)


def test_a_stop_without_a_limit_can_be_given_one_later() -> None:
    held, cut = Held(), queue.Queue[int]()
    server = Server(Messages(held), "127.0.0.1:0", max_workers=2).start()
    with client(server) as sock:
        sock.sendall(b"x")
        assert held.inside.wait(PATIENCE)
        stopper = threading.Thread(target=lambda: cut.put(server.stop(None)))
        stopper.start()
        until(lambda: server.snapshot().state == "stopping")
        assert server.stop(0.0) == 1
        assert receive_all(sock) == b""
        assert cut.get(timeout=PATIENCE) == 1
    stopper.join(PATIENCE)
    held.gate.set()
    server._pool.shutdown(timeout=PATIENCE)


@pytest.mark.parametrize("shortened", [False, True])
def test_a_stop_without_a_limit_waits_for_what_its_pool_still_does_unless_it_is_given_one(shortened: bool) -> None:
    """Handlers may leave work to the pool that outlives their connections."""
    began, gate, cut = threading.Event(), threading.Event(), queue.Queue[int]()

    def work() -> None:
        began.set()
        assert gate.wait(PATIENCE)

    server = Server(Messages(echo), "127.0.0.1:0", max_workers=3).start()
    task = server._pool.submit(work)
    assert began.wait(PATIENCE)
    stopper = threading.Thread(target=lambda: cut.put(server.stop(None)))
    stopper.start()
    until(lambda: server.snapshot().state == "stopped")
    assert cut.empty()
    if shortened:
        assert server.stop(0.0) == 0
        assert cut.get(timeout=PATIENCE) == 0
        assert not task.done()
    gate.set()
    if not shortened:
        assert cut.get(timeout=PATIENCE) == 0
        assert task.done()
    stopper.join(PATIENCE)
    task.result(PATIENCE)
    server._pool.shutdown(timeout=PATIENCE)


def test_a_stop_without_a_limit_gives_its_pool_one_if_no_thread_can_be_had_to_wait_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    server = Server(Messages(echo), "127.0.0.1:0", max_workers=1).start()
    monkeypatch.setattr("treadle.server._server.start_thread", refuse)
    assert server.stop(None) == 0
    assert server.snapshot().pool.closed


UNLIMITED = """
import os, signal, sys, threading
from treadle.server import Messages, Server

began, never = threading.Event(), threading.Event()

def work():
    began.set()
    never.wait()

def handle(data, peer):
    if sys.argv[1] == "handler":
        work()
    else:
        server._pool.submit(work)
    return data

def order(now):
    if now.state == "serving" and began.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
    elif now.state in ("stopping", "stopped"):
        print(now.state, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        return 1e9
    return 0.01

server = Server(Messages(handle), "127.0.0.1:0", max_workers=3)
def ask():
    while server.snapshot().state != "serving" or server._group is None:
        threading.Event().wait(0.01)  # why: `run` holds the main thread, and tells nobody that it serves
    import socket
    with socket.create_connection(server.address) as sock:
        sock.sendall(b"x")
        sock.recv(1)
threading.Thread(target=ask, daemon=True).start()
server._watch = order
print(server.run(None), server._deadline < float("inf"), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(("who", "said"), [("handler", "stopping\n1 True\n"), ("pool", "stopped\n0 True\n")])
def test_a_second_signal_cuts_though_there_is_no_limit(who: str, said: str) -> None:
    """Also when it is only the pool that is waited for."""
    status, out, _ = run(sys.executable, "-c", UNLIMITED, who)
    assert (status, out) == (0, said)


@pytest.mark.parametrize("drain", ["10", True, -1.0, float("nan")])
def test_what_is_no_time_for_what_was_begun_is_refused(drain: Any) -> None:
    server = Server(Messages(echo), "127.0.0.1:0", max_workers=1)
    for method in (server.stop, server.run):
        with pytest.raises((TypeError, ValueError), match=r"^drain_timeout=.*, or None for no limit"):
            method(drain)
    assert server.snapshot().state == "new"


# -- whose pool ----------------------------------------------------------------------------------------------------


def test_a_pool_that_takes_no_tasks_any_more_cannot_serve() -> None:
    pool = Pool(2, name="gone")
    pool.shutdown()
    server = Server(Messages(echo), "127.0.0.1:0", pool=pool)
    with pytest.raises(PoolClosed, match="pool 'gone' is closed"):
        server.start()
    assert server.addresses == ()
    with pytest.raises(RuntimeError, match=r"no address .*; it is stopped"):
        server.address  # noqa: B018


def test_a_pool_that_was_given_is_left_open() -> None:
    with Pool(2) as pool:
        with Server(Messages(echo), "127.0.0.1:0", pool=pool) as server, client(server) as sock:
            assert ask(sock, b"x") == b"x"
        assert not pool.snapshot().closed
        assert pool.submit(int).result(PATIENCE) == 0


def test_a_command_hands_its_pool_over_and_it_ends_in_time_whatever_still_runs() -> None:
    held, pool, cut = Held(), Pool(2), queue.Queue[int]()
    server = Server(Messages(held), "127.0.0.1:0", pool=pool)
    runner = threading.Thread(target=lambda: cut.put(server._run(0.0, ends_pool=True)))
    runner.start()
    until(lambda: server._group is not None)
    with client(server) as sock:
        sock.sendall(b"x")
        assert held.inside.wait(PATIENCE)
        server.stop(0.0)
        assert cut.get(timeout=PATIENCE) == 1
    assert pool.snapshot().closed
    assert pool._task_dispatcher.abandoned, "or Python's exit would wait for it"
    runner.join(PATIENCE)
    held.gate.set()
    pool.shutdown(timeout=PATIENCE)


def test_what_still_runs_at_the_end_is_told_once_however_often_it_is_stopped(caplog: pytest.LogCaptureFixture) -> None:
    """The end of the program stops it, too, and waits for nobody who was left behind."""
    held = Held()
    with Server(Messages(held), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        sock.sendall(b"x")
        assert held.inside.wait(PATIENCE)
        for _ in range(3):
            assert server.stop(0.0) == 1
        lines = [line for line in caplog.messages if "still runs" in line]
        held.gate.set()
    assert lines == ["Held: 1 handler still runs 0.5 s after the stop, and left behind: Held"]


def test_who_tells_what_still_runs_is_given_time_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known only when the time for the pool is over, and the process may end right behind."""
    held, given = Held(), list[float]()
    with Server(Messages(held), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        monkeypatch.setattr(server._teller, "quiet", given.append)
        sock.sendall(b"x")
        assert held.inside.wait(PATIENCE)
        assert server.stop(0.0) == 1
        held.gate.set()
    assert given[0] == LAST_WORDS


def test_a_pool_that_was_handed_over_is_closed_when_the_server_cannot_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        pool = Pool(2)
        server = Server(Messages(echo), "{}:{}".format(*taken.getsockname()), pool=pool)
        with pytest.raises(BindError):
            server._run(0.0, ends_pool=True)
    assert pool.snapshot().closed


# -- what users see ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Server, "address addresses reload run snapshot start stop"),
        (Connection, "close pause readline recv recv_exactly sendall"),
        (Peer, "accepted address alpn certificate closing exchange has_left host local port proxy secure state"),
    ],
)
def test_nothing_but_what_is_for_users_is_public(kind: type, names: str) -> None:
    assert sorted(name for name in vars(kind) if not name.startswith("_")) == names.split()


def test_run_takes_nothing_that_only_commands_need() -> None:
    assert not {"lifeline", "ends_pool"} & set(inspect.signature(Server.run).parameters)


# -- the end of listeners ------------------------------------------------------------------------------------------


def test_without_a_listener_it_serves_those_who_are_connected_and_stops() -> None:
    (listener,) = open_listeners("127.0.0.1:0")
    with Server(Messages(echo), [listener], max_workers=1, limits=Limits(linger_timeout=0.1)) as server:
        with client(server) as sock:
            assert ask(sock, b"x") == b"x"
            listener.sock.shutdown(socket.SHUT_RDWR)
            assert server._group is not None
            until(lambda: server._group.acceptors[0].closed)  # type: ignore[union-attr]
            assert ask(sock, b"y") == b"y"
        assert server.stop(PATIENCE) == 0


@pytest.mark.parametrize("lost", ["before", "meanwhile"])
def test_run_ends_when_nobody_can_come_any_more(lost: str) -> None:
    """Else a service manager would not know that there is something to start anew."""
    (listener,) = open_listeners("127.0.0.1:0")
    server = Server(Messages(echo), [listener], max_workers=1, limits=Limits(linger_timeout=0.1))
    errors: list[BindError] = []

    def run() -> None:
        with pytest.raises(BindError, match=r"cannot listen on 127.*: it was shut down or closed") as caught:
            server.run(PATIENCE)
        errors.append(caught.value)

    server.start()
    with client(server) as sock:
        assert ask(sock, b"x") == b"x"
        assert server._group is not None
        if lost == "before":
            listener.sock.shutdown(socket.SHUT_RDWR)
            until(lambda: server._group.acceptors[0].closed)  # type: ignore[union-attr]
            assert ask(sock, b"y") == b"y"
        runner = threading.Thread(target=run)
        runner.start()
        if lost == "meanwhile":
            until(lambda: server._drain is not None)
            listener.sock.shutdown(socket.SHUT_RDWR)
        assert receive_all(sock) == b""
    runner.join(PATIENCE)
    assert [error.bind for error in errors] == [str(server)]


def test_snapshot_counts() -> None:
    with Server(Messages(echo), "127.0.0.1:0", max_workers=2) as server, client(server) as sock:
        for _ in range(5):
            ask(sock, b"x")
        now = server.snapshot()
    assert (now.name, now.state, now.connections, now.accepted, now.messages) == ("echo", "serving", 1, 1, 5)
    assert server.snapshot().state == "stopped"


def test_snapshot_and_stacks_say_who_leads() -> None:
    with Pool(2) as pool, Server(Messages(echo), "127.0.0.1:0", pool=pool) as server, client(server) as sock:
        ask(sock, b"x")
        assert "lead of echo-0" in [worker.task for worker in server.snapshot().pool.workers]
        assert "lead of echo-0" in pool.stacks()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((echo,), TypeError, "is no protocol; allowed: Messages"),
        ((Messages(echo), "127.0.0.1:0", {"limits": 3}), TypeError, "limits=3 is int; allowed: Limits"),
        (
            (Messages(echo), "127.0.0.1:0", {"tls": True}),
            TypeError,
            r"tls=True is bool; allowed: an ssl\.SSLContext, a",
        ),
        (
            (Messages(echo), "127.0.0.1:0", {"tls": ssl.create_default_context()}),
            ValueError,
            "makes a context for clients; make one with Certificates",
        ),
        ((Messages(echo), "127.0.0.1:0", {"tls": checking()}), ValueError, "with check_hostname, which is for clients"),
        ((Messages(echo), 5000), TypeError, 'bind=5000 is int; .*; did you mean "127.0.0.1:5000"'),
        ((Messages(echo), ("::1", 0)), TypeError, r'is tuple; .*; did you mean "\[::1\]:0"'),
        ((Messages(echo), "5000"), ValueError, "bind='5000' is not HOST:PORT"),
        ((Messages(echo), []), ValueError, r"bind=\[\] names nothing to listen at; allowed: "),
        ((Messages(echo), ["127.0.0.1:0", "5000"]), ValueError, "bind='5000' is not HOST:PORT"),
        ((Messages(echo), "127.0.0.1:0", {"queue_size": 5}), TypeError, "unexpected keyword argument 'queue_size'"),
        ((Messages(echo), "127.0.0.1:0", {"when_full": "block"}), TypeError, "unexpected keyword argument 'when_full'"),
        ((Messages(echo), "127.0.0.1:0", {"order": "fifo"}), TypeError, "unexpected keyword argument 'order'"),
        ((Messages(echo), "127.0.0.1:0", {"max_workers": 0}), ValueError, "max_workers"),
        ((Messages(echo), "127.0.0.1:0", {"reserve": -1}), ValueError, "reserve=-1"),
        ((Messages(echo), "127.0.0.1:0", {"reserve": 1, "pool": Pool(1)}), ValueError, "both pool and reserve"),
        ((Session(lambda conn: None), "127.0.0.1:0", {"reserve": 1}), ValueError, "reserve=1 has no effect on Session"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple[object, ...], error: type[Exception], words: str) -> None:
    *positional, keywords = arguments if isinstance(arguments[-1], dict) else (*arguments, {})
    with pytest.raises(error, match=words):
        Server(*positional, **keywords)  # type: ignore[arg-type]


def test_a_function_that_makes_a_context_for_clients_starts_no_server() -> None:
    server = Server(Messages(echo), "127.0.0.1:0", max_workers=1, tls=ssl.create_default_context)
    with pytest.raises(ValueError, match="makes a context for clients"):
        server.start()


@pytest.mark.parametrize("made", [None, 5])
def test_what_tls_makes_has_to_be_a_context_or_nobody_is_served(made: object) -> None:
    protocol = Messages(lambda data, peer: data)
    server = Server(protocol, "127.0.0.1:0", max_workers=1, tls=lambda: made)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"allowed: an ssl\.SSLContext"):
        server.start()


def test_a_reload_that_makes_no_context_leaves_the_old_one_in_use(caplog: pytest.LogCaptureFixture) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made: list[object] = [context]
    protocol = Messages(lambda data, peer: data)
    with Server(protocol, "127.0.0.1:0", max_workers=1, tls=lambda: made[0]) as server:  # type: ignore[arg-type]
        made[0] = None
        server.reload()
        assert server._group is not None
        assert server._group.factory.context is context
    assert "cannot be reloaded" in caplog.text


class Opens(Messages[bytes]):
    """Opens its files anew when it is told to."""

    def __init__(self) -> None:
        super().__init__(lambda data, peer: data)
        self.opened = 0

    def reload(self) -> None:
        self.opened += 1
        if self.opened == 2:
            raise OSError("no such folder")


def test_a_protocol_is_told_of_a_reload_and_one_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    protocol = Opens()
    with Server(protocol, "127.0.0.1:0", max_workers=1) as server:
        server.reload()
        assert protocol.opened == 1
        assert "cannot be opened anew" not in caplog.text
        server.reload()
        assert protocol.opened == 2
    assert "cannot be opened anew" in caplog.text
    assert "no such folder" in caplog.text
    assert "nothing to reload" not in caplog.text


def test_what_is_no_pool_is_refused() -> None:
    with pytest.raises(TypeError, match="pool=4"):
        Server(Messages(lambda data, peer: data), pool=4)  # type: ignore[arg-type]  # that is the point


def test_a_watch_that_raises_is_not_called_again_and_ends_nothing() -> None:
    source = """
import logging, os, signal, sys
from treadle.server import Messages, Server
logging.basicConfig(level=logging.ERROR, stream=sys.stdout, format="%(message)s")

def watch(now):
    print("watched", now.state, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    raise ValueError

server = Server(Messages(lambda data, peer: data), "127.0.0.1:0", max_workers=1)
server._watch = watch
print(server.run(1e8))
"""
    status, out, _ = run(sys.executable, "-c", source)
    assert status == 0
    assert out.count("watched serving") == 1
    assert "ValueError" in out
    assert out.endswith("\n0\n")


@pytest.mark.parametrize("error", ["ValueError('mine')", "OSError(5, 'mine')", "SystemExit('mine')"])
def test_what_a_signal_handler_of_the_programs_own_raises_stops_run_and_is_raised_then(error: str) -> None:
    source = f"""
import os, signal
from treadle.server import Messages, Server

def handler(number, frame):
    raise {error}

def watch(snapshot):
    os.kill(os.getpid(), signal.SIGUSR1)
    return 1e9

signal.signal(signal.SIGUSR1, handler)
server = Server(Messages(lambda data, peer: data), "127.0.0.1:0", max_workers=1)
try:
    server._watch = watch
    server.run(5)
except BaseException as error:
    print(server.snapshot().state, error.args[-1])
"""
    status, out, _ = run(sys.executable, "-c", source)
    assert (status, out) == (0, "stopped mine\n")


@pytest.mark.parametrize("folder", ["absent", "a file"])
def test_a_folder_for_spools_that_is_not_there_is_refused_before_anybody_is_served(tmp_path: Path, folder: str) -> None:
    """Not when the first answer is too large, on the day when it is."""
    (tmp_path / "a file").write_bytes(b"")
    server = Server(Messages(echo), "127.0.0.1:0", limits=Limits(spool_folder=tmp_path / folder))
    for begin in (server.start, server.run):
        with pytest.raises(ValueError, match=r"^spool_folder=.*; allowed: a folder that this process may write to"):
            begin()
    (tmp_path / "absent").mkdir(exist_ok=True)
    with Server(Messages(echo), "127.0.0.1:0", limits=Limits(spool_folder=str(tmp_path / "absent"))) as server:
        assert server.address


@pytest.mark.parametrize(
    ("threads", "leaders", "kinds", "spared"),
    [(3, 1, True, 0), (4, 1, True, 1), (7, 2, True, 0), (8, 2, True, 1), (None, 1, True, 1), (8, 1, False, 0)],
)
def test_a_thread_is_spared_for_quick_messages_where_there_are_some(
    threads: int | None, leaders: int, kinds: bool, spared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("treadle.server._server.leaders_of", lambda threads: leaders)
    assert usual_reserve(kinds, threads) == spared
    protocol = Messages(lambda data, peer: data, kind=len if kinds else None)
    assert Server(protocol, max_workers=threads)._reserve == spared
