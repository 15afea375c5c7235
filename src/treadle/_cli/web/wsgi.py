"""`treadle wsgi MODULE:APP`: a web server for apps that block."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import click

from treadle._base.words import counted
from treadle._cli.loading import CannotImport
from treadle._cli.options.config import ConfiguredCommand, Needed, Platform, spelled
from treadle._cli.options.table import Option, Titles, from_limits, with_options
from treadle._cli.options.values import NONE, Count, Names, PerSecond, Seconds, Size, UrlPath, sized
from treadle._cli.serving import Manner, certificates_of, limits_of, serve
from treadle._cli.web.app import App, Unservable, closing_connections, load_app
from treadle._cli.web.elsewhere import INSTEAD
from treadle._cli.web.env_file import read_anew, read_env_files
from treadle._cli.web.reload import Loaded, serve_and_reload
from treadle.server import WSGI, Limits
from treadle.server._accept.listen import Bind, Listener
from treadle.server._protocols.protocol import Protocol
from treadle.server._protocols.wsgi.access_log import AccessLog

__all__ = ["wsgi"]

PATHS = ("env_file", "certfile", "keyfile", "client_ca", "spool_dir", "access_log", "reload_extra")
_defaults = {name: parameter.default for name, parameter in inspect.signature(WSGI).parameters.items()}


def _from_wsgi(flag: str, kind: Any, what: str, show: str | bool = True) -> Option:
    """Return an option for an argument of WSGI, with its default, which help may show in other words."""
    default = _defaults[flag[2:].replace("-", "_")]
    none = getattr(kind, "none", False)
    return Option(flag, type=kind, default=NONE if default is None and none else default, show_default=show, help=what)


OWN = (
    Option(
        "--env-file",
        type=click.Path(),
        multiple=True,
        is_eager=True,  # it may set what other options come from
        callback=read_env_files,
        help="File of KEY=VALUE lines: variables for the app, and of treadle, that are not set yet. May be repeated.",
    ),
    Option(
        "--chdir",
        type=click.Path(exists=True, file_okay=False),
        show_default="where it is started",
        help="The app's folder, where its modules are looked for, and which is its current one.",
    ),
    Option("--check", is_flag=True, help="Import the app, say what would be served, and exit."),
    _from_wsgi("--script-name", UrlPath(empty=True), "Where the app is mounted, as /shop; the rest is its PATH_INFO."),
    _from_wsgi("--queue-timeout", Seconds(none=True), "Who would wait longer for a thread is told so at once (503)."),
    from_limits(
        "--request-timeout", Seconds(none=True), "Time for the app to answer, or it is 503.", field="handler_timeout"
    ),
    _from_wsgi(
        "--max-streams",
        Count(none=True),
        "Threads that answers without an end may hold (503).",
        show="none, which is half of the threads",
    ),
    _from_wsgi("--max-body", Size(zero=True), "Bytes of a request's body (413)."),
    _from_wsgi("--max-head", Size(), "Bytes of a request's line and fields (431)."),
    _from_wsgi("--max-line", Size(), "Bytes of a request's line (414)."),
    _from_wsgi("--max-fields", Count(), "Fields of a request's head (431)."),
    _from_wsgi("--head-timeout", Seconds(none=True), "Time for a request's head (408)."),
    _from_wsgi("--body-timeout", Seconds(none=True), "Time in which some of a request's body must come (408)."),
    _from_wsgi("--min-body-rate", PerSecond(none=True), "Bytes a second of a body, on average (408)."),
    Option(
        "--spool-dir",
        type=click.Path(exists=True, file_okay=False, writable=True),
        show_default="where the system has temporary files",
        help="Folder for large bodies and answers.",
    ),
    _from_wsgi("--server-header", str, "What the field Server of answers says; none: there is no such field."),
    _from_wsgi("--health", UrlPath(), "Path at which treadle itself says that it lives, as /healthz."),
    _from_wsgi("--ready", UrlPath(), "Path at which it says whether it would serve a request in time, as /readyz."),
    Option(
        "--drain-delay",
        type=Seconds(zero=True),
        default=0.0,
        show_default=True,
        help="Time in which clients still come in, once it is told to stop, while --ready says no.",
    ),
    Option("--reload", is_flag=True, help="For development: start anew when a file of the app changes."),
    Option(
        "--reload-extra",
        type=click.Path(dir_okay=False),
        multiple=True,
        help="One more file to look at. May be repeated.",
    ),
    Option("--access-log", type=click.Path(), help="File for a line a request; -: standard output, for nothing else."),
    Option(
        "--log-format",
        type=click.Choice(["combined", "json"]),
        default="combined",
        show_default=True,
        help="The form of those lines.",
    ),
    Option(
        "--log-redact",
        type=Names(),
        multiple=True,
        help="Parameter of query strings whose values they leave out; query: all of them. May be repeated.",
    ),
)
SERVED = "What is served"
GROUPS: Titles = {
    SERVED: ("env_file", "chdir", "check"),
    "Where": ("bind", "proxy_trust", "script_name"),
    "TLS": ("certfile", "keyfile", "client_ca"),
    "Threads and queue": ("threads", "queue_size", "reserve", "queue_timeout", "request_timeout", "max_streams"),
    "Requests and answers": (
        "max_body",
        "max_head",
        "max_line",
        "max_fields",
        "head_timeout",
        "body_timeout",
        "min_body_rate",
        "spool_dir",
        "server_header",
    ),
    "Limits on clients": (
        "max_connections",
        "max_connections_per_host",
        "accept_rate",
        "at_max_connections",
        "handshake_timeout",
        "write_timeout",
        "idle_timeout",
        "max_age",
        "min_write_rate",
    ),
    "Health": ("health", "ready"),
    "Processes and stopping": ("processes", "drain_timeout", "drain_delay"),
    "Development": ("reload", "reload_extra"),
    "Output": ("access_log", "log_format", "log_redact", "log_level", "quiet"),
}
EXAMPLE = r"""
Example, with this in app.py:
  def application(environ, start_response):
      start_response("200 OK", [("Content-Type", "text/plain")])
      return [b"hello\n"]


  treadle wsgi app:application --threads 8 --access-log -
  treadle wsgi app --health /healthz --ready /readyz
  treadle wsgi app --print-config > app.toml
"""


@click.command(
    cls=ConfiguredCommand,
    groups={**GROUPS, SERVED: ("app", *GROUPS[SERVED])},
    instead=INSTEAD,
    epilog=EXAMPLE,
    short_help="Serve a web app: Flask, Django, any WSGI app.",
)
@click.argument(
    "app",
    cls=Needed,
    metavar="MODULE:APP",
    envvar="TREADLE_WSGI_APP",  # of options click does so itself
    what="The app, as in shop.wsgi:application, or what makes it, as in 'shop:create_app()'.",
)
@with_options(
    GROUPS,
    own=OWN,
    bind={
        "cls": Platform,
        "variable": "PORT",
        "form": "0.0.0.0:{}",
        "default": ("127.0.0.1:8000",),
        "show_default": "0.0.0.0:$PORT, or 127.0.0.1:8000 without it",
    },
    processes={"cls": Platform, "variable": "WEB_CONCURRENCY", "show_default": "$WEB_CONCURRENCY, or 1 without it"},
    threads={"default": 8},
    queue_size={"help": "Requests that may wait for a thread."},
    reserve={"help": "Threads that slow routes leave to others.", "show_default": "1, or 0 of fewer than 4 threads"},
    idle_timeout={"help": "Time between two requests of a client that keeps its connection."},
    max_age={"help": "Time after which a connection is closed between requests."},
)
def wsgi(app: str, **options: Any) -> None:
    """Serve a web app that may block, on a bounded number of threads: Flask, Django, Bottle, Falcon, any WSGI app.

    MODULE alone stands for MODULE:application, or MODULE:app. A factory is called with literals, as in
    'shop:create_app("prod", debug=True)'.
    """
    given = partial(spelled, click.get_current_context())
    if options["reload"] and options["processes"] > 1:
        raise click.UsageError(f"{given('reload')} has one process, and no use for {given('processes')}; drop one")
    if (options["reserve"] or 0) >= options["threads"] > 1:
        few = f"{given('reserve')}: {options['reserve']} of {counted(options['threads'], 'thread')}"
        raise click.UsageError(f"{few} leaves none for slow routes; allowed: less than {given('threads')}")
    if options["health"] == options["ready"] is not None:
        raise click.UsageError(
            f"{given('health')} and {given('ready')} are both {options['ready']!r}; give one another path"
        )
    if options["chdir"] is not None:
        _enter(options)
    for name in ("certfile", "keyfile", "client_ca", "spool_dir"):  # the app may go elsewhere as it is imported
        if options[name] is not None and os.path.exists(options[name]):  # else the error has it as it was given
            options[name] = os.path.abspath(options[name])
    options |= {"handler_timeout": options["request_timeout"], "spool_folder": options["spool_dir"]}
    if options["check"]:
        _check(app, options)
        return
    options["bind"] = tuple(map(_from_here, options["bind"]))
    served = Served(app, options)
    manner = Manner(
        greet=partial(_greeting, app, options),
        aside=options["access_log"] == "-",
        close=served.close,
        thread_lifespan=closing_connections,
        unit="request",
    )
    if not options["reload"]:
        serve("wsgi", served.make, options, manner=manner)
    options["drain_delay"] = 0.0  # nobody sends clients elsewhere meanwhile
    with closing(Loaded()) as loaded:
        extra = *options["reload_extra"], *options["env_file"]
        supervise = partial(serve_and_reload, loaded, extra, options["drain_timeout"])
        manner = replace(manner, supervise=supervise, look=loaded.tell)
        serve("wsgi", partial(_told, loaded, partial(_made_anew, served, options)), options, manner=manner)


def _enter(options: dict[str, Any]) -> None:
    """Go to the app's folder; what paths the options have stays where it is seen from here."""
    for name in PATHS:
        value = options[name]
        if isinstance(value, tuple):
            options[name] = tuple(map(os.path.abspath, value))
        elif value is not None and not (name == "access_log" and value == "-"):
            options[name] = os.path.abspath(value)
    options["bind"] = tuple(map(_from_here, options["bind"]))
    os.chdir(options["chdir"])


def _from_here(bind: Bind) -> Bind:
    """Return where to listen, with the path of a UNIX socket's file in full."""
    if bind.kind != "unix" or bind.path.startswith("@"):
        return bind
    path = os.path.abspath(bind.path)
    return replace(bind, path=path, text=f"unix:{path}?mode={bind.mode:03o}")


class CannotLog(click.ClickException):
    """The access log cannot be written."""

    exit_code = 73  # EX_CANTCREAT of sysexits.h


class Served:
    """An app, as it is served in a process, and its access log there.

    Args:
        app: its name.
        options: of the command.
    """

    def __init__(self, app: str, options: dict[str, Any]) -> None:
        self._name = app
        self._options = options
        self._log: AccessLog | None = None
        where = options["access_log"]
        self._log_path = where if where in (None, "-") else os.path.abspath(where)  # before the app goes elsewhere

    def make(self) -> Protocol:
        """Load the app, open its log, and return the protocol that serves it.

        Raises:
            Unservable, CannotImport: as `load_app`; or WSGI does not take the app.
            CannotLog: the access log cannot be written.
        """
        app = load_app(self._name)
        _have_loggers_speak()
        if self._options["access_log"] is not None:
            self._log = _open_log(self._log_path, self._options)
        return protocol_of(app, self._options, self._log)

    def close(self) -> None:
        """Have the log written to its end."""
        if self._log is not None:
            self._log.close()


def _have_loggers_speak() -> None:
    """Undo what `logging.config` does to loggers that it is not told of, unless that is asked for: it disables them.

    Many an app has logging configured as it is imported, and nobody would hear of its errors.
    """
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if name.startswith("treadle") and isinstance(logger, logging.Logger):
            logger.disabled = False


def protocol_of(app: App, options: dict[str, Any], access_log: AccessLog | None = None) -> Protocol:
    """Return the protocol that serves an app.

    Raises:
        Unservable: WSGI does not take it, or another argument.
    """
    arguments = {name: options[name] for name in _defaults if name in options}
    if options["server_header"].lower() == NONE:
        arguments["server_header"] = ""
    arguments |= {"access_log": access_log, "multiprocess": options["processes"] > 1}
    try:
        protocol = WSGI(app.call, **arguments)
    except (TypeError, ValueError) as error:
        raise Unservable(f"{app.name}: {error}") from None
    protocol.name = app.name  # all apps of Django are WSGIHandlers
    return protocol


def _open_log(path: str, options: dict[str, Any]) -> AccessLog:
    where, names = options["access_log"], options["log_redact"]
    try:
        return AccessLog(path, form=options["log_format"], redact="query" if "query" in names else names)
    except OSError as error:
        raise CannotLog(f"{spelled(click.get_current_context(), 'access_log')}: {where}: {error.strerror}") from None


def _made_anew(served: Served, options: dict[str, Any]) -> Protocol:
    """Make the protocol, with the variables that files have by now."""
    try:
        read_anew(click.get_current_context(), options["env_file"])
    except click.UsageError as error:
        raise Unservable(error.format_message()) from None
    return served.make()


def _told(loaded: Loaded, make: Callable[[], Protocol]) -> Protocol:
    """Make the protocol, and tell which files that has loaded, or may have failed for."""
    try:
        protocol = make()
    except (Unservable, CannotImport) as error:
        loaded.tell_failure(error)
        raise
    except BaseException:
        loaded.tell()
        raise
    loaded.tell()
    return protocol


def _check(app: str, options: dict[str, Any]) -> None:
    """Say what would be served, if that can be."""
    found = load_app(app)
    protocol_of(found, options)
    if options["access_log"] not in (None, "-"):
        path = os.path.abspath(options["access_log"])
        if os.path.isdir(path) or not os.access(path if os.path.exists(path) else os.path.dirname(path), os.W_OK):
            where = spelled(click.get_current_context(), "access_log")
            raise CannotLog(f"{where}: {options['access_log']} cannot be written")
    tls = certificates_of(options) is not None
    where = ", ".join(_url(bind.text, options, tls=tls, tcp=bind.kind == "tcp") for bind in options["bind"])
    click.echo(f"{app} is a WSGI app ({found.kind}), and would be served at {where}")
    click.echo(_facts(options, limits_of(options)))


def _greeting(app: str, options: dict[str, Any], listeners: Sequence[Listener], limits: Limits, tls: bool) -> str:
    """Return what is said when it serves."""
    where = ", ".join(_url(str(each), options, tls=tls, tcp=isinstance(each.address, tuple)) for each in listeners)
    again = "\n  reload:   when a file changes" if options["reload"] else ""
    return f"treadle wsgi serves {app} at {where}\n{_facts(options, limits)}{again}\n  stop it:  Ctrl-C"


def _url(address: str, options: dict[str, Any], *, tls: bool, tcp: bool) -> str:
    return f"http{'s' if tls else ''}://{address}{options['script_name']}" if tcp else address


def _facts(options: dict[str, Any], limits: Limits) -> str:
    """Return lines that say how an app is served."""
    processes = options["processes"]
    each = f" in each of {processes} processes" if processes > 1 else ", 1 process"
    paths = {"lives": options["health"], "is ready": options["ready"]}
    health = ", ".join(f"{path} (whether it {what})" for what, path in paths.items() if path)
    return "\n".join(
        [
            f"  threads:  {counted(options['threads'], 'thread')}{each}",
            f"  limits:   {counted(limits.max_connections, 'connection')}, bodies of {sized(options['max_body'])}, "
            f"{_time(options['queue_timeout'])} for a thread, {_time(limits.handler_timeout)} for an answer",
            f"  health:   {health or 'no paths; see --health and --ready'}",
        ]
    )


def _time(seconds: float | None) -> str:
    return "any time" if seconds is None else f"{seconds:g} s"
