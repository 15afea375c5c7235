"""A server that speaks RESP, the protocol of Redis: PING, GET, SET, INCR, QUIT. It has a framing of its own.

Run it: python examples/redis_server.py 6379        Talk to it: redis-cli -p 6379 set loom treadle
"""

import logging
import sys
import threading

from treadle.errors import MessageTooLong
from treadle.server import CloseConnection, Messages, Peer, Server

logging.basicConfig(level=logging.INFO)
store: dict[bytes, bytes] = {}
counting = threading.Lock()  # handlers run on several threads
Command = list[bytes]


class Resp:
    r"""Cuts commands: "*2\r\n$3\r\nGET\r\n$1\r\nx\r\n", or a plain line such as "GET x\r\n"."""

    def __init__(self, limit: int = 0) -> None:
        self.limit, self.held, self.rest = limit, 0, b""

    def cutter(self, limit: int) -> "Resp":  # one for each connection
        return Resp(limit)

    def feed(self, data: bytes) -> list[Command]:
        self.rest += data
        commands = []
        while (cut := self.cut()) is not None:
            command, end = cut
            self.rest = self.rest[end:]
            commands.append(command)
        self.held = len(self.rest)
        if self.held > self.limit:
            raise MessageTooLong(self.limit)
        return [command for command in commands if command]

    def finish(self) -> list[Command]:  # half a command is none
        return []

    def cut(self) -> tuple[Command, int] | None:
        """Return the first command, and where it ends; None: it is not all there."""
        line, found, _ = self.rest.partition(b"\r\n")
        end = len(line) + 2
        if not found or line[:1] != b"*":
            return (line.split(), end) if found else None
        command: Command = []
        for _ in range(int(line[1:])):
            size_end = self.rest.find(b"\r\n", end)
            if size_end < 0 or len(self.rest) < size_end + 4 + int(self.rest[end + 1 : size_end]):
                return None
            begin, end = size_end + 2, size_end + 4 + int(self.rest[end + 1 : size_end])
            command.append(self.rest[begin : end - 2])
        return command, end


def execute(command: Command, peer: Peer) -> bytes:
    match command[0].upper(), *command[1:]:
        case b"PING", *_:
            return b"+PONG\r\n"
        case b"GET", key:
            return b"$%d\r\n%s\r\n" % (len(store[key]), store[key]) if key in store else b"$-1\r\n"
        case b"SET", key, value:
            store[key] = value
            return b"+OK\r\n"
        case b"INCR", key:
            with counting:
                store[key] = b"%d" % (int(store.get(key, b"0")) + 1)
            return b":%s\r\n" % store[key]
        case b"QUIT", *_:
            raise CloseConnection(b"+OK\r\n")
    return b"-ERR unknown command or wrong number of arguments\r\n"


port = sys.argv[1] if len(sys.argv) > 1 else "6379"
sys.exit(min(Server(Messages(execute, Resp()), f"127.0.0.1:{port}", max_workers=8).run(), 1))
