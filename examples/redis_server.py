"""A server that speaks RESP, the protocol of Redis: HELLO, PING, GET, SET, INCR, QUIT. It has a framing of its own.

Run it: python examples/redis_server.py 6379        Talk to it: redis-cli -p 6379 set loom treadle
"""

import logging
import sys
import threading

from treadle.errors import BindError, MessageTooLong
from treadle.server import CloseConnection, Messages, Peer, Server

logging.basicConfig(level=logging.INFO)
store: dict[bytes, bytes] = {}
counting = threading.Lock()  # handlers run on several threads


class Resp:  # a command is b"*2\r\n$3\r\nGET\r\n$1\r\nx\r\n", or a plain line such as b"GET x\r\n"
    finish = list  # half a command is none

    def __init__(self, limit: int = 0) -> None:
        self.limit, self.held, self.rest = limit, 0, b""

    def decoder(self, limit: int) -> "Resp":  # one for each connection
        return Resp(limit)

    def feed(self, data: bytes) -> list[list[bytes]]:
        self.rest += data
        commands = []
        while (cut := self.cut()) is not None:
            command, self.rest = cut
            commands.append(command)
        self.held = len(self.rest)
        if self.held > self.limit:
            raise MessageTooLong(self.limit)
        return [command for command in commands if command]

    def cut(self) -> tuple[list[bytes], bytes] | None:  # the first command, and what follows it; None: it is not whole
        line, found, rest = self.rest.partition(b"\r\n")
        if not found or line[:1] != b"*":
            return (line.split(), rest) if found else None
        command = []
        for _ in range(int(line[1:])):
            size, found, rest = rest.partition(b"\r\n")
            if not found or len(rest) < int(size[1:]) + 2:
                return None
            command.append(rest[: int(size[1:])])
            rest = rest[int(size[1:]) + 2 :]
        return command, rest


def execute(command: list[bytes], peer: Peer) -> bytes:
    match command[0].upper(), *command[1:]:
        case b"HELLO", b"3":  # the protocol's version, with which clients of today begin
            peer.state["nil"] = b"_\r\n"
            return b"%1\r\n$5\r\nproto\r\n:3\r\n"
        case b"PING", *_:
            return b"+PONG\r\n"
        case b"GET", key:
            nil = peer.state.get("nil", b"$-1\r\n")
            return b"$%d\r\n%s\r\n" % (len(store[key]), store[key]) if key in store else nil
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


try:
    sys.exit(min(Server(Messages(execute, Resp()), f"127.0.0.1:{(*sys.argv, 6379)[1]}", max_workers=8).run(), 1))
except (BindError, ValueError) as error:  # the port is taken, or none
    sys.exit(str(error))
