"""Listening: every form of `bind`, what it refuses, and what it leaves behind."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest

from treadle.errors import BindError
from treadle.server._accept import listen as module
from treadle.server._accept.listen import (
    ALLOWED,
    BACKLOG,
    LONGEST_PATH,
    Bind,
    Listener,
    each_bind,
    open_listeners,
    parse_bind,
)

PATIENCE = 30.0  # seconds
needs_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no UNIX sockets")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def has_ipv6() -> bool:
    """Whether this machine has the IPv6 loopback: not every container does."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.fixture
def opened() -> Iterator[list[Listener]]:
    """What is put in here is closed at the end."""
    listeners: list[Listener] = []
    yield listeners
    for listener in listeners:
        listener.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short: a UNIX socket's has 107 bytes at most, and that of tmp_path may be long."""
    made = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    yield made
    for left in made.iterdir():
        left.unlink()
    made.rmdir()


@pytest.fixture(autouse=True)
def _systemd_has_passed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_passed", [])
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        monkeypatch.delenv(name, raising=False)


def only(listeners: list[Listener]) -> Listener:
    (listener,) = listeners
    return listener


def talk(listener: Listener, family: int, address: object) -> None:
    """Show that a client of this address is accepted from the listener."""
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(PATIENCE)
        client.connect(address)  # type: ignore[arg-type]
        listener.sock.setblocking(True)
        listener.sock.settimeout(PATIENCE)
        accepted, _ = listener.sock.accept()
        accepted.close()


# -- what it says --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("127.0.0.1:5000", Bind("127.0.0.1:5000", "tcp", host="127.0.0.1", port=5000)),
        ("localhost:0", Bind("localhost:0", "tcp", host="localhost", port=0)),
        ("[::]:65535", Bind("[::]:65535", "tcp", host="::", port=65535)),
        ("unix:/run/app.sock", Bind("unix:/run/app.sock", "unix", path="/run/app.sock", mode=0o600)),
        ("unix:a?mode=660", Bind("unix:a?mode=660", "unix", path="a", mode=0o660)),
        ("unix:a?mode=0666", Bind("unix:a?mode=0666", "unix", path="a", mode=0o666)),
        ("unix:@app", Bind("unix:@app", "unix", path="@app")),
        ("unix:./@app?mode=660", Bind("unix:./@app?mode=660", "unix", path="./@app", mode=0o660)),
        ("fd://3", Bind("fd://3", "fd", port=3)),
        ("systemd", Bind("systemd", "systemd")),
        ("systemd:web", Bind("systemd:web", "systemd", path="web")),
    ],
)
def test_each_form_is_understood(text: str, bind: Bind) -> None:
    assert parse_bind(text) == bind


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5000", "'5000' is not HOST:PORT, as in 127.0.0.1:5000"),
        ("", "'' is not HOST:PORT"),
        (":5000", "names no host; 0.0.0.0:5000 is every IPv4 address, [::]:5000 every address"),
        ("::1:5000", "is ambiguous; write an IPv6 address in brackets, as in [::1]:5000"),
        ("http://127.0.0.1:5000/", "an address has no scheme http://; did you mean 127.0.0.1:5000?"),
        ("fd:3", "is no descriptor; did you mean fd://3?"),
        ("[::1:5000", "the brackets are not in their places; write them as in [::1]:5000"),
        ("::1]:5000", "the brackets are not in their places"),
        ("127.0.0.1:1,127.0.0.1:2", "holds a comma; several addresses are given one by one"),
        ("127.0.0.1:", "'' is no port; allowed: 0 (any free one) to 65535"),
        ("127.0.0.1:65536", "'65536' is no port"),
        ("127.0.0.1:-1", "'-1' is no port"),
        ("127.0.0.1:http", "'http' is no port"),
        ("127.0.0.1:٣", "'٣' is no port"),
        ("unix:", "names no path; allowed: unix:PATH"),
        ("unix:?mode=660", "names no path"),
        ("unix:@", "names nothing; allowed: unix:@NAME"),
        ("unix:@a?mode=660", "an abstract name has no mode, everybody may connect; a file: unix:./@a"),
        ("unix:a?mode=888", "'mode=888' is no mode; allowed: three octal digits"),
        ("unix:a?mod=660", "'mod=660' is no mode"),
        ("unix:a\0b", "a path cannot hold a NUL byte"),
        ("fd://", "'' is no descriptor; allowed: a number, as in fd://3"),
        ("fd://-1", "'-1' is no descriptor"),
        ("fd://99999999999999999999", "is no descriptor"),
    ],
)
def test_what_is_in_no_form_is_named_with_what_is_allowed(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        parse_bind(text)
    assert repr(text) in str(caught.value)


def test_what_is_no_text_is_a_type_error() -> None:
    of_socketserver = ("127.0.0.1", 5000)
    wrong: object
    for wrong in (5000, None, of_socketserver, b"127.0.0.1:0", ["127.0.0.1:0", 5000], ["127.0.0.1:0", ["127.0.0.1:0"]]):
        with pytest.raises(TypeError, match=r"allowed: .*HOST:PORT.*, a bound socket, or a list of these"):
            open_listeners(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("address", "meant"), [(("127.0.0.1", 5000), "127.0.0.1:5000"), (("::1", 5000, 0, 0), "[::1]:5000")]
)
def test_an_address_as_the_socket_module_gives_it_is_told_how_to_write_it(address: Any, meant: str) -> None:
    for wrong in (address, [address]):
        with pytest.raises(TypeError, match=re.escape(f'is tuple; allowed: {ALLOWED}; did you mean "{meant}"?')):
            open_listeners(wrong)


def test_nothing_at_all_is_refused() -> None:
    nothing: list[Sequence[str]] = [[], ()]
    for wrong in nothing:
        with pytest.raises(
            ValueError, match=re.escape(f"bind={wrong!r} names nothing to listen at; allowed: {ALLOWED}")
        ):
            open_listeners(wrong)


def test_what_is_there_twice_is_refused_but_for_any_free_port(opened: list[Listener]) -> None:
    opened += open_listeners(["127.0.0.1:0", "127.0.0.1:0"])
    first, second = opened
    assert first.address != second.address
    for twice in (str(first), first, first.sock):
        with pytest.raises(ValueError, match=re.escape(f"bind={twice!r} is there twice; once is enough")):
            each_bind([twice, "127.0.0.1:0", twice])


# -- several -------------------------------------------------------------------------------------------------------


@needs_unix
def test_several_of_every_kind_are_listened_at_in_their_order(folder: Path, opened: list[Listener]) -> None:
    given = only(open_listeners("127.0.0.1:0"))
    with socket.create_server(("127.0.0.1", 0)) as ours:
        opened += open_listeners([f"unix:{folder}/s", ours, given, "127.0.0.1:0"])
        path, copy, passed_on, port = opened
        assert (path.address, copy.address, passed_on) == (f"{folder}/s", ours.getsockname(), given)
        for listener in opened:
            talk(listener, listener.sock.family, listener.address)
        assert len({listener.address for listener in opened}) == 4
        assert str(port) == "{}:{}".format(*port.sock.getsockname())


@needs_unix
def test_if_one_of_several_cannot_be_had_it_is_named_and_nothing_stays_open(folder: Path) -> None:
    given = only(open_listeners("127.0.0.1:0"))
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as ours:
        wanted = "{}:{}".format(*taken.getsockname())
        before = len(os.listdir("/dev/fd"))
        with pytest.raises(BindError, match="in use") as caught:
            open_listeners(["127.0.0.1:0", f"unix:{folder}/s", ours, wanted, given])
        assert caught.value.bind == wanted
        assert len(os.listdir("/dev/fd")) == before - 1, "the one that was given is closed as well"
        assert not given.is_there()
        assert os.listdir(folder) == []
        assert ours.fileno() >= 0, "which is its owner's"


def test_what_is_in_no_form_is_named_before_anything_is_listened_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "bind", lambda sock, address: pytest.fail("it listens"))
    with pytest.raises(ValueError, match="bind='5000' is not HOST:PORT"):
        open_listeners(["127.0.0.1:0", "5000"])


def test_listeners_that_are_open_already_are_passed_through(opened: list[Listener]) -> None:
    opened += open_listeners("127.0.0.1:0")
    assert open_listeners(opened) == opened


# -- TCP -----------------------------------------------------------------------------------------------------------


def test_a_host_and_port_are_listened_on(opened: list[Listener]) -> None:
    opened += open_listeners("127.0.0.1:0")
    listener = only(opened)
    assert not listener.inherited
    assert not listener.sock.getblocking()
    assert not listener.sock.get_inheritable(), "programs that handlers start must not hold the port"
    assert listener.address == listener.sock.getsockname()
    assert str(listener) == "{}:{}".format(*listener.address)
    assert repr(listener) == f"<Listener {listener}>"
    talk(listener, socket.AF_INET, listener.sock.getsockname())


def test_the_kernel_is_asked_for_its_longest_queue(monkeypatch: pytest.MonkeyPatch, opened: list[Listener]) -> None:
    asked: list[int] = []
    monkeypatch.setattr(socket.socket, "listen", lambda sock, backlog: asked.append(backlog))
    opened += open_listeners("127.0.0.1:0")
    assert asked == [BACKLOG] == [65535]


@pytest.mark.skipif(os.name != "posix", reason="elsewhere SO_REUSEADDR lets two servers share a port")
def test_a_port_is_taken_again_while_connections_of_its_last_server_are_dying(opened: list[Listener]) -> None:
    first = only(open_listeners("127.0.0.1:0"))
    with socket.create_connection(first.sock.getsockname(), PATIENCE) as client:
        first.sock.setblocking(True)
        accepted, _ = first.sock.accept()
        accepted.close()  # this side ends first, so it is the port's that stays in TIME_WAIT
        assert client.recv(1) == b""
    first.close()
    opened += open_listeners(str(first))
    assert str(only(opened)) == str(first)


@needs_ipv6
def test_double_colon_takes_ipv4_clients_too(opened: list[Listener]) -> None:
    opened += open_listeners("[::]:0")
    listener = only(opened)
    port = listener.sock.getsockname()[1]
    assert str(listener) == f"[::]:{port}"
    talk(listener, socket.AF_INET6, ("::1", port))
    talk(listener, socket.AF_INET, ("127.0.0.1", port))


@needs_ipv6
@pytest.mark.parametrize("host", ["[::0]", "[0:0:0:0:0:0:0:0]", "[0000::]"])
def test_however_double_colon_is_spelled_it_takes_ipv4_clients_too(host: str, opened: list[Listener]) -> None:
    opened += open_listeners(f"{host}:0")
    listener = only(opened)
    port = listener.sock.getsockname()[1]
    assert str(listener) == f"[::]:{port}"
    talk(listener, socket.AF_INET, ("127.0.0.1", port))


@needs_ipv6
def test_an_ipv4_address_in_the_form_of_ipv6_is_listened_at(opened: list[Listener]) -> None:
    opened += open_listeners("[::ffff:127.0.0.1]:0")
    listener = only(opened)
    port = listener.sock.getsockname()[1]
    assert str(listener) == f"127.0.0.1:{port}"
    talk(listener, socket.AF_INET, ("127.0.0.1", port))


def link_local() -> str | None:
    """Return a link-local address of this machine, with its interface; None: it has none."""
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return None
    for digits, _, _, scope, flags, name in map(str.split, lines):
        if scope == "20" and not int(flags, 16) & 0x40:  # nor tentative
            host = ":".join(digits[at : at + 4] for at in range(0, 32, 4))
            return f"{IPv6Address(host)}%{name}"
    return None


def test_a_link_local_address_keeps_its_interface(opened: list[Listener]) -> None:
    """Without which it is no address: another server could not listen there, nor a client come."""
    host = link_local()
    if host is None:
        pytest.skip("this machine has no link-local address")
    opened += open_listeners(f"[{host}]:0")
    listener = only(opened)
    assert str(listener) == f"[{host}]:{listener.sock.getsockname()[1]}"
    talk(listener, socket.AF_INET6, listener.sock.getsockname())
    listener.close()
    opened += open_listeners(str(listener))
    assert str(opened[-1]) == str(listener)


@needs_ipv6
def test_another_ipv6_address_is_ipv6_alone(opened: list[Listener]) -> None:
    opened += open_listeners("[::1]:0")
    listener = only(opened)
    assert str(listener).startswith("[::1]:")
    assert listener.sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


def test_a_port_in_use_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        bind = f"127.0.0.1:{owner.getsockname()[1]}"
        with pytest.raises(BindError, match="in use; stop the other server, or choose another port") as caught:
            open_listeners(bind)
    assert caught.value.bind == bind
    assert bind in str(caught.value)
    assert isinstance(caught.value, OSError)
    assert (caught.value.errno, caught.value.strerror) == (errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def test_no_permission_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(sock: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(BindError, match="permission denied; ports below 1024") as caught:
        open_listeners("127.0.0.1:80")
    assert isinstance(caught.value.__cause__, PermissionError), "by which the command line chooses its status"


def named(*hosts: str) -> list[tuple[object, ...]]:
    """Return what getaddrinfo gives for a name of several addresses."""
    return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, 0)) for host in hosts]


def test_of_a_name_the_first_address_that_this_machine_has_is_taken(
    monkeypatch: pytest.MonkeyPatch, opened: list[Listener]
) -> None:
    """Such as localhost, on a machine without IPv6."""
    found = [(99, socket.SOCK_STREAM, 0, "", ("", 0)), *named("192.0.2.1", "127.0.0.1", "127.0.0.2")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: found)
    opened += open_listeners("name:0")
    assert str(only(opened)).startswith("127.0.0.1:")
    found[:] = named("192.0.2.1", "203.0.113.1")
    with pytest.raises(BindError, match="this machine has no such address"):
        open_listeners("name:0")


def test_an_address_in_use_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        port = owner.getsockname()[1]
        found = [(*how, (host, port)) for *how, (host, _) in named("127.0.0.1", "127.0.0.2")]  # type: ignore[misc, has-type]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: found)
        with pytest.raises(BindError, match="it is in use"):
            open_listeners(f"name:{port}")


@pytest.mark.parametrize(
    ("bind", "words"),
    [
        ("192.0.2.1:0", "this machine has no such address; 0.0.0.0 is all of IPv4"),  # TEST-NET-1, RFC 5737
        ("no such host:0", "'no such host' is no address of this machine"),
        (f"{'a' * 70}.invalid:0", "is no address of this machine: .*label"),
    ],
)
def test_a_host_that_is_not_here_is_named(bind: str, words: str) -> None:
    with pytest.raises(BindError, match=words):
        open_listeners(bind)


# -- UNIX ----------------------------------------------------------------------------------------------------------


@needs_unix
@pytest.mark.parametrize(("query", "mode"), [("", 0o600), ("?mode=660", 0o660), ("?mode=0666", 0o666)])
def test_a_unix_socket_has_its_mode_whatever_the_umask(
    query: str, mode: int, folder: Path, opened: list[Listener]
) -> None:
    before = os.umask(0o077 if mode != 0o600 else 0)
    try:
        opened += open_listeners(f"unix:{folder}/s{query}")
    finally:
        os.umask(before)
    listener = only(opened)
    assert stat.S_IMODE((folder / "s").stat().st_mode) == mode
    assert str(listener) == f"unix:{folder}/s"
    talk(listener, socket.AF_UNIX, f"{folder}/s")
    listener.close()
    assert not (folder / "s").exists()


@needs_unix
def test_a_stale_socket_file_is_replaced(folder: Path, opened: list[Listener]) -> None:
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(f"{folder}/s")
        gone.listen()
    assert (folder / "s").is_socket(), "as a server that was killed leaves it"
    opened += open_listeners(f"unix:{folder}/s")
    talk(only(opened), socket.AF_UNIX, f"{folder}/s")


BEGIN = """
import sys
from treadle.errors import BindError
from treadle.server._accept.listen import open_listeners
print("ready", flush=True)
for path in sys.stdin:
    try:
        listeners = open_listeners("unix:" + path.strip())
    except BindError as error:
        print("lost", error, flush=True)
    else:
        print("won", flush=True)
        input()
        listeners[0].close()
"""


@needs_unix
def test_of_servers_that_begin_together_at_one_stale_file_one_wins(folder: Path) -> None:
    """It is reachable, and nothing of it stays when it has ended."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", BEGIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
                )
            )
            for _ in range(4)
        ]
        ends = []
        for server in servers:
            assert server.stdin is not None
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            ends.append((server.stdin, server.stdout))
        for _ in range(15):
            with socket.socket(socket.AF_UNIX) as gone:
                gone.bind(f"{folder}/s")
            for order, _ in ends:
                order.write(f"{folder}/s\n")
            said = [answer.readline() for _, answer in ends]
            winner = said.index("won\n")
            assert all(
                "another server listens there" in line or "begins to listen there just now" in line
                for line in said[:winner] + said[winner + 1 :]
            )
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(PATIENCE)
                sock.connect(f"{folder}/s")
                assert [left.name for left in folder.iterdir()] == ["s"]
                ends[winner][0].write("\n")
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)  # it is closed, unserved
            assert list(folder.iterdir()) == []
        for order, _ in ends:
            order.close()


@needs_unix
def test_while_a_server_begins_to_listen_its_file_is_not_taken_for_a_stale_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, opened: list[Listener]
) -> None:
    listen, met = socket.socket.listen, []

    def another_begins_as_well(sock: socket.socket, backlog: int) -> None:
        monkeypatch.undo()
        with pytest.raises(BindError, match="another server begins to listen there just now") as caught:
            open_listeners(f"unix:{folder}/s")
        met.append(caught.value)
        listen(sock, backlog)

    monkeypatch.setattr(socket.socket, "listen", another_begins_as_well)
    opened += open_listeners(f"unix:{folder}/s")
    assert met
    talk(only(opened), socket.AF_UNIX, f"{folder}/s")


@needs_unix
def test_a_lock_that_was_removed_before_it_was_taken_is_made_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch, opened: list[Listener]
) -> None:
    """Else two would hold one each, of the same name."""
    fcntl = pytest.importorskip("fcntl")
    flock, taken = fcntl.flock, []

    def too_late(descriptor: int, how: int) -> None:
        flock(descriptor, how)
        taken.append(how)
        if len(taken) == 1:
            (folder / "s.treadle-lock").unlink()

    monkeypatch.setattr(fcntl, "flock", too_late)
    opened += open_listeners(f"unix:{folder}/s")
    assert len(taken) == 3, "twice taken, once let go"
    assert [left.name for left in folder.iterdir()] == ["s"]


@needs_unix
def test_the_lock_of_a_server_that_died_is_in_nobodys_way(folder: Path, opened: list[Listener]) -> None:
    (folder / "s.treadle-lock").touch()
    opened += open_listeners(f"unix:{folder}/s")
    assert [left.name for left in folder.iterdir()] == ["s"]


@needs_unix
def test_what_lies_in_the_place_of_the_lock_and_is_none_is_named(folder: Path) -> None:
    (folder / "s.treadle-lock").symlink_to(folder / "of great value")
    with pytest.raises(BindError, match=r"s\.treadle-lock is in the way .*; remove it"):
        open_listeners(f"unix:{folder}/s")
    assert (folder / "s.treadle-lock").is_symlink()
    assert not (folder / "of great value").exists()


@needs_unix
def test_a_symbolic_link_is_named_and_never_removed(folder: Path, opened: list[Listener]) -> None:
    link = folder / "link"
    link.symlink_to(folder / "s")
    with pytest.raises(BindError, match=f"link is a symbolic link to {folder}/s, which does not exist; remove"):
        open_listeners(f"unix:{link}")
    opened += open_listeners(f"unix:{folder}/s")
    with pytest.raises(BindError, match="another server listens there"):
        open_listeners(f"unix:{link}")
    only(opened).share()
    only(opened).close()
    with pytest.raises(BindError, match=f"link is a symbolic link to {folder}/s; listen there, or remove the link"):
        open_listeners(f"unix:{link}")
    assert link.is_symlink()
    assert (folder / "s").is_socket()


@needs_unix
def test_the_file_is_removed_wherever_the_program_has_gone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    listener = only(open_listeners("unix:s"))
    monkeypatch.chdir("/")
    listener.close()
    assert list(folder.iterdir()) == []


@needs_unix
def test_a_file_that_another_server_removes_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has come to its end just now."""
    path = tmp_path / "s"
    (before,) = open_listeners(f"unix:{path}")
    lstat = os.lstat

    def see_and_lose(what: str) -> os.stat_result:
        found = lstat(what)
        if what == str(path):
            monkeypatch.setattr(os, "lstat", lstat)
            before.close()
        return found

    monkeypatch.setattr(os, "lstat", see_and_lose)
    (listener,) = open_listeners(f"unix:{path}")
    assert path.is_socket()
    listener.close()


def test_the_file_of_a_living_server_stays_even_if_its_queue_is_full(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as living, socket.socket(socket.AF_UNIX) as client:
        living.bind(f"{folder}/s")
        living.listen(0)
        client.connect(f"{folder}/s")
        with pytest.raises(BindError, match="another server listens there; stop it first") as caught:
            open_listeners(f"unix:{folder}/s")
        assert (caught.value.errno, caught.value.filename) == (errno.EADDRINUSE, f"{folder}/s")
        assert (folder / "s").is_socket()


@needs_unix
def test_another_kind_of_file_is_never_removed(folder: Path) -> None:
    (folder / "notes").write_text("of great value")
    with pytest.raises(BindError, match="notes exists, and is no socket") as caught:
        open_listeners(f"unix:{folder}/notes")
    assert (caught.value.errno, caught.value.filename) == (errno.EADDRINUSE, f"{folder}/notes")
    assert (folder / "notes").read_text() == "of great value"


@needs_unix
@pytest.mark.parametrize(
    ("path", "words", "number"),
    [
        ("missing/s", "the folder of its path does not exist; make it, or choose another path", errno.ENOENT),
        ("x" * 200, rf"its path has 2\d\d bytes, and the system allows {LONGEST_PATH}", errno.ENAMETOOLONG),
        ("谢" * 50, rf"its path has 1\d\d bytes, and the system allows {LONGEST_PATH}", errno.ENAMETOOLONG),
    ],
)
def test_a_path_that_cannot_be_had_is_a_bind_error(path: str, words: str, number: int, folder: Path) -> None:
    with pytest.raises(BindError, match=f"cannot listen on unix:.*: {words}") as caught:
        open_listeners(f"unix:{folder}/{path}")
    assert caught.value.errno == number


@needs_unix
def test_the_longest_path_is_what_the_system_takes(folder: Path, opened: list[Listener]) -> None:
    path = f"{folder}/".ljust(LONGEST_PATH, "x")
    opened += open_listeners(f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(OSError, match="too long"):
        client.connect(f"{path}x")


@needs_unix
def test_the_file_of_a_relative_path_goes_though_the_program_has_gone_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (listener,) = open_listeners("unix:app.sock")
    monkeypatch.chdir("/")
    listener.close()
    assert not list(folder.iterdir())


def test_close_leaves_the_file_of_a_server_that_came_after(folder: Path, opened: list[Listener]) -> None:
    first = only(open_listeners(f"unix:{folder}/s"))
    (folder / "s").unlink()
    opened += open_listeners(f"unix:{folder}/s")
    first.close()
    talk(only(opened), socket.AF_UNIX, f"{folder}/s")


@needs_unix
def test_the_file_goes_before_the_socket_is_closed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else another server may take it for a stale one, and ours would then remove what it put there."""
    listener = only(open_listeners(f"unix:{folder}/s"))
    open_at_unlink: list[bool] = []
    unlink = os.unlink

    def spy(path: str) -> None:
        open_at_unlink.append(listener.sock.fileno() >= 0)
        unlink(path)

    monkeypatch.setattr(os, "unlink", spy)
    listener.close()
    listener.close()
    assert open_at_unlink == [True], "once, though it is closed twice"


@needs_unix
def test_a_child_that_shares_a_listener_leaves_the_file_to_its_parent(folder: Path) -> None:
    listener = only(open_listeners(f"unix:{folder}/s"))
    listener.share()
    listener.close()
    assert (folder / "s").is_socket()


# -- what others have opened -----------------------------------------------------------------------------------------


def test_a_bound_socket_is_used_and_stays_its_owners(opened: list[Listener]) -> None:
    with socket.socket() as owner:
        owner.bind(("127.0.0.1", 0))
        listener = only(open_listeners(owner))
        assert listener.inherited
        assert str(listener) == "{}:{}".format(*owner.getsockname())
        talk(listener, socket.AF_INET, owner.getsockname())
        listener.close()
        assert owner.fileno() >= 0
        opened += open_listeners(owner)


@needs_unix
def test_the_file_of_an_inherited_unix_socket_is_never_removed(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as owner:
        owner.bind(f"{folder}/s")
        listener = only(open_listeners(owner))
        assert str(listener) == f"unix:{folder}/s"
        listener.close()
        assert (folder / "s").is_socket()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract names")
def test_an_abstract_name_is_printable(opened: list[Listener]) -> None:
    name = f"\0treadle-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as owner:
        owner.bind(name)
        opened += open_listeners(owner)
        assert str(only(opened)) == f"unix:@{name[1:]}"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract names")
def test_an_abstract_name_is_listened_at_and_its_address_may_be_passed_back(opened: list[Listener]) -> None:
    bind = f"unix:@treadle-{os.getpid()}谢".ljust(LONGEST_PATH, "x")
    opened += open_listeners(bind)
    assert str(only(opened)) == bind
    talk(only(opened), socket.AF_UNIX, f"\0{bind[6:]}")
    with pytest.raises(BindError, match="another server listens there; stop it first"):
        open_listeners(str(only(opened)))
    only(opened).close()
    opened += open_listeners(bind)


@needs_unix
def test_where_there_are_no_abstract_names_it_says_how_to_write_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(BindError, match=r"only Linux has abstract names; .* write unix:\./@app"):
        open_listeners("unix:@app")


@needs_unix
def test_a_file_whose_name_looks_abstract_keeps_its_address(
    folder: Path, monkeypatch: pytest.MonkeyPatch, opened: list[Listener]
) -> None:
    monkeypatch.chdir(folder)
    opened += open_listeners("unix:./@s")
    assert str(only(opened)) == "unix:./@s"
    assert (folder / "@s").is_socket()
    only(opened).close()
    with socket.socket(socket.AF_UNIX) as owner:
        owner.bind("@s")
        opened += open_listeners(owner)
        assert str(opened[-1]) == "unix:./@s"


def test_what_was_closed_behind_its_back_is_not_closed_again() -> None:
    """The number may be that of something else by now."""
    listener = only(open_listeners("127.0.0.1:0"))
    number = listener.sock.fileno()
    reader, writer = os.pipe()
    os.dup2(reader, number)
    listener.close()
    for descriptor in (number, reader, writer):
        os.close(descriptor)


def test_a_descriptor_is_used_and_stays_open(opened: list[Listener]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        os.set_inheritable(owner.fileno(), True)
        listener = only(open_listeners(f"fd://{owner.fileno()}"))
        assert listener.inherited
        assert not owner.get_inheritable(), "programs that handlers start must not hold the port"
        talk(listener, socket.AF_INET, owner.getsockname())
        listener.close()
        opened += open_listeners(f"fd://{owner.fileno()}")


def test_an_unbound_socket_is_refused_rather_than_put_on_every_address() -> None:
    """The kernel would bind it to 0.0.0.0 and any port as soon as it listens."""
    with socket.socket() as unbound:
        for bind in (unbound, f"fd://{unbound.fileno()}"):
            with pytest.raises(BindError, match="it is not bound to an address"):
                open_listeners(bind)
        assert unbound.getsockname()[1] == 0


def test_other_descriptors_are_refused_and_none_is_lost() -> None:
    """That none is lost is what the fixture of all tests looks at."""
    reader, writer = os.pipe()
    try:
        with pytest.raises(BindError, match=f"descriptor {reader} is no socket"):
            open_listeners(f"fd://{reader}")
    finally:
        os.close(reader)
        os.close(writer)
    with pytest.raises(BindError, match=f"descriptor {reader} is no socket: Bad file descriptor"):
        open_listeners(f"fd://{reader}")
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        with pytest.raises(BindError, match=r"it is no stream socket but SOCK_DGRAM$"):
            open_listeners(f"fd://{datagrams.fileno()}")
    with socket.create_server(("127.0.0.1", 0)) as owner:
        with socket.create_connection(owner.getsockname(), PATIENCE) as connected:
            with pytest.raises(BindError, match="it does not listen"):
                open_listeners(connected)
    with pytest.raises(BindError, match="it is closed"):
        open_listeners(owner)


# -- systemd ---------------------------------------------------------------------------------------------------------

SYSTEMD = """
import os, socket, sys
from treadle.errors import BindError
from treadle.server._accept.listen import open_listeners
if os.fork() == 0:  # as systemd does: descriptors from 3 on, and the process that is to have them
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [server.getsockname()[1] for server in servers]
    reader, _ = os.pipe()
    spare = [os.dup2(server.fileno(), 20 + n, inheritable=False) for n, server in enumerate(servers)]
    junk = os.dup2(reader, 22, inheritable=False)
    for server in servers:
        server.detach()
    os.dup2(20, 3), os.dup2(21, 4), os.dup2(22, 5)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="web:admin")
    def show(bind):
        try:
            listeners = open_listeners(bind)
        except BindError as error:
            print(error)
            return
        print([ports.index(listener.sock.getsockname()[1]) for listener in listeners],
              all(listener.inherited for listener in listeners))
        for listener in listeners:
            listener.close()
    {body}
    sys.stdout.flush()
    os._exit(0)
assert os.wait()[1] == 0
"""


def systemd(body: str) -> list[str]:
    """Run `body` in a process to which systemd, so to say, has passed the sockets "web" and "admin"."""
    program = SYSTEMD.replace("{body}", body.replace("\n", "\n    "))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@needs_fork
def test_all_sockets_of_systemd_or_those_of_a_name() -> None:
    assert systemd('show("systemd")') == ["[0, 1] True"]
    assert systemd('show("systemd:web")') == ["[0] True"]


@needs_fork
def test_a_second_server_may_ask_systemd_for_another_socket_and_programs_are_told_nothing() -> None:
    out = systemd(
        'show("systemd:web")\nprint([name for name in os.environ if name.startswith("LISTEN_")])\n'
        'show("systemd:admin")\nshow("systemd:mail")'
    )
    assert out[:3] == ["[0] True", "[]", "[1] True"]
    assert out[3].endswith("systemd passed no such socket; it passed web, admin")


@needs_fork
def test_sockets_without_names_are_still_sockets() -> None:
    assert systemd('del os.environ["LISTEN_FDNAMES"]\nshow("systemd")') == ["[0, 1] True"]


@needs_fork
def test_if_one_of_systemds_sockets_is_none_the_others_are_not_lost() -> None:
    """-W error makes a lost socket complain on standard error."""
    (line,) = systemd('os.environ["LISTEN_FDS"] = "3"\nshow("systemd")')
    assert "descriptor 5 is no socket" in line


@pytest.mark.parametrize(
    ("pid", "count", "words"),
    [
        (None, "1", "systemd passed no sockets to this process"),
        ("1", "1", "systemd passed no sockets to this process"),  # they are meant for another
        ("own", "0", "systemd passed no sockets to this process"),
        ("own", "many", "LISTEN_FDS='many' is no number"),
        ("own", None, "LISTEN_FDS='' is no number"),
    ],
)
def test_without_sockets_of_systemd_it_says_so(
    pid: str | None, count: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pid is not None:
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()) if pid == "own" else pid)
    if count is not None:
        monkeypatch.setenv("LISTEN_FDS", count)
    with pytest.raises(BindError, match=words):
        open_listeners("systemd")
    if pid == "1":
        assert os.environ["LISTEN_PID"] == "1", "what is meant for another process is not ours to remove"
