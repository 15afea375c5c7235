"""The echo servers that are measured, each in a process of its own, used in the way its own documentation shows.

    python bench/echo_servers.py NAME [--port PORT] [--slow] [--lines] [--cert FILE] [--processes N] ...

prints `serving on 127.0.0.1:PORT` and serves until it is terminated. With --slow a handler sleeps 100 ms, as a slow
query would, when its data begins with S: in the callback itself where there are callbacks, for that is where a blocking
call is, and in the way that its documentation wants where a library patches sleep. With --routes the first word of a
line says how long treadle's handler sleeps. With --trickle it is asked for large answers. A server that cannot be had
here says why on standard error, and ends with status 69.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import select
import shutil
import socket
import socketserver
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

from echo_trickle_server import WAYS, Answers

HOST = "127.0.0.1"
SLEEP = 0.1  # seconds in a slow handler
SLEEPS = {b"m": 0.005, b"s": SLEEP}  # seconds in the handler of a route; of others it returns at once
CHUNK = 64 * 1024  # bytes that are read at a time, where the peer leaves that to us
BACKLOG = 4096
POOL_THREADS = 128
UNAVAILABLE = 69  # the exit status; EX_UNAVAILABLE of sysexits.h
COMPUTED = 3000  # turns of an empty loop
MANY = 15_000  # connections that treadle is to admit; its default is less than one benchmark opens


class Unavailable(Exception):
    """The server cannot be measured here; the message says why."""


def module(name: str) -> Any:
    """Import a peer's package."""
    try:
        return import_module(name)
    except ImportError:
        raise Unavailable("not installed") from None


def serving(port: int) -> None:
    """Tell whoever waits for it that clients may come."""
    print(f"serving on {HOST}:{port}", flush=True)


def echo(data: bytes) -> bytes:
    """The handler."""
    return data


def echo_slowly(data: bytes) -> bytes:
    """The handler that blocks now and then."""
    if data[:1] == b"S":
        time.sleep(SLEEP)
    return data


def echo_by_route(line: bytes) -> bytes:
    """The handler that takes as long as the first word says: its route. If S comes next, it sleeps whatever that is."""
    route, _, rest = line.partition(b" ")
    seconds = SLEEP if rest[:1] == b"S" else SLEEPS.get(route)
    if seconds is not None:
        time.sleep(seconds)
    return line + b"\n"


def compute(data: bytes) -> bytes:
    """The handler that needs a processor: a tenth of a millisecond of it."""
    for _ in range(COMPUTED):
        pass
    return data


def converse(connection: socket.socket, handler: Callable[[bytes], bytes]) -> None:
    """Serve one client, in a thread or greenlet that is its own."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        try:
            while data := connection.recv(CHUNK):
                connection.sendall(handler(data))
        except OSError:
            pass  # the client has gone


class Echo(asyncio.Protocol):
    """The shortest protocol there is."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class SlowEcho(Echo):
    """The same with the handler that blocks."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(echo_slowly(data))


async def _loop(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    protocol = SlowEcho if options.slow else Echo
    server = await loop.create_server(protocol, HOST, options.port, backlog=BACKLOG, ssl=context(options))
    serving(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def serve_asyncio(options: argparse.Namespace) -> None:
    """asyncio: a Protocol on the loop of the standard library."""
    asyncio.run(_loop(options))


def serve_uvloop(options: argparse.Namespace) -> None:
    """uvloop: the same Protocol on libuv's loop."""
    uvloop = module("uvloop")
    loop = uvloop.new_event_loop()
    loop.run_until_complete(_loop(options))


def serve_loop(options: argparse.Namespace) -> None:
    """A bare loop, the limit of pure Python: one thread that polls, reads and writes, and must never block."""
    read = (lambda client, size: echo_slowly(os.read(client, size))) if options.slow else os.read
    poller, unsent, readable, writable = select.epoll(), dict[int, bytes](), select.EPOLLIN, select.EPOLLOUT
    with socket.create_server((HOST, options.port), backlog=BACKLOG) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # Linux gives it to each that is accepted
        door, poll, write = listener.fileno(), poller.poll, os.write
        poller.register(door, readable)
        serving(listener.getsockname()[1])
        while True:
            for client, event in poll():
                if client == door:
                    client = listener.accept()[0].detach()
                    os.set_blocking(client, False)
                    poller.register(client, readable)
                    continue
                try:
                    data = unsent.pop(client) if event & writable else read(client, CHUNK)
                    sent = write(client, data)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    data = b""  # the client has gone
                if not data:
                    os.close(client)
                elif sent < len(data):
                    unsent[client] = data[sent:]
                    poller.modify(client, writable)
                elif event & writable:
                    poller.modify(client, readable)


def serve_gevent(options: argparse.Namespace) -> None:
    """gevent: a StreamServer, everything patched, so that a sleeping greenlet lets others run."""
    server_module, monkey = module("gevent.server"), module("gevent.monkey")
    monkey.patch_all()
    handler = echo_slowly if options.slow else echo
    listener = (HOST, options.port)
    server = server_module.StreamServer(listener, lambda connection, _: converse(connection, handler), backlog=BACKLOG)
    server.start()
    serving(server.server_port)
    server.serve_forever()


class Threading(socketserver.ThreadingTCPServer):
    """As its documentation shows, with a longer queue than its five clients."""

    daemon_threads = True
    request_queue_size = BACKLOG


def serve_socketserver(options: argparse.Namespace) -> None:
    """socketserver.ThreadingTCPServer: a thread for each connection."""
    handler = echo_slowly if options.slow else echo

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            converse(self.request, handler)

    with Threading((HOST, options.port), Handler) as server:
        serving(server.server_address[1])
        server.serve_forever()


def serve_pool(options: argparse.Namespace) -> None:
    """concurrent.futures.ThreadPoolExecutor: an accept loop that submits each connection."""
    handler = echo_slowly if options.slow else echo
    with (
        socket.create_server((HOST, options.port), backlog=BACKLOG) as listener,
        ThreadPoolExecutor(POOL_THREADS) as executor,
    ):
        serving(listener.getsockname()[1])
        while True:
            executor.submit(converse, listener.accept()[0], handler)


def serve_go(options: argparse.Namespace) -> None:
    """Go's net: a goroutine for each connection, on one core as the others."""
    compiler = shutil.which("go")
    if compiler is None:
        raise Unavailable("no go compiler")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "treadle-bench"
    cache.mkdir(parents=True, exist_ok=True)
    source, program = Path(__file__).with_name("echo.go"), cache / "echo-go"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        built = subprocess.run([compiler, "build", "-o", program, source], capture_output=True, text=True, check=False)
        if built.returncode:
            raise Unavailable(f"go build: {built.stderr.strip()}")
    environment = {**os.environ, "GOMAXPROCS": str(options.processes)}
    os.execve(program, [str(program), str(options.port), "slow" if options.slow else "fast"], environment)


def serve_treadle(options: argparse.Namespace) -> None:
    """treadle: a function for each message; --processes shares the socket among several."""
    from treadle import Pool
    from treadle.orders import Levels
    from treadle.server import Limits, Messages, Server
    from treadle.server._accept.listen import open_listeners
    from treadle.server._processes import serve_in_processes

    answers = None if options.trickle is None else Answers(options.trickle, options.size, options.folder)
    limits = Limits(
        max_connections=MANY,
        spool_folder=options.folder,
        read_timeout=options.timeout,
        write_timeout=options.timeout,
        handshake_timeout=options.timeout,
    )
    protocol = treadle_protocol(options, Messages) if answers is None else answers.protocol()
    tls = context(options)
    listeners = open_listeners(f"{HOST}:{options.port}")
    if answers is not None:
        answers.watch(options.folder / "seen")
    serving(listeners[0].address[1])

    def run(listeners: Sequence[Any], lifeline: int | None = None) -> int:
        if options.queue_size is None:
            server = Server(protocol, listeners, max_workers=options.threads, limits=limits, tls=tls)
            return server._run(1, lifeline=lifeline)
        pool = Pool(options.threads, queue_size=options.queue_size, order=Levels())
        return Server(protocol, listeners, pool=pool, limits=limits, tls=tls)._run(1, lifeline=lifeline, ends_pool=True)

    if options.processes > 1:
        sys.exit(serve_in_processes(options.processes, listeners, run, drain_timeout=1.0))
    run(listeners)


def treadle_protocol(options: argparse.Namespace, messages: Callable[..., Any]) -> Any:
    """Return the protocol for raw bytes, or for lines."""
    from treadle.server import Lines, Raw

    if options.routes:
        return messages(lambda data, peer: echo_by_route(data), Lines(), kind=lambda line: line.partition(b" ")[0])
    if options.lines:
        return messages(lambda data, peer: data + b"\n", Lines())
    if options.slow:
        return messages(lambda data, peer: echo_slowly(data), Raw())
    if options.work:
        return messages(lambda data, peer: compute(data), Raw())
    return messages(lambda data, peer: data, Raw())


def context(options: argparse.Namespace) -> ssl.SSLContext | None:
    """Return the TLS context for --cert."""
    if options.cert is None:
        return None
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(options.cert)
    return tls


SERVERS: dict[str, Callable[[argparse.Namespace], None]] = {
    "treadle": serve_treadle,
    "uvloop": serve_uvloop,
    "asyncio": serve_asyncio,
    "loop": serve_loop,
    "gevent": serve_gevent,
    "socketserver": serve_socketserver,
    "pool": serve_pool,
    "go": serve_go,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve; return the exit status if that cannot be."""
    parser = argparse.ArgumentParser(prog="bench/echo_servers.py", description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=SERVERS)
    parser.add_argument("--port", type=int, default=0, help="(default: any that is free)")
    parser.add_argument("--slow", action="store_true", help="sleep 100 ms when data begins with S")
    parser.add_argument("--lines", action="store_true", help="treadle: messages are lines, not what comes")
    parser.add_argument("--routes", action="store_true", help="treadle: lines, whose first word says how long it takes")
    parser.add_argument("--work", action="store_true", help="treadle: the handler computes")
    parser.add_argument("--cert", help="serve TLS; a PEM file with certificate and key")
    parser.add_argument("--threads", type=int, default=8, help="treadle: max_workers (default %(default)s)")
    parser.add_argument("--queue-size", type=int, help="treadle: connections that wait for a thread (its default)")
    parser.add_argument("--processes", type=int, default=1, help="treadle: processes; go: GOMAXPROCS")
    parser.add_argument("--trickle", choices=WAYS, help="treadle: the line t is answered with --size bytes, so")
    parser.add_argument("--size", type=int, default=10 << 20, help="(default %(default)s)")
    parser.add_argument("--folder", type=Path, help="treadle: where what clients have not taken is kept (the system's)")
    parser.add_argument("--timeout", type=float, default=30.0, help="treadle: seconds to read, write, shake hands")
    options = parser.parse_args(arguments)
    if options.trickle and options.folder is None:
        parser.error("--trickle needs --folder")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        SERVERS[options.name](options)
    except Unavailable as reason:
        print(reason, file=sys.stderr)
        return UNAVAILABLE
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
