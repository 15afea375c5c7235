"""tqdm, drawing what comes out of a Pool."""

from __future__ import annotations

import concurrent.futures
import io
import threading
from collections.abc import Iterator

import pytest

import treadle
from treadle import Pool

tqdm = pytest.importorskip("tqdm", reason="tqdm is not installed")
tqdm_concurrent = pytest.importorskip("tqdm.contrib.concurrent", reason="tqdm is not installed")

ITEMS = 50


@pytest.fixture(autouse=True)
def _no_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    """tqdm's own thread, which redraws bars that stand still, would outlive the test."""
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool(4) as pool:
        yield pool


def double(number: int) -> int:
    return 2 * number


def test_bar_over_map_counts_every_result(pool: Pool) -> None:
    screen = io.StringIO()
    results = list(tqdm.tqdm(pool.map(double, range(ITEMS)), total=ITEMS, file=screen))
    assert results == [2 * number for number in range(ITEMS)]
    assert f"{ITEMS}/{ITEMS}" in screen.getvalue()


def test_bar_over_unordered_map_counts_every_result(pool: Pool) -> None:
    screen = io.StringIO()
    results = sorted(tqdm.tqdm(pool.map(double, range(ITEMS), ordered=False), total=ITEMS, file=screen))
    assert results == [2 * number for number in range(ITEMS)]
    assert f"{ITEMS}/{ITEMS}" in screen.getvalue()


@pytest.mark.parametrize("as_completed", [treadle.as_completed, concurrent.futures.as_completed])
def test_bar_over_as_completed_counts_every_future(pool: Pool, as_completed: type) -> None:
    screen = io.StringIO()
    futures = [pool.submit(double, number) for number in range(ITEMS)]
    results = [future.result() for future in tqdm.tqdm(as_completed(futures), total=ITEMS, file=screen)]
    assert sorted(results) == [2 * number for number in range(ITEMS)]
    assert f"{ITEMS}/{ITEMS}" in screen.getvalue()


def test_bar_updated_from_done_callbacks_counts_every_task() -> None:
    """Callbacks come from several threads at once, and `update` wants a lock: without the GIL it loses counts."""

    def count_one(_: object) -> None:
        with counting:
            bar.update()

    counting = threading.Lock()
    with tqdm.tqdm(total=ITEMS, file=io.StringIO()) as bar:
        with Pool(4) as pool:
            for number in range(ITEMS):
                pool.submit(double, number).add_done_callback(count_one)
        assert bar.n == ITEMS


def test_thread_map_takes_a_pool_for_the_standard_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    """thread_map takes no executor, but makes one: with initializer, chunksize and all that goes with it.

    It counts in done callbacks, without a lock, and closes its bar when the results are there, which is before the
    callbacks have run. So what the bar shows in the end is left to chance with any executor; that it is told of every
    task is not.
    """
    pools: list[Pool] = []
    told: list[float | None] = []

    class Noted(Pool):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[arg-type]  # whatever tqdm passes
            pools.append(self)

    class Bar(tqdm.tqdm):  # type: ignore[misc, name-defined]  # tqdm is not typed
        def update(self, n: float | None = 1) -> bool | None:
            told.append(n)
            return super().update(n)  # type: ignore[no-any-return]

    monkeypatch.setattr(concurrent.futures, "ThreadPoolExecutor", Noted)
    results = tqdm_concurrent.thread_map(
        double, range(ITEMS), max_workers=3, chunksize=4, file=io.StringIO(), tqdm_class=Bar
    )
    assert results == [2 * number for number in range(ITEMS)]
    assert told == [1] * ITEMS
    assert [pool.snapshot().max_workers for pool in pools] == [3]
    assert pools[0].snapshot().finished == ITEMS
