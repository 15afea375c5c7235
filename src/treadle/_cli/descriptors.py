"""The process's open files: their limit, which is also its limit on connections, and the three standard streams."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

if sys.platform != "win32":
    import resource

__all__ = ["CLOSED", "escape_what_cannot_be_written", "fill_standard_streams", "lead_nowhere", "reserve_descriptors"]

CLOSED: set[str] = set()
"""Which of stdin, stdout and stderr were closed when the command began."""


def reserve_descriptors(wanted: int) -> int | None:
    """Raise the soft limit on open files to `wanted`, as far as the hard limit lets an ordinary user go.

    Returns:
        The limit now in force; None where there is none, or where the platform has no such limit.
    """
    if sys.platform == "win32":
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    if soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        except (OSError, ValueError, OverflowError):
            return soft  # beyond the kernel's own limit, which stands above an infinite hard limit
        return raised
    return soft


def fill_standard_streams() -> None:
    """Have standard streams that are closed lead nowhere; else a socket would have the number of one of them."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            CLOSED.add(name)
            number = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))


def escape_what_cannot_be_written() -> None:
    """Have standard output take any text, as standard error does: names and paths hold what its encoding may not."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def lead_nowhere(stream: TextIO) -> None:
    """Have a stream lead nowhere: its reader is gone, as `head` is after a line, which is no reason to stop."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
