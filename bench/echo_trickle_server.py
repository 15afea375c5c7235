"""What a server does that is measured with `trickle`: each line that says so is answered with as much as was told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, Thread
from typing import Any

ASK = b"t"  # the line that is answered so; all others are sent back
WAYS = ("pieces", "bytes", "file", "session")
BLOCK = (bytes(range(251)) * 262)[: 1 << 16]  # of which all answers are made
OFTEN = 0.01  # seconds from one look at the threads to the next


def blocks(size: int) -> Iterator[bytes]:
    """Give an answer of `size` bytes piece by piece; each is made anew, for it takes memory then, as in earnest."""
    for begin in range(0, size, len(BLOCK)):
        yield bytes(memoryview(BLOCK)[: size - begin])


class Answers:
    """Gives each client its answer, in one of WAYS, and counts who is about to.

    Args:
        way: "pieces", from an iterator; "bytes", which are made anew for each client; "file", as a FileRange; or
            "session": a conversation that writes the pieces, and holds its thread meanwhile.
        size: bytes of an answer.
        folder: where the file is.

    Attributes:
        running: threads that are making an answer, or waiting for a client to take it.
        most: of these, at most so far.
        ended: answers that no thread has anything to do with any more.
    """

    def __init__(self, way: str, size: int, folder: Path) -> None:
        self.way = way
        self.size = size
        self.file = folder / "answer"
        if way == "file":
            with self.file.open("wb") as file:
                file.writelines(blocks(size))
        self._lock = Lock()
        self.running = self.most = self.ended = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the thread that is in this block."""
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            yield
        finally:
            with self._lock:
                self.running -= 1
                self.ended += 1

    def answer(self, line: bytes, peer: object) -> Any:
        """Return the answer to a message."""
        if line != ASK:
            return line + b"\n"
        if self.way == "pieces":
            return self.pieces()
        with self.counted():
            return b"".join(blocks(self.size)) if self.way == "bytes" else self.part()

    def pieces(self) -> Iterator[bytes]:
        """Give the pieces of the answer."""
        with self.counted():
            yield from blocks(self.size)

    def part(self) -> Any:
        """Return the answer as that which is in the file."""
        from treadle.server import FileRange

        return FileRange(self.file.open("rb"))

    def talk(self, conn: Any) -> None:
        """Answer the lines of a conversation, which ends with the large answer."""
        while (line := conn.readline()) and line != ASK + b"\n":
            conn.sendall(line)
        if line:
            with self.counted():
                for block in blocks(self.size):
                    conn.sendall(block)

    def protocol(self) -> Any:
        """Return what treadle serves; a line is its own kind, so those that are sent back leave the others behind."""
        from treadle.server import Lines, Messages, Session

        return Session(self.talk) if self.way == "session" else Messages(self.answer, Lines(), kind=bytes)

    def watch(self, path: Path) -> None:
        """Write down in `path`, as long as the process lives, an instant, `running`, `most`, `ended`; line by line."""
        Thread(target=self._watch, args=(path,), daemon=True).start()

    def _watch(self, path: Path) -> None:
        with path.open("w", buffering=1, encoding="ascii") as file:
            while True:
                with self._lock:
                    counts = self.running, self.most, self.ended
                print(f"{time.monotonic():.3f}", *counts, file=file)
                time.sleep(OFTEN)
