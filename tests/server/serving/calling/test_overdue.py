"""Overdue: who has a connection whose handler runs for too long. What clients see: behaviour/test_server_overdue.py."""

from __future__ import annotations

import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextvars import Context
from pathlib import Path
from typing import Any

import pytest

from tcp import PATIENCE
from treadle._base import clock
from treadle._base.log_throttle import LogThrottles
from treadle.errors import DeadlineExceeded
from treadle.server import FileRange, Limits, Lines, Messages, Peer
from treadle.server._loop.event_loop import EventLoop
from treadle.server._serving.calling.overdue import Exceeded, Overdue, TakenAway, text_of
from treadle.server._transport.connection import ClientConnection
from treadle.server._transport.deadlines import Deadlines
from treadle.server._transport.io import ConnectionIO
from treadle.server._transport.state import State


class Scene:
    """One connection, whose handler is what a test says."""

    def __init__(self, ours: socket.socket, seconds: float = 0.001) -> None:
        self.loop = EventLoop("loop")
        limits, throttles = Limits(), LogThrottles()
        self.left: list[str] = []
        self.io = ConnectionIO(
            self.loop, limits, Deadlines(limits), lambda conn, why: self.left.append(why), throttles, inline=False
        )
        self.call: Callable[[], Any] = lambda: b"answer"
        protocol = Messages(lambda line, peer: self.call(), Lines())
        self.overdue = Overdue(self.io, protocol, seconds, throttles)
        self.conn = ClientConnection(ours, Peer("", ours), Lines().decoder(100), Context(), 0.0)
        self.loop.sources[self.conn.fd] = self.conn
        self.conn.state = State.BUSY

    def take(self) -> None:
        """What the leader does, when the time is over."""
        self.overdue.take(self.conn)

    def take_late(self) -> None:
        until = clock.now() + 0.002
        while clock.now() < until:
            pass
        self.take()


@pytest.fixture
def scene() -> Iterator[Scene]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        made = Scene(ours)
        yield made
        made.loop.close()


def test_a_handler_that_is_done_keeps_its_connection(scene: Scene) -> None:
    assert scene.overdue.handle(b"x", scene.conn.peer) == b"answer"
    scene.take_late()
    assert (scene.conn.state, scene.overdue.running, scene.overdue.claims) == (State.BUSY, 0, {})


def test_a_handler_whose_connection_was_taken_is_told_so_in_place_of_its_answer(scene: Scene) -> None:
    running: list[int] = []

    def call() -> bytes:
        scene.take_late()
        running.append(scene.overdue.running)
        scene.take()
        return b"late"

    scene.call = call
    with pytest.raises(TakenAway) as caught:
        scene.overdue.handle(b"x", scene.conn.peer)
    assert caught.value.__context__ is None
    assert (scene.conn.state, scene.left) == (State.CLOSED, ["handler_timeout"])
    assert (running, scene.overdue.running, scene.overdue.claims) == ([1], 0, {})


class Pieces:
    """An answer in pieces, of which none is asked for."""

    closed = 0

    def __iter__(self) -> Pieces:
        return self

    def __next__(self) -> bytes:
        raise NotImplementedError

    def close(self) -> None:
        self.closed += 1
        raise ValueError("cannot be closed")


@pytest.mark.parametrize("kind", ["file", "list", "pieces"])
def test_an_answer_that_comes_too_late_is_closed(scene: Scene, kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    file, pieces = (tmp_path / "file").open("rb"), Pieces()
    answer: Any = {"file": FileRange(file), "list": [b"head", FileRange(file), 7], "pieces": pieces}[kind]

    def call() -> Any:
        scene.take_late()
        return answer

    scene.call = call
    with pytest.raises(TakenAway) as caught:
        scene.overdue.handle(b"x", scene.conn.peer)
    assert (file.closed, pieces.closed) == (kind != "pieces", kind == "pieces")
    file.close()
    assert isinstance(caught.value.__context__, ValueError if kind == "pieces" else type(None))


@pytest.mark.parametrize(("error", "kind"), [(ValueError("mine"), ValueError), (DeadlineExceeded(1.0), Exceeded)])
def test_what_it_raised_is_the_context(scene: Scene, error: Exception, kind: type[BaseException]) -> None:
    def call() -> bytes:
        scene.take_late()
        raise error

    scene.call = call
    with pytest.raises(TakenAway) as caught:
        scene.overdue.handle(b"x", scene.conn.peer)
    assert isinstance(caught.value.__context__, kind)


def test_a_handler_that_says_itself_that_its_time_is_over_tells_its_message(scene: Scene) -> None:
    error = DeadlineExceeded(1.0)

    def call() -> bytes:
        raise error

    scene.call = call
    with pytest.raises(Exceeded) as caught:
        scene.overdue.handle(b"x", scene.conn.peer)
    assert (caught.value.message, caught.value.__cause__) == (b"x", error)


def test_a_handler_that_has_just_begun_is_not_judged_by_the_time_of_the_one_before() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        scene = Scene(ours, PATIENCE)

        def call() -> bytes:
            scene.take()
            return b"answer"

        scene.call = call
        assert scene.overdue.handle(b"x", scene.conn.peer) == b"answer"
        scene.loop.close()


def test_only_one_side_gets_it(scene: Scene) -> None:
    """The handler returns while the leader takes: either it has lost, and the connection is closed, or neither."""
    for _ in range(200):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            made = Scene(ours, 1e-9)
            ready = threading.Barrier(2)

            def take(made: Scene = made, ready: threading.Barrier = ready) -> None:
                ready.wait(PATIENCE)
                made.take()

            def call(ready: threading.Barrier = ready) -> bytes:
                ready.wait(PATIENCE)
                return b"answer"

            made.call = call
            leader = threading.Thread(target=take)
            leader.start()
            try:
                made.overdue.handle(b"x", made.conn.peer)
                kept = True
            except TakenAway:
                kept = False
            leader.join(PATIENCE)
            assert (made.conn.state is State.BUSY) is kept
            assert made.overdue.running == 0
            made.loop.close()


def test_a_stack_whose_sources_cannot_be_read_is_told_without_them() -> None:
    class Odd(traceback.StackSummary):
        def format(self, **_: Any) -> list[str]:
            raise ValueError

    stack = Odd.extract([], lookup_lines=False)
    stack.append(traceback.FrameSummary("there.py", 7, "handle", lookup_line=False))
    assert text_of(stack) == "  there.py, line 7, in handle"


class Late:
    """Gives a piece too late, in whichever step; closing it fails."""

    def __init__(self, scene: Scene, step: str) -> None:
        self.scene, self.step = scene, step
        self.closed = 0

    def __iter__(self) -> Late:
        return self

    def __next__(self) -> bytes:
        if self.step == "next":
            self.scene.take_late()
            return b"late"
        raise StopIteration

    def close(self) -> None:
        self.closed += 1
        if self.step == "close":
            self.scene.take_late()
        raise ValueError("closing")


@pytest.mark.parametrize("step", ["next", "close"])
def test_of_pieces_that_come_too_late_the_connection_is_taken_whatever_closing_them_does(
    scene: Scene, step: str
) -> None:
    """What was raised is told of as a failure, but not as one that ends a connection, which is another's by now."""
    pieces = Late(scene, step)
    with pytest.raises(TakenAway) as raised:
        list(scene.overdue.each(scene.conn, b"message", pieces))
    assert isinstance(raised.value.__context__, ValueError)
    assert (pieces.closed, scene.overdue.running, scene.overdue.claims) == (1, 0, {})


def test_pieces_that_come_in_time_are_closed_once(scene: Scene) -> None:
    def numbers() -> Iterator[bytes]:
        try:
            yield b"one"
            yield b"two"
        finally:
            closed.append(scene.conn.timing.handled > 0)

    closed: list[bool] = []
    scene.overdue.seconds = PATIENCE
    assert list(scene.overdue.each(scene.conn, b"message", numbers())) == [b"one", b"two"]
    part = scene.overdue.each(scene.conn, b"message", numbers())
    assert next(part) == b"one"
    assert scene.conn.timing.handled == 0.0  # while the client takes it
    part.close()  # type: ignore[attr-defined]
    assert closed == [True, True]
