"""Fair: one key's tasks after another's."""

from __future__ import annotations

import threading
from collections import Counter, deque
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders.lifo import Lifo
from orders.tasks import task_of
from treadle import Pool
from treadle._tasks.future import CANCELLED_AND_NOTIFIED, PENDING, RUNNING
from treadle.orders import Adaptive, Fair, Fifo, Priority, Task
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
    assert order.ready() == bool(ring)


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
        before.append(task.key)
    assert before == ["flood", "third", "third"]


def test_no_key_runs_more_at_once_than_allowed_and_the_others_go_on() -> None:
    order = Fair(max_running=2)
    for _ in range(3):
        order.put(task_of(key="a"))
    order.put(task_of(key="b"))
    running = [order.take() for _ in range(3)]
    assert sorted(str(task.key) for task in running) == ["a", "a", "b"]
    assert len(order) == 1
    assert not order.ready()
    order.ended(next(task for task in running if task.key == "b"))
    assert not order.ready()
    order.ended(next(task for task in running if task.key == "a"))
    assert order.take().key == "a"


def test_a_task_that_is_not_run_when_it_is_taken_holds_no_place() -> None:
    order = Fair(max_running=1)
    dead, alive = task_of(key="a"), task_of(key="a")
    order.put(dead)
    order.put(alive)
    dead._state = RUNNING  # somewhere else
    assert [order.take(), order.take()] == [dead, alive]
    order.ended(dead)
    order.ended(alive)
    assert not order._flows


def test_a_key_is_full_at_its_own_ceiling_and_gives_up_its_own_oldest() -> None:
    order = Fair(max_waiting=2)
    first, second = task_of(key="a"), task_of(key="a")
    others = [task_of(key="b") for _ in range(2)]
    for task in (first, second, *others[:1]):
        order.put(task)
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
    assert not order.ready()


class Rounds:
    """The same, while tasks come and are given up: a key that has none left gives up its turn and what it had left."""

    def __init__(self, weights: dict[int, float]) -> None:
        self.weights = weights
        self.waiting: list[Any] = []  # in the order they came
        self.ring: list[int] = []
        self.left: dict[int, float] = {}
        self.turn: int | None = None  # the key whose turn it is, once it has begun

    def of(self, key: object) -> list[Any]:
        return [task for task in self.waiting if task.key == key]

    def put(self, task: Any) -> None:
        self.waiting.append(task)
        key = task.key
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
        key = task.key
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
            same = model.of(victim.key)
            assert victim is same[0]
            assert len(same) == max(len(model.of(key)) for key in model.ring)
            model.drop(victim)
        elif step == "purge" and model.waiting:
            doomed = model.waiting[value % len(model.waiting)]
            order.purge(lambda task, doomed=doomed: task is not doomed)  # type: ignore[misc]  # a default
            model.drop(doomed)
        assert len(order) == len(model.waiting)
        assert sorted(map(id, order._tasks)) == sorted(map(id, model.waiting))
        assert order.ready() == bool(model.waiting)


@given(steps=CHANGES, weights=WEIGHTS)
def test_the_first_task_of_a_key_waits_one_round_at_most(steps: list[Any], weights: dict[int, float]) -> None:
    """Of each other key that waits, as many tasks as its weight, and one more where parts were left over."""
    order = Fair(weights)
    for step, value in steps:
        if step == "put":
            order.put(task_of(key=value))
        elif step == "take" and order.ready():
            order.take()
    others = {task.key for task in order._tasks}
    order.put(late := task_of(key="late"))
    before: Counter[Any] = Counter()
    while (task := order.take()) is not late:
        before[task.key] += 1
    assert before.keys() <= others
    assert all(count <= ceil(weights.get(key, 1)) for key, count in before.items())


def test_a_part_that_a_weight_leaves_over_is_carried_to_the_next_round() -> None:
    order = Fair({"a": 1.5})
    for _ in range(1000):
        order.put(task_of(key="a"))
        order.put(task_of(key="b"))
    taken = [order.take().key for _ in range(1000)]
    assert taken[:10] == ["a", "b", "a", "a", "b", "a", "b", "a", "a", "b"]
    assert Counter(taken) == {"a": 600, "b": 400}


@pytest.mark.parametrize("dead", [1, 50, 5000])
def test_tasks_that_were_cancelled_take_no_turn_from_the_living_ones_of_their_key(dead: int) -> None:
    """They stay in the order until it is purged. Who gives up on a task must not wait longer for the next one."""
    order = Fair()
    for _ in range(10_000):
        order.put(task_of(key="flood"))
    for _ in range(dead):
        order.put(cancelled := task_of(key="quiet"))
        cancelled._state = CANCELLED_AND_NOTIFIED
    order.put(late := task_of(key="quiet"))
    before = list[Any]()
    while (taken := order.take()) is not late:
        before.append(taken)
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
        return sum(task.key == key for task in running)

    def take() -> None:
        task: Any = order.take()
        assert task is next(other for other in waiting if other.key == task.key)
        waiting.remove(task)
        if task._state is PENDING:
            task._state = RUNNING
            running.append(task)
            assert runs(task.key) <= most

    def end(task: Any) -> None:
        order.ended(task)
        order.ended(task)  # once too often, and for a task that never was in it: for those that run inside others
        order.ended(task_of(key=task.key))
        running.remove(task)

    for step, value in steps:
        if step == "put":
            order.put(task := task_of(key=value % 3))
            waiting.append(task)
        elif step == "take" and order.ready():
            take()
        elif step == "end" and running:
            end(running[value % len(running)])
        elif step == "evict" and waiting:
            waiting.remove(order.evict(task_of(key=value % 3)))
        elif step == "purge":
            order.purge(lambda task: task._state is PENDING)  # type: ignore[attr-defined]
            waiting = [task for task in waiting if task._state is PENDING]
        elif step == "cancel" and waiting:
            waiting[value % len(waiting)]._state = CANCELLED_AND_NOTIFIED
        assert len(order) == len(waiting)
        assert sorted(map(id, order._tasks)) == sorted(map(id, waiting))
        assert order.ready() == any(runs(task.key) < most for task in waiting)
    while waiting or running:
        while order.ready():
            take()
        for task in list(running):
            end(task)
    assert not any(flow.waiting or flow.running for flow in order._flows.values())
    assert not order._taken


def test_a_key_that_may_run_one_at_a_time_still_runs_as_many_in_a_round_as_its_weight_says() -> None:
    """One thread runs one at a time anyway, so there the ceiling must change nothing."""
    order, plain = Fair({"a": 3}, max_running=1), Fair({"a": 3})
    for key in "aaaaaabbbb":
        order.put(task_of(key=key))
        plain.put(task_of(key=key))
    came = []
    for _ in range(10):
        came.append((task := order.take()).key)
        order.ended(task)
    assert came == [plain.take().key for _ in range(10)]


@given(steps=CHANGES, most=st.integers(1, 3))
def test_a_key_is_full_exactly_when_as_many_of_it_wait_as_may(steps: list[Any], most: int) -> None:
    order, waiting = Fair(max_waiting=most), list[Any]()
    for step, value in steps:
        count = sum(task.key == value for task in waiting)
        newcomer = task_of(key=value)
        assert order.full(newcomer, 0) == (count >= most)
        if step == "put" and count < most:
            order.put(newcomer)
            waiting.append(newcomer)
        elif step == "take" and waiting:
            waiting.remove(order.take())
        elif step == "evict" and waiting:
            victim = order.evict(newcomer)
            longest = max(Counter(task.key for task in waiting).values())
            same = [task for task in waiting if task.key == victim.key]
            assert victim is same[0]
            assert victim.key == value if count >= most else len(same) == longest
            waiting.remove(victim)
        elif step == "purge":
            order.purge(lambda task, value=value: task.key != value)  # type: ignore[misc]  # a default
            waiting = [task for task in waiting if task.key != value]


def test_a_key_whose_tasks_are_gone_is_forgotten() -> None:
    """Else a pool that serves a customer each would grow for ever."""
    order = Fair(max_running=1, max_waiting=2)
    for key in range(1000):
        order.put(task_of(key=key))
    for _ in range(500):
        task: Any = order.take()
        task._state = RUNNING
        order.ended(task)
    for _ in range(250):
        order.evict(task_of(key="another"))
    assert len(order._flows) == 250
    order.purge(lambda task: False)
    assert (len(order._flows), len(order._taken), len(order)) == (0, 0, 0)


def test_keys_without_tasks_are_forgotten_beyond_a_few(kept: int) -> None:
    order = Fair()
    for key in range(10 * KEPT):
        order.put(task_of(key=key))
        order.take()
    assert len(order._flows) == kept
    assert repr(order) == "Fair(0 waiting, of 0 keys)"
    order.put(task_of(key=0))
    assert repr(order) == "Fair(1 waiting, of 1 key)"


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


# -- ceilings of one key each -----------------------------------------------------------------------------------------


def taken_of(order: Fair, keys: str, each: int = 5) -> Counter[Any]:
    """Put so many tasks of each key, take all that may run at once, and count them."""
    for _ in range(each):
        for key in keys:
            order.put(task_of(key=key))
    counts = Counter[Any]()
    while order.ready():
        counts[order.take().key] += 1
    return counts


@pytest.mark.parametrize(
    ("ceilings", "expected"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 2, "c": 5, None: 5}),
        ({"a": 1, ...: 3}, {"a": 1, "b": 3, "c": 3, None: 3}),
        ({"a": None, ...: 3}, {"a": 5, "b": 3, "c": 3, None: 3}),
        ({None: 1}, {"a": 5, "b": 5, "c": 5, None: 1}),
        ({...: 2}, {"a": 2, "b": 2, "c": 2, None: 2}),
        ({}, {"a": 5, "b": 5, "c": 5, None: 5}),
    ],
)
def test_each_key_has_the_ceilings_that_a_mapping_gives_it_or_all_others_or_none(
    ceilings: dict[Any, int | None], expected: dict[Any, int]
) -> None:
    keys: Any = [*expected]
    running = Fair(max_running=ceilings)
    assert taken_of(running, keys) == expected
    waiting = Fair(max_waiting=ceilings)
    for key in keys:
        room = 0
        while room < 5 and not waiting.full(task_of(key=key), 0):
            waiting.put(task_of(key=key))
            room += 1
        assert room == expected[key]


def test_a_mapping_is_read_once() -> None:
    ceilings = {"a": 1}
    order = Fair(max_running=ceilings)
    ceilings["a"] = 5
    assert taken_of(order, "a")["a"] == 1


def test_weights_have_a_default_too() -> None:
    order = Fair({"a": 1, ...: 2})
    for key in "aabbbb":
        order.put(task_of(key=key))
    assert [order.take().key for _ in range(6)] == ["a", "b", "b", "a", "b", "b"]


@pytest.mark.parametrize("value", [{"a": 0}, {"a": 1.5}, {...: -1}, "2"])
@pytest.mark.parametrize("name", ["max_running", "max_waiting"])
def test_a_ceiling_of_one_key_is_checked_and_named(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        Fair(**{name: value})


def test_what_ends_lets_the_key_run_on_at_its_own_ceiling() -> None:
    order = Fair(max_running={"a": 2})
    assert taken_of(order, "ab") == {"a": 2, "b": 5}
    first = next(iter(order._taken))
    assert not order.holds(task_of(key="b"))
    assert order.holds(task_of(key="a"))
    assert len(order.holders(task_of(key="a"))) == 2
    order.ended(first)
    assert order.take().key == "a"
    assert not order.ready()


# -- an order for each key ---------------------------------------------------------------------------------------------


class Newest(Lifo):
    """Of a user's own."""

    def put_first(self, task: Task) -> None:
        self.waiting.append(task)


ORDERS: list[Any] = ["priority", Priority, lambda: Priority(age=1.0)]


@pytest.mark.parametrize("order", ORDERS)
@given(steps=CHANGES, weights=WEIGHTS)
def test_keys_take_turns_and_within_each_the_most_urgent_goes_first(
    order: Any, steps: list[Any], weights: dict[int, float]
) -> None:
    """The keys come as they would if each had first in, first out; and of each what it would give if it were alone."""
    mixed, plain = Fair(weights, order=order), Fair(weights)
    alone: dict[Any, Priority] = {}
    for number, (step, value) in enumerate(steps):
        key = value % 2
        if step == "put":
            task = task_of(key=key, priority=value, submitted=float(number))
            mixed.put(task)
            plain.put(task)
            alone.setdefault(key, Priority()).put(task)
        elif step == "take" and mixed.ready():
            taken = mixed.take()
            assert taken.key == plain.take().key
            assert taken is alone[taken.key].take()
        elif step == "evict" and len(mixed):
            victim = mixed.evict(task_of(key=key))
            assert victim.key == plain.evict(task_of(key=key)).key
            assert victim is alone[victim.key].evict(victim)
        elif step == "purge":
            for each in (mixed, plain, *alone.values()):
                each.purge(lambda task, key=key: task.key != key)  # type: ignore[misc]  # a default
        assert len(mixed) == len(plain) == sum(map(len, alone.values()))


def test_it_looks_at_what_the_orders_of_the_keys_look_at() -> None:
    assert Fair().looks_at == {"key"}
    assert Fair(order="priority").looks_at == {"key", "priority"}
    assert Fair(order=Newest).looks_at == {"key"}


def test_an_order_of_a_users_own_for_each_key() -> None:
    order = Fair(order=Newest)
    tasks = [task_of(key=key) for key in "aabb"]
    for task in tasks:
        order.put(task)
    assert [order.take() for _ in range(4)] == [tasks[1], tasks[3], tasks[0], tasks[2]]


def test_urgent_tasks_of_one_key_go_before_its_others_and_not_before_another_keys() -> None:
    gate, began, ran = threading.Event(), threading.Event(), list[str]()

    def hold() -> None:
        began.set()
        assert gate.wait(30)

    with Pool(1, order=Fair(order="priority")) as pool:
        pool.options(key="hold").submit(hold)
        assert began.wait(30)
        for name, key, priority in [("a0", "a", 0), ("a9", "a", 9), ("a5", "a", 5), ("b0", "b", 0), ("b1", "b", 1)]:
            pool.options(key=key, priority=priority).submit(ran.append, name)
        gate.set()
    assert ran == ["a9", "b1", "a5", "b0", "a0"]


@pytest.mark.parametrize(
    ("order", "error", "words"),
    [
        ("fair", ValueError, "order='fair' is unknown; allowed: 'fifo', 'priority'"),
        (Priority(), TypeError, r"order=Priority\(.* each key needs an order of its own; .*Fair\(order=Priority\)"),
        (3, TypeError, "order=3 is int, and each key needs"),
        (list, TypeError, r"made \[\], which is no treadle.orders.Order"),
        (Adaptive, ValueError, "made Adaptive.*, which has stale: what nobody would ask"),
        (lambda: Fair(max_running=2), ValueError, "which has holds, holders, ended: what nobody would ask"),
        (lambda: full_order(), ValueError, "which holds tasks; make a new one"),
    ],
)
def test_what_is_no_order_for_one_key_is_refused(order: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Fair(order=order)


def full_order() -> Fifo:
    order = Fifo()
    order.put(task_of())
    return order
