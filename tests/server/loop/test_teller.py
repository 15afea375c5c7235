"""Teller: what is said, by whom, and who does not wait for it."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from tcp import PATIENCE
from treadle.server._loop import teller as module
from treadle.server._loop.teller import MOST, Teller


def test_things_are_said_in_their_order_and_in_another_thread() -> None:
    teller = Teller()
    said: list[object] = []
    for number in range(20):
        teller.tell(lambda number=number: said.append((number, threading.current_thread().name)))  # type: ignore[misc]
    assert teller.quiet(PATIENCE)
    assert said == [(number, "teller") for number in range(20)]


def test_nobody_waits_for_what_blocks_and_what_follows_is_said_later() -> None:
    teller, gate = Teller(), threading.Event()
    said: list[object] = []
    teller.tell(partial(gate.wait, PATIENCE))
    teller.tell(partial(said.append, "later"))
    assert not teller.quiet(0.0)
    assert said == []
    gate.set()
    assert teller.quiet(PATIENCE)
    assert said == ["later"]


def test_what_waits_is_bounded() -> None:
    teller, gate, begun = Teller(), threading.Event(), threading.Event()
    said: list[object] = []

    def block() -> None:
        begun.set()
        gate.wait(PATIENCE)

    teller.tell(block)
    assert begun.wait(PATIENCE)
    for number in range(2 * MOST):
        teller.tell(partial(said.append, number))
    gate.set()
    assert teller.quiet(PATIENCE)
    assert said == list(range(MOST))


def test_at_rest_there_is_no_thread() -> None:
    """So that a process may fork."""
    teller = Teller()
    assert teller.quiet(0.0)
    for _ in range(10):
        teller.tell(int)
        assert teller.quiet(PATIENCE)
        assert not [thread for thread in threading.enumerate() if thread.name == "teller"]


def test_what_raises_is_logged_and_keeps_nothing_from_being_said(caplog: pytest.LogCaptureFixture) -> None:
    teller = Teller()
    said: list[object] = []
    teller.tell(partial(int, "no number"))
    teller.tell(partial(said.append, "said"))
    assert teller.quiet(PATIENCE)
    assert said == ["said"]
    assert "no number" in caplog.text


def test_without_a_thread_it_is_left_unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    teller = Teller()
    said: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(module, "start_thread", refuse)
        teller.tell(partial(said.append, "unsaid"))
    assert teller.quiet(0.0)
    teller.tell(partial(said.append, "said"))
    assert teller.quiet(PATIENCE)
    assert said == ["said"]


def test_how_much_may_wait_is_up_to_whoever_has_it_said() -> None:
    teller, gate = Teller(MOST * 3), threading.Event()
    said: list[int] = []
    teller.tell(partial(gate.wait, PATIENCE))
    for number in range(MOST * 2):
        teller.tell(partial(said.append, number))
    gate.set()
    assert teller.quiet(PATIENCE)
    assert said == list(range(MOST * 2))
