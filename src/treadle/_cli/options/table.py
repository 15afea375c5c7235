"""The options that commands which serve may have, each once; a command says which it has, and under which titles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from treadle._cli.options.config import Derived
from treadle._cli.options.values import NONE, BindTo, Count, Escaped, PerSecond, Seconds, Trusted
from treadle.server import Limits

__all__ = ["GROUPS", "Option", "Titles", "from_limits", "with_options"]

Command = TypeVar("Command", bound=Callable[..., Any])
Titles = Mapping[str, Sequence[str]]
"""The titles under which help lists options, each with the names of their values."""

_defaults = Limits()


class Option:
    """An option that several commands may have.

    Args:
        flag: as in "--max-age"; its value is called `max_age`.
        how: what `click.option` takes beside it.

    Attributes:
        name: of its value.
    """

    def __init__(self, flag: str, **how: Any) -> None:
        self.name = flag[2:].replace("-", "_")
        self._flag = flag
        self._how = how

    def given_to(self, command: Command, **changes: Any) -> Command:
        """Give it to a command, with some of it changed, such as its default."""
        return click.option(self._flag, **{**self._how, **changes})(command)


def from_limits(flag: str, kind: Any, what: str, *, field: str = "") -> Option:
    """Return an option for one of Limits, with its default.

    Args:
        flag: as of `Option`.
        kind: of its value.
        what: it does, for the help.
        field: of Limits, if that is not called as the flag.
    """
    default = getattr(_defaults, field or flag[2:].replace("-", "_"))
    if isinstance(kind, Escaped):
        return Option(flag, type=kind, default=default, show_default="nothing", help=what)
    default = NONE if default is None else default
    return Option(flag, type=kind, default=default, show_default=True, help=what)


def _level(context: click.Context, param: click.Parameter, level: str | None) -> str:
    """Return the level that was given; by default one that leaves a quiet command quiet."""
    return level or ("warning" if context.params["quiet"] else "info")


SHARED = (
    Option(
        "--bind",
        type=BindTo(),
        multiple=True,
        default=("127.0.0.1:5000",),
        show_default=True,
        help="Where to listen: HOST:PORT, [::]:PORT, unix:PATH, unix:@NAME, fd://N, systemd. May be repeated.",
    ),
    Option(
        "--threads",
        type=Count(),
        show_default=True,
        help="Threads of a process, at most.",
    ),
    Option("--processes", type=Count(), default=1, show_default=True, help="Processes that serve."),
    Option("--certfile", type=click.Path(), help="Serve TLS: PEM file with the certificate chain."),
    Option("--keyfile", type=click.Path(), help="PEM file with the private key, if not in --certfile."),
    Option("--client-ca", type=click.Path(), help="PEM file; clients must show a certificate of its authorities."),
    Option(
        "--proxy-trust",
        type=Trusted(),
        multiple=True,
        help="Proxies that say who the client is (PROXY protocol): addresses, networks, unix. May be repeated.",
    ),
    Option(
        "--drain-timeout",
        type=Seconds(zero=True, none=True),
        default=10.0,
        show_default=True,
        help="Time for what was begun when it is stopped.",
    ),
    from_limits("--max-connections", Count(), "Clients at a time."),
    from_limits("--max-connections-per-host", Count(none=True), "Clients at a time of one address."),
    from_limits("--accept-rate", PerSecond(none=True), "Clients let in a second."),
    from_limits(
        "--at-max-connections",
        click.Choice(["pause", "reject", "evict_idle"]),
        "What happens to clients beyond --max-connections.",
    ),
    from_limits("--reject-connections-with", Escaped(), "What clients are told that are turned away."),
    Option(
        "--order",
        type=click.Choice(["fifo", "adaptive", "fair"]),
        default="fifo",
        show_default=True,
        help="How messages wait for a thread; adaptive rejects what waited too long, fair goes by client address.",
    ),
    Option(
        "--queue-size",
        type=Count(zero=True),
        default=1000,
        show_default=True,
        help="Messages that may wait for a thread.",
    ),
    Option(
        "--when-full",
        type=click.Choice(["block", "reject", "discard_oldest"]),
        default="block",
        show_default=True,
        help="What happens to messages beyond --queue-size.",
    ),
    Option(
        "--reserve",
        type=Count(zero=True),
        show_default="1 where messages have kinds and there are 4 threads, else 0",
        help="Threads that slow messages leave to others.",
    ),
    from_limits(
        "--reject-messages-with",
        Escaped(),
        "What a client is told whose message is rejected; without it, it is closed.",
    ),
    from_limits("--handler-timeout", Seconds(none=True), "Time for the handler of a message."),
    from_limits("--max-message", Count(), "Bytes of one message."),
    from_limits("--handshake-timeout", Seconds(), "Time for a TLS handshake, and a proxy's header before it."),
    from_limits("--read-timeout", Seconds(none=True), "Time from the first byte of a message to its last."),
    from_limits("--write-timeout", Seconds(none=True), "Time for a client to take an answer."),
    from_limits("--idle-timeout", Seconds(none=True), "Time between two messages."),
    from_limits("--max-age", Seconds(none=True), "Time after which a connection is closed between messages."),
    from_limits("--min-read-rate", PerSecond(none=True), "Bytes a second of a message, on average."),
    from_limits("--min-write-rate", PerSecond(none=True), "Bytes a second that a client takes, on average."),
    Option(
        "--log-level",
        cls=Derived,
        type=click.Choice(["debug", "info", "warning", "error", "critical"], case_sensitive=False),
        callback=_level,
        show_default="info, or warning with --quiet",
        help="The least level of log lines, which go to standard error.",
    ),
    Option(
        "--quiet",
        is_flag=True,
        is_eager=True,  # before --log-level, whose default it changes
        help="Say nothing on standard output: not where it listens, no status, no last line.",
    ),
)

# What a server of any protocol has.
GROUPS: Titles = {
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


def with_options(
    groups: Titles, *, own: Sequence[Option] = (), **changes: Mapping[str, Any]
) -> Callable[[Command], Command]:
    """Return a decorator that gives a command the options that `groups` names, in that order.

    Args:
        groups: also for `ConfiguredCommand(groups=...)`, so that each option stands where it was asked for.
        own: options that no other command has.
        changes: by name, what is another in this command than in others, as in `threads={"default": 8}`.
    """
    options = {option.name: option for option in (*SHARED, *own)}
    named = [name for names in groups.values() for name in names]

    def decorate(command: Command) -> Command:
        for name in reversed(named):
            command = options[name].given_to(command, **changes.get(name, {}))
        return command

    return decorate
