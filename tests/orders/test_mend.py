"""An exception at any instant, and treadle's own orders mended after it: no task is lost, none is given out twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from behaviour.sweep import Instants
from clocks import FakeClock
from orders.tasks import Hands, task_of
from treadle import Future
from treadle.orders import Adaptive, Fair, Fifo, Levels, Priority
from treadle.orders._order import Own

Task = Future[Any]

LONG = 1000.0  # seconds after which a task is too old


class Scene:
    """An order that holds some tasks, and has given out others; and a task that is new."""

    def __init__(self, make: Callable[[], Own], clock: FakeClock, *, standing: bool = False) -> None:
        clock.time = 1000.0
        self.order, self.claimed, self.hands = make(), list[Task](), Hands()
        tasks = [
            task_of(priority=number % 3, key=number % 4, submitted=clock.now(), name=str(number), level=number % 3)
            for number in range(12)
        ]
        self.new = task_of(priority=1, key=1, submitted=clock.now(), name="new", level=1)
        for task in tasks:
            self.order.put(task)
        self.taken = [self.order.take(), self.order.take()]
        self.inside = [task for task in tasks if task not in self.taken]
        if standing:
            self.order.threads = 100  # so nothing is shed yet
            for _ in range(2):
                clock.pass_(LONG)
                assert self.order.stale() == []
            assert self.order.standing
            self.order.put_again(self.taken[0])
            self.inside.append(self.taken.pop(0))
        self.order.threads = 2

    def check(self) -> None:
        """See that the order is sound, but for what became of the tasks that the operation was about."""
        order = self.order
        order._mend()
        moved = {self.new, *self.taken, *self.claimed, self.hands.task}
        given: list[Task] = []
        held = list(order._tasks)
        assert len(held) == len(order) == len(set(held)), "each is in it once"
        assert set(held) - moved == set(self.inside) - moved
        for task in [*self.taken, *([] if self.hands.task is None else [self.hands.task])]:
            order.ended(task)  # and holds nobody back any more
        while order.ready():
            assert len(order) == len(held) - len(given)
            given.append(order.take())
            order.ended(given[-1])
        assert len(order) == 0, f"{len(order)} are held back for ever"
        assert sorted(given, key=id) == sorted(held, key=id)
        order.put(last := task_of(key="last"))
        assert order.take() is last
        assert not order.ready()


OPERATIONS: dict[str, Callable[[Scene], object]] = {
    "give": lambda scene: scene.order._give(scene.hands),
    "put": lambda scene: scene.order.put(scene.new),
    "put first": lambda scene: scene.order.put_first(scene.taken[0]),
    "put again": lambda scene: scene.order.put_again(scene.taken[0]),
    "evict": lambda scene: evict(scene),
    "shed": lambda scene: scene.order._shed(scene.claimed.append),
    "purge": lambda scene: purge(scene),
    "purge all": lambda scene: purge(scene, 1),
    "ended": lambda scene: scene.order.ended(scene.taken[0]),
}


def evict(scene: Scene) -> None:
    """As a pool does: what is to go is claimed before it goes."""
    victim = scene.order._victim(scene.new)
    scene.claimed.append(victim)
    scene.order._drop(victim)


def purge(scene: Scene, each: int = 3) -> None:
    doomed = set(scene.inside[::each])
    scene.claimed += doomed
    scene.order.purge(lambda task: task not in doomed)


KINDS: dict[str, tuple[Callable[[], Own], bool]] = {
    "fifo": (Fifo, False),
    "priority": (Priority, False),
    "fair": (Fair, False),
    "fair with ceilings": (lambda: Fair({1: 2.5}, max_running=1, max_waiting=4), False),
    "fair with priorities": (lambda: Fair(max_running=2, order="priority"), False),
    "adaptive": (Adaptive, False),
    "adaptive that stands": (Adaptive, True),
    "levels": (Levels, False),
    "levels of priorities": (lambda: Levels("priority"), False),
    "levels of fair ones with ceilings": (lambda: Levels(lambda: Fair(max_running=1, max_waiting=4)), False),
    "levels of adaptive ones that stand": (lambda: Levels("adaptive"), True),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_at_any_instant_loses_no_task_and_doubles_none(
    kind: str, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, standing = KINDS[kind]
    clock, operate = FakeClock(monkeypatch), OPERATIONS[operation]
    counting = Instants(None)
    scene = Scene(make, clock, standing=standing)
    with counting.here():
        operate(scene)
    scene.check()
    for at in range(1, counting.count + 1):
        scene, instants = Scene(make, clock, standing=standing), Instants(at)
        with pytest.raises(KeyboardInterrupt), instants.here():
            operate(scene)
        try:
            scene.check()
        except BaseException as error:
            error.add_note(f"instant {at}: {instants.where}")
            raise


@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_while_it_is_mended_is_mended_too(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, standing = KINDS[kind]
    clock = FakeClock(monkeypatch)
    for operation in ("give", "put", "purge"):
        counting = Instants(None)
        scene = Scene(make, clock, standing=standing)
        with counting.here():
            OPERATIONS[operation](scene)
        first = max(1, counting.count // 2)
        counting, scene = Instants(None), Scene(make, clock, standing=standing)
        with counting.here():
            scene.order._mend()
        for at in range(1, counting.count + 1):
            scene = Scene(make, clock, standing=standing)
            with pytest.raises(KeyboardInterrupt), Instants(first).here():
                OPERATIONS[operation](scene)
            instants = Instants(at)
            try:
                with instants.here():
                    scene.order._mend()
            except KeyboardInterrupt:
                pass
            try:
                scene.check()
            except BaseException as error:
                error.add_note(f"instant {at}: {instants.where}")
                raise


@pytest.mark.parametrize("kind", KINDS)
def test_a_purge_that_is_interrupted_and_mended_leaves_the_others_in_their_order(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, standing = KINDS[kind]
    clock = FakeClock(monkeypatch)
    scene = Scene(make, clock, standing=standing)
    before = list(scene.order._tasks)
    seen = 0

    def keep(task: Any) -> bool:
        nonlocal seen
        seen += 1
        if seen == 5:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        scene.order.purge(keep)
    scene.order._mend()
    assert list(scene.order._tasks) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_that_comes_amid_a_purge_is_not_lost(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a signal handler submits, or a destructor."""
    make, standing = KINDS[kind]
    scene = Scene(make, FakeClock(monkeypatch), standing=standing)
    late = task_of(priority=2, key=3, submitted=5000.0)
    coming = [late]

    def keep(task: Any) -> bool:
        if coming:
            scene.order.put(coming.pop())
        return task is not scene.inside[0]

    scene.order.purge(keep)
    assert set(scene.order._tasks) == {late, *scene.inside[1:]}
    scene.inside = [late, *scene.inside[1:]]
    scene.check()


@pytest.mark.parametrize("kind", KINDS)
def test_mending_what_is_sound_changes_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, standing = KINDS[kind]
    clock = FakeClock(monkeypatch)
    one, other = Scene(make, clock, standing=standing), Scene(make, clock, standing=standing)
    for _ in range(4):
        other.order._mend()
        names = []
        for scene in (one, other):
            scene.order._give(scene.hands)
            names.append(scene.hands.task.name)
            scene.order.ended(scene.hands.task)
        assert names[0] == names[1]
        assert len(one.order) == len(other.order)
