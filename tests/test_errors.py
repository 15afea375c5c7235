"""Errors: whose they are, what they carry, what they say, and that they travel."""

from __future__ import annotations

import concurrent.futures
import copy
import errno
import multiprocessing
import pickle
import queue
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from functools import partial
from typing import Any

import pytest

from travellers import Frozen, Guarded, Own, Remembering, examples, fall, of_users
from treadle import errors

PATIENCE = 60.0

ALL = [*examples(), *of_users()]
EACH = range(len(ALL))  # and not the errors themselves, to which a failing test would add its traceback


def by_pickle(protocol: int, error: Any) -> Any:
    return pickle.loads(pickle.dumps(error, protocol))


WAYS: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"protocol {number}": partial(by_pickle, number) for number in range(pickle.HIGHEST_PROTOCOL + 1)},
}

each_way = pytest.mark.parametrize("way", WAYS)


def state_of(error: BaseException) -> dict[str, Any]:
    """Return all that an error is to keep."""
    native = {name: getattr(error, name, None) for name in ("errno", "strerror", "filename", "shelf")}
    return {"type": type(error), "args": error.args, "text": str(error), **native, **vars(error)}


@pytest.mark.parametrize("name", sorted(set(errors.__all__) - {"TreadleError"}))
def test_every_error_is_treadles_own_and_stands_in_the_tree(name: str) -> None:
    assert issubclass(getattr(errors, name), errors.TreadleError)
    assert f"- {name}" in str(errors.__doc__)


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("PoolFull", {errors.Overloaded}),
        ("Shed", {errors.Overloaded}),
        ("Cancelled", {concurrent.futures.CancelledError}),
        ("DeadlineExceeded", {TimeoutError}),
        ("PoolClosed", {RuntimeError}),
        ("PoolBroken", {BrokenExecutor, RuntimeError}),
        ("PoolDeadlock", {RuntimeError}),
        ("PatchedTooLate", {RuntimeError}),
        ("BindError", {OSError}),
        ("ChannelFull", {queue.Full}),
        ("ChannelEmpty", {queue.Empty}),
        ("ChannelClosed", {getattr(queue, "ShutDown", Exception)}),
    ],
)
def test_an_error_is_the_standard_librarys_too_where_that_has_one(name: str, others: set[type[Exception]]) -> None:
    assert all(issubclass(getattr(errors, name), other) for other in others)


# -- what they carry and say --------------------------------------------------------------------------------------


def test_every_class_has_an_example_and_says_what_it_carries() -> None:
    """What is None in an example would be None for ever, but for what its class calls None."""
    assert {type(error).__name__ for error in examples()} >= set(errors.__all__)
    for error in examples():
        documented = str(type(error).__doc__)
        assert all(name in documented or name in str(errors.Overloaded.__doc__) for name in vars(error)), error


def test_pool_full_says_name_limit_and_how_many_wait() -> None:
    error = errors.PoolFull("db", "query", queue_size=10, waiting=9, waited=0.5)
    assert (error.pool, error.task_name, error.queue_size, error.waiting, error.waited) == ("db", "query", 10, 9, 0.5)
    assert all(word in str(error) for word in ("'db'", "queue_size=10", "9 tasks wait", "0.5 s"))


def test_pool_full_does_not_speak_of_a_wait_that_was_none() -> None:
    error = errors.PoolFull("db", "query", queue_size=10, waiting=9)
    assert error.waited == 0
    assert "after" not in str(error)


@pytest.mark.parametrize(("reason", "word"), [("too_old", "more than it can do"), ("discarded", "make room")])
def test_shed_says_why(reason: Any, word: str) -> None:
    error = errors.Shed("db", "query", 0.5, reason, key="ann")
    assert (error.pool, error.task_name, error.waited, error.reason, error.key) == ("db", "query", 0.5, reason, "ann")
    assert all(said in str(error) for said in ("'db'", "query", "0.500 s", word))


def test_a_closed_pool_is_a_runtime_error_in_the_standard_librarys_words() -> None:
    assert str(errors.PoolClosed("db")).startswith("cannot schedule new futures after shutdown")
    assert (errors.PoolClosed("db").pool, errors.PoolClosed("db").reason) == ("db", "shutdown")


def test_a_broken_pool_says_why() -> None:
    assert all(word in str(errors.PoolBroken("db")) for word in ("'db'", "initializer failed"))
    error = errors.PoolBroken("db", "its order raised ValueError()")
    assert (error.pool, error.reason) == ("db", "its order raised ValueError()")
    assert error.reason in str(error)
    assert "initializer" not in str(error)


def test_a_lost_worker_names_thread_task_and_reason() -> None:
    error = errors.WorkerLost("db-1", "query", SystemExit(3))
    assert (error.thread, error.task_name, error.reason) == ("db-1", "query", "SystemExit(3)")
    assert all(word in str(error) for word in ("db-1", "query", "SystemExit(3)"))


def test_a_worker_that_stayed_in_the_parent_process_has_no_name() -> None:
    error = errors.WorkerLost(None, "query", "the process forked")
    assert error.thread is None
    assert "the worker of the parent process ended in the middle of task query: the process forked" in str(error)


def test_a_deadlock_names_the_pools_and_what_was_waited_for() -> None:
    error = errors.PoolDeadlock(["a", "b"], ["query"])
    assert (error.pools, error.targets) == (("a", "b"), ("query",))
    assert all(word in str(error) for word in ("'a', 'b'", "query"))


def test_who_was_to_stop_is_told_where_it_was_a_task() -> None:
    for error in (errors.Cancelled("query", "db"), errors.DeadlineExceeded(2.5, "query", "db")):
        assert (error.task_name, error.pool) == ("query", "db")
        assert "task query" in str(error)
    for error in (errors.Cancelled(), errors.DeadlineExceeded(2.5)):
        assert (error.task_name, error.pool) == (None, None)
        assert "None" not in str(error)


@pytest.mark.parametrize("empty", [True, False])
def test_a_closed_channel_says_whether_it_is_empty(empty: bool) -> None:
    error = errors.ChannelClosed("jobs", 7, 0.5, empty=empty)
    assert (error.channel, error.capacity, error.waited) == ("jobs", 7, 0.5)
    assert ("closed and empty" in str(error)) is empty


def test_a_bind_error_has_what_the_system_said_and_says_it_in_its_own_words() -> None:
    cause = PermissionError(errno.EACCES, "Permission denied", "/x")
    error = errors.BindError("unix:/x", "only root may", cause)
    assert (error.errno, error.strerror, error.filename) == (errno.EACCES, "Permission denied", "/x")
    assert error.args == (errno.EACCES, "Permission denied")
    assert (error.bind, error.reason) == ("unix:/x", "only root may")
    assert str(error) == "cannot listen on unix:/x: only root may"


# -- that they travel ---------------------------------------------------------------------------------------------


@each_way
@pytest.mark.parametrize("number", EACH, ids=[type(error).__name__ for error in ALL])
def test_an_error_keeps_type_text_facts_and_notes(way: str, number: int) -> None:
    error = [*examples(), *of_users()][number]
    error.add_note("seen at the counter")
    twin = WAYS[way](error)
    assert twin is not error
    assert state_of(twin) == state_of(error)


@each_way
def test_an_error_that_takes_no_attributes_keeps_those_it_has(way: str) -> None:
    error = Frozen(7)
    assert state_of(WAYS[way](error)) == state_of(error)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "copy"])
def test_notes_of_a_twin_are_its_own(way: str) -> None:
    error = errors.PoolClosed("db")
    error.add_note("seen")
    WAYS[way](error).add_note("seen again")
    assert error.__notes__ == ["seen"]


def test_an_error_comes_out_of_a_process_pool_as_it_is() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(fall, number) for number in EACH]
        came = [future.exception(PATIENCE) for future in futures]
    assert [state_of(error) for error in came if error] == [state_of(error) for error in ALL]
    assert all("in fall" in str(error.__cause__) for error in came if error), "the traceback there"


def test_an_error_comes_out_of_a_pool_of_multiprocessing_as_it_is() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for number in EACH:
            with pytest.raises(type(ALL[number])) as caught:
                pool.apply_async(fall, (number,)).get(PATIENCE)
            assert state_of(caught.value) == state_of(ALL[number])


def test_what_cannot_be_pickled_travels_as_its_repr() -> None:
    key = Guarded()
    for error in (errors.Shed("db", "query", 0.5, "too_old", key=key), Own("corner", shelf=7)):
        error.key = key
        twin = pickle.loads(pickle.dumps(error))
        assert twin.key == repr(key)
        assert (twin.pool, str(twin)) == (error.pool, str(error))


class Unmade(Exception):
    """As many exceptions, it can be pickled, and what comes out cannot be made."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def test_what_cannot_be_put_together_again_travels_as_its_repr_too() -> None:
    """It would end the other process, or the pool of them."""
    error = errors.TreadleError("what led here", Unmade(1, 2))
    assert pickle.loads(pickle.dumps(error)).args == ("what led here", "Unmade('1 and 2')")


def test_what_cannot_be_copied_deeply_is_shared() -> None:
    error = errors.Shed("db", "query", 0.5, "too_old", key=Guarded())
    assert copy.deepcopy(error).key is error.key
    assert copy.copy(error).key is error.key


def test_a_deep_copy_shares_nothing_else() -> None:
    error = errors.Shed("db", "query", 0.5, "too_old", key=("ann", []))
    twin: Any = copy.deepcopy(error)
    assert twin.key == error.key
    assert twin.key[1] is not error.key[1]  # type: ignore[index]  # it is a tuple


@each_way
def test_a_key_may_lead_back_to_its_error(way: str) -> None:
    key = Remembering()
    key.error = error = errors.Shed("db", "query", 0.5, "too_old", key=key)
    twin = WAYS[way](error)
    assert isinstance(twin.key, Remembering)
    assert twin.key.error is (error if way == "copy" else twin)


def test_what_leads_back_to_its_error_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two such facts, and a trial in each trial, it would take twice as long for each level of recursion."""
    monkeypatch.setattr(Remembering, "asked", 0)
    key = Remembering()
    key.error = errors.Shed("db", "query", 0.5, "too_old", key=key)
    pickle.dumps(key.error)
    assert Remembering.asked == 2, "once in the trial, and once for good"


def test_an_error_of_treadles_travels_inside_of_others() -> None:
    inner = errors.Shed("db", "query", 0.5, "too_old", key=Guarded())
    group = ExceptionGroup("tasks of a group failed", [ValueError(1), inner])
    twin: Any = pickle.loads(pickle.dumps(group))
    assert isinstance(twin.exceptions[1], errors.Shed)
    assert twin.exceptions[1].key == "<the key of shelf 7>"


class Careful(errors.TreadleError):
    """A user's, which sees to its travels itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Careful, ("on its own",)


def test_a_subclass_may_travel_in_its_own_way() -> None:
    assert str(pickle.loads(pickle.dumps(Careful("plain")))) == "on its own"


class Missing(errors.TreadleError, ImportError):
    """A user's, with facts that Python's own class keeps in its own way."""


class Stately(errors.TreadleError):
    """A user's, which says what it is to be given back."""

    def __getstate__(self) -> Any:
        return ["shelf", 7]

    def __setstate__(self, state: Any) -> None:
        self.shelf, self.number = state


@each_way
def test_a_subclass_keeps_what_pythons_own_class_keeps(way: str) -> None:
    twin = WAYS[way](Missing("no shelf", name="shelf", path="shop/shelf.py"))
    assert (str(twin), twin.name, twin.path) == ("no shelf", "shelf", "shop/shelf.py")


@each_way
def test_a_subclass_may_have_a_state_of_its_own(way: str) -> None:
    twin = WAYS[way](Stately("plain"))
    assert (str(twin), twin.shelf, twin.number) == ("plain", "shelf", 7)
