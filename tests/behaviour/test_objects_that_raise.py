"""Objects of the user's that raise whatever they are asked: they cost no thread and no future, whichever way they come.

Each task has its own outcome, the pool can be looked at meanwhile, and runs the next task.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future as StandardFuture
from concurrent.futures import as_completed, wait
from functools import partial
from typing import Any, NoReturn

import pytest

import treadle
from treadle import Future, Pool, Rate, TaskGroup
from treadle.errors import PoolFull
from treadle.events import Observer, TaskEvent
from treadle.orders import Fair

PATIENCE = 30.0  # seconds for what must happen

# -- exceptions -----------------------------------------------------------------------------------------------------


def refuse(*_: object, **__: object) -> NoReturn:
    raise LookupError("asked for what it does not tell")


def exit_(*_: object, **__: object) -> NoReturn:
    raise SystemExit("asked for what it does not tell")


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int = 3


class Mute(Exception):
    """It neither is shown, nor compared, nor hashed, nor counted."""

    __str__ = __repr__ = __eq__ = __bool__ = __reduce__ = refuse
    __hash__ = None  # type: ignore[assignment]  # that is the point


class Closed(Exception):
    """It tells nothing of what an exception has."""

    __traceback__ = __cause__ = __context__ = __notes__ = property(refuse)
    with_traceback = refuse

    def __setattr__(self, name: str, value: object) -> None:
        refuse()


class Exiting(Exception):
    """As Closed, with what no `except Exception` stops."""

    __str__ = __repr__ = __eq__ = exit_
    __traceback__ = __cause__ = __context__ = __notes__ = property(exit_)


class Unclassed(Exception):
    """As a lazy proxy out of its context: `isinstance` raises."""

    __class__ = property(refuse)


class Masked(type):
    """Of classes that do not tell their names."""

    def __getattribute__(cls, name: str) -> Any:
        if name in {"__name__", "__qualname__", "__module__"}:
            refuse()
        return super().__getattribute__(name)


class Nameless(Exception, metaclass=Masked):
    """An exception whose class does not tell its name."""


class Demanding(Exception):
    """Whoever makes it must know how."""

    def __init__(self, one: int, *, two: int) -> None:
        super().__init__(one, two)


ERRORS: dict[str, Callable[[], BaseException]] = {
    "frozen": Frozen,
    "mute": Mute,
    "closed": Closed,
    "exiting": Exiting,
    "unclassed": Unclassed,
    "nameless": Nameless,
    "demanding": partial(Demanding, 1, two=2),
    "exit": partial(SystemExit, 3),
    "ctrl-c": KeyboardInterrupt,
    "generator's": GeneratorExit,
    "recursion": RecursionError,
}


class Raises:
    """Raises an exception, which it keeps: nothing else may be asked of that."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *_: object) -> NoReturn:
        raise self.error


# -- callables and results ------------------------------------------------------------------------------------------


class Proxy:
    """Tells nothing but what it returns."""

    def __getattribute__(self, name: str) -> NoReturn:
        refuse()

    def __call__(self, *_: object) -> str:
        return "came"


class ExitingProxy:
    """As Proxy, with what no `except Exception` stops."""

    def __getattribute__(self, name: str) -> NoReturn:
        exit_()

    def __call__(self, *_: object) -> str:
        return "came"


class Masquerade(metaclass=Masked):
    """As its class."""

    def __call__(self, *_: object) -> str:
        return "came"


class Numbered:
    """Its name is no text."""

    def __init__(self) -> None:
        self.__qualname__ = 3

    def __call__(self, *_: object) -> str:
        return "came"


class Sly(str):
    """A text that does not show itself."""

    __str__ = __repr__ = __format__ = __len__ = __eq__ = refuse
    __hash__ = str.__hash__


def called(name: str) -> Callable[..., str]:
    """Return a function of that name."""

    def fn(*_: object) -> str:
        return "came"

    fn.__qualname__ = name
    return fn


CALLABLES: dict[str, Callable[..., str]] = {
    "proxy": Proxy(),
    "exiting proxy": ExitingProxy(),
    "masked class": Masquerade(),
    "number for a name": Numbered(),
    "sly name": called(Sly("sly")),
    "long name": called("x" * 1_000_000),
    "odd name": called("%s {0} %(x)d"),
    "partial": partial(Proxy(), 1),
}


class Nasty:
    """A value that is neither shown, compared, hashed nor counted."""

    __repr__ = __str__ = __eq__ = __bool__ = __len__ = refuse
    __hash__ = None  # type: ignore[assignment]  # that is the point
    __class__ = property(refuse)


class Parting(Nasty):
    """As Nasty, and it does not go quietly."""

    def __del__(self) -> None:
        refuse()


# -- ways in --------------------------------------------------------------------------------------------------------


def outcome(future: StandardFuture[Any]) -> Any:
    """Return what the task returned, or raised."""
    try:
        return future.result(PATIENCE)
    except BaseException as error:
        return error


def first_of(results: Iterator[Any]) -> Any:
    """Return what the first call of a map returned, or raised; there must be one more, which is all."""
    found = []
    while True:
        try:
            found.append(next(results))
        except StopIteration:
            assert len(found) == 2
            assert found[0] is found[1]
            return found[0]
        except BaseException as error:
            found.append(error)


def submitted(pool: Pool, fn: Callable[..., Any]) -> Any:
    return outcome(pool.submit(fn))


def excepted(pool: Pool, fn: Callable[..., Any]) -> Any:
    future = pool.submit(fn)
    error = future.exception(PATIENCE)
    return future.result(0) if error is None else error


def waited_for(pool: Pool, fn: Callable[..., Any]) -> Any:
    (future,) = wait([pool.submit(fn)], PATIENCE).done
    return outcome(future)


def completed(pool: Pool, fn: Callable[..., Any]) -> Any:
    return outcome(next(as_completed([pool.submit(fn)], PATIENCE)))


def called_back(pool: Pool, fn: Callable[..., Any]) -> Any:
    told, seen = threading.Event(), list[Future[Any]]()

    def note(future: Future[Any]) -> None:
        seen.append(future)
        told.set()

    pool.submit(fn).add_done_callback(note)
    assert told.wait(PATIENCE)
    return outcome(seen[0])


def nested(pool: Pool, fn: Callable[..., Any]) -> Any:
    return pool.submit(lambda: [outcome(pool.submit(fn))]).result(PATIENCE)[0]


def mapped(pool: Pool, fn: Callable[..., Any]) -> Any:
    return first_of(pool.map(fn, range(2)))


def mapped_unordered(pool: Pool, fn: Callable[..., Any]) -> Any:
    return first_of(pool.map(fn, range(2), ordered=False))


def mapped_inside(pool: Pool, fn: Callable[..., Any]) -> Any:
    return pool.submit(lambda: [first_of(pool.map(fn, range(2)))]).result(PATIENCE)[0]


def mapped_at_a_rate(pool: Pool, fn: Callable[..., Any]) -> Any:
    return first_of(pool.options(rate=treadle.Rate(1000.0, burst=100)).map(fn, range(2)))


def rated(pool: Pool, fn: Callable[..., Any]) -> Any:
    return outcome(pool.options(rate=Rate(1000.0)).submit(fn))


def bounded(pool: Pool, fn: Callable[..., Any]) -> Any:
    with treadle.deadline(600):
        future = pool.submit(fn)
    return outcome(future)


def grouped(pool: Pool, fn: Callable[..., Any]) -> Any:
    with TaskGroup(pool, keep_going=True) as group:
        group.submit(fn)
    (outcome,) = group.outcomes
    return outcome.value if outcome.error is None else outcome.error


def run_by_its_caller(pool: Pool, fn: Callable[..., Any]) -> Any:
    """In a pool of its own, which has no room."""
    gate = threading.Event()
    with Pool(1, queue_size=0, when_full="caller_runs") as full:
        full.submit(gate.wait, PATIENCE)
        try:
            return outcome(full.submit(fn))
        except KeyboardInterrupt as error:  # it is the program's, whose own thread this is
            return error
        finally:
            gate.set()


def awaited(pool: Pool, fn: Callable[..., Any]) -> Any:
    came: list[Any] = []  # asyncio.run() may show what its coroutine returns

    async def await_it() -> None:
        try:
            came.append(await pool.run(fn))
        except Exception as error:
            came.append(error)

    asyncio.run(await_it())
    return came[0]


WAYS = [
    submitted,
    excepted,
    waited_for,
    completed,
    called_back,
    nested,
    mapped,
    mapped_unordered,
    mapped_inside,
    mapped_at_a_rate,
    rated,
    bounded,
    grouped,
    run_by_its_caller,
    awaited,
]

each_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


class Listener(Observer):
    """Counts what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.started = self.finished = self.cancelled = self.submitted = self.note  # type: ignore[method-assign]

    def note(self, event: TaskEvent) -> None:
        self.told.append(event.name)


@pytest.fixture(params=["plain", "observed", "fair", "bare"])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    """A pool of one thread, so that one which ended would be seen."""
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "observed": {"observers": [Listener()]},
        "fair": {"order": "fair"},
        "bare": {"context": False},
    }
    logging.disable(logging.NOTSET)
    with Pool(1, **options[request.param]) as made:
        first = made.submit(threading.get_ident).result(PATIENCE)
        yield made
        assert made.submit(threading.get_ident).result(PATIENCE) == first, "its thread lives"
    now = made.snapshot()
    assert now.submitted == now.finished + now.cancelled + now.shed
    assert (now.busy, now.waiting, now.threads) == (0, 0, 0)


@each_way
@pytest.mark.parametrize("kind", ERRORS)
def test_a_task_s_own_exception_arrives_whatever_it_is(pool: Pool, way: Callable[..., Any], kind: str) -> None:
    if way is awaited and not issubclass(type(ERRORS[kind]()), Exception):
        pytest.skip("it ends an event loop, as it is to")
    error = ERRORS[kind]()
    assert way(pool, Raises(error)) is error


@each_way
@pytest.mark.parametrize("kind", CALLABLES)
def test_a_callable_that_tells_no_name_is_run(pool: Pool, way: Callable[..., Any], kind: str) -> None:
    assert way(pool, CALLABLES[kind]) == "came"


@each_way
def test_a_result_comes_though_nothing_can_be_asked_of_it(pool: Pool, way: Callable[..., Any]) -> None:
    value = Nasty()
    assert way(pool, lambda *_: value) is value


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_raises_when_it_is_let_go_of_costs_no_thread(pool: Pool) -> None:
    assert type(pool.submit(Parting).result(PATIENCE)) is Parting
    assert pool.submit(id, Parting()).result(PATIENCE)
    assert len(list(pool.map(id, [Parting(), Parting()]))) == 2
    gc.collect()


def test_arguments_may_be_such_that_nothing_can_be_asked_of_them(pool: Pool) -> None:
    def take(value: object) -> str:
        return "came"

    assert pool.submit(take, Nasty()).result(PATIENCE) == "came"
    assert pool.submit(take, value=Nasty()).result(PATIENCE) == "came"
    assert list(pool.map(take, [Nasty(), Nasty()])) == ["came", "came"]


@pytest.mark.parametrize("kind", CALLABLES)
def test_a_pool_can_be_looked_at_while_it_runs_what_tells_no_name(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    began, gate = threading.Event(), threading.Event()

    def hold(*_: object) -> str:
        began.set()
        assert gate.wait(PATIENCE)
        return "came"

    fn = CALLABLES[kind]
    if type(fn) is type(hold):
        hold.__qualname__ = fn.__qualname__
        fn = hold
    else:
        monkeypatch.setattr(Proxy if kind == "partial" else type(fn), "__call__", hold)
    with Pool(1) as pool:
        future = pool.submit(fn)
        assert began.wait(PATIENCE)
        try:
            (worker,) = pool.snapshot().workers
            assert type(worker.task) is str
            assert 0 < len(worker.task) < 300
            assert worker.task in pool.stacks()
            assert "1/1 threads busy" in repr(pool)
            assert "running" in repr(future)
            assert pool.shutdown(timeout=0) == (future,)
        finally:
            gate.set()
        assert future.result(PATIENCE) == "came"


@pytest.mark.parametrize("kind", ERRORS)
def test_an_exception_that_nobody_asks_for_is_logged_whatever_it_is(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Pool(1) as pool:
        pool.submit(Raises(ERRORS[kind]()))
        assert pool.submit(int).result(PATIENCE) == 0
    assert [record.getMessage().startswith("task Raises failed") for record in caplog.records] == [True]


def test_the_group_s_own_error_holds_what_its_tasks_raised() -> None:
    errors = [Frozen(), Mute(), Closed(), Unclassed(), Nameless()]
    for error in errors:
        with Pool(2) as pool:
            caught = None
            try:
                with TaskGroup(pool) as group:
                    group.submit(Raises(error))
            except ExceptionGroup as group_error:
                caught = group_error.exceptions[0]
            assert caught is error


# -- observers, callbacks, log handlers -----------------------------------------------------------------------------


class Mumbling(Observer):
    """Fails, and does not even show itself."""

    __repr__ = exit_

    def started(self, event: TaskEvent) -> None:
        raise Mute

    finished = submitted = started


def test_observers_that_fail_and_do_not_show_themselves_harm_nobody() -> None:
    listener = Listener()
    with Pool(1, observers=[Mumbling(), listener]) as pool:
        assert pool.submit(abs, -1).result(PATIENCE) == 1
        assert list(pool.map(abs, [-2])) == [2]
    assert listener.told == ["abs"] * 6


class Bad(logging.Handler):
    """A log handler that raises, and counts how often."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error, self.messages = error, list[str]()

    def handle(self, record: logging.LogRecord) -> bool:
        self.messages.append(record.getMessage())
        if self.error is KeyboardInterrupt and threading.current_thread() is threading.main_thread():
            return False  # there it would be the program's Ctrl-C
        raise self.error("from a log handler")


@pytest.fixture(params=[OSError, SystemExit, KeyboardInterrupt])
def bad(request: pytest.FixtureRequest) -> Iterator[Bad]:
    handler = Bad(request.param)
    loggers = [logging.getLogger("treadle"), logging.getLogger("concurrent.futures")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler
    for logger in loggers:
        logger.removeHandler(handler)


def test_a_log_handler_that_raises_costs_no_thread_and_leaves_nobody_untold(bad: Bad) -> None:
    with Pool(1, observers=[Mumbling()]) as pool:
        thread = pool.submit(threading.get_ident).result(PATIENCE)
        told = threading.Event()
        future = pool.submit(threading.Event().wait, 0)
        future.add_done_callback(Raises(Mute()))
        future.add_done_callback(lambda _: told.set())
        assert told.wait(PATIENCE)
        assert pool.submit(threading.get_ident).result(PATIENCE) == thread


def test_a_log_handler_that_raises_is_told_of_an_exception_that_nobody_asked_for(bad: Bad) -> None:
    with Pool(1) as pool:
        thread = pool.submit(threading.get_ident).result(PATIENCE)
        pool.submit(Raises(ValueError()))
        assert pool.submit(threading.get_ident).result(PATIENCE) == thread
    gc.collect()  # without the GIL an object may be let go of by its maker only
    assert any("nobody asked for its result" in message for message in bad.messages)


def test_a_log_handler_that_raises_keeps_no_pool_from_breaking(bad: Bad) -> None:
    with Pool(1, initializer=Raises(ValueError())) as pool:
        future = pool.submit(int)
        with pytest.raises(treadle.errors.PoolBroken):
            future.result(PATIENCE)


# -- keys -----------------------------------------------------------------------------------------------------------


class Moody:
    """A key that works until it does not."""

    broken = False

    def __hash__(self) -> int:
        return refuse() if self.broken else 7

    def __eq__(self, other: object) -> bool:
        return refuse() if self.broken else self is other

    __repr__ = refuse


@pytest.mark.parametrize("make", [Fair, partial(Fair, max_running=1), partial(Fair, max_waiting=5)])
def test_a_key_that_fails_after_its_task_was_taken_costs_no_thread(make: Callable[[], Fair]) -> None:
    """An order asks for it in the worker's thread."""
    gate, began = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        assert gate.wait(PATIENCE)

    keys = [Moody() for _ in range(100)]  # more than the order remembers
    with Pool(1, order=make(), queue_size=None) as pool:
        thread = pool.submit(threading.get_ident).result(PATIENCE)
        pool.submit(hold)
        assert began.wait(PATIENCE)
        futures = [pool.options(key=key).submit(abs, -1) for key in keys]
        for key in keys:
            key.broken = True
        gate.set()
        assert [future.result(PATIENCE) for future in futures] == [1] * 100
        assert pool.submit(threading.get_ident).result(PATIENCE) == thread


def test_a_key_that_fails_while_its_task_waits_for_its_rate_harms_nobody() -> None:
    key = Moody()
    rate = treadle.Rate(0.001)
    with Pool(1, order="fair") as pool:
        rate._bucket._tokens = 0.0
        future = pool.options(key=key, rate=rate).submit(int)
        other = pool.options(rate=rate).submit(abs, -1)
        tick = threading.Event()
        for _ in range(3000):
            if len(pool._task_dispatcher.queue.throttled) == 2:
                break
            tick.wait(0.01)
        key.broken = True
        for task, result in ((future, 0), (other, 1)):
            rate._bucket._disarm()
            rate._bucket._tokens = 1.0
            rate._bucket._call()
            assert task.result(PATIENCE) == result
    now = pool.snapshot()
    assert (now.submitted, now.finished, now.cancelled) == (2, 2, 0)


def test_a_key_that_cannot_be_compared_harms_none_of_another_pool_that_has_its_hash() -> None:
    keys = [Moody() for _ in range(3)]
    with Pool(1, order="fair") as one, Pool(1, order="fair") as other:
        assert [one.options(key=key).submit(int).result(PATIENCE) for key in keys] == [0] * 3
        for key in keys:
            key.broken = True
        assert other.options(key=Moody()).submit(int).result(PATIENCE) == 0
        assert other.options(key=7).submit(int).result(PATIENCE) == 0


def test_a_refusal_shows_the_key_with_no_lock_held() -> None:
    """To show it is the user's code."""
    free: list[bool] = []
    gate, began = threading.Event(), threading.Event()

    class Key:
        def __repr__(self) -> str:
            other = threading.Thread(target=full.snapshot)
            other.start()
            other.join(5)
            free.append(not other.is_alive())
            return "key"

    def hold() -> None:
        began.set()
        assert gate.wait(PATIENCE)

    with Pool(1, order=Fair(max_waiting=1), when_full="reject") as full:
        full.submit(hold)
        assert began.wait(PATIENCE)
        view = full.options(key=Key())
        view.submit(int)
        with pytest.raises(PoolFull, match="full for key key"):
            view.submit(int)
        gate.set()
    assert free == [True]


# -- wrong arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda: Pool(Nasty()),  # type: ignore[arg-type]
        lambda: Pool(1, queue_size=Nasty()),  # type: ignore[arg-type]
        lambda: Pool(1, idle_timeout=Nasty()),  # type: ignore[arg-type]
        lambda: Pool(1, when_full=Nasty()),  # type: ignore[arg-type]
        lambda: Pool(1, order=Nasty()),  # type: ignore[arg-type]
        lambda: Pool(1, limit=Nasty()),  # type: ignore[arg-type]
        lambda: Pool(1, rate=Nasty()),  # type: ignore[arg-type]
        lambda: Pool(1, name=Nasty()),  # type: ignore[arg-type]
        lambda: Pool(1, context=Nasty()),  # type: ignore[arg-type]
        lambda: Pool(1, initializer=Nasty()),  # type: ignore[arg-type]
        lambda: Pool(1, observers=Nasty()),  # type: ignore[arg-type]
        lambda: Pool(1, observers=[Nasty()]),  # type: ignore[list-item]
        lambda: Pool(1).submit(Nasty()),  # type: ignore[arg-type]
        lambda: Pool(1, order="fair").options(key=Nasty()),  # type: ignore[arg-type]
        lambda: treadle.deadline(Nasty()),  # type: ignore[arg-type]
        lambda: treadle.wait([Nasty()]),  # type: ignore[type-var]
        lambda: TaskGroup(Nasty()),  # type: ignore[arg-type]
    ],
)
def test_what_is_wrong_with_an_argument_is_said_though_it_does_not_show_itself(call: Callable[[], object]) -> None:
    with pytest.raises(TypeError, match="Nasty"):
        call()
