"""Fork, at any instant and from any thread: the child has an empty pool, and nothing of its parent hangs there."""

from __future__ import annotations

import os
import sys
import textwrap
from subprocess import CompletedProcess

import pytest

from behaviour.scripts import CHILD_PATIENCE, PRELUDE, script

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def test_the_child_works_whatever_other_threads_were_doing() -> None:
    """Sixty times, or as often as half a minute allows.

    Free-threaded CPython 3.13 gives the processor away 40 times before it sleeps on a lock: on a loaded machine, where
    as many threads get it first, each wait of the child takes milliseconds, and the child seconds.
    """
    done = script("""
        import itertools, time
        from concurrent.futures import TimeoutError, as_completed, wait
        from treadle import Pool
        pool, busy, stop = Pool(3, queue_size=5, idle_timeout=0.001), Pool(1), threading.Event()
        blocked = busy.submit(stop.wait, 60)
        def submits():
            wait([pool.submit(int) for _ in range(20)])
        def asks():
            for future in as_completed([pool.submit(abs, -n) for n in range(20)]):
                future.result()
        def maps():
            assert sum(pool.map(abs, range(50), buffersize=7)) == 1225
        def cancels():
            [pool.submit(int).cancel() for _ in range(20)]
        def polls():
            try:
                blocked.result(0.0001)
            except TimeoutError:
                pass
        def looks():
            pool.snapshot(), busy.snapshot(), repr(blocked)
        def comes_and_goes():
            with Pool(2) as other:
                other.submit(abs, -1).result()
            Pool(1).submit(int)
        def nests():
            pool.submit(lambda: [pool.submit(int).result() for _ in range(3)]).result()
        def forever(fn):
            while not stop.is_set():
                fn()
        jobs = [submits, asks, maps, cancels, polls, looks, comes_and_goes, nests]
        threads = [threading.Thread(target=forever, args=(fn,)) for fn in jobs]
        for thread in threads:
            thread.start()
        def child():
            assert pool.submit(abs, -3).result() == 3
            assert list(pool.map(abs, range(100))) == list(range(100))
            assert busy.submit(abs, -4).result() == 4, "whose thread was busy in the parent"
            pool.shutdown()
            comes_and_goes()
        try:
            until = time.monotonic() + 30
            statuses = {fork(child) for _ in itertools.takewhile(lambda _: time.monotonic() < until, range(60))}
        finally:
            stop.set()
        for thread in threads:
            thread.join()
        assert pool.submit(abs, -3).result() == 3, "the parent's goes on"
        print(statuses)
    """)
    assert done.stdout.strip() == "{0}", done.stderr


def test_futures_of_the_parent_are_done_in_the_child_however_they_are_waited_for() -> None:
    done = script("""
        import concurrent.futures, treadle
        from treadle import Pool
        from treadle.errors import WorkerLost
        pool, gate, began = Pool(1, queue_size=1), threading.Event(), threading.Event()
        ended = pool.submit(abs, -3)
        ended.result()
        running = pool.submit(lambda: began.set() or gate.wait(60))
        assert began.wait(60)
        waiting = pool.submit(abs, -4)
        entering = threading.Thread(target=pool.submit, args=(print, "the parent's blocked caller", ))
        entering.start()
        while not pool.snapshot().blocked:
            threading.Event().wait(0.001)
        def child():
            everything = {ended, running, waiting}
            assert ended.result() == 3
            assert isinstance(running.exception(), WorkerLost)
            try:
                waiting.result()
            except concurrent.futures.CancelledError:
                print("cancelled")
            for wait in concurrent.futures.wait, treadle.wait:
                assert wait(everything).done == everything
            for as_completed in concurrent.futures.as_completed, treadle.as_completed:
                assert set(as_completed(everything)) == everything
            assert all(future.done() and not future.running() for future in everything)
            assert not running.cancel() and waiting.cancel()
            running.add_done_callback(lambda future: print("called"))
            now = pool.snapshot()
            assert (now.threads, now.busy, now.waiting, now.blocked) == (0, 0, 0, 0), now
        print(fork(child))
        gate.set()
        entering.join()
        print(running.result(), waiting.result())
        pool.shutdown()
    """)
    expected = ["cancelled", "called", "0", "True 4", "the parent's blocked caller"]
    assert sorted(done.stdout.splitlines()) == sorted(expected), done.stderr


def test_what_strangers_took_out_in_the_parent_is_done_in_the_child() -> None:
    done = script("""
        import concurrent.futures
        from treadle import Pool
        pool, gate, began = Pool(1), threading.Event(), threading.Event()
        running = pool.submit(lambda: began.set() or gate.wait(60))
        assert began.wait(60)
        waiting = pool.submit(abs, -4)
        item = pool._work_queue.get()
        def child():
            assert waiting.cancelled()
            item.run()
            assert pool.submit(abs, -3).result() == 3
            now = pool.snapshot()
            assert (now.submitted, now.finished) == (1, 1), now
        print(fork(child))
        item.run()
        print(waiting.result(0))
        gate.set()
        pool.shutdown()
    """)
    assert done.stdout.splitlines() == ["0", "4"], done.stderr


def test_a_map_of_the_parent_does_not_hang_in_the_child() -> None:
    done = script("""
        from treadle import Pool
        pool, gate, began = Pool(1), threading.Event(), threading.Event()
        def task(number):
            if number == 1:
                began.set()
                assert gate.wait(60)
            return number
        for ordered in True, False:
            gate.clear(), began.clear()
            results = pool.map(task, range(4), ordered=ordered)
            assert next(results) == 0
            assert began.wait(60)
            def child():
                failures = [type(error).__name__ for error in errors_of(results)]
                assert sorted(failures) == ["CancelledError", "CancelledError", "WorkerLost"], failures
            print(fork(child))
            gate.set()
            print(list(results))
    """)
    assert done.stdout.splitlines() == ["0", "[1, 2, 3]"] * 2, done.stderr


def test_a_child_does_not_read_on_what_the_parent_maps() -> None:
    done = script("""
        from treadle import Pool
        pool, ran = Pool(2, queue_size=4), []
        results = pool.map(ran.append, range(1000))
        pool.map(ran.append, range(1000))
        def child():
            pool.shutdown()
            assert len(ran) < 1000, len(ran)
        print(fork(child))
        pool.shutdown()
        print(len(ran))
    """)
    assert done.stdout.splitlines() == ["0", "2000"], done.stderr


def test_a_full_pool_has_room_in_the_child() -> None:
    done = script("""
        from treadle import Pool
        from treadle.errors import PoolFull
        pool, gate = Pool(1, queue_size=1, when_full="reject"), threading.Event()
        parents = [pool.submit(gate.wait, 60) for _ in range(2)]
        def child():
            release = threading.Event()
            futures = [pool.submit(release.wait, 60) for _ in range(2)]
            try:
                pool.submit(int)
            except PoolFull:
                print("full")
            release.set()
            assert all(future.result() for future in futures)
        print(fork(child))
        gate.set()
        assert all(future.result() for future in parents)
    """)
    assert done.stdout.split() == ["full", "0"], done.stderr


def test_a_pool_that_was_shut_down_stays_so_in_the_child() -> None:
    done = script("""
        from treadle import Pool
        pool = Pool(1)
        pool.submit(int).result()
        pool.shutdown()
        def child():
            try:
                pool.submit(int)
            except RuntimeError as error:
                print(type(error).__name__)
            pool.shutdown()
        print(fork(child))
    """)
    assert done.stdout.split() == ["PoolClosed", "0"], done.stderr


def test_a_child_may_fork_in_turn() -> None:
    done = script("""
        from treadle import Pool
        pool = Pool(1)
        def child(generations=3):
            assert pool.submit(abs, -generations).result() == generations
            if generations:
                assert fork(lambda: child(generations - 1)) == 0
        print(fork(child), pool.submit(abs, -1).result())
    """)
    assert done.stdout.split() == ["0", "1"], done.stderr


def test_a_task_may_fork_and_its_child_use_the_pool_it_runs_in() -> None:
    """With every thread of the pool forking at once, each inside a task that others wait for."""
    done = script("""
        from treadle import Pool
        pool = Pool(3)
        later = []
        def child():
            assert pool.submit(abs, -3).result() == 3
            assert list(pool.map(abs, range(30))) == list(range(30))
            assert pool.submit(lambda: pool.submit(abs, -4).result()).result() == 4
            for future in later:
                assert future.done() or future.cancel(), "those of the parent do not hang"
            with Pool(2) as other:
                assert list(other.map(abs, range(30))) == list(range(30))
        def task():
            return fork(child)
        for _ in range(10):
            later[:] = [pool.submit(task) for _ in range(6)]
            assert [future.result() for future in later] == [0] * 6
        print("ended")
    """)
    assert done.stdout.strip() == "ended", done.stderr


def test_a_child_that_returns_from_the_task_ends() -> None:
    """The thread that forked is no worker of the child's pool."""
    done = script("""
        from treadle import Pool
        pool = Pool(2, idle_timeout=0.01)  # the process ends with its last thread
        def task():
            pid = os.fork()
            if pid == 0:
                signal.alarm(30)
                pool.submit(print, "in the child").result()
                return
            return os.waitpid(pid, 0)[1]
        print(pool.submit(task).result())
    """)
    assert done.stdout.splitlines() == ["in the child", "0"], done.stderr


@pytest.mark.parametrize(
    "pool",
    [
        "pool = Pool(2, idle_timeout=0.01, initializer=forks); done = pool.submit(int)",
        "pool = Pool(2, idle_timeout=0.01); done = pool.submit(forks)",
        "pool = Pool(2, idle_timeout=0.01); done = pool.submit(go.wait, 60); done.add_done_callback(forks); go.set()",
        "pool = Pool(2, idle_timeout=0.01); done = pool.submit(lambda: pool.submit(forks).result())",
    ],
    ids=["initializer", "task", "callback", "nested task"],
)
def test_a_child_that_returns_from_wherever_it_was_forked_ends(pool: str) -> None:
    """It prints nothing of its own, and leaves with the last of its pool's threads."""
    done = script(f"""
        from treadle import Pool
        forked, go, over = [], threading.Event(), threading.Event()
        def forks(*_):
            if not forked:
                forked.append(os.fork())
                if forked == [0]:
                    signal.alarm({CHILD_PATIENCE})
                    for number in range(3):
                        assert pool.submit(abs, -number).result() == number
                    threading.Thread(target=pool.submit, args=(os.write, 1, b"child\\n")).start()
                else:
                    print(os.waitpid(forked[0], 0)[1])
                    over.set()
        {pool}
        done.result()
        assert over.wait(60)
        pool.shutdown()
    """)
    assert done.stdout.splitlines() == ["child", "0"], done.stderr
    assert not done.stderr


def test_a_thread_that_forked_is_no_worker_of_the_childs_pool() -> None:
    """It takes none of its tasks, which would be one thread more than there may be, and shutdown there waits."""
    done = script("""
        from treadle import Pool
        pool, gate, ran = Pool(1), threading.Event(), []
        def child():
            held = pool.submit(gate.wait, 60)
            futures = [pool.submit(lambda: ran.append(threading.current_thread())) for _ in range(20)]
            def look(forker):
                while forker in threading.enumerate() and not ran:
                    threading.Event().wait(0.001)
                early = list(ran)
                gate.set()
                pool.shutdown()
                print(early, len(ran), forker in ran)
                os._exit(0)
            threading.Thread(target=look, args=(threading.current_thread(),)).start()
        def task():
            pid = os.fork()
            if not pid:
                signal.alarm(30)
                return child()
            return os.waitpid(pid, 0)[1]
        print(pool.submit(task).result())
        def closes():
            late = pool.submit(gate.wait, 60)
            def open_gate():
                while not pool.snapshot().closed:
                    threading.Event().wait(0.001)
                gate.set()
            threading.Thread(target=open_gate).start()
            pool.shutdown()
            print(late.done())
        print(pool.submit(fork, closes).result())
    """)
    assert done.stdout.splitlines() == ["[] 20 False", "0", "True", "0"], done.stderr


def test_a_task_may_use_multiprocessing_and_its_processes_the_pool() -> None:
    done = script("""
        import multiprocessing
        from treadle import Pool
        pool, context = Pool(2), multiprocessing.get_context("fork")
        def child(number):
            return sum(pool.map(abs, range(number)))
        def alone():
            signal.alarm(30)
            pool.submit(print, "waited for at the child's exit")
        def task():
            process = context.Process(target=alone)
            process.start()
            process.join()
            with context.Pool(2) as processes:
                return process.exitcode, processes.map(child, [10, 20, 30])
        print(pool.submit(task).result())
    """)
    assert done.stdout.splitlines() == ["waited for at the child's exit", "(0, [45, 190, 435])"], done.stderr


def test_processes_of_multiprocessing_use_the_pools_they_inherit() -> None:
    done = script("""
        import multiprocessing
        from treadle import Pool
        pool = Pool(2)
        pool.submit(int).result()
        def child(number):
            return sum(pool.map(abs, range(number)))
        with multiprocessing.get_context("fork").Pool(2) as processes:
            print(processes.map(child, [10, 20, 30]))
        print(child(40))
    """)
    assert done.stdout.splitlines() == ["[45, 190, 435]", "780"], done.stderr


def test_a_server_and_a_crew_are_the_parents_and_the_child_waits_for_neither() -> None:
    """Not at its exit, nor where it leaves their blocks: nobody there would ever end them."""
    done = script("""
        import multiprocessing, socket
        from treadle import Crew
        from treadle.server import Messages, Server
        def ask():
            with socket.create_connection(server.address, 30) as sock:
                sock.sendall(b"still there?")
                return sock.recv(100).decode()
        def child():
            signal.alarm(30)
            print(server.stop())
        with Server(Messages(lambda message, peer: message), "127.0.0.1:0") as server, Crew(print, 1) as crew:
            process = multiprocessing.get_context("fork").Process(target=child)
            process.start()
            process.join()
            print(process.exitcode, ask())
            pid = os.fork()
            if pid:
                print(os.waitpid(pid, 0)[1], ask())
            else:
                signal.alarm(30)
        print("left")
    """)
    assert done.stdout.splitlines() == ["0", "0 still there?", "left", "0 still there?", "left"], done.stderr


FORK_ONCE = f"""
parent, forked, over = os.getpid(), [], threading.Event()
def forks(*_):
    "Fork the first time, and wait for the child in the parent."
    if not forked:
        forked.append(0)
        pid = os.fork()
        if pid:
            print("ended", os.waitpid(pid, 0)[1])
            over.set()
        else:
            signal.alarm({CHILD_PATIENCE})
def here():
    return "parent" if os.getpid() == parent else "child"
"""


def forking(source: str) -> CompletedProcess[str]:
    """Run a program that may call `forks` and `here`."""
    return script(source, prelude=PRELUDE + FORK_ONCE)


@pytest.mark.parametrize("rate", [None, "Rate(1e6)"])
@pytest.mark.parametrize("row", [0, 50, 99])
@pytest.mark.parametrize(
    "end",
    [
        "pool.shutdown()",
        "over.wait(60); pool.shutdown()",  # nobody takes results: a worker reads
        "pool.shutdown(wait=False); pool.shutdown()",
        "",
    ],
    ids=["shutdown", "late", "no wait", "exit"],
)
def test_a_child_that_the_input_of_a_map_forks_leaves_the_rest_to_the_parent(
    end: str, row: int, rate: str | None
) -> None:
    """Whoever reads it: the parent runs every item, and the child none, and says nothing."""
    done = forking(f"""
        from treadle import Pool, Rate
        pool = Pool(2, queue_size=4, idle_timeout=0.01, rate={rate})
        def rows():
            for number in range(100):
                if here() == "child":
                    print("child reads", number)
                if number == {row} and number:
                    forks()
                yield number
            if not {row}:
                forks()
        def task(number):
            print(here(), number)
        results = pool.map(task, rows())
        {end}
    """)
    assert sorted(done.stdout.splitlines()) == sorted(["ended 0", *(f"parent {number}" for number in range(100))])
    assert not done.stderr


def test_a_consumer_in_the_child_is_told_of_a_thread_that_was_in_the_middle_of_the_input() -> None:
    done = script("""
        from treadle import Pool, Rate
        pool, gate, began = Pool(2, queue_size=4), threading.Event(), threading.Event()
        def rows():
            yield from range(10)
            began.set()
            gate.wait(60)
            yield 10
        for rate in None, Rate(1e6):
            gate.clear(), began.clear()
            results = pool.options(rate=rate).map(abs, rows())
            assert began.wait(60)
            def child():
                errors = errors_of(results)
                kinds = {type(error).__name__ for error in errors}
                assert kinds <= {"CancelledError", "WorkerLost"}, kinds
                assert "the process forked" in str(errors[-1]), errors
            print(fork(child))
            gate.set()
            print(sum(results))
    """)
    assert done.stdout.splitlines() == ["0", "55"] * 2, done.stderr
    assert not done.stderr


@pytest.mark.parametrize(
    "then",
    [
        "with pool: later = [pool.submit(task) for _ in range(5)]; gate.set()",
        "with pool, treadle.deadline(60): later = [pool.submit(task) for _ in range(5)]; gate.set()",
        "with pool: later = pool.map(task, range(5)); gate.set()",
    ],
    ids=["tasks", "tasks with a deadline", "map"],
)
@pytest.mark.parametrize(
    "options", ["", "initializer=lambda: variable.set(1)", "observers=[treadle.events.Observer()]"]
)
@pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="without the GIL objects are destroyed anywhere"
)
@pytest.mark.parametrize("forker", ["Forks", "lambda: 1 / 0"], ids=["destructor", "log handler"])
def test_a_child_that_is_forked_between_two_tasks_runs_none(forker: str, options: str, then: str) -> None:
    """By the destructor of a result, or who is told of an exception that nobody asked for: when the thread lets go."""
    done = forking(f"""
        import contextvars, logging, treadle
        variable = contextvars.ContextVar("variable")
        class Forks:
            def __del__(self):
                forks()
        class Handler(logging.Handler):
            def emit(self, record):
                print(record.getMessage()) if forked else forks()
        logging.getLogger("treadle").addHandler(Handler())
        logging.getLogger("treadle").propagate = False
        def task(*_):
            print(here())
        pool, gate = treadle.Pool(1, idle_timeout=0.01, {options}), threading.Event()
        pool.submit(gate.wait, 60)
        pool.submit({forker})
        {then}
    """)
    assert sorted(done.stdout.splitlines()) == ["ended 0", *["parent"] * 5]
    assert not done.stderr


def test_a_child_that_uses_no_pool_ends_though_threads_are_to_be_kept_warm() -> None:
    done = forking("""
        from treadle import Pool
        with Pool(2, min_workers=2) as pool:
            pool.submit(forks)
            assert over.wait(60)
    """)
    assert done.stdout.splitlines() == ["ended 0"], done.stderr
    assert not done.stderr


def test_observers_in_the_child_are_told_nothing_more_of_the_parents_tasks() -> None:
    done = forking("""
        from treadle import Pool
        from treadle.events import Observer
        class Tells(Observer):
            def finished(self, event):
                print(here(), event.name)
        with Pool(2, idle_timeout=0.01, observers=[Tells()]) as pool:
            pool.options(name="forks").submit(forks)
            assert over.wait(60)
    """)
    assert done.stdout.splitlines() == ["ended 0", "parent forks"]
    assert not done.stderr


def test_a_child_of_a_crews_handler_handles_nothing_of_the_parents() -> None:
    """Its crew is closed and empty, whatever threads of the parent were doing to the channel."""
    done = forking("""
        from treadle import Crew
        from treadle.errors import ChannelClosed
        def handle(item):
            print(here(), item)
            if item == 1:
                forks()
                if here() == "child":
                    now = crew.snapshot()
                    assert (now.workers, now.waiting, now.closed) == (0, 0, True), now
                    assert crew.close() == []
                    try:
                        crew.channel.put(1)
                    except ChannelClosed:
                        print("closed")
        with Crew(handle, 1) as crew:
            for item in range(5):
                crew.put(item)
    """)
    assert done.stdout.splitlines() == [
        "parent 0", "parent 1", "closed", "ended 0", "parent 2", "parent 3", "parent 4"
    ], done.stderr  # fmt: skip
    assert not done.stderr


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("place", ["source", "stage"])
def test_a_child_of_a_pipelines_thread_ends_when_that_returns(place: str, ordered: bool) -> None:
    done = forking(f"""
        from treadle import Pipeline
        def at(place, number):
            if place == "{place}" and number == 5:
                forks()
            return number
        def stage(number):
            print(here())
            return at("stage", number)
        source = (at("source", number) for number in range(10))
        print(sum(Pipeline().stage(abs, workers=2).stage(stage).run(source, ordered={ordered})))
    """)
    assert sorted(done.stdout.splitlines()) == ["45", "ended 0", *["parent"] * 10], done.stderr
    assert not done.stderr


@pytest.mark.parametrize("ordered", [True, False])
def test_a_child_that_goes_on_with_a_run_of_a_pipeline_is_told_that_it_stayed_in_the_parent(ordered: bool) -> None:
    done = script(f"""
        from treadle import Pipeline
        from treadle.errors import WorkerLost
        results = Pipeline().stage(abs).run(range(10), ordered={ordered})
        another = Pipeline().stage(abs).run(range(10), ordered={ordered})
        begun = Pipeline().stage(abs).run(range(10), ordered={ordered})
        next(results), next(begun)
        def child():
            try:
                next(results)
            except WorkerLost as error:
                print(type(error).__name__)
            assert next(results, None) is None
            begun.close()
            assert sum(another) == 45, "which was not begun in the parent"
        print(fork(child))
        print(sum(results), sum(another), sum(begun))
    """)
    assert done.stdout.splitlines() == ["WorkerLost", "0", "45 45 45"], done.stderr
    assert not done.stderr


def test_a_task_that_fails_in_the_child_has_not_missed_its_deadline() -> None:
    done = forking("""
        import treadle
        def task():
            forks()
            if here() == "child":
                raise ValueError("raised")
        with treadle.Pool(1, idle_timeout=0.01) as pool, treadle.deadline(60):
            pool.options(name="forks").submit(task).result()
    """)
    assert done.stdout.splitlines() == ["ended 0"]
    assert done.stderr.splitlines()[0] == "task forks failed in a forked child"
    assert done.stderr.splitlines()[-1] == "ValueError: raised"


# What a forked child lets go of, each with a `Frees` in it, which keeps nothing else.
LET_GO = {
    "argument of a task that waits": "pool.submit(print, Frees())",
    "function of a task that waits": "pool.submit(Frees())",
    "argument of a task that its rate holds back": """
view = spare.options(rate=treadle.Rate(1, per=1000))
view.submit(int).result(60), view.submit(print, Frees())
while not spare._task_dispatcher.queue.throttled:
    pause()
""",
    "result of a task that was settled by hand": "pool.submit(print).set_result(Frees())",
    "argument of a task in a group": """
def grouped():
    with treadle.TaskGroup(pool) as group:
        group.submit(print, Frees())
threading.Thread(target=grouped).start()
while not pool.snapshot().waiting:
    pause()
""",
    "item of a map": "results = pool.map(print, [Frees()])",
    "callback": "CALLBACKS.call_at(now() + 1000, partial(print, Frees()))",
    "context": "kept.set(Frees()); contextvars.copy_context().run(pool.submit, print); kept.set(None)",
}
FREES = """
import contextvars, treadle
from functools import partial
from treadle._base.clock import now
from treadle._base.timer import CALLBACKS
kept, forked = contextvars.ContextVar("kept"), []
class Frees:
    def __call__(self):
        pass
    def __del__(self):
        if os.getpid() != parent:
            forked.extend((pool.submit(abs, -3), spare.submit(abs, -4)))
parent, gate, began, pause = os.getpid(), threading.Event(), threading.Event(), lambda: threading.Event().wait(0.001)
pool, spare, full = treadle.Pool(1), treadle.Pool(1), treadle.Pool(1, queue_size=1)
pool.submit(lambda: began.set() or gate.wait(60)), began.wait(60)
"""


@pytest.mark.parametrize("what", LET_GO)
def test_what_a_destructor_submits_in_the_child_runs_there(what: str) -> None:
    """The pools are in order by then, and nobody's lock is held, though it comes as the parent's tasks are given up."""
    done = script(FREES + textwrap.dedent(LET_GO[what]).strip() + """
def child():
    assert forked
    assert {future.result(20) for future in forked} == {3, 4}
    for each in pool, spare, full:
        now = each.snapshot()
        assert (now.waiting, now.blocked) == (0, 0), now
        assert each.shutdown(timeout=20) == ()
print(fork(child))
gate.set()
os._exit(0)
""")  # fmt: skip
    assert done.stdout.splitlines() == ["0"], done.stderr


def test_what_tells_the_name_of_a_parents_task_may_use_the_pool_in_the_child() -> None:
    done = script("""
        from treadle import Pool
        parent, gate, names, futures = os.getpid(), threading.Event(), [], []
        class Named:
            def __call__(self):
                pass
            def __getattr__(self, name):
                if name != "__qualname__":
                    raise AttributeError(name)
                if os.getpid() != parent:
                    futures.extend((pool.submit(abs, -3), other.submit(abs, -4)))
                return "named"
        pool, other = Pool(1), Pool(1)
        held = pool.submit(gate.wait, 60)
        waiting = pool.submit(Named()), other.submit(gate.wait, 60)
        def child():
            assert {future.result(20) for future in futures} == {3, 4}
            assert waiting[0].cancelled() and waiting[0].name == "named"
        print(fork(child))
        gate.set()
    """)
    assert done.stdout.splitlines() == ["0"], done.stderr


@pytest.mark.parametrize("handlers", ["registered before treadle", "registered after treadle"])
def test_handlers_of_others_may_use_pools_as_the_process_forks(handlers: str) -> None:
    """Those that were registered before treadle's are called while its locks are held: what they submit runs later."""
    register = "os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)"
    first, then = (register, "") if handlers == "registered before treadle" else ("", register)
    done = script(f"""
        import concurrent.futures
        futures, made = [], []
        def submit(number):
            made.append(treadle.Pool(1))
            futures.extend(each.submit(abs, number) for each in (pool, idle, made[-1]))
        def before():
            submit(-1)
        def in_parent():
            submit(-2)
        def in_child():
            submit(-3)
        {first}
        import treadle
        {then}
        pool, idle = treadle.Pool(1, min_workers=1), treadle.Pool(1)
        idle.submit(int).result()
        def child():
            for future in futures:
                try:
                    assert future.result(20) in (1, 3)
                except (concurrent.futures.CancelledError, treadle.errors.WorkerLost):
                    pass
            for each in pool, idle, *made:
                assert each.submit(abs, -4).result(20) == 4
                assert each.shutdown(timeout=20) == ()
        print(fork(child))
        print([future.result(20) for future in futures])
        for each in pool, idle, *made:
            each.shutdown()
    """)
    assert done.stdout.splitlines() == ["0", "[1, 1, 1, 2, 2, 2]"], done.stderr


def test_a_pool_that_is_the_first_and_made_as_the_process_forks_works_in_both() -> None:
    done = script("""
        made = []
        def before():
            made.append(treadle.Pool(1))
            made[0].submit(int)
        os.register_at_fork(before=before)
        import treadle
        def child():
            assert made[0].submit(abs, -4).result(20) == 4
        print(fork(child))
        print(made[0].submit(abs, -3).result(20))
    """)
    assert done.stdout.splitlines() == ["0", "3"], done.stderr
