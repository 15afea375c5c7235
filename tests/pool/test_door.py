"""Door: whether a view takes more; what the view makes of it is in behaviour/test_views.py."""

from __future__ import annotations

import pytest

from treadle import Pool
from treadle._pool.door import Door, Shut
from treadle._tasks.scope import HERE
from treadle.errors import PoolClosed


def test_a_door_is_closed_when_it_was_shut_or_its_pool_was() -> None:
    pool = Pool(1, name="loom")
    door, other = Door(pool._task_dispatcher), Door(pool._task_dispatcher)
    assert not door.closed
    door.shut(cancel=False)
    assert (door.closed, door.dropping, other.closed) == (True, False, False)
    door.shut(cancel=True)
    door.shut(cancel=False)  # nothing comes back
    assert (door.closed, door.dropping, other.dropping) == (True, True, False)
    pool.shutdown(cancel_futures=True)
    assert (other.closed, other.dropping) == (True, True)


def test_a_refusal_says_what_is_closed_and_what_to_do() -> None:
    with Pool(1, name="loom") as pool:
        door = Door(pool._task_dispatcher)
        door.check_open()
        door.shut(cancel=False)
        with pytest.raises(
            PoolClosed, match=r"after shutdown: a view of pool 'loom' is closed; make another"
        ) as caught:
            door.check_open()
        assert caught.value.pool == "loom"
    with pytest.raises(PoolClosed, match="after shutdown: pool 'loom' is closed; submit before"):
        door.check_open()


def test_the_input_of_an_accepted_map_comes_in_by_its_own_door_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with Pool(1) as pool:
        door, other = Door(pool._task_dispatcher), Door(pool._task_dispatcher)
        door.shut(cancel=False)
        other.shut(cancel=False)
        monkeypatch.setattr(HERE, "reading", (pool._task_dispatcher, door))
        door.check_open()
        with pytest.raises(PoolClosed):
            other.check_open()


def test_what_is_shut_remembers_no_function_that_it_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    with Pool(1) as pool:
        door = Door(pool._task_dispatcher)
        door.shut(cancel=False)
        shut = Shut(door)
        with monkeypatch.context() as patch:
            patch.setattr(HERE, "reading", (door,))
            for _ in range(3):
                shut.check("fn", abs)
            with pytest.raises(TypeError, match="fn=3"):
                shut.check("fn", 3)
        assert shut.known() is None
        with pytest.raises(PoolClosed):
            shut.check("fn", abs)
