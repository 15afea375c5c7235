"""Uses of servers; see pool_uses.py."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import StreamRequestHandler, TCPServer
from typing import Any, Literal, assert_type

from treadle import Pool
from treadle.server import (
    Certificates,
    CloseConnection,
    Connection,
    Decoder,
    Delimiter,
    Framing,
    LengthPrefix,
    Limits,
    Lines,
    MessageEvent,
    Messages,
    Observer,
    Peer,
    PoolMixIn,
    Protocol,
    Raw,
    Reply,
    Server,
    ServerSnapshot,
    Session,
    TakeOver,
)


def echo(message: bytes, peer: Peer) -> bytes:
    return message


def count(message: bytes, peer: Peer) -> None: ...


def reuse(message: bytes, peer: Peer) -> bytearray | memoryview | None:
    return bytearray(message)


def text(message: bytes, peer: Peer) -> str:
    return message.decode()


def talk(conn: Connection) -> None:
    assert_type(conn.readline(), bytes)
    assert_type(conn.recv(100), bytes)
    assert_type(conn.peer, Peer)
    conn.sendall(bytearray(b"x"))
    conn.sendall("x")  # wrong
    conn.recv_exactly("4")  # wrong


class Command:
    name = b""


class CommandDecoder:
    held = 0

    def feed(self, data: bytes) -> Sequence[Command]:
        return [Command()]

    def finish(self) -> Sequence[Command]:
        return []


class Commands:
    def decoder(self, limit: int) -> CommandDecoder:
        return CommandDecoder()


class Generating:
    held = 0

    def feed(self, data: bytes) -> Iterator[Command]:
        yield Command()

    def finish(self) -> Iterator[Command]:
        yield Command()


class GeneratedCommands:
    def decoder(self, limit: int) -> Generating:
        return Generating()


class Speaking:
    held = 0

    def feed(self, data: bytes) -> Iterator[Command | Reply]:
        yield Reply(b"go")
        yield Command()

    def finish(self) -> tuple[Command, ...]:
        return ()


class SpeakingCommands:
    def decoder(self, limit: int) -> Speaking:
        return Speaking()


class NoFraming:
    def decode(self, limit: int) -> CommandDecoder:
        return CommandDecoder()


def obey(message: Command, peer: Peer) -> bytes:
    return message.name


def protocols() -> None:
    assert_type(Messages(echo), Messages[bytes])
    assert_type(Messages(echo, Lines()), Messages[bytes])
    assert_type(Messages(reuse, Delimiter(b"\0")), Messages[bytes])
    assert_type(Messages(count, LengthPrefix(4, "little")), Messages[bytes])
    assert_type(Messages(obey, Commands()), Messages[Command])
    assert_type(Messages(obey, GeneratedCommands()), Messages[Command])
    Messages(text)  # wrong
    Messages(obey)  # wrong
    Messages(obey, Lines())  # wrong
    Messages(echo, Commands())  # wrong
    Messages(echo, NoFraming())  # wrong
    Messages(echo, Lines)  # wrong
    Messages(echo, greeting="hello")  # wrong
    Messages(echo, Lines(), kind=lambda line: line.split()[0], key=len)
    Messages(obey, Commands(), kind=lambda command: command.name)
    Messages(echo, kind="GET")  # wrong
    assert_type(Messages(obey, SpeakingCommands()), Messages[Command])
    Messages(echo, SpeakingCommands())  # wrong
    Messages(echo, Lines(), instant=lambda line: b"pong" if line == b"ping" else None)
    Messages(obey, SpeakingCommands(), instant=lambda command: command.name)
    Messages(echo, Lines(), instant=lambda line: line.decode())  # wrong
    Reply("go")  # wrong
    Messages(lambda message, peer: message)
    Messages(lambda message, peer: message.name, Commands())
    LengthPrefix(4, "middle")  # wrong
    Delimiter("x")  # wrong
    Session(talk)
    Session(talk, speaks_first=True)
    Session(echo)  # wrong
    Messages(lambda message, peer: TakeOver(talk, b"first"))
    TakeOver(echo)  # wrong
    TakeOver(talk, "first")  # wrong
    framing: Framing[bytes] = Raw()
    framing_of_commands: Framing[Command] = Commands()
    wrong: Framing[bytes] = Commands()  # wrong
    decoder: Decoder[Command] = CommandDecoder()
    raise CloseConnection(b"bye")


class Store:
    name, greeting, speaks_first, converse = "store", b"", False, None

    def decoder(self, limits: Limits, peer: Peer) -> CommandDecoder:
        return CommandDecoder()

    def handle(self, command: Command, peer: Peer) -> bytes:
        return command.name


class NamedStore(Protocol):
    greeting, speaks_first, converse = b"", False, None

    def __init__(self, name: str) -> None:
        self.name = name

    def decoder(self, settings: Limits, client: Peer) -> CommandDecoder:
        return CommandDecoder()

    def handle(self, command: Command, client: Peer) -> bytes:
        return command.name


class ShortStore(Store):
    def handle(self, command: Command) -> bytes: ...  # wrong


class HalfStore(Protocol):
    name = "half"

    def decoder(self, limits: Limits) -> CommandDecoder: ...  # wrong


class Mine(Server):
    pass


def servers(listener: socket.socket, context: ssl.SSLContext) -> None:
    assert_type(Server(Messages(echo), "127.0.0.1:0").start(), Server)
    with Server(Messages(echo), ["127.0.0.1:0", "unix:/tmp/x", listener]) as server:
        assert_type(server, Server)
        address: Any = server.address
        assert_type(server.snapshot(), ServerSnapshot)
        assert_type(server.snapshot().rejected_connections, int)
        assert_type(server.stop(drain_timeout=None), int)
    with Mine(Session(talk)) as mine:
        assert_type(mine, Mine)
    assert_type(Mine(Session(talk)).start(), Mine)
    Server(Messages(echo), pool=Pool(8, order="fair"), limits=Limits(max_connections=100))
    Server(Messages(echo), max_workers=8, tls=context)
    Server(Messages(echo), tls=Certificates("a.pem", "a.key"))
    Server(Messages(echo), proxy=["10.0.0.0/8"])
    Server(Messages(echo), observers=[Log()])
    Server(Store(), "127.0.0.1:0")
    Server(NamedStore("store"))
    store: Protocol = Store()
    made: list[Protocol] = [Messages(echo), Session(talk), NamedStore("store")]
    Server(Store)  # wrong
    Server(ShortStore())  # wrong
    HalfStore()  # wrong
    Server(Messages(echo), queue_size=10)  # wrong
    Server(Messages(echo), order="fair")  # wrong
    Server(echo)  # wrong
    Server(Messages(echo), 5000)  # wrong
    Server(Messages(echo), limits={"max_connections": 3})  # wrong
    Server(Messages(echo), tls="a.pem")  # wrong
    assert_type(Server(Messages(echo)).run(drain_timeout=3), int)
    Server(Messages(echo)).run(watch=print)  # wrong


def limits() -> None:
    Limits(at_max_connections="reject", reject_connections_with=b"busy")
    Limits(at_max_connections="drop")  # wrong
    Limits(reject_messages_with="busy")  # wrong
    Limits(idle_timeout=None, min_read_rate=10)
    Limits(idle_timeout="60")  # wrong
    Limits(10)  # wrong
    Limits().idle_timeout = 3  # wrong
    kept: Literal["pause", "reject", "evict_idle"] = Limits().at_max_connections


class Log(Observer):
    def handled(self, event: MessageEvent) -> None:
        assert_type(event.peer, Peer)
        assert_type(event.error, BaseException | None)

    def closed(self, event: int) -> None: ...  # wrong


class Handler(StreamRequestHandler):
    def handle(self) -> None: ...


class PooledTCP(PoolMixIn, TCPServer):
    max_workers = 8
    wait_for_first_byte = False


class PooledHTTP(PoolMixIn, HTTPServer):
    drain_timeout = None


class PooledWrong(PoolMixIn, TCPServer):
    max_workers = "8"  # wrong


def mixins() -> None:
    with PooledTCP(("127.0.0.1", 0), Handler) as server:
        assert_type(server, PooledTCP)
        server.serve_forever()
    PooledHTTP(("127.0.0.1", 0), BaseHTTPRequestHandler)
    PooledTCP(("127.0.0.1", 0), 3)  # wrong; mypy: what it is made of is passed on as it is
