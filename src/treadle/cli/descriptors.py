"""The process's limit on open files, which is also its limit on connections."""

from __future__ import annotations

import sys

if sys.platform != "win32":
    import resource

__all__ = ["reserve_descriptors"]


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
