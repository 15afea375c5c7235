"""How every command that serves runs."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import click

from treadle._base.words import counted, log
from treadle._cli.descriptors import reserve_descriptors
from treadle._cli.hint import hello_in, hello_to, near
from treadle._cli.leaving import Leaving
from treadle._cli.options.config import spelled
from treadle._cli.status import Status, View, complain, say, status_view
from treadle._pool.pool import Pool
from treadle.errors import BindError
from treadle.orders import Levels, Order, OrderName
from treadle.server import Certificates, Limits, Server, ServerSnapshot
from treadle.server._accept.listen import Bind, Listener, open_listeners
from treadle.server._accept.proxy import Proxies
from treadle.server._group import leaders_of
from treadle.server._once import Once
from treadle.server._processes import serve_in_processes
from treadle.server._protocols.protocol import Protocol, queue_timeout_of
from treadle.server._server import order_for, usual_reserve

__all__ = ["Child", "Manner", "certificates_of", "limits_of", "serve"]

Child = Callable[[Sequence[Listener], int], int]
"""Serves in a child, at the listeners, until it is told to stop or the descriptor ends; returns its status."""

SPARE_DESCRIPTORS = 64  # beside the connections: standard streams, listener, poller, what Python itself opens

_log = logging.getLogger("treadle.server")


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


@dataclass(frozen=True)
class Manner:
    """How a command serves, where that is not as all others do.

    Args:
        greet: returns what is said when it serves, for the listeners, the limits, and whether there is TLS; None: what
            to talk to it with, as far as that is known.
        aside: whether standard output is not for what the command says: that goes to standard error, without a status.
        supervise: has the server run in a child, or several; called with the listeners, and the function that serves
            there. None: there is one for each of `--processes`, if these are more than one.
        look: called now and then while it serves; returns the seconds until it is called again, at most.
        close: called when it has served, in each process.
        thread_lifespan: of the pool, see `Pool`; None: there is none.
        unit: what clients send, one by one.
    """

    greet: Callable[[Sequence[Listener], Limits, bool], str] | None = None
    aside: bool = False
    supervise: Callable[[Sequence[Listener], Child], int] | None = None
    look: Callable[[], float] | None = None
    close: Callable[[], object] = int
    thread_lifespan: Callable[[], AbstractContextManager[object]] | None = None
    unit: str = "message"


PLAIN = Manner()


def serve(
    name: str,
    make: Callable[[], Protocol],
    options: dict[str, Any],
    framing: object = None,
    manner: Manner = PLAIN,
) -> None:
    """Serve until a signal ends it; leave with the status that tells how.

    Args:
        name: of the command, for what it says.
        make: returns the protocol; called where it is to run, after the address is had.
        options: the values of the options, by name.
        framing: of the messages, as far as that is known before the protocol is made.
        manner: what this command does in its own way.
    """
    limits = limits_of(options)
    tls = certificates_of(options)
    files = reserve_descriptors(limits.max_connections + SPARE_DESCRIPTORS)
    several = options["processes"] > 1 or manner.supervise is not None
    protocol = None if several else make()
    listeners = _listen(options["bind"])
    options["proxy"] = [one for given in options["proxy_trust"] for one in given] or None
    if manner.greet is not None:
        banner = manner.greet(listeners, limits, tls is not None)
    else:
        hello = _hello(listeners[0], getattr(protocol, "framing", framing), options, tls=tls is not None)
        banner = _banner(name, listeners, options["threads"], limits, options["processes"], hello)
    quiet, level = options["quiet"], getattr(logging, options["log_level"].upper())
    silent = quiet or manner.aside or manner.supervise is not None
    leaving = Leaving()
    with _the_system_may_fail(), status_view(live=not several, quiet=silent, level=level) as view:
        if files is not None and files < limits.max_connections + SPARE_DESCRIPTORS:
            said = "the limit on open files, %d, comes before %s"
            log(_log, logging.WARNING, said, files, counted(limits.max_connections, "connection"))
        run = partial(_run, view, leaving, limits, tls, options, manner)
        banner = "" if quiet else banner
        if protocol is not None:
            status = run(banner, protocol, listeners)
        else:
            with Once() as served, Once() as complained:
                # Where a child is started anew for each change, each says what is wrong with it.
                child = partial(_be_a_child, make, banner, served, None if manner.supervise else complained, run)
                supervise = manner.supervise or partial(_serve_in_processes, options)
                status = supervise(listeners, child)
            leaving.begin(status)
    leaving.end()
    raise SystemExit(status)


def _serve_in_processes(options: dict[str, Any], listeners: Sequence[Listener], child: Child) -> int:
    drain_timeout = options["drain_timeout"]
    if drain_timeout is not None:
        drain_timeout += options.get("drain_delay", 0.0)
    return serve_in_processes(options["processes"], listeners, child, drain_timeout=drain_timeout)


def limits_of(options: dict[str, Any]) -> Limits:
    """Return the limits that are among the options."""
    return Limits(**{field.name: options[field.name] for field in fields(Limits) if field.name in options})


def _be_a_child(
    make: Callable[[], Protocol],
    banner: str,
    served: Once,
    complained: Once | None,
    run: Callable[[str, Protocol, Sequence[Listener], int], int],
    listeners: Sequence[Listener],
    lifeline: int,
) -> int:
    """Serve in one of several processes; return its status.

    The first that serves says so, for all. What is wrong is said once until then, for it is wrong in each of them;
    without `complained` it is said by each.
    """
    try:
        protocol = make()
    except click.ClickException as error:  # click does not see it here
        # Whoever speaks is to come to its end: the parent stops all as soon as another has ended.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        if complained is None or served.taken or complained.take():
            complain(error)
        return error.exit_code
    return run(banner if served.take() else "", protocol, listeners, lifeline)


def _run(
    view: View,
    leaving: Leaving,
    limits: Limits,
    tls: Certificates | None,
    options: dict[str, Any],
    manner: Manner,
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
            say(unsaid.pop(), aside=manner.aside)
        left = view.update(_status(now, manner.unit))
        return left if manner.look is None else min(left, manner.look())

    pool = Pool(
        options["threads"],
        queue_size=options["queue_size"],
        when_full=options.get("when_full", "block"),
        order=_order(protocol, options),
        thread_lifespan=manner.thread_lifespan,
        name=f"server-{protocol.name}",
    )
    server = Server(protocol, listeners, pool=pool, limits=limits, tls=tls, proxy=options["proxy"])
    try:
        server._watch = watch
        delay = options.get("drain_delay", 0.0)
        cut = server._run(options["drain_timeout"], drain_delay=delay, lifeline=lifeline, ends_pool=True)
    except OSError as error:
        view.end()
        # BindError: somebody has shut its sockets down.
        complaint = (CannotListen if isinstance(error, BindError) else SystemFailed)(str(error))
        manner.close()
        status = leaving.begin(complaint.exit_code)
        complain(complaint)
        return status
    manner.close()
    status = leaving.begin(int(cut > 0))
    view.end()
    last = server.snapshot()
    rejected = f", {counted(last.rejected_messages, manner.unit)} rejected" if last.rejected_messages else ""
    connections = f"{counted(last.accepted, 'connection')}, {last.rejected_connections} rejected, {cut} cut"
    if not options["quiet"] and manner.supervise is None:  # who starts it anew has no use for it each time
        say(f"stopped: {counted(last.messages, manner.unit)}, {connections}{rejected}", aside=manner.aside)
    return status


def _order(protocol: Protocol, options: dict[str, Any]) -> Order | OrderName:
    """Return the order of the pool: that which was named, in levels where slow messages leave threads to others."""
    reserve = options["reserve"]
    kinds = protocol.converse is None and getattr(protocol, "kind", None) is not None
    if reserve is None:  # as for a Server
        reserve = usual_reserve(kinds, options["threads"])
    # A command without the option leaves it to the protocol, as a Server does.
    order: OrderName | Callable[[], Order] = options.get("order") or order_for(queue_timeout_of(protocol))
    if not (kinds or reserve):
        return order() if callable(order) else order
    return Levels(order, reserve=reserve * leaders_of(options["threads"]))


def _status(now: ServerSnapshot, unit: str) -> Status:
    return Status(
        now.pool.threads,
        now.pool.max_workers,
        now.connections,
        now.messages,
        now.handed_over,
        now.closed_connections,
        now.rejected_connections,
        unit,
    )


def certificates_of(options: dict[str, Any]) -> Certificates | None:
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


def _hello(listener: Listener, framing: object, options: dict[str, Any], *, tls: bool) -> str:
    """Return a line that talks to the server, as `hello_to` does."""
    header = b"PROXY UNKNOWN\r\n" if _must_say_who(near(listener), options["proxy"]) else b""
    identify = options["client_ca"] is not None
    return hello_to(listener, hello_in(framing), header=header, tls=tls, identify=identify)


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
