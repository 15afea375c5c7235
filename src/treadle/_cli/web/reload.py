"""Reload: for development, an app is started anew when one of its files changes.

The parent holds the listening sockets, and forks a child that imports the app and serves. It never imports the app
itself, so each child finds the files as they are. While one child ends and the next one begins, clients wait in the
kernel's queue; nobody is refused. A child tells which files it has loaded, and the parent looks at them each second:
that needs no dependency, and works with any file system and editor, and while the app hangs.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from math import inf

from treadle._base.clock import now
from treadle._base.words import log
from treadle._cli.loading import CannotImport
from treadle._cli.serving import Child
from treadle.server._accept.listen import Listener
from treadle.server._processes import DEAF, GRACE, fork
from treadle.server._signals import CHILD, HANGUP, HUNG_UP, LOST, ORDERS, Signals, reason

__all__ = ["Loaded", "serve_and_reload"]

EVERY = 1.0  # seconds between two looks at the files; what a developer hardly notices
DRAIN = 2.0  # seconds that an answer which is under way may hold up a new start; a guess

_log = logging.getLogger("treadle.server")


class Loaded:
    """The files that children have loaded, as they tell their parent. Made by the parent, before it forks.

    What is told goes through a file, and not through a pipe: a child does not wait until it is read.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # closed by `close`
        self._read = 0  # bytes, by the parent
        self._before = set(sys.modules)  # of treadle, which a new child takes over from the parent as they are
        self._told: set[str] = set()  # by this child

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def tell(self) -> float:
        """Tell which files have come, in a child; return the seconds until that is to be done again."""
        names = sys.modules.copy().items()
        self._tell(str(file) for name, module in names if name not in self._before for file in [_file_of(module)])
        return EVERY

    def tell_failure(self, error: BaseException) -> None:
        """Tell which files may be to blame if the app could not be loaded; and the folder, for what is missing."""
        self.tell()
        causes: list[BaseException | None] = [error.error if isinstance(error, CannotImport) else error]
        for cause in causes:  # it grows meanwhile
            if cause is not None:
                self._tell(_files_of(cause))
                causes += [each for each in (cause.__cause__, cause.__context__) if each not in causes]
        self._tell([os.getcwd()])

    def _tell(self, paths: Iterable[str]) -> None:
        records = []
        for path in paths:
            stamp = None if path in self._told else _stamp_of(path)
            if stamp is not None:
                self._told.add(path)
                records.append(b"%d %s\0" % (stamp, os.fsencode(os.path.abspath(path))))
        if records:
            os.lseek(self._file.fileno(), 0, os.SEEK_END)
            os.write(self._file.fileno(), b"".join(records))

    def take(self) -> Iterator[tuple[str, int]]:
        """Give path and time of change of what was told since the last call, in the parent."""
        size = os.fstat(self._file.fileno()).st_size
        new = os.pread(self._file.fileno(), size - self._read, self._read)
        end = new.rfind(b"\0") + 1
        self._read += end
        for record in new[:end].split(b"\0")[:-1]:
            stamp, _, path = record.partition(b" ")
            yield os.fsdecode(path), int(stamp)


def _file_of(module: object) -> str:
    """Return the path of a module's file; "": it has none."""
    try:
        return str(getattr(module, "__file__", None) or "")
    except Exception:  # of what pretends to be a module
        return ""


def _files_of(error: BaseException) -> Iterator[str]:
    """Give the files that an error has passed through."""
    if isinstance(error, SyntaxError) and error.filename:
        yield error.filename
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_code.co_filename
        trace = trace.tb_next


def _stamp_of(path: str) -> int | None:
    """Return when a file was changed, in nanoseconds; None: it is not there, or not now, as while an editor saves."""
    try:
        return os.stat(path).st_mtime_ns if path else None
    except (OSError, ValueError):
        return None


def serve_and_reload(
    loaded: Loaded,
    extra: Sequence[str],
    drain_timeout: float | None,
    listeners: Sequence[Listener],
    serve: Child,
) -> int:
    """Call `serve` in a forked child, and again in another one when a file has changed, until SIGTERM or SIGINT.

    Call it from the main thread, before any other thread is started.

    Args:
        loaded: what children tell of their files with.
        extra: paths of further files.
        drain_timeout: seconds that a child may need to stop; None: as long as it takes.
        listeners: the sockets to serve at; they are closed at the end.
        serve: as of `serve_in_processes`.

    Returns:
        The exit status.
    """
    if not hasattr(os, "fork"):
        raise OSError("--reload needs os.fork, which this platform lacks; run without it")
    reloader = Reloader(loaded, extra, inf if drain_timeout is None else drain_timeout, listeners, serve)
    try:
        return reloader.run()
    finally:
        for listener in listeners:
            listener.close()


class Reloader:
    """The parent. For the main thread alone.

    It has a child that serves; or one that ends, to be started anew, or because all does; or none, since the app could
    not be loaded, or has ended: then it waits for a change.
    """

    def __init__(
        self, loaded: Loaded, extra: Sequence[str], drain_timeout: float, listeners: Sequence[Listener], serve: Child
    ) -> None:
        self.loaded = loaded
        self.drain_timeout = drain_timeout
        self.listeners = listeners
        self.serve = serve
        self.stamps = {path: stamp for path in map(os.path.abspath, extra) if (stamp := _stamp_of(path)) is not None}
        self.child = 0  # its process id; 0: there is none
        self.held = -1  # our end of its lifeline
        self.wanted = True  # a child is to be started as soon as there is none
        self.stopping = False
        self.status = 0
        self.deadline = inf  # for the child that is to end: when it is cut, and then killed
        self.look_at = now() + EVERY

    def run(self) -> int:
        """Start children, and look after files, until all is to end; return the exit status."""
        with Signals(children=True) as signals:
            try:
                while not self.stopping or self.child:
                    if self.wanted and not self.child:
                        self.start(signals)
                    self.obey(signals.hear(max(0.0, min(self.look_at, self.deadline) - now())))
                    if now() >= self.look_at:
                        self.look()
            finally:
                if self.child:
                    os.kill(self.child, signal.SIGKILL)
                    os.waitpid(self.child, 0)
                self.let_go()
        return self.status

    def start(self, signals: Signals) -> None:
        """Start a child."""
        lifeline, self.held = os.pipe()
        self.wanted, self.deadline = False, inf
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # or the child would write it once more
        try:
            # In the group of the parent: whoever develops may want to type at a debugger.
            self.child = fork(self.serve, self.listeners, signals, (lifeline, self.held), apart=False)
        finally:
            os.close(lifeline)

    def look(self) -> None:
        """Take what the child has told, and look whether a file has changed; if so, start anew."""
        self.look_at = now() + EVERY
        changed = [path for path, stamp in self.loaded.take() if self.stamps.setdefault(path, stamp) != stamp]
        changed += [path for path in self.stamps if _stamp_of(path) not in (None, self.stamps[path])]
        for path in changed:
            self.stamps[path] = _stamp_of(path) or self.stamps[path]
        # Of a folder it matters only whether an app that could not be loaded finds now what it missed.
        changed = [path for path in changed if not (self.child and os.path.isdir(path))]
        if changed and not self.stopping:
            log(_log, logging.INFO, "%s has changed: starting anew", os.path.relpath(changed[0]))
            self.wanted = True
            self.end(DRAIN)

    def end(self, seconds: float) -> None:
        """Have the child end, if there is one."""
        if self.child:
            self.deadline = min(self.deadline, now() + seconds)
            os.kill(self.child, signal.SIGTERM)
            os.kill(self.child, signal.SIGCONT)  # one that is stopped would not hear it

    def obey(self, number: int | None) -> None:
        """Do what a signal asks for; None: the time-out has passed."""
        if now() >= self.deadline and self.child:
            self.cut()
        if number == CHILD and self.child:
            self.reap()
        elif number is not None and number == HANGUP and self.child:
            os.kill(self.child, number)
        elif number in ORDERS or number in (HUNG_UP, LOST):
            if self.stopping:
                self.cut()
            self.stopping, self.wanted = True, False
            self.end(self.drain_timeout + GRACE)

    def cut(self) -> None:
        """The time of the child is over, or somebody is in a hurry: have it cut what is under way; then kill it."""
        if self.held < 0:
            os.kill(self.child, signal.SIGKILL)
        self.let_go()
        self.deadline = now() + GRACE

    def let_go(self) -> None:
        """Close our end of the lifeline, which a child that is to end takes for an order to cut."""
        if self.held >= 0:
            os.close(self.held)
            self.held = -1

    def reap(self) -> None:
        """Take note of the end of the child."""
        ended, status = os.waitpid(self.child, os.WNOHANG)
        if not ended:
            return
        self.child = 0
        self.let_go()
        code = os.waitstatus_to_exitcode(status)
        if self.stopping:
            self.status = int(code not in (0, -signal.SIGTERM, -signal.SIGINT))
        elif code == DEAF:  # the sockets are not to be had any more, and a change does not bring them back
            self.status, self.stopping = code, True
        elif not self.wanted:
            how = f"with status {code}" if code >= 0 else f"by {reason(-code)}"
            log(_log, logging.WARNING, "the app ended %s; waiting for a file to change", how)
