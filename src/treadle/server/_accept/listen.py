"""Listening: what `bind` may say, and the sockets that come of it."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any

from treadle.errors import BindError
from treadle.server._transport.peer import text_of

try:
    import fcntl
except ImportError:  # Windows, which has no UNIX sockets that Python knows of
    fcntl = None  # type: ignore[assignment]

__all__ = ["Bind", "Bindable", "Listener", "each_bind", "open_listeners", "parse_bind"]

BACKLOG = 65535  # what the kernel may hold until it is accepted; it takes its own limit (net.core.somaxconn) if lower
FIRST_SYSTEMD_FD = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)
MAX_FD = 2**31 - 1  # a C int
MODE = 0o600  # of a UNIX socket: its owner's alone, unless bind says otherwise
FORMS = (
    '"HOST:PORT", "[IPV6]:PORT", "unix:PATH", "unix:PATH?mode=660", "unix:@NAME", "fd://N", "systemd", "systemd:NAME"'
)
ALLOWED = f"{FORMS}, a bound socket, or a list of these"
WHAT_TO_DO = {
    errno.EADDRINUSE: "it is in use; stop the other server, or choose another port (0: any free one)",
    errno.EACCES: "permission denied; ports below 1024, and folders of others, are for privileged users",
    errno.ENOENT: "the folder of its path does not exist; make it, or choose another path",
    errno.EADDRNOTAVAIL: "this machine has no such address; 0.0.0.0 is all of IPv4, [::] is all there are",
}


# A name may stand for addresses of a family that the machine lacks, or of another machine.
NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}
LONGEST_PATH = 107 if sys.platform == "linux" else 103  # bytes of sun_path, less the NUL at its end


@dataclass(frozen=True)
class Bind:
    """Where to listen, as parsed from a text.

    Attributes:
        text: the text.
        kind: "tcp", "unix", "fd" or "systemd".
        host: of "tcp".
        port: of "tcp"; the number of "fd".
        path: of "unix", with "@" before a name of Linux's abstract namespace; the name of "systemd", or "".
        mode: of "unix": permissions.
    """

    text: str
    kind: str
    host: str = ""
    port: int = 0
    path: str = ""
    mode: int = MODE


def parse_bind(text: str) -> Bind:
    """Return what `text` says.

    Raises:
        TypeError: it is no string.
        ValueError: it is in none of the forms.
    """
    if not isinstance(text, str):
        raise TypeError(f"bind={text!r} is {type(text).__name__}; allowed: {ALLOWED}{_meant_by(text)}")
    if text.startswith("unix:"):
        return _parse_unix(text)
    if text.startswith("fd://"):
        number = text[len("fd://") :]
        if not (number.isascii() and number.isdigit() and int(number) <= MAX_FD):
            raise ValueError(f"bind={text!r}: {number!r} is no descriptor; allowed: a number, as in fd://3")
        return Bind(text, "fd", port=int(number))
    if text == "systemd" or text.startswith("systemd:"):
        return Bind(text, "systemd", path=text[len("systemd:") :])
    return _parse_tcp(text)


def _meant_by(value: object) -> str:
    """Return a hint for what other libraries take: a port, or an address as the socket module gives it."""
    host, port = value[:2] if isinstance(value, tuple) and len(value) in (2, 4) else ("127.0.0.1", value)
    if not isinstance(host, str) or type(port) is not int:
        return ""
    return f'; did you mean "{f"[{host}]" if ":" in host else host or "0.0.0.0"}:{port}"?'


def _parse_unix(text: str) -> Bind:
    path, _, query = text[len("unix:") :].partition("?")
    if not path:
        raise ValueError(f"bind={text!r} names no path; allowed: unix:PATH, as in unix:/run/app.sock")
    if "\0" in path:
        raise ValueError(f"bind={text!r}: a path cannot hold a NUL byte")
    if path == "@":
        raise ValueError(f"bind={text!r} names nothing; allowed: unix:@NAME, as in unix:@app (a file: unix:./@)")
    if not query:
        return Bind(text, "unix", path=path)
    if path.startswith("@"):
        raise ValueError(f"bind={text!r}: an abstract name has no mode, everybody may connect; a file: unix:./{path}")
    found = re.fullmatch("mode=(0?[0-7]{3})", query)
    if not found:
        raise ValueError(f"bind={text!r}: {query!r} is no mode; allowed: three octal digits, as in mode=660")
    return Bind(text, "unix", path=path, mode=int(found[1], 8))


def _parse_tcp(text: str) -> Bind:
    scheme, slashes, rest = text.partition("://")
    if slashes:
        raise ValueError(f"bind={text!r}: an address has no scheme {scheme}://; did you mean {rest.rstrip('/')}?")
    host, colon, port = text.rpartition(":")
    if host == "fd" and port.isdigit():
        raise ValueError(f"bind={text!r} is no descriptor; did you mean fd://{port}?")
    if "," in text:
        raise ValueError(f"bind={text!r} holds a comma; several addresses are given one by one")
    if not colon:
        raise ValueError(f"bind={text!r} is not HOST:PORT, as in 127.0.0.1:5000; allowed: {FORMS}")
    if not host:
        raise ValueError(f"bind={text!r} names no host; 0.0.0.0{text} is every IPv4 address, [::]{text} every address")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif "[" in text or "]" in text:
        raise ValueError(f"bind={text!r}: the brackets are not in their places; write them as in [::1]:5000")
    elif ":" in host:
        raise ValueError(f"bind={text!r} is ambiguous; write an IPv6 address in brackets, as in [::1]:5000")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f"bind={text!r}: {port!r} is no port; allowed: 0 (any free one) to 65535")
    return Bind(text, "tcp", host=host, port=int(port))


class Listener:
    """A socket that listens.

    Attributes:
        sock: non-blocking, and not inherited by programs that are started.
        address: as the socket module gives it. What to show people is `str(listener)`: "127.0.0.1:5000", "[::]:5000",
            "unix:/run/app.sock".
        inherited: whether somebody else has it too: systemd, a parent process. Then what waits in its queue is theirs.
    """

    def __init__(self, sock: socket.socket, *, inherited: bool, own_path: str | None = None) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.inherited = inherited
        self.address: Any = sock.getsockname()
        self._words = _words_for(sock)  # now, for later it may be closed
        self._identity = _identity(os.fstat, sock.fileno())
        self._own_path = os.path.abspath(own_path) if own_path is not None else None  # wherever the program goes
        self._file = _identity(os.lstat, self._own_path)

    def close(self) -> None:
        """Close it; a UNIX socket's file that we made goes too, unless another server has replaced it."""
        if self._own_path is not None:
            # Before the socket is closed: from then on another server may take the file for a stale one, and replace it
            # by one with the same inode number, which would be taken for ours.
            with suppress(OSError):
                if _identity(os.lstat, self._own_path) == self._file:
                    os.unlink(self._own_path)
            self._own_path = None
        if self.is_there():
            self.sock.close()
        else:
            self.sock.detach()

    def is_there(self) -> bool:
        """Whether it is open; else somebody has closed it behind our back, and the number may be another's by now."""
        return _identity(os.fstat, self.sock.fileno()) == self._identity

    def share(self) -> None:
        """Leave the file of a UNIX socket to the parent process, in a forked child."""
        self._own_path = None

    def __str__(self) -> str:
        return self._words

    def __repr__(self) -> str:
        return f"<Listener {self}>"


def _identity(look: Callable[[Any], os.stat_result], what: Any) -> tuple[int, int] | None:
    """Return what tells a file, or a socket, from all others of the system; None: there is none, or nobody can tell."""
    try:
        found = look(what)
    except (OSError, ValueError, TypeError):  # of a closed socket, -1; of no path, None
        return None
    return found.st_dev, found.st_ino


def _words_for(sock: socket.socket) -> str:
    name = sock.getsockname()
    if sock.family != getattr(socket, "AF_UNIX", None):
        return text_of(name)
    if isinstance(name, bytes):  # an abstract name begins with NUL, which ss and netstat show as @
        return f"unix:{name.decode(errors='replace').replace(chr(0), '@')}"
    return f"unix:{'./' if name.startswith('@') else ''}{name}"


Bindable = str | socket.socket | Listener
"""Where to listen: a text in one of the forms, a bound socket, which is copied, or what listens already."""


def each_bind(bind: Bindable | Sequence[Bindable]) -> tuple[Bindable, ...]:
    """Return what `bind` names, one by one, after a check of each, as far as can be told without listening there.

    Raises:
        TypeError, ValueError: as `parse_bind`; it names nothing, or something twice.
    """
    # Not what other libraries take for one address, nor bytes: `parse_bind` says what is wrong with these.
    several = isinstance(bind, Sequence) and not isinstance(bind, (str, bytes, bytearray)) and not _meant_by(bind)
    named: tuple[Bindable, ...] = tuple(bind) if several else (bind,)  # type: ignore[arg-type, assignment]
    if not named:
        raise ValueError(f"bind={bind!r} names nothing to listen at; allowed: {ALLOWED}")
    seen: list[object] = []
    for one in named:
        where = one if isinstance(one, (socket.socket, Listener)) else parse_bind(one)
        if where in seen and not (isinstance(where, Bind) and where.kind == "tcp" and where.port == 0):
            raise ValueError(f"bind={one!r} is there twice; once is enough")
        seen.append(where)
    return named


def open_listeners(bind: Bindable | Sequence[Bindable]) -> list[Listener]:
    """Listen where `bind` says, at all of it or at nothing: if one cannot be had, all are closed, those given too.

    Returns:
        A listener for each; with "systemd", as many as systemd gave us.

    Raises:
        TypeError, ValueError: as `each_bind`.
        BindError: it cannot be done.
    """
    named = each_bind(bind)
    opened: list[Listener] = []
    try:
        for one in named:
            opened += [one] if isinstance(one, Listener) else _open(one)
    except BaseException:
        for one in (*opened, *named):
            if isinstance(one, Listener):
                one.close()
        raise
    return opened


def _open(bind: str | socket.socket) -> list[Listener]:
    if isinstance(bind, socket.socket):
        return [_inherit(_copy_of(bind), repr(bind))]
    where = parse_bind(bind)
    if where.kind == "fd":
        return [_inherit(_socket_of(where.port, where.text), where.text)]
    if where.kind == "systemd":
        return _inherit_all(_systemd_fds(where), where.text)
    opener: Callable[[Bind], Listener] = _listen_unix if where.kind == "unix" else _listen_tcp
    try:
        return [opener(where)]
    except BindError:
        raise
    except OSError as error:
        why = WHAT_TO_DO.get(error.errno or 0) or f"{error.strerror or error}"
        raise BindError(where.text, why, error) from error


def _listen_tcp(where: Bind) -> Listener:
    try:
        found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:  # the latter: a name that cannot be one, such as a very long one
        found_none = error if isinstance(error, OSError) else None
        why = str(error) if found_none is None else found_none.strerror
        raise BindError(where.text, f"{where.host!r} is no address of this machine: {why}", found_none) from error
    for family, kind, protocol, _, address in found:
        try:
            return _listen_at(where, family, kind, protocol, address)
        except OSError as error:
            if error.errno not in NOT_HERE:  # another server has it: clients are not to be divided between the two
                raise
            missing = error
    raise missing


def _listen_at(where: Bind, family: int, kind: int, protocol: int, address: Any) -> Listener:
    sock = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it would let two servers share a port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # [::] is for IPv4 as well, on every system, and [::ffff:127.0.0.1] for it alone
            ip = IPv6Address(address[0])
            both = ip.is_unspecified or ip.ipv4_mapped is not None
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not both))
        sock.bind(address)
        sock.listen(BACKLOG)
        return Listener(sock, inherited=False)
    except BaseException:
        sock.close()
        raise


def _listen_unix(where: Bind) -> Listener:
    if not hasattr(socket, "AF_UNIX"):
        raise BindError(where.text, "this platform has no UNIX sockets")
    abstract = where.path.startswith("@")
    size = len(os.fsencode(where.path)) - abstract
    if size > LONGEST_PATH:
        raise BindError(
            where.text,
            f"its path has {size} bytes, and the system allows {LONGEST_PATH}; take a shorter one",
            _error(errno.ENAMETOOLONG, where.path),
        )
    if abstract:
        return _listen_abstract(where)
    with _alone_at(where):
        with suppress(FileNotFoundError):  # there is none, or a server that came to its end has removed it just now
            _remove_stale(where)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(where.path)
            os.chmod(where.path, where.mode)  # before it listens, so nobody comes in between
            sock.listen(BACKLOG)
            return Listener(sock, inherited=False, own_path=where.path)
        except BaseException:
            sock.close()
            raise


def _listen_abstract(where: Bind) -> Listener:
    """Listen at a name that is no file: it is gone with the socket (unix(7))."""
    if sys.platform != "linux":
        raise BindError(where.text, f"only Linux has abstract names; for a file of that name write unix:./{where.path}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(f"\0{where.path[1:]}")
        sock.listen(BACKLOG)
        return Listener(sock, inherited=False)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise BindError(where.text, "another server listens there; stop it first", error) from error
        raise


@contextmanager
def _alone_at(where: Bind) -> Iterator[None]:
    """Keep other servers from listening at a path while this one begins to.

    A server that is about to listen looks like one that is gone, and between a look at a file and its removal another
    server may have replaced it. So each holds a lock meanwhile, beside the path. The kernel lets it go when a process
    dies, and what then stays of it, an empty file, is in nobody's way: the next one takes it, and removes it.

    Raises:
        BindError: another server begins to listen there just now.
        OSError: no file can be made there.
    """
    if fcntl is None:
        yield
        return
    path = f"{where.path}.treadle-lock"  # a name that nobody else thinks of, for it is removed
    lock = _take_lock(where, path)
    try:
        yield
    finally:
        with suppress(OSError):
            os.unlink(path)  # while it is held: what lies there afterwards is somebody else's
        fcntl.flock(lock, fcntl.LOCK_UN)  # also for a child that was forked meanwhile, and has a copy of it
        os.close(lock)


def _take_lock(where: Bind, path: str) -> int:
    """Return the descriptor of the file at `path`, locked."""
    while True:
        # Of nothing but a file of our own, for any user who may be there; no reader is waited for, should it be a pipe.
        try:
            lock = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o444)
        except OSError as error:
            if not os.path.lexists(path):
                raise
            why = f"{path} is in the way ({error.strerror}); remove it, if no server begins to listen there"
            raise BindError(where.text, why, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _identity(os.fstat, lock) == _identity(os.lstat, path):
                return lock
        except BlockingIOError as error:
            os.close(lock)
            why = "another server begins to listen there just now; stop it first"
            raise BindError(where.text, why, _error(errno.EADDRINUSE, where.path)) from error
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)  # whoever had it has removed it, between our two steps


def _remove_stale(where: Bind) -> None:
    """Remove the file of a server that is gone; a living one's stays, and so does everything that is no socket.

    Raises:
        BindError: it stays.
        FileNotFoundError: there is none, or none any more.
    """
    mode = os.lstat(where.path).st_mode
    if stat.S_ISLNK(mode) and not os.path.exists(where.path):
        target = os.readlink(where.path)
        why = f"{where.path} is a symbolic link to {target}, which does not exist; remove the link"
        raise BindError(where.text, why, _error(errno.EADDRINUSE, where.path))
    if not stat.S_ISSOCK(os.stat(where.path).st_mode):
        why = f"{where.path} exists, and is no socket"
        raise BindError(where.text, why, _error(errno.EADDRINUSE, where.path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(where.path)
        except ConnectionRefusedError:
            if stat.S_ISLNK(mode):  # somebody has put it there on purpose, and the kernel does not bind through it
                target = os.readlink(where.path)
                why = f"{where.path} is a symbolic link to {target}; listen there, or remove the link"
                raise BindError(where.text, why, _error(errno.EADDRINUSE, where.path)) from None
            os.unlink(where.path)
            return
        except BlockingIOError:
            pass  # somebody listens, and is busy
    why = "another server listens there; stop it first"
    raise BindError(where.text, why, _error(errno.EADDRINUSE, where.path))


def _error(number: int, path: str) -> OSError:
    """Return the error that the system would raise, had it been asked to bind a socket to `path`."""
    return OSError(number, os.strerror(number), path)


def _copy_of(sock: socket.socket) -> socket.socket:
    try:
        return sock.dup()
    except OSError as error:
        raise BindError(repr(sock), f"it is closed: {error.strerror}", error) from error


def _socket_of(number: int, text: str) -> socket.socket:
    """Return a copy of an inherited descriptor; the descriptor stays open, for whoever comes after us."""
    copy = -1
    try:
        os.set_inheritable(number, False)
        copy = os.dup(number)
        return socket.socket(fileno=copy)
    except OSError as error:
        if copy >= 0:
            os.close(copy)
        raise BindError(text, f"descriptor {number} is no socket: {error.strerror}", error) from error


def _inherit_all(numbers: list[int], text: str) -> list[Listener]:
    listeners: list[Listener] = []
    try:
        for number in numbers:
            listeners.append(_inherit(_socket_of(number, text), text))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _inherit(sock: socket.socket, text: str) -> Listener:
    try:
        if sock.type != socket.SOCK_STREAM:
            raise BindError(text, f"it is no stream socket but {getattr(sock.type, 'name', sock.type)}")
        if not _is_bound(sock):  # to listen would bind it, to every address and any port
            raise BindError(text, "it is not bound to an address")
        sock.listen(BACKLOG)
        return Listener(sock, inherited=True)
    except OSError as error:
        sock.close()
        if isinstance(error, BindError):
            raise
        raise BindError(text, f"it does not listen: {error.strerror}", error) from error


def _is_bound(sock: socket.socket) -> bool:
    name = sock.getsockname()
    return bool(name[1]) if sock.family in (socket.AF_INET, socket.AF_INET6) else bool(name)


_passed: list[str] = []  # the names of the sockets that systemd passed to this process, in their order


def _systemd_fds(where: Bind) -> list[int]:
    """Return the descriptors that systemd passed to this process (sd_listen_fds(3))."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        _passed[:] = _take_from_environment(where.text)
    if not _passed:
        raise BindError(where.text, "systemd passed no sockets to this process (LISTEN_PID); is there a .socket unit?")
    chosen = [FIRST_SYSTEMD_FD + index for index, name in enumerate(_passed) if where.path in ("", name)]
    if not chosen:
        names = ", ".join(name or "one without a name" for name in _passed)
        raise BindError(where.text, f"systemd passed no such socket; it passed {names}")
    return chosen


def _take_from_environment(text: str) -> list[str]:
    """Return the name of each socket, "" if it has none, and leave nothing for programs that this one starts.

    The names are kept, so that a second server may ask for another socket.
    """
    del os.environ["LISTEN_PID"]
    count = os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if not (count.isascii() and count.isdigit()):
        raise BindError(text, f"LISTEN_FDS={count!r} is no number; systemd sets it to how many sockets it passes")
    return [*names, *[""] * int(count)][: int(count)]
