"""What every command that serves has in common: its options, and how it runs."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from typing import Any, TypeVar

import click

from treadle._base.words import counted, log
from treadle._cli.config import Derived, spelled
from treadle._cli.descriptors import reserve_descriptors
from treadle._cli.hint import hello_in, hello_to, near
from treadle._cli.leaving import Leaving
from treadle._cli.status import Status, View, complain, say, status_view
from treadle._cli.values import NONE, BindTo, Count, Escaped, PerSecond, Seconds, Trusted
from treadle._pool.pool import Pool
from treadle.errors import BindError
from treadle.orders import Levels, Order, OrderName
from treadle.server import Certificates, Limits, Server, ServerSnapshot
from treadle.server._accept.listen import Bind, Listener, open_listeners
from treadle.server._accept.proxy import Proxies
from treadle.server._group import leaders_of
from treadle.server._once import Once
from treadle.server._processes import serve_in_processes
from treadle.server._protocols.protocol import Protocol

__all__ = ["GROUPS", "serve", "serving_options"]

SPARE_DESCRIPTORS = 64  # beside the connections: standard streams, listener, poller, what Python itself opens

_log = logging.getLogger("treadle.server")
_defaults = Limits()
Command = TypeVar("Command", bound=Callable[..., Any])


def _limit(flag: str, kind: Any, what: str) -> Callable[[Command], Command]:
    """Return an option for one of Limits, with its default."""
    default = getattr(_defaults, flag[2:].replace("-", "_"))
    if isinstance(kind, Escaped):
        return click.option(flag, type=kind, default=default, show_default="nothing", help=what)
    default = NONE if default is None else default
    return click.option(flag, type=kind, default=default, show_default=True, help=what)


def _level(context: click.Context, param: click.Parameter, level: str | None) -> str:
    """Return the level that was given; by default one that leaves a quiet command quiet."""
    return level or ("warning" if context.params["quiet"] else "info")


OPTIONS = (
    click.option(
        "--bind",
        type=BindTo(),
        multiple=True,
        default=("127.0.0.1:5000",),
        show_default=True,
        help="Where to listen: HOST:PORT, [::]:PORT, unix:PATH, unix:@NAME, fd://N, systemd. May be repeated.",
    ),
    click.option("--processes", type=Count(), default=1, show_default=True, help="Processes that serve."),
    click.option("--certfile", type=click.Path(), help="Serve TLS: PEM file with the certificate chain."),
    click.option("--keyfile", type=click.Path(), help="PEM file with the private key, if not in --certfile."),
    click.option(
        "--client-ca", type=click.Path(), help="PEM file; clients must show a certificate of its authorities."
    ),
    click.option(
        "--proxy-trust",
        type=Trusted(),
        multiple=True,
        help="Proxies that say who the client is (PROXY protocol): addresses, networks, unix. May be repeated.",
    ),
    click.option(
        "--drain-timeout",
        type=Seconds(zero=True, none=True),
        default=10.0,
        show_default=True,
        help="Time for what was begun when it is stopped.",
    ),
    _limit("--max-connections", Count(), "Clients at a time."),
    _limit("--max-connections-per-host", Count(none=True), "Clients at a time of one address."),
    _limit("--accept-rate", PerSecond(none=True), "Clients let in a second."),
    _limit(
        "--at-max-connections",
        click.Choice(["pause", "reject", "evict_idle"]),
        "What happens to clients beyond --max-connections.",
    ),
    _limit("--reject-connections-with", Escaped(), "What clients are told that are turned away."),
    click.option(
        "--order",
        type=click.Choice(["fifo", "adaptive", "fair"]),
        default="fifo",
        show_default=True,
        help="How messages wait for a thread; adaptive rejects what waited too long, fair goes by client address.",
    ),
    click.option(
        "--queue-size",
        type=Count(zero=True),
        default=1000,
        show_default=True,
        help="Messages that may wait for a thread.",
    ),
    click.option(
        "--when-full",
        type=click.Choice(["block", "reject", "discard_oldest"]),
        default="block",
        show_default=True,
        help="What happens to messages beyond --queue-size.",
    ),
    click.option(
        "--reserve",
        type=Count(zero=True),
        show_default="1 where messages have kinds, else 0",
        help="Threads that slow messages leave to others.",
    ),
    _limit(
        "--reject-messages-with",
        Escaped(),
        "What a client is told whose message is rejected; without it, it is closed.",
    ),
    _limit("--handler-timeout", Seconds(none=True), "Time for the handler of a message."),
    _limit("--max-message", Count(), "Bytes of one message."),
    _limit("--handshake-timeout", Seconds(), "Time for a TLS handshake, and a proxy's header before it."),
    _limit("--read-timeout", Seconds(none=True), "Time from the first byte of a message to its last."),
    _limit("--write-timeout", Seconds(none=True), "Time for a client to take an answer."),
    _limit("--idle-timeout", Seconds(none=True), "Time between two messages."),
    _limit("--max-age", Seconds(none=True), "Time after which a connection is closed between messages."),
    _limit("--min-read-rate", PerSecond(none=True), "Bytes a second of a message, on average."),
    _limit("--min-write-rate", PerSecond(none=True), "Bytes a second that a client takes, on average."),
    click.option(
        "--log-level",
        cls=Derived,
        type=click.Choice(["debug", "info", "warning", "error", "critical"], case_sensitive=False),
        callback=_level,
        show_default="info, or warning with --quiet",
        help="The least level of log lines, which go to standard error.",
    ),
    click.option(
        "--quiet",
        is_flag=True,
        is_eager=True,  # before --log-level, whose default it changes
        help="Say nothing on standard output: not where it listens, no status, no last line.",
    ),
)

# How help arranges them.
GROUPS = {
    "Where": ("bind", "proxy_trust"),
    "TLS": ("certfile", "keyfile", "client_ca"),
    "Threads and queue": (
        "threads",
        "order",
        "queue_size",
        "when_full",
        "reserve",
        "reject_messages_with",
        "handler_timeout",
    ),
    "Limits on clients": (
        "max_connections",
        "max_connections_per_host",
        "accept_rate",
        "at_max_connections",
        "reject_connections_with",
        "max_message",
        "handshake_timeout",
        "read_timeout",
        "write_timeout",
        "idle_timeout",
        "max_age",
        "min_read_rate",
        "min_write_rate",
    ),
    "Processes and stopping": ("processes", "drain_timeout"),
    "Output": ("log_level", "quiet"),
}


def serving_options(threads: int) -> Callable[[Command], Command]:
    """Return a decorator that gives a command the options of a server, with so many threads by default."""

    def decorate(command: Command) -> Command:
        for option in reversed(OPTIONS):
            command = option(command)
        ceiling = click.option(
            "--threads",
            type=Count(),
            default=threads,
            show_default=True,
            help="Threads of a process, at most.",
        )
        return ceiling(command)

    return decorate


class CannotListen(click.ClickException):
    """The address cannot be had."""

    exit_code = 69  # EX_UNAVAILABLE of sysexits.h


class NotPermitted(click.ClickException):
    """The user may not have the address."""

    exit_code = 77  # EX_NOPERM


class NoCertificate(click.ClickException):
    """A certificate, or its key, cannot be read."""

    exit_code = 66  # EX_NOINPUT


class SystemFailed(click.ClickException):
    """The system has no descriptors left, or somebody has closed one of the server's own."""

    exit_code = 71  # EX_OSERR


class CannotLogKeys(click.ClickException):
    """The file that SSLKEYLOGFILE names cannot be written."""

    exit_code = 73  # EX_CANTCREAT


@contextmanager
def _the_system_may_fail() -> Iterator[None]:
    """Have an error of the system's, as where no process can be had, be one of the command."""
    try:
        yield
    except OSError as error:
        raise SystemFailed(str(error)) from None


def serve(name: str, make: Callable[[], Protocol], options: dict[str, Any], framing: object = None) -> None:
    """Serve until a signal ends it; leave with the status that tells how.

    Args:
        name: of the command, for what it says.
        make: returns the protocol; called where it is to run, after the address is had.
        options: the values of `serving_options`, by name.
        framing: of the messages, as far as that is known before the protocol is made.
    """
    limits = Limits(**{field.name: options[field.name] for field in fields(Limits) if field.name in options})
    tls = _certificates(options)
    files = reserve_descriptors(limits.max_connections + SPARE_DESCRIPTORS)
    several = options["processes"] > 1
    protocol = None if several else make()
    listeners = _listen(options["bind"])
    options["proxy"] = [one for given in options["proxy_trust"] for one in given] or None
    threads, processes = options["threads"], options["processes"]
    header = b"PROXY UNKNOWN\r\n" if _must_say_who(near(listeners[0]), options["proxy"]) else b""
    hello = hello_to(
        listeners[0],
        hello_in(getattr(protocol, "framing", framing)),
        header=header,
        tls=tls is not None,
        identify=options["client_ca"] is not None,
    )
    banner = _banner(name, listeners, threads, limits, processes, hello)
    quiet, level = options["quiet"], getattr(logging, options["log_level"].upper())
    leaving = Leaving()
    with _the_system_may_fail(), status_view(live=not several, quiet=quiet, level=level) as view:
        if files is not None and files < limits.max_connections + SPARE_DESCRIPTORS:
            said = "the limit on open files, %d, comes before %s"
            log(_log, logging.WARNING, said, files, counted(limits.max_connections, "connection"))
        run = partial(_run, view, leaving, limits, tls, options)
        banner = "" if quiet else banner
        if protocol is not None:
            status = run(banner, protocol, listeners)
        else:
            with Once() as served, Once() as complained:
                child = partial(_be_a_child, make, banner, served, complained, run)
                status = serve_in_processes(
                    options["processes"], listeners, child, drain_timeout=options["drain_timeout"]
                )
            leaving.begin(status)
    leaving.end()
    raise SystemExit(status)


def _be_a_child(
    make: Callable[[], Protocol],
    banner: str,
    served: Once,
    complained: Once,
    run: Callable[[str, Protocol, Sequence[Listener], int], int],
    listeners: Sequence[Listener],
    lifeline: int,
) -> int:
    """Serve in one of several processes; return its status.

    The first that serves says so, for all. What is wrong is said once until then, for it is wrong in each of them.
    """
    try:
        protocol = make()
    except click.ClickException as error:  # click does not see it here
        # Whoever speaks is to come to its end: the parent stops all as soon as another has ended.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        if served.taken or complained.take():
            complain(error)
        return error.exit_code
    return run(banner if served.take() else "", protocol, listeners, lifeline)


def _run(
    view: View,
    leaving: Leaving,
    limits: Limits,
    tls: Certificates | None,
    options: dict[str, Any],
    banner: str,
    protocol: Protocol,
    listeners: Sequence[Listener],
    lifeline: int | None = None,
) -> int:
    """Serve in this process; return its status.

    The banner, if there is one, is said when signals are heard: whoever reads it may send one.
    """
    unsaid = [banner] if banner else []

    def watch(now: ServerSnapshot) -> float:
        while unsaid:
            say(unsaid.pop())
        return view.update(_status(now))

    pool = Pool(
        options["threads"],
        queue_size=options["queue_size"],
        when_full=options["when_full"],
        order=_order(protocol, options),
        name=f"server-{protocol.name}",
    )
    server = Server(protocol, listeners, pool=pool, limits=limits, tls=tls, proxy=options["proxy"])
    try:
        server._watch = watch
        cut = server._run(options["drain_timeout"], lifeline=lifeline, ends_pool=True)
    except OSError as error:
        view.end()
        # BindError: somebody has shut its sockets down.
        complaint = (CannotListen if isinstance(error, BindError) else SystemFailed)(str(error))
        status = leaving.begin(complaint.exit_code)
        complain(complaint)
        return status
    status = leaving.begin(int(cut > 0))
    view.end()
    last = server.snapshot()
    rejected = f", {counted(last.rejected_messages, 'message')} rejected" if last.rejected_messages else ""
    connections = f"{counted(last.accepted, 'connection')}, {last.rejected_connections} rejected, {cut} cut"
    if not options["quiet"]:
        say(f"stopped: {counted(last.messages, 'message')}, {connections}{rejected}")
    return status


def _order(protocol: Protocol, options: dict[str, Any]) -> Order | OrderName:
    """Return the order of the pool: that which was named, in levels where slow messages leave threads to others."""
    reserve, order = options["reserve"], options["order"]
    kinds = protocol.converse is None and getattr(protocol, "kind", None) is not None
    if reserve is None:  # as for a Server
        reserve = int(kinds)
    if not (kinds or reserve):
        return order  # type: ignore[no-any-return]  # a choice of names
    return Levels(order, reserve=reserve * leaders_of(options["threads"]))


def _status(now: ServerSnapshot) -> Status:
    return Status(
        now.pool.threads,
        now.pool.max_workers,
        now.connections,
        now.messages,
        now.handed_over,
        now.closed_connections,
        now.rejected_connections,
    )


def _certificates(options: dict[str, Any]) -> Certificates | None:
    """Return what makes the TLS context, which was tried once; None: no TLS."""
    context = click.get_current_context()
    if options["certfile"] is None:
        for name in ("keyfile", "client_ca"):
            if options[name] is not None:
                raise click.UsageError(f"{spelled(context, name)} is of no use without --certfile")
        return None
    certificates = Certificates(options["certfile"], options["keyfile"], client_ca=options["client_ca"])
    try:
        certificates()
    except OSError as error:  # ssl.SSLError is one, whose text names the file
        guilty = [name for name in ("keyfile", "client_ca", "certfile") if options[name] == error.filename]
        what = str(error) if str(error.filename) in str(error.strerror) else f"{error.filename}: {error.strerror}"
        if not guilty:
            raise CannotLogKeys(what) from None
        raise NoCertificate(f"{spelled(context, guilty[0])}: {what}") from None
    return certificates


def _listen(binds: Sequence[Bind]) -> list[Listener]:
    name = spelled(click.get_current_context(), "bind")
    if not binds:
        raise click.UsageError(f"{name} names no address to listen at")
    try:
        return open_listeners([bind.text for bind in binds])
    except ValueError as error:  # one is there twice
        raise click.UsageError(f"{name}: {str(error).removeprefix('bind=')}") from None
    except BindError as error:
        kind = NotPermitted if isinstance(error.__cause__, PermissionError) else CannotListen
        raise kind(str(error)) from None


def _must_say_who(address: tuple[str, int] | None, proxies: list[str] | None) -> bool:
    """Tell whether a client from here is taken for a proxy, which says first for whom it speaks."""
    return proxies is not None and (address or "") in Proxies(proxies)


def _banner(name: str, listeners: Sequence[Listener], threads: int, limits: Limits, processes: int, hello: str) -> str:
    addresses = ", ".join(map(str, listeners))
    several = f" in each of {processes} processes" if processes > 1 else ""
    return (
        f"treadle {name} listens on {addresses}\n"
        f"  talk to it:  {hello}\n"
        f"  ceiling:     {counted(threads, 'thread')}, {counted(limits.max_connections, 'connection')}{several}\n"
        "  stop it:     Ctrl-C"
    )
