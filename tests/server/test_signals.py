"""Signals: heard by the main thread, whichever thread the system hands them to, and only while the block lasts."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import suppress
from typing import Any

import pytest

from tcp import PATIENCE
from treadle.server import _signals as module
from treadle.server._signals import HANGUP, LOST, ORDERS, WOKEN, Signals


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


def test_any_thread_may_wake_it_even_too_late() -> None:
    with Signals() as signals:
        threading.Thread(target=signals.wake).start()
        assert signals.hear(PATIENCE) == WOKEN
    signals.wake()


def test_when_nothing_more_fits_in_nobody_complains(capfd: pytest.CaptureFixture[str]) -> None:
    with Signals() as signals:
        with suppress(BlockingIOError):
            while True:
                signals._writer.send(bytes([signal.SIGTERM]) * 4096)
        with suppress(BlockingIOError):
            while True:
                signals._writer.send(bytes([signal.SIGTERM]))
        os.kill(os.getpid(), signal.SIGINT)
        signals.wake()
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


def test_a_signal_that_is_written_as_the_end_of_the_lifeline_is_seen_still_comes_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A parent sends SIGTERM, and lets go at the next order; taken in the other order, they would not cut."""
    lifeline, held = os.pipe()
    with Signals(lifeline) as signals:
        select = signals._selector.select

        def selected(timeout: float | None = None) -> Any:
            ready = select(timeout)
            monkeypatch.setattr(signals._selector, "select", select)
            os.kill(os.getpid(), signal.SIGTERM)
            return ready

        monkeypatch.setattr(signals._selector, "select", selected)
        os.close(held)
        assert [signals.hear(PATIENCE), signals.hear(PATIENCE)] == [signal.SIGTERM, LOST]
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


@pytest.mark.parametrize("forks", [False, True])
def test_what_is_heard_is_let_through_and_blocked_again_at_the_end(forks: bool) -> None:
    """Whoever starts a program may have blocked it, as some do that fork; and a program has its reasons afterwards."""
    heard = {signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*heard, signal.SIGUSR2, signal.SIGCHLD})
    try:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)  # ours, and no other thread's that may be there
        with Signals() as signals:
            assert signals.hear(1.0) == signal.SIGTERM  # which came before; so it is there at once
            signal.pthread_kill(threading.get_ident(), signal.SIGHUP)
            assert signals.hear(PATIENCE) == signal.SIGHUP
            assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked - heard
            if forks:
                signals.leave_to_parent()
                assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked
    finally:
        for number in signal.sigpending() & heard:  # what was not heard would end us
            signal.sigwait({number})
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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


def test_a_forked_child_that_comes_back_hears_that_it_is_to_look_and_keeps_what_it_has_set_since() -> None:
    """As from a `watch` or a signal handler that forks, in the middle of `Server.run`."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        with Signals() as signals:
            signals.leave_to_parent()
            signals.leave_to_parent()
            assert signals.hear(0.0) == WOKEN
            signal.signal(signal.SIGTERM, _of_our_own)
        assert signal.getsignal(signal.SIGTERM) is _of_our_own
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_is_ignored_when_it_begins_stays_so(number: signal.Signals) -> None:
    """As `nohup` has it, and a shell for what it starts in the background. Their own children are to inherit it."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with Signals() as signals:
            assert signal.getsignal(number) == signal.SIG_IGN
            os.kill(os.getpid(), number)
            assert signals.hear(0) is None
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_sigterm_is_heard_though_it_was_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.hear(PATIENCE) == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
def test_sigchld_is_the_programs_unless_it_is_asked_for(handler: signal.Handlers) -> None:
    before = signal.signal(signal.SIGCHLD, handler)
    try:
        with Signals():
            assert signal.getsignal(signal.SIGCHLD) == handler
        with Signals(children=True) as signals:
            os.kill(os.getpid(), signal.SIGCHLD)
            assert signals.hear(PATIENCE) == signal.SIGCHLD
        assert signal.getsignal(signal.SIGCHLD) == handler
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize(
    ("number", "default"), [(signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)]
)
def test_the_same_order_again_just_after_the_end_is_passed_over_and_later_it_is_not(
    number: signal.Signals, default: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(number, default)  # type: ignore[arg-type]
    try:
        with Signals() as signals:
            os.kill(os.getpid(), number)
            assert signals.hear(PATIENCE) == number
        late = signal.getsignal(number)
        assert isinstance(late, module.Late)
        os.kill(os.getpid(), number)
        raised: list[int] = []
        monkeypatch.setattr(signal, "raise_signal", raised.append)
        late(number, None)
        assert raised == []
        late.until = 0.0
        late(number, None)
        assert raised == [number]
        assert signal.getsignal(number) == default
    finally:
        signal.signal(number, before)


def test_without_an_order_the_default_is_put_back() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with Signals() as signals:
            signals.wake()
            assert signals.hear(PATIENCE) == WOKEN
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("until", "after"), [(float("inf"), signal.SIG_IGN), (0.0, signal.SIG_DFL)])
def test_when_python_exits_at_once_late_orders_are_ignored_to_its_end(until: float, after: signal.Handlers) -> None:
    """Python lays its own handlers down before the process is gone, and SIGTERM would kill it."""
    late = module.Late(signal.SIG_DFL)
    late.until = until
    before = {number: signal.signal(number, late) for number in ORDERS}
    try:
        module._pass_over_to_the_end()
        assert [signal.getsignal(number) for number in ORDERS] == [after, after]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
