"""Processes: one server in several processes, that share its listening sockets.

The parent opens the sockets and forks; the children accept from the same queue, so a child that dies, or is killed,
takes no client with it but its own. (With a socket for each process, SO_REUSEPORT, each has a queue of its own, and
what waits there is reset when its process ends.)
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from types import FrameType
from typing import NoReturn

from treadle._base.clock import now
from treadle._base.words import log
from treadle.server._accept.listen import Listener
from treadle.server._loop.teller import Teller
from treadle.server._orphans import has_children
from treadle.server._signals import CHILD, HANGUP, HUNG_UP, ORDERS, Signals, reason

__all__ = ["DEAF", "GRACE", "fork", "serve_in_processes"]

_log = logging.getLogger("treadle.server")

SOON = 5.0  # seconds: a child that ends sooner has not begun properly; a guess
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds before such a child is started again
PATIENCE = 5  # such children in a row, in each place, with none that has begun properly, after which it is given up
HOPELESS = {2, 64, 66, 69, 73, 77, 78}  # statuses of sysexits.h, and of wrong usage, that another try does not change
DEAF = 69  # of those, that of a child whose listening sockets, which are everybody's, were shut down
GRACE = 5.0  # seconds beyond the drain that children are given to end
LAST_WORDS = 0.5  # seconds that whoever reads what is said is given to take it


def serve_in_processes(
    count: int,
    listeners: Sequence[Listener],
    serve: Callable[[Sequence[Listener], int], int],
    *,
    drain_timeout: float | None,
) -> int:
    """Call `serve` in `count` forked children, and see to it that there are always so many, until SIGTERM or SIGINT.

    Call it from the main thread, before any other thread is started. SIGHUP is passed on; or stops them, if their
    terminal is closed. A second SIGTERM or SIGINT cuts at once. In process 1, the first in a container, orphans are
    reaped, as an init does.

    Args:
        count: children, 1 or more.
        listeners: the sockets to share; they are closed at the end.
        serve: called in a child with the listeners, and a descriptor for `Server._run(lifeline=...)`: its other end is
            the parent's, so the child notices when the parent is killed. Returns the child's exit status.
        drain_timeout: seconds that a child may need to stop; None: as long as it takes.

    Returns:
        The exit status: 0 if all children ended in order, 1 if not, or if they cannot be started. A child that is
        stopped (SIGSTOP) when the time is over is killed, and does not count: it is not the server that failed.

    Raises:
        OSError: the platform has no fork.
    """
    if not hasattr(os, "fork"):
        raise OSError("several processes need os.fork, which this platform lacks; run one process, without --processes")
    parent = Parent(count, listeners, serve, inf if drain_timeout is None else drain_timeout)
    try:
        return parent.run()
    finally:
        for listener in listeners:
            listener.close()


class Parent:
    """Keeps children running. For the main thread alone."""

    def __init__(
        self,
        count: int,
        listeners: Sequence[Listener],
        serve: Callable[[Sequence[Listener], int], int],
        drain_timeout: float,
    ) -> None:
        self.count = count
        self.listeners = listeners
        self.serve = serve
        self.drain_timeout = drain_timeout
        self.children: dict[int, float] = {}  # process id: when it was started
        self.lifeline, self.held = os.pipe()
        self.status = 0
        self.stopping = False
        self.deadline = inf  # when those that are left are killed
        self.start_at = -inf  # when the next child may be started
        self.false_starts = 0
        self.proven = False  # a child has begun properly
        self.killed = False  # whoever did not end in time
        self.excused: set[int] = set()  # of them, those that somebody had stopped
        self.teller = Teller()
        # Then whatever ends is either a child of ours or an orphan; else the others are the program's to wait for.
        self.alone = not has_children()

    def run(self) -> int:
        """Start children, and look after them until the last has ended; return the exit status."""
        with Signals(children=True) as signals:
            try:
                while not self.over():
                    self.start_missing(signals)
                    self.obey(signals.hear(self.timeout()))
            finally:
                for process in self.children:
                    os.kill(process, signal.SIGKILL)
                    os.waitpid(process, 0)
                os.close(self.lifeline)
                self.let_go()
            self.teller.quiet(LAST_WORDS)
        return self.status

    def tell(self, level: int, message: str, *args: object) -> None:
        """Log something, without waiting for it: nobody may read it, and signals and deadlines are to be minded."""
        self.teller.tell(partial(log, _log, level, message, *args))

    def over(self) -> bool:
        """Whether there is nothing left to look after."""
        hopeless = self.false_starts >= PATIENCE * self.count
        if hopeless and not self.stopping and not self.has_served():
            self.status = 1
            self.stop()
            self.tell(logging.ERROR, "the processes end as soon as they begin; giving up after %d", self.false_starts)
        return self.stopping and not self.children

    def has_served(self) -> bool:
        """Whether a child has begun properly, so that what is wrong now may pass, as an unfinished upgrade does."""
        return self.proven or any(now() - began >= SOON for began in self.children.values())

    def timeout(self) -> float | None:
        """Return the seconds until there is something to do though no signal comes."""
        due = self.deadline if self.stopping else self.start_at if len(self.children) < self.count else inf
        return None if due == inf else max(0.0, due - now())

    def start_missing(self, signals: Signals) -> None:
        """Start as many children as are missing, unless it is too soon."""
        before = set(self.children)
        while not self.stopping and len(self.children) < self.count and now() >= self.start_at:
            self.teller.tell(_flush)  # or the child would write it once more
            if not self.teller.quiet(LAST_WORDS):  # the child would inherit the locks of whoever is stuck in writing
                self.start_at = now() + FIRST_PAUSE
                break
            try:
                process = fork(self.serve, self.listeners, signals, (self.lifeline, self.held))
            except OSError as error:
                self.tell(logging.ERROR, "cannot start a process: %s; trying again", error.strerror)
                self.put_off()
                break
            self.children[process] = now()
        for process in self.children.keys() - before:
            self.tell(logging.INFO, "process %d serves", process)

    def put_off(self) -> None:
        """Start the next child later, and the later the more often that was done."""
        self.false_starts += 1
        rounds = min((self.false_starts - 1) // self.count, 10)  # 2 to the 10th is far beyond the longest pause
        self.start_at = now() + min(FIRST_PAUSE * 2**rounds, LONGEST_PAUSE)

    def obey(self, number: int | None) -> None:
        """Do what a signal asks for; None: the time-out has passed."""
        if now() >= self.deadline:
            self.give_up()
        if number is None:
            return
        if number == CHILD:
            self.reap()
        elif number == HANGUP:
            self.pass_on(number)
        elif number != HUNG_UP and number not in ORDERS:
            pass  # one that the program has a handler for, which has run by now
        elif self.stopping:
            self.deadline = min(self.deadline, now() + GRACE)
            self.let_go()  # which they take for an order to cut
            self.pass_on(signal.SIGCONT)
        else:
            self.stop()
            self.tell(logging.INFO, "%s: stopping; a second signal cuts at once", reason(number))

    def let_go(self) -> None:
        """Close our end of the lifeline."""
        if self.held >= 0:
            os.close(self.held)
            self.held = -1

    def stop(self) -> None:
        """Let the children end."""
        self.stopping = True
        self.deadline = now() + self.drain_timeout + GRACE
        self.pass_on(signal.SIGTERM)
        self.pass_on(signal.SIGCONT)  # one that is stopped would not hear it; systemd and runit do so, too
        for listener in self.listeners:  # or clients that come now would wait in a queue that nobody serves
            listener.close()

    def pass_on(self, number: int) -> None:
        """Send a signal to all children."""
        for process in self.children:
            os.kill(process, number)  # it exists until it is waited for

    def give_up(self) -> None:
        """The time is over: kill the children that are left, and say which; then, if they do not die, leave them."""
        if self.killed:  # the kernel does not let go of them, as of who waits for a broken disk
            left = ", ".join(map(str, self.children))
            self.status = 1
            self.children.clear()
            self.tell(logging.ERROR, "processes that were killed do not end, and are left behind: %s", left)
            return
        self.killed, self.deadline = True, now() + GRACE
        for process in tuple(self.children):
            changed, status = os.waitpid(process, os.WNOHANG | os.WUNTRACED)
            if changed and not os.WIFSTOPPED(status):
                self.ended(process, status)
                continue
            os.kill(process, signal.SIGKILL)
            if changed:
                self.excused.add(process)
                self.tell(logging.ERROR, "process %d was stopped and did not go on, and is killed", process)
            else:
                self.tell(logging.ERROR, "process %d did not end in time, and is killed", process)

    def reap(self) -> None:
        """Take note of the children that have ended; if we are process 1, orphans are among them."""
        if not self.alone:
            for process in tuple(self.children):
                self.wait_for(process)
            return
        try:
            while self.wait_for(-1):
                pass
        except ChildProcessError:
            pass  # none is left

    def wait_for(self, process: int) -> bool:
        """Take note of the end of a child, -1: of any; return whether one has ended."""
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended in self.children:
            self.ended(ended, status)
        return ended != 0

    def ended(self, process: int, status: int) -> None:
        """A child has ended."""
        started = self.children.pop(process)
        code = os.waitstatus_to_exitcode(status)
        if process in self.excused:
            return
        if self.stopping:
            # By SIGTERM: it had not begun to serve, or it was done.
            self.status = self.status or int(code not in (0, -signal.SIGTERM))
            if (
                code < 0 and code != -signal.SIGTERM and not self.killed
            ):  # by others, of which it cannot have said a word
                self.tell(logging.ERROR, "process %d was killed by %s before it was done", process, reason(-code))
        else:
            self.missed(process, code, now() - started)

    def missed(self, process: int, code: int, lived: float) -> None:
        """A child has ended unasked."""
        how = f"with status {code}" if code >= 0 else f"by {reason(-code)}"
        self.tell(logging.ERROR, "process %d ended %s after %.1f s", process, how, lived)
        if code in HOPELESS and lived < SOON and (code == DEAF or not self.has_served()):
            self.status = code
            self.stop()
        elif lived >= SOON:
            self.proven = True
            self.false_starts, self.start_at = 0, -inf
        else:
            self.put_off()


def fork(
    serve: Callable[[Sequence[Listener], int], int],
    listeners: Sequence[Listener],
    signals: Signals,
    pipe: tuple[int, int],
    *,
    apart: bool = True,
) -> int:
    """Call `serve` in a forked child, that ends with the status it returns; return the child's process id.

    Args:
        serve: as of `serve_in_processes`.
        listeners: what it is called with.
        signals: those that the parent hears.
        pipe: both ends of the lifeline; the second is the parent's.
        apart: whether the child has a process group of its own, so that Ctrl-C on a terminal reaches the parent alone,
            which passes it on once. Then it cannot read from the terminal.

    Raises:
        OSError: there is no process to be had.
    """
    # Held back until the child has handlers of its own: it would take what is meant for it for nothing.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*ORDERS, signal.SIGHUP})
    try:
        process = os.fork()
        if process == 0:
            _be_a_child(serve, listeners, signals, pipe, mask, apart)
        return process
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _be_a_child(
    serve: Callable[[Sequence[Listener], int], int],
    listeners: Sequence[Listener],
    signals: Signals,
    pipe: tuple[int, int],
    mask: set[signal.Signals | int],
    apart: bool,
) -> NoReturn:
    """Serve, in a forked child, and end it. Never returns, or it would go on as a second parent."""
    lifeline, held = pipe
    status = 1
    teller = Teller()
    try:
        signals.leave_to_parent()
        # Between here and the server's own handlers SIGTERM ends it, in order, and SIGHUP asks for what is done
        # next anyway. No SIG_IGN: programs that handlers start would inherit that.
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, _pass_over)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if apart:
            os.setpgid(0, 0)
        os.close(held)
        for listener in listeners:
            listener.share()
        status = _status_of(serve(listeners, lifeline))
    except SystemExit as leaving:
        status = _status_of(leaving.code)
    except KeyboardInterrupt:  # before it served, so nothing was cut
        status = 0
    except BaseException as error:
        teller.tell(partial(traceback.print_exception, error))
    finally:
        try:
            teller.tell(_flush)
            teller.quiet(LAST_WORDS)
        finally:
            os._exit(status)


def _pass_over(number: int, frame: FrameType | None) -> None:
    """Do nothing, which is more than what the system would do."""


def _status_of(code: object) -> int:
    """Return what `sys.exit(code)` would end with, 0 to 255."""
    if code is None:
        return 0
    return code if isinstance(code, int) and 0 <= code <= 255 else 1


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # whoever read it is gone, or there is none: no reason to stop serving
