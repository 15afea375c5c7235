"""Where the `treadle` command starts, and what it says when its extra is not installed."""

from __future__ import annotations

import sys

from treadle._cli import INTERRUPTED
from treadle._cli.descriptors import escape_what_cannot_be_written, fill_standard_streams

__all__ = ["main"]

EXTRA = frozenset({"click", "rich"})
EX_UNAVAILABLE = 69  # sysexits.h: "a service is unavailable", also for "a support program does not exist"


def main() -> int:
    """Run the command that `sys.argv` names.

    Returns:
        The exit status, where the command does not itself raise SystemExit: 69 if the `cli` extra is missing, 130 after
        Ctrl-C before the command can stop in order.
    """
    try:
        return run()
    except KeyboardInterrupt:
        return INTERRUPTED


def run() -> int:
    """Do what `main` does, but for Ctrl-C."""
    fill_standard_streams()  # first, for what is said to a stream that is not there would be said to another
    escape_what_cannot_be_written()
    try:
        from treadle._cli.commands import run_commands  # the guard below is for what the commands import
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package not in EXTRA:
            raise
        message = f"treadle: the command needs {package}, which is not installed; run: pip install click rich"
        print(message, file=sys.stderr)
        return EX_UNAVAILABLE
    return run_commands()
