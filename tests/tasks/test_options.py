"""treadle._tasks.options: what options give a task, shared by all tasks of a view."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle import Pool
from treadle._tasks.options import PLAIN, TaskOptions, _slots
from treadle.orders import Fair, Priority


def test_plain_has_no_name_no_urgency_and_no_key() -> None:
    assert (PLAIN.name, PLAIN.priority, PLAIN.key) == (None, 0, None)
    assert TaskOptions() == PLAIN


@given(st.none() | st.text(), st.integers(), st.none() | st.integers() | st.text())
def test_traits_are_equal_if_all_three_are_and_can_be_keys(name: str | None, priority: int, key: Any) -> None:
    options = TaskOptions(name, priority, key)
    assert options == TaskOptions(name=name, priority=priority, key=key)
    assert hash(options) == hash(TaskOptions(name, priority, key))
    assert options != TaskOptions(name, priority + 1, key)
    assert (options == PLAIN) is (name is None and priority == 0 and key is None)


def test_traits_cannot_be_changed() -> None:
    """All tasks of a view have the same object."""
    with pytest.raises(AttributeError):
        PLAIN.priority = 3  # type: ignore[misc]  # that is the point


def test_a_task_without_options_is_plain() -> None:
    with Pool(1) as pool:
        assert pool.submit(int)._options is PLAIN
        assert pool.options().submit(int)._options == PLAIN


def test_all_tasks_of_a_view_share_what_the_options_say() -> None:
    with Pool(1, order=Priority()) as pool:
        view = pool.options(name="page", priority=7)
        first, second = view.submit(int), view.submit(int)
        assert first._options == TaskOptions("page", 7, None)
        assert first._options is second._options
    with Pool(1, order=Fair()) as pool:
        assert pool.options(key=("a", 1)).submit(int)._options == TaskOptions(None, 0, ("a", 1))


class Moody:
    """A key that can be hashed until it cannot."""

    broken = False

    def __hash__(self) -> int:
        if self.broken:
            raise ValueError("cannot be hashed any more")
        return 1


def test_a_key_that_fails_once_it_was_given_harms_nobody_as_it_goes() -> None:
    """Whoever gives the next key lets go of what nobody has any more."""
    before, key = len(_slots), Moody()
    options = TaskOptions(key=key)
    assert TaskOptions(key=key).slot is options.slot
    key.broken = True
    del options
    gc.collect()
    assert TaskOptions(key="another").key == "another"
    assert len(_slots) <= before + 1
    with pytest.raises(ValueError, match="cannot be hashed any more"):
        TaskOptions(key=key)
