"""`treadle echo`: a TCP echo server that holds one pool thread per client, and so shows what a pool's ceiling means."""

from __future__ import annotations

import errno
import logging
import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import closing

import click

from treadle.cli.config import ConfiguredCommand
from treadle.cli.descriptors import reserve_descriptors
from treadle.cli.signals import stop_on_signals
from treadle.cli.status import Status, status_view
from treadle.cli.values import Address, HostPort, Seconds
from treadle.clock import now
from treadle.errors import TreadleError
from treadle.pool import Pool

__all__ = ["EchoServer", "echo"]

ROOM = 1000  # clients that may wait beyond the threads, unless --max-connections says otherwise; the pool's own default
BACKLOG = 1024  # connections that the kernel holds until they are accepted; a guess, cut by net.core.somaxconn
CHUNK = 65536  # bytes read at once, and so the most that is held in memory for one client
ACCEPT_BATCH = 64  # connections accepted before the status is looked at again; a guess
ACCEPT_PAUSE = 0.2  # seconds without accepting after an error such as EMFILE; a guess
BURST_QUIET = 10.0  # seconds without an event after which the next one is logged again; a guess
SPARE_DESCRIPTORS = 64  # beside the connections: standard streams, listener, selector, what Python itself opens

_log = logging.getLogger("treadle.echo")


class Burst:
    """Tells the first of a run of like events from those that follow it closely. One thread uses it."""

    def __init__(self, quiet: float) -> None:
        self._quiet = quiet
        self._last: float | None = None

    def begins(self) -> bool:
        """Count an event; return whether none came in the `quiet` seconds before it."""
        last, self._last = self._last, now()
        return last is None or self._last - last >= self._quiet


class EchoServer:
    """Sends back what each client sends, with one blocking handler per client on a bounded pool.

    Guarantees: never more than `max_connections` connections, nor more than `threads` handlers; a client beyond
    the threads waits its turn and is then served; one beyond the connections is closed at once and counted. No client
    and no error of `accept` ends the loop or makes it spin.
    Assumptions: one thread calls `serve`, once; any thread, or a signal handler, may call `stop`.
    """

    def __init__(self, listener: socket.socket, *, threads: int, max_connections: int, idle_timeout: float) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._max_connections = max_connections
        self._threads = threads
        self._idle_timeout = idle_timeout
        # This class counts the connections, so the pool's own limit only has to be no lower.
        self._pool = Pool(threads, queue_size=max_connections, when_full="reject", name="echo")
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_writer.setblocking(False)
        self._stopping = False  # set once, by any thread
        self._refusals = Burst(BURST_QUIET)  # these two: the serving thread only
        self._accept_errors = Burst(BURST_QUIET)
        self._lock = threading.Lock()
        # Below: guarded by _lock. Whoever takes a socket out of _open closes it.
        self._open: set[socket.socket] = set()
        self._busy = 0
        self._served = 0
        self._rejected = 0

    @property
    def wakeup_fd(self) -> int:
        """The descriptor for `signal.set_wakeup_fd`: a byte written to it wakes `serve`."""
        return self._wake_writer.fileno()

    def status(self) -> Status:
        """Return the counts of this moment. Callable from any thread."""
        with self._lock:
            connections, busy = len(self._open), self._busy
            served, rejected = self._served, self._rejected
        return Status(busy, self._threads, connections, max(0, connections - busy), served, rejected)

    def stop(self) -> None:
        """Make `serve` return soon. Callable from any thread and from a signal handler, any number of times."""
        self._stopping = True
        try:
            self._wake_writer.send(b"\0")
        except OSError:
            pass  # full, so a wake-up is under way; or closed, so there is nothing to stop

    def serve(self, watch: Callable[[Status], float]) -> None:
        """Accept and serve clients until `stop`, then cut those that are left and return.

        Args:
            watch: is given the status on every turn of the loop, and returns the seconds until it wants the next.
        """
        accept_at: float | None = None  # when accepting goes on after an error; None while it is going on
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_reader, selectors.EVENT_READ)  # never read: a byte there means stop
            selector.register(self._listener, selectors.EVENT_READ)
            try:
                while not self._stopping:
                    timeout = watch(self.status())
                    if accept_at is not None:
                        timeout = min(timeout, max(0.0, accept_at - now()))
                    ready = [key.fileobj for key, _ in selector.select(timeout)]
                    if self._listener in ready and not self._accept_batch():
                        selector.unregister(self._listener)
                        accept_at = now() + ACCEPT_PAUSE
                    elif accept_at is not None and now() >= accept_at:
                        selector.register(self._listener, selectors.EVENT_READ)
                        accept_at = None
            finally:
                self._cut()

    def close(self) -> None:
        """Close the listener and the wake-up sockets, once `serve` has returned and no signal uses `wakeup_fd`."""
        for end in (self._listener, self._wake_reader, self._wake_writer):
            end.close()

    def _accept_batch(self) -> bool:
        """Accept what has arrived; return False if the system cannot give another connection just now."""
        for _ in range(ACCEPT_BATCH):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return True
            except ConnectionError:
                continue  # ECONNABORTED: the client left while it waited in the backlog
            except OSError as error:
                if self._accept_errors.begins():
                    _log.warning("cannot accept connections for now: %s; trying on", error.strerror)
                return False
            self._admit(connection)
        return True

    def _admit(self, connection: socket.socket) -> None:
        """Give the connection to the pool, or close it if there is no room."""
        with self._lock:
            admitted = len(self._open) < self._max_connections
            if admitted:
                self._open.add(connection)
        if not admitted:
            self._refuse(connection, f"all {self._max_connections} connections are taken")
            return
        try:
            connection.settimeout(self._idle_timeout)
            self._pool.submit(self._echo, connection)
        except (TreadleError, RuntimeError) as error:  # the system has no thread left to start
            with self._lock:
                self._open.discard(connection)
            self._refuse(connection, str(error))

    def _refuse(self, connection: socket.socket, reason: str) -> None:
        connection.close()
        with self._lock:
            self._rejected += 1
        if self._refusals.begins():
            _log.warning("refusing clients: %s", reason)

    def _echo(self, connection: socket.socket) -> None:
        """Serve one client until it leaves, is idle for too long, or is cut. Runs on a pool thread."""
        with self._lock:
            self._busy += 1
        try:
            while data := connection.recv(CHUNK):
                connection.sendall(data)
        except OSError:
            pass  # reset, timed out, or cut by stop: however a client leaves, it has left
        finally:
            with self._lock:
                self._busy -= 1
                self._served += 1
                mine = connection in self._open
                self._open.discard(connection)
            if mine:
                connection.close()

    def _cut(self) -> None:
        """Stop listening, drop the clients that wait, end every handler by shutting its socket, and end the pool."""
        self._listener.close()
        with self._lock:
            taken = list(self._open)
            self._open.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)  # first, or a thread that comes free takes who waits
        for connection in taken:
            try:
                connection.shutdown(socket.SHUT_RDWR)  # wakes a blocked recv or sendall, which close would not
            except OSError:
                pass  # the client has left already
        self._pool.shutdown(wait=True)
        for connection in taken:
            connection.close()


class CannotListen(click.ClickException):
    """The address is taken, or not of this machine."""

    exit_code = 69  # EX_UNAVAILABLE of sysexits.h


class NotPermitted(CannotListen):
    """The user may not listen on the address."""

    exit_code = 77  # EX_NOPERM of sysexits.h


def listen(address: Address) -> socket.socket:
    """Return a socket that listens on `address`.

    Raises:
        CannotListen: the address is taken, or not of this machine.
        NotPermitted: the user may not have it.
        click.UsageError: the host has no address.
    """
    try:
        family, _, _, _, where = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(where, family=family, backlog=BACKLOG)
    except (socket.gaierror, UnicodeError) as error:
        raise click.UsageError(f"--bind: cannot find the address of host {address.host!r}: {error}") from None
    except OSError as error:
        failure = NotPermitted if error.errno == errno.EACCES else CannotListen
        raise failure(_why_not(address, error)) from None


def _why_not(address: Address, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        other = address._replace(port=address.port + 1 if address.port < 65535 else 0)
        return f"port {address.port} on {address.host} is in use; stop its owner or choose another: --bind {other}"
    if error.errno == errno.EACCES:
        return f"no permission to listen on port {address.port}; choose one from 1024 up, as in --bind 127.0.0.1:5000"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{address.host} is not an address of this machine; 127.0.0.1 and 0.0.0.0 are"
    return f"cannot listen on {address}: {error.strerror}"


def _banner(server_address: Address, threads: int, max_connections: int) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server_address.host, server_address.host)
    return (
        f"treadle echo listens on {server_address}\n"
        f"  talk to it:  printf 'hello\\n' | nc -q1 {host} {server_address.port}\n"
        f"  ceiling:     {threads} threads, {max_connections} connections; clients beyond the threads wait their turn\n"
        "  stop it:     Ctrl-C"
    )


@click.command(cls=ConfiguredCommand)
@click.option("--bind", type=HostPort(), default="127.0.0.1:5000", show_default=True, help="Where to listen.")
@click.option(
    "--threads", type=click.IntRange(1), default=128, show_default=True, help="Clients served at once, one thread each."
)
@click.option(
    "--max-connections",
    type=click.IntRange(1),
    show_default=f"threads + {ROOM}",
    help="Clients served or waiting; those beyond are refused.",
)
@click.option(
    "--idle-timeout", type=Seconds(), default=60.0, show_default=True, help="A client silent for so long is cut."
)
def echo(bind: Address, threads: int, max_connections: int | None, idle_timeout: float) -> None:
    """Send back whatever each TCP client sends, on a bounded number of threads."""
    if max_connections is None:
        max_connections = threads + ROOM
    threads = min(threads, max_connections)  # more could never be busy
    listener = listen(bind)
    files = reserve_descriptors(max_connections + SPARE_DESCRIPTORS)
    server = EchoServer(listener, threads=threads, max_connections=max_connections, idle_timeout=idle_timeout)
    with closing(server), stop_on_signals(server.stop, server.wakeup_fd):
        click.echo(_banner(Address(*listener.getsockname()[:2]), threads, max_connections))
        with status_view() as view:
            if files is not None and files < max_connections + SPARE_DESCRIPTORS:
                _log.warning("the limit on open files, %d, comes before %d connections", files, max_connections)
            server.serve(view.update)
        last = server.status()
        click.echo(f"stopped: served {last.served}, rejected {last.rejected}")
