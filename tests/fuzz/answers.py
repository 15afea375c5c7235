"""Answers: all that a handler may return, and what of it a client is to get."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from fuzz.disk import FakeFile
from fuzz.parts import LARGEST, HandlerFault
from treadle.errors import DeadlineExceeded
from treadle.server import CloseConnection, FileRange

if TYPE_CHECKING:
    from fuzz.parts import Client, Turn
    from fuzz.world import World

__all__ = ["Pieces", "answer_of"]


def answer_of(world: World, client: Client, turn: Turn, data: bytes) -> Any:
    """Return an answer that comes to `data`, in one of many shapes; note it in `turn`, as far as it is made."""
    dice = world.dice
    shape = dice.random() if world.shapes else 1.0
    if shape < 0.25:
        return Pieces(world, client, turn, split(world, data))
    turn.answer += data
    if shape < 0.4:
        kinds: list[Callable[[bytes], Any]] = [bytes, client.lend, memoryview, partial(file_of, world, client, turn)]
        return dice.choice([list, tuple])(dice.choice(kinds)(piece) for piece in split(world, data))
    if shape < 0.6:
        return file_of(world, client, turn, data)
    return dice.choice([bytes, bytes, bytes, client.lend, memoryview])(data)


def split(world: World, data: bytes) -> list[bytes]:
    """Return `data` in pieces, some of them empty."""
    dice, pieces = world.dice, list[bytes]()
    most = dice.choice([3 + len(data) // 30, 100, LARGEST])
    while data:
        size = dice.randrange(most + 1)
        pieces.append(data[:size])
        data = data[size:]
    return pieces


def file_of(world: World, client: Client, turn: Turn, data: bytes) -> FileRange:
    """Return it as part of a file, which may turn out shorter."""
    dice = world.dice
    before, behind = dice.choice([0, 0, 5, 2000]), dice.choice([0, 0, 7])
    file = FakeFile(world.disk, b"#" * before + data + b"#" * behind)
    answer = FileRange(file, before, len(data) if behind or dice.random() < 0.5 else None)
    if data and dice.random() < world.failing_handlers:
        client.closing, turn.whole = True, False
        del file.data[before + dice.randrange(len(data)) :]
    return answer


class Pieces:
    """An iterator of an answer's pieces, which takes its time, and fails now and then."""

    def __init__(self, world: World, client: Client, turn: Turn, pieces: list[bytes]) -> None:
        self.world = world
        self.client = client
        self.turn = turn
        self.left = pieces[::-1]
        self.thread = world.stage.me()
        self.closed = 0
        world.pieces.append(self)

    def __iter__(self) -> Pieces:
        return self

    def __next__(self) -> Any:
        world, client, turn, dice = self.world, self.client, self.turn, self.world.dice
        self.look("asked")
        if client.inside:
            world.stage.tear(f"a piece for client {client.number} is made while another handler of it runs")
        client.inside = True
        client.change_answer()
        world.linger_in_handler()
        client.inside = False
        if dice.random() < world.failing_handlers / 4:
            return self.fail()
        if not self.left:
            raise StopIteration
        piece = self.left.pop()
        turn.answer += piece
        return dice.choice([bytes, bytes, client.lend, memoryview])(piece)

    def fail(self) -> Any:
        """End the answer, and with it the connection, in one of many ways."""
        self.client.closing = True
        kind = self.world.dice.randrange(4)
        if kind == 0:
            self.turn.answer += b"bye"
            raise CloseConnection(b"bye")
        self.turn.whole = False
        if kind == 1:
            return self.world.dice.choice(["text", 1, None, [b"x"]])
        faults = [HandlerFault, SystemExit, GeneratorExit, ConnectionResetError, DeadlineExceeded]
        raise self.world.dice.choice(faults)("x")

    def close(self) -> None:
        """Note it; and fail perhaps, after which the connection is closed."""
        self.look("closed")
        self.closed += 1
        if self.world.dice.random() < self.world.failing_handlers / 10:
            self.client.closing = True
            raise HandlerFault("cannot be closed")

    def look(self, what: str) -> None:
        """Fail if it is over, or this is another thread."""
        stage = self.world.stage
        if stage.failure is None and (self.closed or stage.me() is not self.thread):
            stage.tear(f"pieces of client {self.client.number} are {what}, closed {self.closed} times, by {stage.me()}")
