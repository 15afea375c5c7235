"""The group of commands under `treadle`."""

from __future__ import annotations

import sys
from typing import Any

import click

from treadle._cli import INTERRUPTED
from treadle._cli.descriptors import lead_nowhere
from treadle._cli.echo import echo
from treadle._cli.status import complain
from treadle._cli.tcp import tcp
from treadle._cli.web.wsgi import wsgi

__all__ = ["commands", "run_commands"]

EX_IOERR = 74  # sysexits.h: "an error occurred while doing I/O on some file"


class Quiet(click.Group):
    """A group that ends after Ctrl-C without a word, where click says "Aborted!" and ends with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None


SETTINGS = {"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "TREADLE"}
EXAMPLE = """\b
Example:
  treadle echo                  serve, until Ctrl-C
  treadle echo --help           its options, and the variables that set them
  treadle echo --print-config   what it would run with

\b
More: docs/server.md in the sources of treadle, or
  python -m pydoc treadle.server
"""


# The prefix gives every option its environment variable: TREADLE_ECHO_THREADS is `treadle echo --threads`. But
# TREADLE_VERSION is what a Dockerfile calls the version that it installs.
@click.group(cls=Quiet, context_settings=SETTINGS, epilog=EXAMPLE)
@click.version_option(package_name="treadle", allow_from_autoenv=False)
def commands() -> None:
    """Run blocking Python on a bounded number of threads."""


commands.add_command(echo)
commands.add_command(tcp)
commands.add_command(wsgi)


def run_commands() -> int:
    """Run the command that `sys.argv` names; return its status, which is the same whether anybody reads why or not."""
    try:
        # The result is the status of what ends early, as --help does.
        return commands.main(prog_name="treadle", standalone_mode=False) or 0
    except click.ClickException as error:
        complain(error)
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
    except OSError as error:  # of what it was to print
        lead_nowhere(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            complain(click.ClickException(f"cannot write to standard output: {error.strerror}"))
        return EX_IOERR
