"""Signals: heard by the main thread, whichever thread the system hands them to, and only while the block lasts."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import suppress

import pytest

from tcp import PATIENCE
from treadle.server.signals import END, HANGUP, LOST, Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, HANGUP])
def test_a_signal_is_heard(number: int) -> None:
    with Signals() as signals:
        os.kill(os.getpid(), number)
        assert signals.hear(PATIENCE) == number
        assert signals.hear(0) is None


def test_signals_that_come_together_are_all_heard() -> None:
    with Signals() as signals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert {signals.hear(PATIENCE) for _ in range(2)} == {signal.SIGINT, signal.SIGTERM}


def test_a_signal_that_another_thread_takes_is_heard() -> None:
    done = threading.Event()
    other = threading.Thread(target=done.wait, args=(PATIENCE,))
    other.start()
    with Signals() as signals:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.hear(PATIENCE) == signal.SIGTERM
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    done.set()
    other.join()


def test_the_end_is_heard_from_any_thread_and_may_be_told_too_late() -> None:
    with Signals() as signals:
        threading.Thread(target=signals.end).start()
        assert signals.hear(PATIENCE) == END
    signals.end()


def test_when_nothing_more_fits_in_nobody_complains(capfd: pytest.CaptureFixture[str]) -> None:
    with Signals() as signals:
        with suppress(BlockingIOError):
            while True:
                signals._writer.send(bytes([signal.SIGTERM]) * 4096)
        with suppress(BlockingIOError):
            while True:
                signals._writer.send(bytes([signal.SIGTERM]))
        os.kill(os.getpid(), signal.SIGINT)
        signals.end()
        assert signals.hear(0) == signal.SIGTERM
    assert capfd.readouterr().err == ""


def test_a_signal_comes_before_the_end_of_the_lifeline() -> None:
    lifeline, held = os.pipe()
    os.close(held)
    with Signals(lifeline) as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.hear(PATIENCE) == signal.SIGTERM
        assert signals.hear(PATIENCE) == LOST
    os.close(lifeline)


def test_the_end_of_the_lifeline_is_heard_once() -> None:
    lifeline, held = os.pipe()
    with Signals(lifeline) as signals:
        assert signals.hear(0) is None
        os.close(held)
        assert signals.hear(PATIENCE) == LOST
        assert signals.hear(0) is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.hear(PATIENCE) == signal.SIGTERM
    os.close(lifeline)


def test_handlers_and_descriptor_are_put_back() -> None:
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD]
    before = [signal.signal(number, _of_our_own) for number in numbers]
    try:
        with pytest.raises(ZeroDivisionError), Signals() as signals:
            raise ZeroDivisionError
        assert [signal.getsignal(number) for number in numbers] == [_of_our_own] * len(numbers)
        assert signals._selector.get_map() is None  # closed
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    old = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(old)
    assert old == -1


def test_a_wakeup_descriptor_that_was_there_is_put_back() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        before = signal.set_wakeup_fd(ours.fileno())
        try:
            with Signals():
                pass
        finally:
            after = signal.set_wakeup_fd(before)
        assert after == ours.fileno()


def test_a_forked_child_leaves_them_to_its_parent() -> None:
    before = signal.signal(signal.SIGTERM, _of_our_own)
    try:
        with Signals() as signals:
            signals.leave_to_parent()
            assert signal.getsignal(signal.SIGTERM) is _of_our_own
        assert signal.getsignal(signal.SIGTERM) is _of_our_own
    finally:
        signal.signal(signal.SIGTERM, before)


def _of_our_own(number: int, frame: object) -> None:
    """What stands there before the block."""


def test_a_handler_that_python_did_not_set_is_replaced_by_the_default() -> None:
    """Python tells of it as None, and refuses to set None."""
    with Signals() as signals:
        before, signals._before[signal.SIGHUP] = signals._before[signal.SIGHUP], None
    try:
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_forked_child_that_comes_back_hears_the_end_and_keeps_what_it_has_set_since() -> None:
    """As from a `watch` or a signal handler that forks, in the middle of `Server.run`."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        with Signals() as signals:
            signals.leave_to_parent()
            signals.leave_to_parent()
            assert signals.hear(0.0) == END
            signal.signal(signal.SIGTERM, _of_our_own)
        assert signal.getsignal(signal.SIGTERM) is _of_our_own
    finally:
        signal.signal(signal.SIGTERM, before)
