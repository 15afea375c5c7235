"""The group of commands under `treadle`."""

from __future__ import annotations

from typing import Any

import click

from treadle._cli import INTERRUPTED
from treadle._cli.echo import echo
from treadle._cli.tcp import tcp

__all__ = ["commands"]


class Quiet(click.Group):
    """A group that ends after Ctrl-C without a word, where click says "Aborted!" and ends with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None


# The prefix gives every option its environment variable: TREADLE_ECHO_THREADS is `treadle echo --threads`.
@click.group(cls=Quiet, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "TREADLE"})
@click.version_option(package_name="treadle")
def commands() -> None:
    """Run blocking Python on a bounded number of threads."""


commands.add_command(echo)
commands.add_command(tcp)
