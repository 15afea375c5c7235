"""The group of commands under `treadle`."""

from __future__ import annotations

import click

from treadle.cli.echo import echo
from treadle.cli.tcp import tcp

__all__ = ["commands"]


# The prefix gives every option its environment variable: TREADLE_ECHO_THREADS is `treadle echo --threads`.
@click.group(context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "TREADLE"})
@click.version_option(package_name="treadle")
def commands() -> None:
    """Run blocking Python on a bounded number of threads."""


commands.add_command(echo)
commands.add_command(tcp)
