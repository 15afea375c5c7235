"""Fair: one key's tasks after another's."""

from __future__ import annotations

from collections import Counter, deque
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders.tasks import task_of
from treadle._futures import CANCELLED_AND_NOTIFIED, PENDING, RUNNING
from treadle.orders import Fair
from treadle.orders._fair import KEPT


@pytest.fixture(autouse=True, params=[0, KEPT])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many keys are remembered though they have no tasks; nobody is to notice."""
    count: int = request.param
    monkeypatch.setattr("treadle.orders._fair.KEPT", count)
    return count


STEPS = st.lists(st.one_of(st.integers(0, 3), st.none()), max_size=100)


@given(steps=STEPS, weights=st.dictionaries(st.integers(0, 3), st.sampled_from([1, 1.5, 2, 3.25])))
def test_it_goes_round_by_round(steps: list[Any], weights: dict[Any, float]) -> None:
    """The model: keys in a ring; at its turn each gets its weight added to what it has left, and runs whole tasks."""
    order = Fair(weights)
    ring: deque[int] = deque()
    credit: dict[int, float] = {}
    waiting: dict[int, deque[Any]] = {}
    for step in [*steps, *[None] * len(steps)]:
        if step is not None:
            task = task_of(key=step)
            order.put(task)
            if step not in waiting:
                waiting[step] = deque()
                ring.append(step)
                credit[step] = weights.get(step, 1)
            waiting[step].append(task)
        elif ring:
            key = ring[0]
            credit[key] -= 1
            assert order.take() is waiting[key].popleft()
            if not waiting[key]:
                del waiting[ring.popleft()]
            elif credit[key] < 1:
                credit[key] += weights.get(key, 1)
                ring.rotate(-1)
    assert bool(order.ready) == bool(ring)


def test_ten_thousand_tasks_of_one_delay_the_first_of_another_by_one_round() -> None:
    order = Fair({"third": 2})
    for _ in range(10_000):
        order.put(task_of(key="flood"))
    for _ in range(5):
        order.put(task_of(key="third"))
    late = task_of(key="other")
    order.put(late)
    before = []
    while (task := order.take()) is not late:
        before.append(task._traits.key)
    assert before == ["flood", "third", "third"]


def test_no_key_runs_more_at_once_than_allowed_and_the_others_go_on() -> None:
    order = Fair(max_running=2)
    for _ in range(3):
        order.put(task_of(key="a"))
    order.put(task_of(key="b"))
    running = [order.take() for _ in range(3)]
    assert sorted(str(task._traits.key) for task in running) == ["a", "a", "b"]
    assert len(order.tasks) == 1
    assert not order.ready
    assert order.ended is not None
    order.ended(next(task for task in running if task._traits.key == "b"))
    assert not order.ready
    order.ended(next(task for task in running if task._traits.key == "a"))
    assert order.take()._traits.key == "a"


def test_a_task_that_is_not_run_when_it_is_taken_holds_no_place() -> None:
    order = Fair(max_running=1)
    dead, alive = task_of(key="a"), task_of(key="a")
    order.put(dead)
    order.put(alive)
    dead._state = RUNNING  # somewhere else
    assert [order.take(), order.take()] == [dead, alive]
    assert order.ended is not None
    order.ended(dead)
    order.ended(alive)
    assert not order.flows


def test_a_key_is_full_at_its_own_ceiling_and_gives_up_its_own_oldest() -> None:
    order = Fair(max_waiting=2)
    first, second = task_of(key="a"), task_of(key="a")
    others = [task_of(key="b") for _ in range(2)]
    for task in (first, second, *others[:1]):
        order.put(task)
    assert order.full is not None
    assert order.full(task_of(key="a"), 0)
    assert not order.full(task_of(key="b"), 0)
    assert not order.full(task_of(key="c"), 0)
    assert order.evict(task_of(key="a")) is first
    assert order.evict(task_of(key="c")) in (second, others[0])


def test_the_longest_queue_gives_up_its_oldest_for_a_newcomer() -> None:
    order = Fair()
    first = task_of(key="flood")
    order.put(task_of(key="quiet"))
    order.put(first)
    order.put(task_of(key="flood"))
    assert order.evict(task_of(key="quiet")) is first


@pytest.mark.parametrize(
    "arguments",
    [{"weights": {"a": 0.5}}, {"weights": {"a": "2"}}, {"weights": 3}, {"max_running": 0}, {"max_waiting": -1}],
)
def test_bad_arguments_are_named(arguments: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(arguments))):
        Fair(**arguments)


WEIGHTS = st.dictionaries(st.integers(0, 3), st.sampled_from([1, 1.25, 1.5, 2, 3.75]))  # of which all sums are exact


@given(keys=st.lists(st.integers(0, 3), min_size=20, max_size=80), weights=WEIGHTS)
def test_what_waits_already_is_served_in_rounds(keys: list[int], weights: dict[int, float]) -> None:
    order, queues = Fair(weights), dict[int, list[Any]]()
    for key in keys:
        order.put(task := task_of(key=key))
        queues.setdefault(key, []).append(task)
    expected, left = [], dict.fromkeys(queues, 0.0)
    while any(queues.values()):  # a round
        for key, queue in queues.items():
            left[key] += weights.get(key, 1)
            while queue and left[key] >= 1:
                left[key] -= 1
                expected.append(queue.pop(0))
    assert [order.take() for _ in keys] == expected
    assert not order.ready


class Rounds:
    """The same, while tasks come and are given up: a key that has none left gives up its turn and what it had left."""

    def __init__(self, weights: dict[int, float]) -> None:
        self.weights = weights
        self.waiting: list[Any] = []  # in the order they came
        self.ring: list[int] = []
        self.left: dict[int, float] = {}
        self.turn: int | None = None  # the key whose turn it is, once it has begun

    def of(self, key: object) -> list[Any]:
        return [task for task in self.waiting if task._traits.key == key]

    def put(self, task: Any) -> None:
        self.waiting.append(task)
        key = task._traits.key
        if key not in self.ring:
            self.ring.append(key)
            self.left[key] = 0.0

    def take(self) -> Any:
        key = self.ring[0]
        if self.turn is None:
            self.turn = key
            self.left[key] += self.weights.get(key, 1)
        task = self.of(key)[0]
        self.left[key] -= 1
        self.drop(task)
        if self.turn is not None and self.left[key] < 1:
            self.turn = None
            self.ring.append(self.ring.pop(0))
        return task

    def drop(self, task: Any) -> None:
        self.waiting.remove(task)
        key = task._traits.key
        if not self.of(key):
            self.ring.remove(key)
            if self.turn == key:
                self.turn = None


# Lists of at least so many: else hypothesis makes them about five long, and little ever meets.
CHANGES = st.lists(
    st.tuples(st.sampled_from(["put", "put", "put", "take", "take", "evict", "purge"]), st.integers(0, 3)),
    min_size=30,
    max_size=100,
)


@given(steps=CHANGES, weights=WEIGHTS)
def test_the_rounds_go_on_while_tasks_come_and_are_given_up(steps: list[Any], weights: dict[int, float]) -> None:
    order, model = Fair(weights), Rounds(weights)
    for step, value in steps:
        if step == "put":
            order.put(task := task_of(key=value))
            model.put(task)
        elif step == "take" and model.waiting:
            assert order.take() is model.take()
        elif step == "evict" and model.waiting:
            victim = order.evict(task_of(key=value))
            same = model.of(victim._traits.key)
            assert victim is same[0]
            assert len(same) == max(len(model.of(key)) for key in model.ring)
            model.drop(victim)
        elif step == "purge" and model.waiting:
            doomed = model.waiting[value % len(model.waiting)]
            order.purge(lambda task, doomed=doomed: task is not doomed)  # type: ignore[misc]  # a default
            model.drop(doomed)
        assert len(order.tasks) == len(model.waiting)
        assert sorted(map(id, order.tasks)) == sorted(map(id, model.waiting))
        assert bool(order.ready) == bool(model.waiting)


@given(steps=CHANGES, weights=WEIGHTS)
def test_the_first_task_of_a_key_waits_one_round_at_most(steps: list[Any], weights: dict[int, float]) -> None:
    """Of each other key that waits, as many tasks as its weight, and one more where parts were left over."""
    order = Fair(weights)
    for step, value in steps:
        if step == "put":
            order.put(task_of(key=value))
        elif step == "take" and order.ready:
            order.take()
    others = {task._traits.key for task in order.tasks}
    order.put(late := task_of(key="late"))
    before: Counter[Any] = Counter()
    while (task := order.take()) is not late:
        before[task._traits.key] += 1
    assert before.keys() <= others
    assert all(count <= ceil(weights.get(key, 1)) for key, count in before.items())


def test_a_part_that_a_weight_leaves_over_is_carried_to_the_next_round() -> None:
    order = Fair({"a": 1.5})
    for _ in range(1000):
        order.put(task_of(key="a"))
        order.put(task_of(key="b"))
    taken = [order.take()._traits.key for _ in range(1000)]
    assert taken[:10] == ["a", "b", "a", "a", "b", "a", "b", "a", "a", "b"]
    assert Counter(taken) == {"a": 600, "b": 400}


@pytest.mark.parametrize("dead", [1, 50, 5000])
def test_tasks_that_were_cancelled_take_no_turn_from_the_living_ones_of_their_key(dead: int) -> None:
    """They stay in the order until it is purged. Who gives up on a task must not wait longer for the next one."""
    order = Fair()
    for _ in range(10_000):
        order.put(task_of(key="flood"))
    for _ in range(dead):
        order.put(task := task_of(key="quiet"))
        task._state = CANCELLED_AND_NOTIFIED
    order.put(late := task_of(key="quiet"))
    before = []
    while (task := order.take()) is not late:
        before.append(task)
    assert len([task for task in before if task._state is PENDING]) <= 1


LIVES = st.lists(
    st.tuples(st.sampled_from(["put", "put", "take", "take", "end", "evict", "purge", "cancel"]), st.integers(0, 99)),
    min_size=30,
    max_size=100,
)


@given(steps=LIVES, most=st.integers(1, 3))
def test_of_each_key_no_more_run_than_allowed_whatever_happens_to_them(steps: list[Any], most: int) -> None:
    order = Fair({1: 2.5}, max_running=most)
    waiting: list[Any] = []
    running: list[Any] = []

    def runs(key: Any) -> int:
        return sum(task._traits.key == key for task in running)

    def take() -> None:
        task = order.take()
        assert task is next(other for other in waiting if other._traits.key == task._traits.key)
        waiting.remove(task)
        if task._state is PENDING:
            task._state = RUNNING
            running.append(task)
            assert runs(task._traits.key) <= most

    def end(task: Any) -> None:
        assert order.ended is not None
        order.ended(task)
        order.ended(task)  # once too often, and for a task that never was in it: for those that run inside others
        order.ended(task_of(key=task._traits.key))
        running.remove(task)

    for step, value in steps:
        if step == "put":
            order.put(task := task_of(key=value % 3))
            waiting.append(task)
        elif step == "take" and order.ready:
            take()
        elif step == "end" and running:
            end(running[value % len(running)])
        elif step == "evict" and waiting:
            waiting.remove(order.evict(task_of(key=value % 3)))
        elif step == "purge":
            order.purge(lambda task: task._state is PENDING)
            waiting = [task for task in waiting if task._state is PENDING]
        elif step == "cancel" and waiting:
            waiting[value % len(waiting)]._state = CANCELLED_AND_NOTIFIED
        assert len(order.tasks) == len(waiting)
        assert sorted(map(id, order.tasks)) == sorted(map(id, waiting))
        assert bool(order.ready) == any(runs(task._traits.key) < most for task in waiting)
    while waiting or running:
        while order.ready:
            take()
        for task in list(running):
            end(task)
    assert not any(flow.waiting or flow.running for flow in order.flows.values())
    assert not order.taken


def test_a_key_that_may_run_one_at_a_time_still_runs_as_many_in_a_round_as_its_weight_says() -> None:
    """One thread runs one at a time anyway, so there the ceiling must change nothing."""
    order, plain = Fair({"a": 3}, max_running=1), Fair({"a": 3})
    for key in "aaaaaabbbb":
        order.put(task_of(key=key))
        plain.put(task_of(key=key))
    came = []
    for _ in range(10):
        came.append((task := order.take())._traits.key)
        assert order.ended is not None
        order.ended(task)
    assert came == [plain.take()._traits.key for _ in range(10)]


@given(steps=CHANGES, most=st.integers(1, 3))
def test_a_key_is_full_exactly_when_as_many_of_it_wait_as_may(steps: list[Any], most: int) -> None:
    order, waiting = Fair(max_waiting=most), list[Any]()
    assert order.full is not None
    for step, value in steps:
        count = sum(task._traits.key == value for task in waiting)
        newcomer = task_of(key=value)
        assert order.full(newcomer, 0) == (count >= most)
        if step == "put" and count < most:
            order.put(newcomer)
            waiting.append(newcomer)
        elif step == "take" and waiting:
            waiting.remove(order.take())
        elif step == "evict" and waiting:
            victim = order.evict(newcomer)
            longest = max(Counter(task._traits.key for task in waiting).values())
            same = [task for task in waiting if task._traits.key == victim._traits.key]
            assert victim is same[0]
            assert victim._traits.key == value if count >= most else len(same) == longest
            waiting.remove(victim)
        elif step == "purge":
            order.purge(lambda task, value=value: task._traits.key != value)  # type: ignore[misc]  # a default
            waiting = [task for task in waiting if task._traits.key != value]


def test_a_key_whose_tasks_are_gone_is_forgotten() -> None:
    """Else a pool that serves a customer each would grow for ever."""
    order = Fair(max_running=1, max_waiting=2)
    for key in range(1000):
        order.put(task_of(key=key))
    for _ in range(500):
        task = order.take()
        task._state = RUNNING
        assert order.ended is not None
        order.ended(task)
    for _ in range(250):
        order.evict(task_of(key="another"))
    assert len(order.flows) == 250
    order.purge(lambda task: False)
    assert (len(order.flows), len(order.taken), len(order.tasks)) == (0, 0, 0)


def test_keys_without_tasks_are_forgotten_beyond_a_few(kept: int) -> None:
    order = Fair()
    for key in range(10 * KEPT):
        order.put(task_of(key=key))
        order.take()
    assert len(order.flows) == kept
    assert repr(order) == "Fair(0 waiting, of 0 keys)"


def test_what_was_taken_before_its_time_has_the_turn_that_it_took_for_nothing() -> None:
    order = Fair()
    order.put(alone := task_of(key=1, submitted=1.0))
    tasks = [task_of(key=key, submitted=2.0 + number) for number in range(2) for key in (2, 3)]
    for task in tasks:
        order.put(task)
    assert order.take() is alone
    order.put_first(alone)
    assert order.take() is alone, "no key has had a turn since"
    assert order.take() is tasks[0]
    order.put_first(tasks[0])
    assert [order.take() for _ in range(4)] == [tasks[1], tasks[0], tasks[2], tasks[3]], "two turns in one"
