"""Protocol: what is one. Any object with the same attributes can be served."""

from __future__ import annotations

from collections.abc import Sequence

from tcp import ask, client
from treadle.server import Limits, Peer, Server


class Numbers:
    """A protocol of one's own: whole messages are single bytes, and arrive as numbers."""

    name, greeting, speaks_first, converse = "numbers", b"", False, None
    held = 0

    def decoder(self, limits: Limits) -> Numbers:
        return self

    def feed(self, data: bytes) -> Sequence[int]:
        return list(data)

    def finish(self) -> Sequence[int]:
        return ()

    def handle(self, message: int, peer: Peer) -> bytes:
        return b"%d " % message


def test_an_object_of_ones_own_is_served() -> None:
    with Server(Numbers(), "127.0.0.1:0", max_workers=1) as server, client(server) as sock:
        assert ask(sock, b"ABC", 9) == b"65 66 67 "
