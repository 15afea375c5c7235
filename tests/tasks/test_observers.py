"""Observers: who can be one, and that one which fails harms nobody."""

from __future__ import annotations

import logging

import pytest

from notes import Notes
from treadle import Pool
from treadle._tasks.observers import observers_in
from treadle.events import Observer, TaskEvent


def test_what_cannot_be_told_everything_is_no_observer() -> None:
    """It would fail, and be logged, three times a task."""

    class Half:
        def started(self, event: TaskEvent) -> None:
            """Be told."""

    with pytest.raises(TypeError, match=r"observers holds <.*Half.*it lacks submitted, finished, .*events\.Observer"):
        observers_in([Half()])  # type: ignore[list-item]  # that is the point
    with pytest.raises(TypeError, match=r"observers holds <class .*, a class; pass an object of it, as in Notes\(\)"):
        observers_in([Notes])  # type: ignore[list-item]  # that is the point
    notes = Notes()
    with pytest.raises(TypeError, match="allowed: an iterable of Observers"):
        observers_in(notes)  # type: ignore[arg-type]  # that is the point
    assert observers_in(iter([notes])) == (notes,)


def test_an_observer_that_fails_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Observer):
        def started(self, event: TaskEvent) -> None:
            raise ValueError("observer")

    with caplog.at_level(logging.ERROR, "treadle"), Pool(1, observers=[Failing()]) as pool:
        assert pool.submit(abs, -1).result(30) == 1
    assert "in started of task abs" in caplog.text


def test_an_observer_that_always_fails_is_logged_once_for_each_of_its_methods_in_a_pool(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(Observer):
        def started(self, event: TaskEvent) -> None:
            raise ValueError("started")

        def finished(self, event: TaskEvent) -> None:
            raise ValueError("finished")

    with caplog.at_level(logging.INFO, "treadle"):
        for _ in range(2):
            with Pool(1, observers=[Failing(), Failing()]) as pool:
                assert [pool.submit(abs, -1).result(30) for _ in range(20)] == [1] * 20
    assert len(caplog.records) == 2 * 2 * 2
    assert all("DEBUG" in record.getMessage() for record in caplog.records)
