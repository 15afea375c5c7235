"""A server that speaks RESP, the protocol of Redis: HELLO, PING, ECHO, GET, SET, INCR, QUIT. Its framing is its own.

Run it: python examples/redis_server.py 6379        Talk to it: redis-cli -p 6379 set loom treadle
"""

import logging
import sys
import threading
from collections.abc import Generator, Iterator

from treadle.errors import BindError, MessageTooLong
from treadle.server import CloseConnection, Messages, Peer, Server

store: dict[bytes, bytes] = {}
counting = threading.Lock()  # handlers run on several threads


class Resp:  # a command is b"*2\r\n$3\r\nGET\r\n$1\r\nx\r\n", or a plain line such as b"GET x\r\n"
    finish = tuple  # half a command is none

    def __init__(self, limit: int = 0) -> None:
        self.limit, self.held, self.rest = limit, 0, bytearray()
        self.commands = self.parse()

    def decoder(self, limit: int) -> "Resp":  # one for each connection
        return Resp(limit)

    def feed(self, data: bytes) -> Iterator[list[bytes]]:
        self.rest += data
        self.held += len(data)
        for command in self.commands:  # goes on where it stopped, so it looks at each byte once
            if command is None:
                break
            yield command
        if self.held > self.limit:
            raise MessageTooLong(self.limit)

    def parse(self) -> Iterator[list[bytes] | None]:  # gives each command, and None where it needs more bytes
        while True:
            line = yield from self.line()
            command = line.split()
            if line.startswith(b"*"):
                command = []
                for _ in range(number("*", line)):
                    size = number("$", (yield from self.line()))
                    command.append((yield from self.take(size)))
                    if (end := (yield from self.take(2))) != b"\r\n":
                        raise ValueError(f"expected \\r\\n after {size} bytes, got {end!r}")
            self.held = len(self.rest)
            if command:
                yield command

    def line(self) -> Generator[None, None, bytes]:
        seen = 0
        while (end := self.rest.find(b"\n", seen)) < 0:
            seen = len(self.rest)
            yield
        return (yield from self.take(end + 1)).rstrip(b"\r\n")

    def take(self, size: int) -> Generator[None, None, bytes]:
        while len(self.rest) < size:
            yield
        taken = bytes(self.rest[:size])
        del self.rest[:size]
        return taken


def number(mark: str, line: bytes) -> int:  # of a line such as b"$3"
    if not line.startswith(mark.encode()) or not line[1:].isdigit() or len(line) > 20:
        raise ValueError(f"expected {mark} and a number, got {line[:20]!r}")
    return int(line[1:])


def bulk(word: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(word), word)


def execute(command: list[bytes], peer: Peer) -> bytes:
    match command[0].upper(), *command[1:]:
        case b"HELLO", b"3":  # the protocol's version, with which clients of today begin
            peer.state["nil"] = b"_\r\n"
            return b"%1\r\n$5\r\nproto\r\n:3\r\n"
        case b"PING", *_:
            return b"+PONG\r\n"
        case b"ECHO", word:  # with which redis-cli --pipe ends
            return bulk(word)
        case b"GET", key:
            return bulk(store[key]) if key in store else peer.state.get("nil", b"$-1\r\n")
        case b"SET", key, value:
            store[key] = value
            return b"+OK\r\n"
        case b"INCR" | b"INCRBY", key, *by:
            with counting:
                if not all(number.removeprefix(b"-").isdigit() for number in (store.get(key, b"0"), *by)):
                    return b"-ERR value is not an integer or out of range\r\n"
                store[key] = b"%d" % (int(store.get(key, b"0")) + int(by[0] if by else 1))
                return b":%s\r\n" % store[key]
        case b"QUIT", *_:
            raise CloseConnection(b"+OK\r\n")
    return b"-ERR unknown command or wrong number of arguments\r\n"


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    try:
        sys.exit(min(Server(Messages(execute, Resp()), f"127.0.0.1:{(*sys.argv, 6379)[1]}", max_workers=8).run(), 1))
    except (BindError, ValueError) as error:  # the port is taken, or none
        sys.exit(str(error))
