"""Standing tasks: work beside the queue, from which workers are recalled."""

from __future__ import annotations

import logging
import threading

import pytest

from treadle import Pool
from treadle.dispatch import Dispatcher
from treadle.errors import PoolClosed, PoolFull
from treadle.standing import Standing

PATIENCE = 30.0


class Post(Standing):
    """Standing work that lasts until it is recalled, or told to fail."""

    __slots__ = ("began", "ended", "recalls", "told")

    def __init__(self, dispatcher: Dispatcher, error: Exception | None = None) -> None:
        super().__init__(dispatcher)
        self.began, self.told, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.recalls = 0
        self._fn = error

    def stand(self) -> None:
        self.began.set()
        try:
            if self._fn is not None:
                raise self._fn
            assert self.told.wait(PATIENCE)
        finally:
            self.ended.set()

    def recall(self) -> None:
        self.recalls += 1
        self.told.set()


def test_a_worker_with_nothing_else_to_do_does_it_and_it_takes_no_room() -> None:
    with Pool(2, queue_size=1, when_full="reject") as pool:
        post = Post(pool._dispatcher)
        assert pool._dispatcher.staff.stand(post)
        assert post.began.wait(PATIENCE)
        assert pool.snapshot().waiting == 0
        for _ in range(20):
            assert pool.submit(abs, -1).result(PATIENCE) == 1
        assert post.recalls == 0  # the other thread was free, or could be started


def test_it_is_recalled_once_when_a_task_waits_that_nobody_is_free_for() -> None:
    with Pool(1, queue_size=0, when_full="reject") as pool:
        post = Post(pool._dispatcher)
        assert pool._dispatcher.staff.stand(post)
        assert post.began.wait(PATIENCE)
        assert pool.submit(abs, -1).result(PATIENCE) == 1
        assert post.recalls == 1
        assert pool.submit(abs, -2).result(PATIENCE) == 2
        assert post.recalls == 1


def test_while_all_are_busy_it_waits_and_is_taken_up_by_the_first_that_is_free() -> None:
    gate, inside = threading.Event(), threading.Event()

    def block() -> None:
        inside.set()
        assert gate.wait(PATIENCE)

    with Pool(1) as pool:
        pool.submit(block)
        assert inside.wait(PATIENCE)
        queued = pool.submit(abs, -1)
        post = Post(pool._dispatcher)
        assert not pool._dispatcher.staff.stand(post)
        gate.set()
        assert post.began.wait(PATIENCE)
        assert queued.done()  # tasks come first


def test_shutdown_recalls_it_and_forgets_what_nobody_does() -> None:
    pool = Pool(1)
    done, left = Post(pool._dispatcher), Post(pool._dispatcher)
    pool._dispatcher.staff.stand(done)
    assert done.began.wait(PATIENCE)
    pool._dispatcher.staff.stand(left)
    pool.shutdown()
    assert (done.recalls, left.recalls) == (1, 0)
    assert not left.began.is_set()
    with pytest.raises(PoolClosed):
        pool._dispatcher.staff.stand(left)


def test_an_error_in_it_is_logged_and_the_worker_lives_on(caplog: pytest.LogCaptureFixture) -> None:
    with Pool(1) as pool:
        post = Post(pool._dispatcher, ValueError("scripted"))
        pool._dispatcher.staff.stand(post)
        assert post.ended.wait(PATIENCE)
        name = pool.submit(lambda: threading.current_thread().name).result(PATIENCE)
        assert name.endswith("_0")
        assert pool.snapshot().threads == 1
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "scripted" in caplog.text


def test_a_worker_that_is_tied_up_in_it_no_longer_counts_as_free() -> None:
    with Pool(1, queue_size=0, when_full="reject") as pool:
        post = Post(pool._dispatcher)
        pool._dispatcher.staff.stand(post)
        assert post.began.wait(PATIENCE)
        pool._dispatcher.staff.stood_down(post)
        with pytest.raises(PoolFull):
            pool.submit(abs, -1)
        assert post.recalls == 0
        post.told.set()
