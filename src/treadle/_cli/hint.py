"""Hint: a line for the shell that says hello to a server, with what Python itself can do."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Any

from treadle.server._protocols.framing import Delimiter, LengthPrefix
from treadle.server._transport.peer import host_of

if TYPE_CHECKING:
    from treadle.server._accept.listen import Listener

__all__ = ["hello_in", "hello_to", "near"]

HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # of a listener at all addresses, one that can be connected to
NOT_IN_DOUBLE_QUOTES = frozenset('"$`!')  # in which any shell takes the rest as it is, cmd.exe too


def near(listener: Listener) -> tuple[str, int] | None:
    """Return host and port at which a listener is reached from here; None: it is a UNIX socket."""
    address: Any = listener.address
    if not isinstance(address, tuple):
        return None
    return HERE.get(address[0], host_of(address)), address[1]


def hello_in(framing: object) -> bytes:
    """Return hello as a message of this framing; as a line, where it is none of treadle's own."""
    if isinstance(framing, LengthPrefix):
        return framing.pack(b"hello")
    return b"hello" + (framing.delimiter if isinstance(framing, Delimiter) else b"\n")


def hello_to(
    listener: Listener, said: bytes = b"hello\n", *, header: bytes = b"", tls: bool = False, identify: bool = False
) -> str:
    """Return the line that connects, says hello, and prints what is answered.

    Args:
        listener: where to connect to.
        said: the message.
        header: what comes before it.
        tls: whether it is said over TLS. Then it is left to be typed.
        identify: whether clients must show a certificate, for which there are two words to replace.
    """
    address = near(listener)
    path: Any = listener.address
    if tls:  # whose certificate is the server's own affair
        where = f"-unix {quote(path)}" if address is None else f"-connect {quote(_joined(address))}"
        return f"openssl s_client -quiet {where}{' -cert CERTFILE -key KEYFILE' if identify else ''}"
    way = f"socket.create_connection({address})" if address else f"socket.socket(socket.AF_UNIX); s.connect({path!r})"
    program = f"import socket; s = {way}; s.send({header + said!r}); print(s.recv(99))"
    plain = NOT_IN_DOUBLE_QUOTES.isdisjoint(program) and "\\\\" not in program
    return f'python3 -c "{program}"' if plain else f"python3 -c {quote(program)}"


def _joined(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
