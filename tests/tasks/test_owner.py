"""The home of a future that was made by hand."""

from __future__ import annotations

import threading

from treadle import Future
from treadle._tasks.owner import Unowned


def test_a_future_made_by_hand_lives_alone_and_is_nobodys_to_run() -> None:
    future: Future[int] = Future()
    home = future._owner
    assert isinstance(home, Unowned)
    assert not home.run_instead(future)
    assert not home.never_runs(Future(), (), ())


def test_waiting_hears_of_a_state_that_was_written_by_hand() -> None:
    """The standard library's own tests settle futures this way."""
    future: Future[int] = Future()
    waits = threading.Event()
    seen: list[BaseException | None] = []

    class Condition(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            waits.set()
            return super().wait(timeout)

    future._get_waiters().condition = Condition()
    thread = threading.Thread(target=lambda: seen.append(future.exception(timeout=30)))
    thread.start()
    assert waits.wait(30)
    error = OSError("by hand")
    with future._condition:
        future._state = "FINISHED"
        future._exception = error
        future._condition.notify_all()
    thread.join(30)
    assert seen == [error]
