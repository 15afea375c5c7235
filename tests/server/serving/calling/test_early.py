"""Instants: what a protocol answers at once, and what it does wrong."""

from __future__ import annotations

from typing import Any

import pytest

from treadle._base.log_throttle import LogThrottles
from treadle.server._serving.calling.early import Instants


def test_an_answer_is_bytes_and_none_is_the_handlers() -> None:
    answers: dict[bytes, Any] = {b"full": b"answer", b"empty": b"", b"none": None}
    instants = Instants(answers.__getitem__, LogThrottles(), "handler")
    assert [instants.find(message) for message in answers] == [b"answer", b"", None]


@pytest.mark.parametrize("answer", ["text", bytearray(b"x"), memoryview(b"x"), 7, False])
def test_anything_else_is_told_once_and_is_the_handlers(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    instants = Instants(lambda message: answer, LogThrottles(), "handler")
    assert [instants.find(b"x"), instants.find(b"x")] == [None, None]
    wrong = f"instant() returned {type(answer).__name__}; allowed: bytes, or None"
    assert caplog.messages == [f"handler: {wrong}; the message goes to the handler"]


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(), KeyboardInterrupt()])
def test_what_it_raises_is_told_with_its_traceback_and_harms_nobody(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(message: bytes) -> bytes:
        raise error

    instants = Instants(fails, LogThrottles(), "handler")
    assert [instants.find(b"x"), instants.find(b"x")] == [None, None]
    (record,) = caplog.records
    assert record.getMessage() == "handler: instant() failed; the message goes to the handler"
    assert record.exc_info is not None
    assert record.exc_info[1] is error
