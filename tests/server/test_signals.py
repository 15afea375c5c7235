"""Signals: heard by the main thread, whichever thread the system hands them to, and only while the block lasts."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from tcp import PATIENCE
from treadle.server.signals import END, HANGUP, LOST, Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, HANGUP])
def test_a_signal_is_heard(number: int) -> None:
    with Signals() as signals:
        os.kill(os.getpid(), number)
        assert signals.hear(PATIENCE) == number
        assert signals.hear(0) is None


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
    before = [signal.getsignal(number) for number in numbers]
    with pytest.raises(ZeroDivisionError), Signals():
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in numbers] == before
    old = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(old)
    assert old == -1
