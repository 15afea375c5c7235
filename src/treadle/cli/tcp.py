"""`treadle tcp MODULE:HANDLER`: serve a function, or a protocol, that a module of the user's holds."""

from __future__ import annotations

import importlib
import os
import sys
from functools import partial
from typing import Any

import click

from treadle.cli.config import ConfiguredCommand, spelled
from treadle.cli.serving import serve, serving_options
from treadle.cli.values import FramingNamed
from treadle.server import Messages, Session
from treadle.server.framing import Framing
from treadle.server.protocol import Protocol

__all__ = ["tcp"]

FORM = "MODULE:HANDLER, as in app:handle for `def handle(data, peer)` in app.py"


@click.command(cls=ConfiguredCommand)
@click.argument("handler", metavar="MODULE:HANDLER")
@click.option(
    "--framing",
    type=FramingNamed(),
    help=f"Where a message ends: {FramingNamed.forms}.  [default: raw]",
)
@click.option("--session", is_flag=True, help="HANDLER takes a connection, not a message, and holds a thread.")
@click.option("--speaks-first", is_flag=True, help="With --session: call HANDLER before the client has sent anything.")
@serving_options(threads=32)
def tcp(handler: str, framing: Framing | None, session: bool, speaks_first: bool, **options: Any) -> None:
    """Serve TCP with a plain function of yours, which may block.

    HANDLER(data, peer) is called for each message and returns the answer, as bytes, or None. It may also be a Messages
    or a Session that your module made. Modules are looked for in the current folder first.
    """
    given = partial(spelled, click.get_current_context())
    if session and framing is not None:
        raise click.UsageError(f"{given('session')} reads for itself, and has no use for {given('framing')}; drop one")
    if speaks_first and not session:
        raise click.UsageError(f"{given('speaks_first')} needs --session")
    module_name, _, path = handler.partition(":")
    if not path or not module_name or module_name.startswith("."):
        raise click.UsageError(f"{handler!r} is not {FORM}")

    def make() -> Protocol:
        found = load(handler)
        if isinstance(found, (Messages, Session)):
            if session or framing is not None:
                useless = given("session" if session else "framing")
                raise click.UsageError(f"{handler} is a {type(found).__name__} already; drop {useless}")
            return found
        try:
            return Session(found, speaks_first=speaks_first) if session else Messages(found, framing)
        except TypeError as error:  # it is async
            raise click.UsageError(f"{handler}: {error}") from None

    serve("tcp", make, options)


def is_own(value: object, module: object) -> bool:
    """Whether `value` is something to serve that `module` defines itself."""
    if isinstance(value, (Messages, Session)):
        return True
    own = getattr(value, "__module__", None) == getattr(module, "__name__", "")
    return callable(value) and own and not getattr(value, "__name__", "_").startswith("_")


def load(where: str) -> Any:
    """Return the object that MODULE:HANDLER names.

    Raises:
        click.UsageError: there is no such thing, or it cannot be called.
        Exception: what the module raises when it is imported.
    """
    module_name, _, path = where.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not (module_name == missing or module_name.startswith(f"{missing}.")):
            raise  # something that the module itself imports
        hint = f"; is {module_name}.py in {os.getcwd()}, or installed?"
        raise click.UsageError(f"there is no module {missing!r}{hint}") from None
    for name in path.split("."):
        if not hasattr(found, name):
            names = [public for public, value in vars(found).items() if is_own(value, found)]
            raise click.UsageError(f"{where}: no {name!r} in it; it has {', '.join(names) or 'nothing to call'}")
        found = getattr(found, name)
    if not callable(found) and not isinstance(found, (Messages, Session)):
        raise click.UsageError(f"{where} is {type(found).__name__}, and cannot be called; allowed: {FORM}")
    return found
