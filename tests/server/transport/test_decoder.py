"""RawDecoder, CloseConnection and Reply: what they take and give."""

from __future__ import annotations

import pytest

from treadle.server import CloseConnection, Reply
from treadle.server._transport.decoder import RawDecoder


def test_a_chunk_is_passed_on_whole_or_in_pieces_of_the_limit() -> None:
    decoder = RawDecoder(4)
    assert list(decoder.feed(b"abcd")) == [b"abcd"]
    assert list(decoder.feed(b"abcdefghi")) == [b"abcd", b"efgh", b"i"]
    assert list(decoder.finish()) == []
    assert decoder.held == 0


def test_the_last_word_is_bytes() -> None:
    assert CloseConnection(bytearray(b"bye")).answer == b"bye"
    assert CloseConnection().answer == b""
    with pytest.raises(TypeError, match="answer='bye' is str; allowed: bytes"):
        CloseConnection("bye")  # type: ignore[arg-type]


def test_a_reply_is_bytes_and_interim_unless_it_says_otherwise() -> None:
    assert Reply(memoryview(b"go")).answer == b"go"
    assert (Reply(b"go").final, Reply(b"done", final=True).final) == (False, True)
    assert (repr(Reply(b"go")), repr(Reply(b"", final=True))) == ("Reply(b'go')", "Reply(b'', final=True)")
    with pytest.raises(TypeError, match="answer='go' is str; allowed: bytes"):
        Reply("go")  # type: ignore[arg-type]
