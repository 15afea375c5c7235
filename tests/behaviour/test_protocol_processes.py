"""What a protocol may have, served by several processes: each answers its clients, and a stop all that was begun."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from behaviour.forms import FORMS, answer_to, sent_for
from behaviour.posts import post, told
from certificates import Authority
from programs import PATIENCE, TREADLE, Program
from tcp import ask, receive, receive_all

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

SOURCES = [Path(__file__).parents[1], Path(__file__).parents[2] / "src"]


class Family:
    """Two processes that serve one protocol, and as many clients of each."""

    def __init__(self, program: Program, context: Any, gate: Path, each: int) -> None:
        self.program = program
        self._context = context
        self._gate = gate
        self._each = each

    @contextmanager
    def clients(self) -> Iterator[tuple[list[Any], list[Any]]]:
        """Have as many clients come in to each process as it lets in."""
        address = ("127.0.0.1", self.program.wait_for_port())
        self.program.wait_for(r"(?:process \d+ serves[\s\S]*){2}")
        found: dict[int, list[Any]] = {}
        with ExitStack() as stack:
            for _ in range(2 * self._each):
                sock: Any = stack.enter_context(socket.create_connection(address, PATIENCE))
                if self._context is not None:
                    options = {"server_hostname": "127.0.0.1", "suppress_ragged_eofs": False}
                    sock = stack.enter_context(self._context.wrap_socket(sock, **options))
                sock.sendall(post(b"where"))
                found.setdefault(int(sock.makefile("rb").readline()), []).append(sock)
            first, second = found.values()
            assert len(first) == len(second) == self._each
            yield first, second

    @contextmanager
    def gate(self) -> Iterator[None]:
        """Let those pass who wait at it, and whoever comes."""
        descriptor = os.open(self._gate, os.O_RDWR)
        try:
            yield
        finally:
            os.close(descriptor)

    def ends_in_order(self) -> str:
        """Wait for the end; return what was said."""
        assert self.program.wait() == 0, self.program.output
        assert len(re.findall(r"stopped: .* 0 cut", self.program.output)) == 2, self.program.output
        return self.program.output


def told_in(output: str) -> list[tuple[str, int, str]]:
    """Return what the protocol was told of, in order of the messages, but for b"where"."""
    found = re.findall(r"^over: \d+, (.*), (\d+), (\w+)$", output, re.MULTILINE)
    return sorted((body, int(sent), error) for body, sent, error in found if body != "where")


def in_order(bodies: list[bytes]) -> list[tuple[str, int, str]]:
    """Return what is told of messages that were answered."""
    return sorted((body.decode(), len(answer_to(body)), "NoneType") for body in bodies if not body.startswith(b"ping"))


@contextmanager
def serving(folder: Path, secure: bool, each: int, *options: str, served: str = "SERVED") -> Iterator[Family]:
    """Have two processes serve, each so many clients at a time."""
    gate = folder / "gate"
    os.mkfifo(gate)
    command = [*TREADLE, "tcp", f"behaviour.forms:{served}", "--bind", "127.0.0.1:0", "--processes", "2"]
    command += ["--threads", "4", "--max-connections", str(each), "--drain-timeout", "30", *options]
    context = None
    if secure:
        authority = Authority(folder)
        files = authority.issue("127.0.0.1")
        command += ["--certfile", str(files.certfile), "--keyfile", str(files.keyfile)]
        context = authority.client_context()
    path = os.pathsep.join([*map(str, SOURCES), os.environ.get("PYTHONPATH", "")])
    with Program(command, env={"PYTHONPATH": path, "FORMS_GATE": str(gate)}) as program:
        yield Family(program, context, gate, each)


@pytest.mark.parametrize("secure", [False, True])
def test_every_form_of_answer_comes_in_its_turn_and_conversations_pause(secure: bool, tmp_path: Path) -> None:
    every = []
    with serving(tmp_path, secure, 3, "--threads", "2") as family, family.clients() as (first, second):
        socks, bursts = first + second, []
        for who, sock in enumerate(socks):
            dice = random.Random(who)
            bodies = [b"%s %d-%d" % (form.encode(), who, number) for form in FORMS for number in range(2)]
            dice.shuffle(bodies)
            bodies.append(b"talk")
            sock.sendall(b"".join(map(sent_for, bodies)) + b"behind\n")
            bursts.append(bodies)
            every += bodies

        def read(sock: Any, bodies: list[bytes]) -> None:
            for body in bodies:
                assert receive(sock, len(answer_to(body))) == answer_to(body), (body, bodies)
            assert receive(sock, 7) == b"BEHIND\n"

        with ThreadPoolExecutor(len(socks)) as readers:  # all at once: a conversation waits for who does not read
            list(readers.map(read, socks, bursts))
        for _ in range(2):
            for sock in socks:
                assert ask(sock, b"next\n") == b"NEXT\n"
        family.program.send(signal.SIGTERM)
        for sock in socks:
            assert receive_all(sock) == b""
            sock.close()
        assert told_in(family.ends_in_order()) == in_order(every)


@pytest.mark.parametrize("secure", [False, True])
def test_a_stop_answers_what_was_begun_in_each_and_closes_what_is_idle(secure: bool, tmp_path: Path) -> None:
    with serving(tmp_path, secure, 5) as family, family.clients() as both:
        whole, amid, half, paused, idle = zip(*both, strict=True)
        for sock in paused:
            assert ask(sock, post(b"talk") + b"a\n", 7) == b"talk\nA\n"
        for sock in half:
            assert ask(sock, post(b"list") + b"7\nin", 5) == b"list\n"
        for sock in whole:
            sock.sendall(post(b"hold", b"file"))
        for sock in amid:
            sock.sendall(post(b"held", b"file"))
            assert receive(sock, 2) == b"he"
        family.program.wait_for(r"(?:at the gate[\s\S]*){4}")
        family.program.send(signal.SIGTERM)
        for sock in paused + idle:
            assert receive_all(sock) == b""
            sock.close()
        with family.gate():
            for sock in half:
                sock.sendall(b"stant")
            for group, answers in ((whole, b"hold\nfile\n"), (amid, b"ld\nfile\n"), (half, b"instant\n")):
                for sock in group:
                    assert receive_all(sock) == answers
                    sock.close()
            bodies = [b"talk", b"list", b"instant", b"hold", b"file", b"held", b"file"] * 2
            assert told_in(family.ends_in_order()) == in_order(bodies)


@pytest.mark.parametrize("secure", [False, True])
def test_who_is_late_is_told_so_by_each_and_a_handler_that_never_ends_keeps_none_of_them(
    secure: bool, tmp_path: Path
) -> None:
    options = ("--handler-timeout", "0.3", "--drain-timeout", "1")
    with serving(tmp_path, secure, 3, *options, served="HASTY") as family, family.clients() as both:
        dripping, overdue, others = zip(*both, strict=True)
        for sock in dripping:
            sock.sendall(post(b"bytes") + b"5\nlis")
        for sock in overdue:
            sock.sendall(post(b"hold", b"list"))
        for group, said in ((dripping, b"bytes\n" + told("body_timeout")), (overdue, told("handler_timeout", b"hold"))):
            for sock in group:
                assert receive_all(sock) == said
                sock.close()
        for sock in others:
            assert ask(sock, post(b"file"), 5) == b"file\n"
            sock.close()
        family.program.send(signal.SIGTERM)
        lost = [(body, 0, "ConnectionAbortedError") for body in ("hold", "list")] * 2  # also of whom never ends
        assert told_in(family.ends_in_order()) == sorted(in_order([b"bytes", b"file"] * 2) + lost)
        assert family.program.output.count("1 handler still runs") == 2
