"""`treadle echo`: a TCP echo server."""

from __future__ import annotations

from typing import Any

import click

from treadle._cli.options.config import ConfiguredCommand
from treadle._cli.options.table import GROUPS, with_options
from treadle._cli.serving import serve
from treadle.server import Messages, Peer, Raw

__all__ = ["echo"]


def send_back(data: bytes, peer: Peer) -> bytes:
    """Return what came."""
    return data


EXAMPLE = """\b
Examples:
  treadle echo
  treadle echo --bind [::1]:7000 --threads 8 --max-connections 500
  TREADLE_ECHO_THREADS=8 treadle echo --print-config
"""


@click.command(cls=ConfiguredCommand, groups=GROUPS, epilog=EXAMPLE, short_help="Send back what each client sends.")
@with_options(GROUPS, threads={"default": 128})
def echo(**options: Any) -> None:
    """Send back whatever each client sends, on a bounded number of threads."""
    serve("echo", lambda: Messages(send_back, Raw()), options)
