"""Orphans: processes whose parent has ended, and whom the system gives to process 1, the first in a container.

Who is process 1 has to take note of their end (waitpid), or they stay as zombies, until there is room for no more. A
process that does nothing else, such as tini, dumb-init or the parent of our processes, waits for whatever ends. One
that runs a program must not: `subprocess` would find that somebody else has taken its child's status, and report 0.
The system does not tell orphans from children. But on Linux it gives orphans to the first thread, and what a thread has
started is that thread's own, and can be waited for apart (__WNOTHREAD, see waitpid(2)). The first thread is the one
that hears signals, and starts nothing meanwhile; so what it is given is an orphan.

What is left: a child becomes the first thread's as well when the thread that started it ends before it does. So this is
done in process 1 alone, where the zombies would be worse.
"""

from __future__ import annotations

import errno
import os
import signal
import sys

__all__ = ["Orphans", "has_children"]

OF_THIS_THREAD = 0x20000000  # __WNOTHREAD of Linux, which Python has no name for


class Orphans:
    """Reaps the orphans that process 1 is given, and nothing that the program itself may wait for.

    For the main thread, which starts no process while it is in use.

    Attributes:
        ours: whether they are ours to reap. Not if the program sees to SIGCHLD itself, or has started something in this
            thread already.
    """

    def __init__(self) -> None:
        self.ours = (
            sys.platform == "linux"
            and os.getpid() == 1
            and signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
            and not has_children(OF_THIS_THREAD)
        )

    def reap(self) -> None:
        """Reap those that have ended."""
        try:
            while self.ours and os.waitpid(-1, os.WNOHANG | OF_THIS_THREAD)[0]:
                pass
        except ChildProcessError:
            pass  # there are none


def has_children(options: int = 0) -> bool:
    """Whether this process has children; with OF_THIS_THREAD, this thread. True where the system cannot tell."""
    if not hasattr(os, "waitid"):
        return True
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT | options)
    except OSError as error:
        return error.errno != errno.ECHILD
    return True
