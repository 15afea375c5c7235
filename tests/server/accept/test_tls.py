"""TLS: certificates, and the rules that hold for secure connections."""

from __future__ import annotations

import gc
import os
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from types import SimpleNamespace

import pytest

from certificates import Authority
from socketservers import until
from tcp import PATIENCE, ask, client, receive, receive_all
from treadle._base import log_throttle as throttles
from treadle.server import (
    Certificates,
    CloseConnection,
    Connection,
    LengthPrefix,
    Limits,
    Lines,
    Messages,
    Peer,
    Server,
    Session,
)
from treadle.server._transport.state import State


@contextmanager
def secure(server: Server, context: ssl.SSLContext, name: str = "127.0.0.1") -> Iterator[ssl.SSLSocket]:
    with client(server) as sock, context.wrap_socket(sock, server_hostname=name) as wrapped:
        yield wrapped


def ask_secretly(server: Server, context: ssl.SSLContext) -> None:
    with secure(server, context) as sock:
        sock.sendall(b"?\n")
        if not sock.recv(1):
            raise ConnectionError("closed without a word")


def send_secretly(server: Server, context: ssl.SSLContext, times: int) -> None:
    with secure(server, context) as sock:
        for _ in range(times):
            sock.sendall(b"hello\n" * 1000)
        sock.recv(1)


def echo_line(line: bytes, peer: Peer) -> bytes:
    return line + b"\n"


def lines(tls: object, **limits: object) -> Server:
    return Server(
        Messages(echo_line, Lines()),
        "127.0.0.1:0",
        max_workers=2,
        limits=Limits(**limits),  # type: ignore[arg-type]
        tls=tls,  # type: ignore[arg-type]
    )


def test_rule_7_messages_are_served(authority: Authority, certificates: Certificates) -> None:
    with lines(certificates) as server, secure(server, authority.client_context()) as sock:
        assert ask(sock, b"hello\n") == b"hello\n"
        burst = b"".join(b"%d\n" % number for number in range(1000))
        assert ask(sock, burst) == burst


def test_rule_7_a_big_message_is_served(authority: Authority, certificates: Certificates) -> None:
    data = os.urandom(3_000_000)
    protocol = Messages(lambda data, peer: data, LengthPrefix(4))
    server = Server(protocol, "127.0.0.1:0", limits=Limits(max_message=len(data)), tls=certificates)
    with server, secure(server, authority.client_context()) as sock:
        # Not from two threads: before 3.13.1 a client's SSLSocket does not bear that (CPython issue 124984).
        sock.sendall(len(data).to_bytes(4, "big") + data)
        assert receive(sock, len(data)) == data


def test_rule_7_sessions_are_served(authority: Authority, certificates: Certificates) -> None:
    def talk(conn: Connection) -> None:
        while line := conn.readline():
            conn.sendall(line.upper())

    server = Server(Session(talk), "127.0.0.1:0", max_workers=2, tls=certificates)
    with server, secure(server, authority.client_context()) as sock:
        assert ask(sock, b"one\ntwo\n") == b"ONE\nTWO\n"
        assert ask(sock, b"three\n") == b"THREE\n"


def test_rule_7_clients_that_never_finish_the_handshake_stall_nobody_and_are_cut(
    authority: Authority, certificates: Certificates
) -> None:
    with lines(certificates, handshake_timeout=0.5) as server, ExitStack() as stack:
        hostile = [stack.enter_context(client(server)) for _ in range(40)]
        for sock in hostile[20:]:
            sock.sendall(b"\x16\x03\x01")  # of a ClientHello
        with secure(server, authority.client_context()) as healthy:
            assert ask(healthy, b"hello\n") == b"hello\n"
        for sock in hostile:
            assert receive_all(sock) == b""
        assert server.snapshot().closed_by == {"handshake_timeout": 40}  # counted before it is closed
        assert server.snapshot().pool.threads <= 2


def test_rule_7_what_is_no_handshake_is_cut_and_said_once(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    with lines(certificates) as server:
        for _ in range(5):
            with client(server) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
                receive_all(sock)
    assert caplog.text.count("TLS handshake failed") == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_rule_7_every_client_that_is_refused_reads_why(authority: Authority, version: ssl.TLSVersion) -> None:
    """Also one that takes itself for connected, as TLS 1.3 has it, and has sent something: a reset takes the alert."""
    files, context = authority.issue("127.0.0.1"), authority.client_context()
    context.minimum_version = context.maximum_version = version
    wants = Certificates(files.certfile, files.keyfile, client_ca=authority.ca)
    with lines(wants) as server:
        for number in range(100):
            with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required|handshake.failure"):
                send_secretly(server, context, number % 4)
        assert server.snapshot().messages == 0
    assert server.snapshot().closed_by == {"tls_handshake": 100}


def echo_lines(conn: Connection) -> None:
    while line := conn.readline():
        conn.sendall(line)


@pytest.mark.parametrize("protocol", [Messages(echo_line, Lines()), Session(echo_lines)])
def test_rule_7_a_client_that_sends_no_tls_amid_a_connection_reads_why(
    authority: Authority, certificates: Certificates, protocol: Messages[bytes] | Session
) -> None:
    server = Server(protocol, "127.0.0.1:0", max_workers=2, tls=certificates)
    with server, secure(server, authority.client_context()) as sock:
        assert ask(sock, b"hello\n") == b"hello\n"
        assert server._group is not None
        (conn,) = [conn for driver in server._group.drivers for conn in driver.io.connections()]
        for _ in range(3):  # who sends on to a server that is gone is told of a reset, and nothing else
            socket.socket.sendall(sock, b"GET / HTTP/1.1\r\n\r\n")
            until(lambda: conn.state in (State.LINGERING, State.CLOSED))
            for driver in server._group.drivers:
                turn = threading.Event()
                driver.loop.post(partial(driver.loop.post, turn.set))
                assert turn.wait(PATIENCE)
        with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
            sock.recv(1)
        sock.close()
        until(lambda: not server.snapshot().connections)
        assert server.snapshot().closed_by == {"tls_error": 1}
        assert server.snapshot().failures == 0


def test_rule_7_handshakes_that_fail_for_different_reasons_are_told_apart(
    authority: Authority, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else that happens uses up their lines; each says how many like it were left out."""
    ahead = [0.0]
    monkeypatch.setattr(throttles, "clock", SimpleNamespace(now=lambda: monotonic() + ahead[0]))
    files, old = authority.issue("127.0.0.1"), authority.client_context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    context = Certificates(files.certfile, files.keyfile)()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with lines(context, max_message=10) as server:
        with secure(server, authority.client_context()) as sock:
            sock.sendall(b"too long a message\n")
            assert receive_all(sock) == b""
        for _ in range(2):
            for _ in range(3):
                with client(server) as plain:
                    plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    receive_all(plain)
                with pytest.raises(ssl.SSLError):
                    secure(server, old).__enter__()
            while server.snapshot().connections:  # a client may know it before it is logged
                threading.Event().wait(0.001)
            ahead[0] += 1000.0
    told = [record.getMessage() for record in caplog.records if "TLS handshake failed" in record.getMessage()]
    assert len(told) == 4
    assert [line.endswith("(2 more like it since the last such line)") for line in told] == [False, False, True, True]
    assert server.snapshot().closed_by == {"tls_handshake": 12, "max_message": 1}


@pytest.mark.parametrize("first", [1, 100, 8192, 16383, 16000])
def test_rule_3_two_messages_in_one_record_are_both_answered(
    authority: Authority, certificates: Certificates, first: int
) -> None:
    with lines(certificates) as server, secure(server, authority.client_context()) as sock:
        record = b"x" * (first - 1) + b"\n" + b"second\n"
        sock.sendall(record[:16384])  # the most that a record holds
        if len(record) > 16384:
            sock.sendall(record[16384:])
        assert receive(sock, len(record)) == record


def test_rule_7_client_certificates_sni_and_alpn(authority: Authority) -> None:
    server_files, client_files = authority.issue("127.0.0.1"), authority.issue("alice")
    asked: list[str | None] = []

    def who(line: bytes, peer: Peer) -> bytes:
        assert peer.certificate is not None
        return f"{dict(pair for names in peer.certificate['subject'] for pair in names)} {peer.alpn}\n".encode()

    def context() -> ssl.SSLContext:
        made = Certificates(server_files.certfile, server_files.keyfile, client_ca=authority.ca, alpn=["x/2", "x/1"])()
        made.sni_callback = lambda sock, name, context: asked.append(name)
        return made

    server = Server(Messages(who, Lines()), "127.0.0.1:0", max_workers=2, tls=context)
    with server:
        trusted = authority.client_context(client_files)
        trusted.set_alpn_protocols(["x/1"])
        with secure(server, trusted) as sock:
            assert ask(sock, b"?\n", 28) == b"{'commonName': 'alice'} x/1\n"
        nobody = authority.client_context()
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask_secretly(server, nobody)
    assert asked[0] in (None, "127.0.0.1")


def test_a_context_of_ones_own_chooses_the_certificate_by_the_name_that_the_client_asks_for(
    authority: Authority,
) -> None:
    contexts = {}
    for name in ("one.test", "two.test"):
        files = authority.issue(name)
        contexts[name] = Certificates(files.certfile, files.keyfile)()

    def choose(sock: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> int | None:
        if name not in contexts:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        sock.context = contexts[name]
        return None

    contexts["one.test"].sni_callback = choose
    with lines(contexts["one.test"]) as server:
        for name in ("one.test", "two.test"):
            with secure(server, authority.client_context(), name) as sock:  # which checks that the name is in it
                assert ask(sock, b"hello\n") == b"hello\n"
        with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
            secure(server, authority.client_context(), "three.test").__enter__()


def test_rule_7_reload_takes_new_certificates_and_drops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    files = old.issue("127.0.0.1")
    with lines(Certificates(files.certfile, files.keyfile)) as server:
        with secure(server, old.client_context()) as before:
            assert ask(before, b"x\n") == b"x\n"
            new.issue("127.0.0.1")  # over the same files
            server.reload()
            with secure(server, new.client_context()) as after:
                assert ask(after, b"x\n") == b"x\n"
            assert ask(before, b"x\n") == b"x\n"
            files.keyfile.write_text("no key")
            server.reload()
            assert f"the old ones stay in use: {files.keyfile}: it holds no private key" in caplog.text
            assert "Traceback" not in caplog.text
            with secure(server, new.client_context()) as after:
                assert ask(after, b"x\n") == b"x\n"


def test_rule_8_a_secure_client_that_never_reads_holds_no_thread(
    authority: Authority, certificates: Certificates
) -> None:
    big = b"x" * (8 << 20)
    protocol = Messages(lambda line, peer: big if line == b"big" else line + b"\n", Lines())
    with Server(protocol, "127.0.0.1:0", max_workers=1, tls=certificates) as server, ExitStack() as stack:
        context = authority.client_context()
        hostile = [stack.enter_context(secure(server, context)) for _ in range(4)]
        for sock in hostile:
            sock.sendall(b"big\nnext\n")
        healthy = stack.enter_context(secure(server, context))
        assert ask(healthy, b"hello\n") == b"hello\n"
        for sock in hostile:
            assert receive(sock, len(big) + 5) == big + b"next\n"


def test_rule_9_stop_says_goodbye(authority: Authority, certificates: Certificates) -> None:
    with lines(certificates) as server, secure(server, authority.client_context()) as sock:
        assert ask(sock, b"x\n") == b"x\n"
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        assert receive_all(sock) == b""  # an SSLError here would be an end without TLS's own goodbye
        sock.close()
        stopper.join(PATIENCE)


def test_rule_10_half_closed_secure_clients_get_their_answer(authority: Authority, certificates: Certificates) -> None:
    with lines(certificates) as server, secure(server, authority.client_context()) as sock:
        sock.sendall(b"one\ntwo\n")
        socket.socket.shutdown(sock, socket.SHUT_WR)  # without TLS's own goodbye, as many clients do
        assert receive(sock, 8) == b"one\ntwo\n"


def tear(sock: ssl.SSLSocket) -> None:
    """End the client's half without TLS's own goodbye, and await the server's answer to that."""
    socket.socket.shutdown(sock, socket.SHUT_WR)
    try:
        while sock.recv(1):
            pass
    except OSError:  # OpenSSL answers it with an alert
        pass


def reset(sock: ssl.SSLSocket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def goodbye(sock: ssl.SSLSocket) -> None:
    try:
        sock.unwrap()
    except ssl.SSLError:  # there is an answer still
        pass


def ended_by(
    end: Callable[[ssl.SSLSocket], None],
    authority: Authority,
    protocol: Messages[bytes] | Session,
    tls: object,
    sent: bytes = b"whole\npay 1",
) -> dict[str, int]:
    """Return what a connection is closed by whose client ends it so, after its first line was answered."""
    server = Server(protocol, "127.0.0.1:0", max_workers=2, tls=tls)  # type: ignore[arg-type]
    with server:
        with secure(server, authority.client_context()) as sock:
            assert ask(sock, sent, 6) == b"whole\n"
            end(sock)
        until(lambda: not server.snapshot().connections)
        assert server.snapshot().failures == 0
        return dict(server.snapshot().closed_by)


def test_an_end_without_tlss_goodbye_ends_no_message(
    authority: Authority, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """Else anybody on the way could have half a line taken for a whole one (RFC 8446, section 6.1)."""
    handled: list[bytes] = []

    def handle(line: bytes, peer: Peer) -> bytes:
        handled.append(line)
        return line + b"\n"

    protocol = Messages(handle, Lines())
    assert ended_by(tear, authority, protocol, certificates) == {"tls_cut_short": 1}
    assert caplog.text.count("its last 5 bytes, which may be") == 1
    assert sum(ended_by(reset, authority, protocol, certificates).values()) == 1  # also before 3.12, which hides it
    assert handled == [b"whole", b"whole"]
    assert ended_by(goodbye, authority, protocol, certificates) == {}
    assert handled == [b"whole", b"whole", b"whole", b"pay 1"]


@pytest.mark.parametrize("end", [tear, goodbye])
def test_an_end_between_two_messages_is_in_order_with_and_without_tlss_goodbye(
    authority: Authority, certificates: Certificates, end: Callable[[ssl.SSLSocket], None]
) -> None:
    for protocol in (Messages(echo_line, Lines()), Session(echo_lines)):
        assert ended_by(end, authority, protocol, certificates, b"whole\n") == {}


def test_a_context_of_ones_own_may_take_every_end_for_the_clients(
    authority: Authority, certificates: Certificates
) -> None:
    handled: list[bytes] = []

    def handle(line: bytes, peer: Peer) -> bytes:
        handled.append(line)
        return line + b"\n"

    context = certificates()
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    assert ended_by(tear, authority, Messages(handle, Lines()), context) == {}
    assert handled == [b"whole", b"pay 1"]


def test_a_session_is_told_of_a_line_that_was_cut_off_without_tlss_goodbye(
    authority: Authority, certificates: Certificates
) -> None:
    seen: list[object] = []

    def talk(conn: Connection) -> None:
        conn.sendall(conn.readline())
        try:
            seen.append(conn.readline())
        except EOFError as error:
            seen.append(type(error))
            try:
                conn.recv_exactly(6)
            finally:
                seen.extend([conn.recv(), conn.recv()])  # as a plain socket of Python's has it

    assert ended_by(tear, authority, Session(talk), certificates) == {"tls_cut_short": 1}
    assert seen == [EOFError, b"pay 1", b""]
    assert ended_by(goodbye, authority, Session(talk), certificates) == {}
    assert seen[3:] == [b"pay 1"]


def test_a_session_whose_time_is_over_sees_the_end_that_is_there_by_then(
    authority: Authority, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An end without a goodbye is an end there, too, and no idle client."""
    seen: list[object] = []
    torn = threading.Event()

    def talk(conn: Connection) -> None:
        conn.sendall(conn.readline())
        assert torn.wait(PATIENCE)
        read = conn._receive
        late = iter([TimeoutError("of the limit's")])

        def receive(most: int) -> bytes:
            for error in late:
                raise error
            return read(most)

        monkeypatch.setattr(conn, "_receive", receive)
        seen.append(conn.recv())

    def leave(sock: ssl.SSLSocket) -> None:
        socket.socket.shutdown(sock, socket.SHUT_WR)
        torn.set()

    assert ended_by(leave, authority, Session(talk), certificates, b"whole\n") == {}
    assert seen == [b""]


@pytest.mark.parametrize(
    ("options", "culprit", "words"),
    [
        ({"certfile": "missing.pem"}, "missing.pem", "No such file"),
        ({"certfile": "127.0.0.1.pem", "keyfile": "missing.key"}, "missing.key", "No such file"),
        ({"certfile": "both.pem", "client_ca": "missing.ca"}, "missing.ca", "No such file"),
        ({"certfile": "text.txt", "keyfile": "127.0.0.1.key"}, "text.txt", "it holds no certificate"),
        ({"certfile": "127.0.0.1.pem"}, "127.0.0.1.pem", r"it holds no private key in PEM; give keyfile \(--keyfile\)"),
        ({"certfile": "127.0.0.1.pem", "keyfile": "text.txt"}, "text.txt", "it holds no private key in PEM$"),
        (
            {"certfile": "127.0.0.1.pem", "keyfile": "other.key"},
            "other.key",
            "is not that of the certificate in .*0.0.1",
        ),
        ({"certfile": "127.0.0.1.pem", "keyfile": "locked.key"}, "locked.key", "is encrypted; give password, or"),
        (
            {"certfile": "127.0.0.1.pem", "keyfile": "locked.key", "password": "wrong"},
            "locked.key",
            "cannot be decrypted; is the password right",
        ),
        ({"certfile": "damaged.pem", "keyfile": "127.0.0.1.key"}, "damaged.pem", "it cannot be used: "),
        ({"certfile": "both.pem", "client_ca": "text.txt"}, "text.txt", "it holds no certificate"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong_in_it(
    authority: Authority, options: dict[str, str], culprit: str, words: str
) -> None:
    folder, files = authority.folder, authority.issue("127.0.0.1")
    authority.issue("other")
    (folder / "text.txt").write_text("text")
    (folder / "both.pem").write_text(files.certfile.read_text() + files.keyfile.read_text())
    (folder / "damaged.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    lock = ("openssl", "pkey", "-in", str(files.keyfile), "-aes256", "-passout", "pass:right")
    subprocess.run([*lock, "-out", str(folder / "locked.key")], check=True, capture_output=True)
    paths = {name: value if name == "password" else str(folder / value) for name, value in options.items()}
    with pytest.raises(OSError, match=words) as caught:
        Certificates(**paths)()
    assert caught.value.filename == str(folder / culprit)
    assert culprit in str(caught.value)


def test_a_key_log_that_cannot_be_written_is_named_with_the_variable_that_asks_for_it(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "none" / "keys"))
    with pytest.raises(FileNotFoundError, match="SSLKEYLOGFILE has TLS keys written there") as caught:
        Server(Messages(echo_line, Lines()), "127.0.0.1:0", tls=certificates).start()
    assert caught.value.filename == str(tmp_path / "none" / "keys")
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    certificates()
    assert (tmp_path / "keys").exists()


def test_an_encrypted_key_is_read_with_its_password(authority: Authority) -> None:
    files, locked = authority.issue("127.0.0.1"), authority.folder / "secret.key"
    lock = ("openssl", "pkey", "-in", str(files.keyfile), "-aes256", "-passout", "pass:right", "-out", str(locked))
    subprocess.run(lock, check=True, capture_output=True)
    assert Certificates(files.certfile, locked, password="right")().cert_store_stats()["x509"] == 0


def test_a_server_whose_certificates_are_bad_does_not_start() -> None:
    server = Server(Messages(echo_line, Lines()), "127.0.0.1:0", tls=Certificates("missing.pem"))
    with pytest.raises(FileNotFoundError):
        server.start()


def test_alpn_is_a_sequence() -> None:
    with pytest.raises(TypeError, match="alpn='h2' is str; allowed: a sequence of strings"):
        Certificates("a.pem", alpn="h2")


def farewell(line: bytes, peer: Peer) -> bytes:
    raise CloseConnection(b"bye")


def test_a_peer_that_has_left_has_no_certificate(certificates: Certificates, authority: Authority) -> None:
    peers: list[Peer] = []

    def handle(line: bytes, peer: Peer) -> bytes:
        peers.append(peer)
        return farewell(line, peer)

    server = Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=1, tls=certificates)
    with server, secure(server, authority.client_context()) as sock:
        sock.sendall(b"x\n")
        assert receive_all(sock) == b"bye"
    assert [(peer.certificate, peer.alpn) for peer in peers] == [(None, None)]


def test_a_failed_handshake_leaves_nothing_to_the_garbage_collector(certificates: Certificates) -> None:
    gc.collect()
    gc.disable()
    try:
        with lines(certificates) as server:
            for _ in range(20):
                with client(server) as sock:
                    sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    receive_all(sock)
        assert not [
            error for error in gc.get_objects() if issubclass(type(error), ssl.SSLError) and error.__traceback__
        ]
    finally:
        gc.enable()


def test_tls_does_not_depend_on_a_class_of_sockets_that_another_library_has_put_in_place(
    certificates: Certificates, authority: Authority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Replaced(socket.socket):
        def recv(self, *args: object) -> bytes:
            raise TypeError("of its own kind only")

        shutdown = recv  # type: ignore[assignment]

    server = Server(Messages(farewell, Lines()), "127.0.0.1:0", max_workers=1, tls=certificates)
    with server, client(server) as plain:
        sock = authority.client_context().wrap_socket(plain, server_hostname="127.0.0.1")
        with sock, monkeypatch.context() as patch:
            patch.setattr(socket, "socket", Replaced)
            sock.sendall(b"x\n")
            assert receive_all(sock) == b"bye"
            sock.sendall(b"more\n")
            assert server.stop(PATIENCE) == 0
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
