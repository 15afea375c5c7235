"""The path of a message: through how many modules it goes, and which system calls it makes."""

from __future__ import annotations

import select
import sys
from types import BuiltinFunctionType, FrameType
from typing import Any

import pytest

from tcp import ask, client
from treadle.server import LengthPrefix, Lines, Messages, Peer, Raw, Server
from treadle.server._serving import driver

# What C functions belong to that ask nothing of the system; `monotonic` reads a page that the kernel shares.
COMPUTE = {"bytes", "bytearray", "memoryview", "int", "list", "dict", "deque", "tuple", "type", "Context"}
COMPUTE_ALSO = {"builtins.len", "time.monotonic"}


class Path:
    """Notes, in the thread that leads, what is called from one message's handler to the next one's."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget what was noted."""
        self.modules: set[str] = {driver.__name__}  # `run`, which has begun already
        self.kernel: list[str] = []

    def handle(self, message: bytes, peer: Peer) -> bytes:
        sys.setprofile(self.note if message == b"begin" else None)
        return message

    def note(self, frame: FrameType, event: str, arg: Any) -> None:
        """Be the profile function."""
        if event == "call":
            module = frame.f_globals["__name__"]
            if module != __name__:
                self.modules.add(module)
        elif event == "c_call" and isinstance(arg, BuiltinFunctionType):
            owner = arg.__self__
            name = f"{owner.__name__ if hasattr(owner, '__name__') else type(owner).__name__}.{arg.__name__}"
            if type(owner).__name__ not in COMPUTE and name not in {*COMPUTE_ALSO, "sys.setprofile"}:
                self.kernel.append(name)


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="other pollers translate what they are told, in Python")
@pytest.mark.usefixtures("blind_watchdog")  # a look of its own is no part of the path
@pytest.mark.parametrize("framing", [Raw(), Lines(), LengthPrefix()])
def test_an_inline_message_passes_through_five_modules_and_makes_no_system_call_but_recv_and_send(framing: Any) -> None:
    """And `poll`, once for all connections that are ready.

    It is the shortest of several paths: where the machine is slow, so are handlers, which then run on other threads.
    """
    path = Path()
    paths: list[tuple[list[str], set[str]]] = []
    frame = {Raw: bytes, Lines: lambda word: word + b"\n", LengthPrefix: LengthPrefix().pack}[type(framing)]
    with Server(Messages(path.handle, framing), "127.0.0.1:0", max_workers=1) as server, client(server) as sock:
        for _ in range(10):
            path.begin()
            for word in (b"first", b"begin", b"end"):
                assert ask(sock, frame(word), len(word)) == word
            paths.append((path.kernel, path.modules))
    kernel, modules = min(paths, key=lambda path: len(path[0]))
    assert kernel == ["socket.send", "epoll.poll", "socket.recv"]
    assert len(modules) <= 5, sorted(modules)
    assert all(name.startswith("treadle.") for name in modules)
