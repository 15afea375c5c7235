"""`treadle tcp MODULE:HANDLER`: serve a function, or a protocol, that a module of the user's holds."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from treadle._cli.loading import find, import_named
from treadle._cli.options.config import ConfiguredCommand, Needed, spelled
from treadle._cli.options.table import GROUPS, with_options
from treadle._cli.options.values import FramingNamed
from treadle._cli.serving import serve
from treadle.server import Messages, Session
from treadle.server._protocols.framing import Framing
from treadle.server._protocols.protocol import Protocol, check, lacking, missing_from

__all__ = ["tcp"]

FORM = "MODULE:HANDLER, as in app:handle for `def handle(data, peer)` in app.py"


OWN_GROUP = {"What is served": ("handler", "framing", "session", "speaks_first")}
EXAMPLE = r"""
Example, with this in app.py:
  def shout(line, peer):
      return line.upper() + b"\n"


  treadle tcp app:shout --framing lines
  treadle tcp app:shout --framing lines --threads 8 --print-config > app.toml
  treadle tcp --config app.toml
"""


@click.command(
    cls=ConfiguredCommand, groups={**OWN_GROUP, **GROUPS}, epilog=EXAMPLE, short_help="Serve a function of yours."
)
@click.argument(
    "handler",
    cls=Needed,
    metavar="MODULE:HANDLER",
    envvar="TREADLE_TCP_HANDLER",  # of options click does so itself
    what="What to serve: an object in a module, as in app:handle.",
)
@click.option(
    "--framing",
    type=FramingNamed(),
    show_default="raw",
    help=f"Where a message ends: {FramingNamed.forms}.",
)
@click.option("--session", is_flag=True, help="HANDLER takes a connection, not a message, and holds a thread.")
@click.option("--speaks-first", is_flag=True, help="With --session: call HANDLER before the client has sent anything.")
@with_options(GROUPS, threads={"default": 32})
def tcp(handler: str, framing: Framing[bytes] | None, session: bool, speaks_first: bool, **options: Any) -> None:
    """Serve TCP with a plain function of yours, which may block.

    HANDLER(data, peer) is called for each message and returns the answer, as bytes, or None. It may also be a Messages,
    a Session, or a protocol of your own that your module made. Modules are looked for in the current folder first.
    """
    given = partial(spelled, click.get_current_context())
    if session and framing is not None:
        raise click.UsageError(f"{given('session')} reads for itself, and has no use for {given('framing')}; drop one")
    if speaks_first and not session:
        raise click.UsageError(f"{given('speaks_first')} needs --session")
    reserves = options["reserve"] is not None
    if reserves and session:
        raise click.UsageError(f"{given('reserve')} has no effect on a session, which holds its thread; drop one")
    module_name, _, path = handler.partition(":")
    if not path or not module_name or module_name.startswith("."):
        raise click.UsageError(f"{handler!r} is not {FORM}")

    def make() -> Protocol:
        found = load(handler)
        made: Protocol | None = found if is_protocol(found) else None
        if made is not None:
            kind = type(found).__name__ if isinstance(found, (Messages, Session)) else "protocol"
            if session or framing is not None:
                useless = given("session" if session else "framing")
                raise click.UsageError(f"{handler} is a {kind} already; drop {useless}")
            if reserves and made.converse is not None:
                raise click.UsageError(f"{handler} is a {kind}, which holds its thread; drop {given('reserve')}")
        try:
            if made is not None:
                check(made)
                return made
            return Session(found, speaks_first=speaks_first) if session else Messages(found, framing)
        except (TypeError, ValueError) as error:  # it is async, say
            raise click.UsageError(f"{handler}: {error}") from None

    serve("tcp", make, options, framing)


def is_protocol(value: object) -> bool:
    """Whether `value` is a protocol, of treadle's or of the user's own, or a class that has all of one."""
    try:
        return not missing_from(value)
    except Exception:  # a proxy of what is not there yet, as web frameworks have them
        return False


def is_own(value: object, module: object) -> bool:
    """Whether `value` is something to serve that `module` defines itself."""
    if is_protocol(value) and not isinstance(value, type):
        return True
    own = getattr(value, "__module__", None) == getattr(module, "__name__", "")
    return callable(value) and own and not getattr(value, "__name__", "_").startswith("_")


def load(where: str) -> Any:
    """Return the object that MODULE:HANDLER names.

    Raises:
        click.UsageError: there is no such thing, or it cannot be called.
        CannotImport: the module raises an error when it is imported.
    """
    module_name, _, path = where.partition(":")
    try:
        found = find(import_named(module_name, path), path)
    except LookupError as error:
        raise click.UsageError(str(error)) from None
    except AttributeError as missing:
        names = [public for public, value in vars(missing.obj).items() if is_own(value, missing.obj)]
        has = ", ".join(names) or "nothing to call"
        raise click.UsageError(f"{where}: no {missing.name!r} in it; it has {has}") from None
    if not callable(found) and not is_protocol(found):
        what = f"{where} is {type(found).__name__}, and cannot be called"
        raise click.UsageError(f"{what}; allowed: {FORM}, {lacking(missing_from(found))}")
    return found
