"""What is logged of a server costs it nothing, whatever the program's filters, handlers and formatters raise.

Each line that can be brought about is, with a filter that raises for it; then the server serves on, and ends in time.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from certificates import Authority
from socketservers import TCP, connect, manager_of, until
from socketservers import serving as serving_mixin
from tcp import PATIENCE, ask, client, receive, receive_all
from treadle import Pool
from treadle._cli.status import status_view
from treadle.server import Certificates, Connection, Limits, Lines, Messages, Peer, Server, Session
from treadle.server._accept.listen import Listener, open_listeners

JUNK = b"GET / HTTP/1.0\r\n\r\n"


class Bad(logging.Filter):
    """A filter that raises for every record, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        self.seen.append(record.getMessage())
        raise RuntimeError("from a filter")

    def wait_for(self, text: str) -> None:
        until(lambda: any(text in message for message in self.seen))


@pytest.fixture
def bad(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bad]:
    logger, found = logging.getLogger("treadle.server"), Bad()
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    logger.manager._clear_cache()  # type: ignore[attr-defined]  # as setLevel does
    logger.addFilter(found)
    yield found
    logger.removeFilter(found)
    monkeypatch.undo()
    logger.manager._clear_cache()  # type: ignore[attr-defined]


def shout(message: bytes, peer: Peer) -> bytes:
    if message == b"fail":
        raise ValueError(message)
    return message.upper() + b"\n"


@contextmanager
def serving(protocol: Any = None, bind: Any = "127.0.0.1:0", **options: Any) -> Iterator[Server]:
    """Serve; afterwards see that another client is served still, and that it ends in time."""
    limits = {name: options.pop(name) for name in tuple(options) if hasattr(Limits, name)}
    server = Server(protocol or Messages(shout, Lines()), bind, limits=Limits(**limits), **options)
    with server:
        yield server
        if options.get("tls") is None and protocol is None:
            with client(server) as sock:
                assert ask(sock, b"well\n") == b"WELL\n"
        watchdogs = server._group.watchdogs if server._group is not None else []
        assert all(watchdog.thread.is_alive() for watchdog in watchdogs)
        server.stop(PATIENCE)
    assert not any(watchdog.thread.is_alive() for watchdog in watchdogs)
    assert server.snapshot().state == "stopped"


def send(server: Server, data: bytes) -> bytes:
    """Send something, and return what comes up to the end."""
    with client(server) as sock:
        sock.sendall(data)
        return receive_all(sock)


class Scripted(socket.socket):
    """A listener whose accept fails as told before it does what it should."""

    def __init__(self, *failures: int) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self.failures = list(failures)
        self.bind(("127.0.0.1", 0))
        self.listen()

    def accept(self) -> tuple[socket.socket, Any]:
        if self.failures:
            raise OSError(self.failures.pop(0), "scripted")
        return super().accept()


class Broken(Lines):
    """A framing that makes no decoder the first time."""

    failed = False

    def decoder(self, limit: int) -> Any:
        if not self.failed:
            self.failed = True
            raise ValueError("no decoder")
        return super().decoder(limit)


def no_message() -> None:
    with serving(max_message=10) as server:
        assert send(server, bytes(100)) == b""


def failing_handler() -> None:
    with serving() as server:
        assert send(server, b"fail\n") == b""


def failing_framing() -> None:
    with serving(Messages(shout, Broken())) as server:
        assert send(server, b"") == b""
        with client(server) as sock:
            assert ask(sock, b"well\n") == b"WELL\n"


def idle() -> None:
    with serving(idle_timeout=0.01) as server, client(server) as sock:
        assert receive_all(sock) == b""


def refused() -> None:
    with serving(max_connections_per_host=1, at_max_connections="reject", reject_connections_with=b"no\n") as server:
        with client(server) as sock:
            assert ask(sock, b"x\n") == b"X\n"
            with client(server) as other:
                assert receive_all(other) == b"no\n"
        until(lambda: not server.snapshot().connections)


def full() -> None:
    with serving(max_connections=1) as server, client(server) as sock:
        assert ask(sock, b"x\n") == b"X\n"
        with client(server) as other:
            sock.close()
            assert ask(other, b"y\n") == b"Y\n"


def fast() -> None:
    with serving(accept_rate=50.0) as server:
        for _ in range(60):
            with client(server):
                pass


def scripted(*failures: int) -> None:
    with serving(bind=[Listener(Scripted(*failures), inherited=False)]) as server, client(server) as sock:
        assert ask(sock, b"x\n") == b"X\n"


def deaf() -> None:
    (listener,) = open_listeners("127.0.0.1:0")
    with serving(Messages(shout, Lines()), bind=[listener]) as server, client(server) as sock:
        assert ask(sock, b"x\n") == b"X\n"
        listener.sock.shutdown(socket.SHUT_RDWR)
        until(lambda: all(acceptor.closed for acceptor in server._group.acceptors))  # type: ignore[union-attr]  # started
        assert ask(sock, b"y\n") == b"Y\n"


def malformed() -> None:
    with serving(Messages(shout, Lines()), proxy="127.0.0.1") as server:
        assert send(server, JUNK) == b""
        with client(server) as sock:
            assert ask(sock, b"PROXY UNKNOWN\r\nx\n", 2) == b"X\n"


def untrusted() -> None:
    with serving(proxy="10.0.0.0/8") as server:
        assert send(server, b"PROXY UNKNOWN\r\nx\n") == b""


def refused_behind() -> None:
    header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
    limits: dict[str, Any] = {"max_connections_per_host": 1, "reject_connections_with": b"no\n"}
    with serving(Messages(shout, Lines()), proxy="127.0.0.1", **limits) as server, client(server) as sock:
        assert ask(sock, header + b"x\n", 2) == b"X\n"
        assert send(server, header) == b"no\n"
        assert ask(sock, b"y\n") == b"Y\n"


def all_talk() -> None:
    gate = threading.Event()

    def talk(conn: Connection) -> None:
        conn.sendall(b"hello\n")
        gate.wait(PATIENCE)

    with serving(Session(talk), max_workers=1) as server, client(server) as one, client(server) as two:
        one.sendall(b"x")
        assert receive(one, 6) == b"hello\n"
        two.sendall(b"x")
        until(lambda: server.snapshot().pool.waiting == 1)
        gate.set()
        assert receive_all(two) == b"hello\n"


def refusal() -> None:
    began, gate = threading.Event(), threading.Event()

    def wait(message: bytes, peer: Peer) -> bytes:
        began.set()
        assert gate.wait(PATIENCE)
        return message.upper() + b"\n"

    pool, limits = Pool(1, queue_size=0, when_full="reject"), Limits(reject_messages_with=b"no\n")
    server = Server(Messages(wait, Lines()), "127.0.0.1:0", pool=pool, limits=limits)
    with pool, server, client(server) as one, client(server) as two:
        one.sendall(b"x\n")
        assert began.wait(PATIENCE)
        assert ask(two, b"y\n", 3) == b"no\n"
        gate.set()
        assert receive(one, 2) == b"X\n"
        until(lambda: ask(two, b"z\n", 2) == b"Z\n" or receive(two, 1) != b"\n")  # once the thread is free


def closed_pool() -> None:
    pool = Pool(1)
    with Server(Messages(shout, Lines()), "127.0.0.1:0", pool=pool) as server:
        with client(server) as one, client(server) as two:
            assert ask(one, b"x\n") == b"X\n"
            pool.shutdown()
            for sock in (one, two):
                sock.sendall(b"y\n")
                assert receive_all(sock) == b""
        server.stop(PATIENCE)
    assert server.snapshot().state == "stopped"


def cut_at_the_end() -> None:
    began, gate = threading.Event(), threading.Event()

    def wait(message: bytes, peer: Peer) -> None:
        began.set()
        assert gate.wait(PATIENCE)

    server = Server(Messages(wait, Lines()), "127.0.0.1:0", max_workers=2)
    with server.start(), client(server) as sock:
        sock.sendall(b"x\n")
        assert began.wait(PATIENCE)
        assert server.stop(0.0) == 1
        gate.set()
    server._pool.shutdown(timeout=PATIENCE)


def nothing_to_reload() -> None:
    with serving() as server:
        server.reload()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


LINES: dict[str, Callable[[], object]] = {
    "serving shout on": nothing_to_reload,
    "nothing to reload": nothing_to_reload,
    "makes no message": no_message,
    "failed on message 1": failing_handler,
    "the framing fails": failing_framing,
    "cut by idle_timeout": idle,
    "clients are rejected": refused,
    "taken, so others wait": full,
    "clients come faster": fast,
    "a client left before": partial(scripted, errno.ECONNABORTED),
    "cannot accept": partial(scripted, errno.EMFILE),
    "no more clients are accepted here": deaf,
    "its PROXY header is not valid": malformed,
    "it begins with a PROXY header": untrusted,
    "clients behind it are rejected": refused_behind,
    "taken by conversations": all_talk,
    "messages are rejected": refusal,
    "the pool takes no messages": closed_pool,
    "not done in time": cut_at_the_end,
}


@pytest.mark.parametrize("text", LINES)
def test_a_filter_that_raises_costs_a_server_nothing(text: str, bad: Bad) -> None:
    LINES[text]()
    bad.wait_for(text)


def test_a_filter_that_raises_costs_a_server_with_certificates_nothing(bad: Bad, authority: Authority) -> None:
    files = authority.issue("127.0.0.1")
    with serving(tls=Certificates(files.certfile, files.keyfile)) as server:
        send(server, JUNK)
        bad.wait_for("TLS handshake failed")
        server.reload()
        bad.wait_for("the certificates are reloaded")
        Path(files.certfile).rename(f"{files.certfile}.gone")
        server.reload()
        bad.wait_for("the old ones stay in use")
        context = authority.client_context()
        with client(server) as sock, context.wrap_socket(sock, server_hostname="127.0.0.1") as secure:
            assert ask(secure, b"x\n") == b"X\n"


def test_a_filter_that_raises_costs_a_server_s_other_loops_nothing(bad: Bad, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("treadle.server._group._loops_wanted", lambda dispatcher: 2)
    with serving(max_message=10, max_workers=4) as server:
        for _ in range(2):
            assert send(server, bytes(100)) == b""
    bad.wait_for("makes no message")


# -- PoolMixIn --------------------------------------------------------------------------------------------------------


class Talk:
    """A handler that says hello, and waits for a gate."""

    gate: threading.Event

    def __init__(self, request: Any, address: Any, server: Any) -> None:
        request.sendall(b"hello")
        server.gate.wait(PATIENCE)


class Waiting(TCP):
    """A server whose handlers wait."""

    wait_for_first_byte = False
    daemon_threads = False

    def __init__(self) -> None:
        self.gate = threading.Event()
        super().__init__(("127.0.0.1", 0), Talk)  # type: ignore[arg-type]  # a handler is what is called so


def greeted(server: Any) -> None:
    with connect(server) as sock:
        sock.sendall(b"x")
        assert receive(sock, 5) == b"hello"


@pytest.mark.parametrize(("name", "text"), [("max_connections", "place is taken"), ("max_workers", "by conversations")])
def test_a_filter_that_raises_costs_a_full_pool_mix_in_nothing(bad: Bad, name: str, text: str) -> None:
    server = Waiting()
    setattr(server, name, 1)
    with serving_mixin(server), connect(server) as one, connect(server) as two:
        one.sendall(b"x")
        two.sendall(b"x")
        bad.wait_for(text)
        server.gate.set()
        assert receive(one, 5) == receive(two, 5) == b"hello"


def test_a_filter_that_raises_costs_a_pool_mix_in_no_listener(bad: Bad) -> None:
    server = Waiting()
    server.gate.set()
    with serving_mixin(server):
        manager = manager_of(server)
        plain, failures = server.get_request, [OSError(errno.EMFILE, "scripted")]

        def get_request() -> Any:
            if failures:
                raise failures.pop()
            return plain()

        server.get_request = get_request  # type: ignore[method-assign]  # as a subclass would
        greeted(server)
        bad.wait_for("cannot accept")
        server.socket.shutdown(socket.SHUT_RDWR)
        bad.wait_for("nobody is let in any more")
        assert manager.owner is not None


def test_a_filter_that_raises_keeps_no_pool_mix_in_from_ending(bad: Bad) -> None:
    server = Waiting()
    server.drain_timeout = 0.0
    with serving_mixin(server), connect(server) as sock:
        sock.sendall(b"x")
        assert receive(sock, 5) == b"hello"
        server.server_close()
        bad.wait_for("cut off, for")
        server.gate.set()


def test_a_filter_that_raises_costs_a_pool_mix_in_no_tls(bad: Bad, authority: Authority) -> None:
    files = authority.issue("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certfile, files.keyfile)
    server = Waiting()
    server.gate.set()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving_mixin(server):
        with connect(server) as sock, suppress(ConnectionError):
            sock.sendall(JUNK)
            receive_all(sock)
        bad.wait_for("TLS handshake with")
        trusting = authority.client_context()
        with connect(server) as sock, trusting.wrap_socket(sock, server_hostname="localhost") as secure:
            assert receive(secure, 5) == b"hello"


# -- the command ------------------------------------------------------------------------------------------------------


def test_a_filter_that_raises_does_not_end_what_a_command_shows(capfd: pytest.CaptureFixture[str]) -> None:
    logger, found = logging.getLogger("treadle"), Bad()
    logger.addFilter(found)
    try:
        with status_view(live=False) as view:
            assert view.update("a status") > 0  # type: ignore[arg-type]  # anything that can be shown
    finally:
        logger.removeFilter(found)
    assert capfd.readouterr().out.endswith("a status\n")  # which is no line of the log
