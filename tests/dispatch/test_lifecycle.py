"""What happens to pools when the interpreter exits, and when the process forks."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from contextlib import suppress
from threading import Thread
from typing import Any

import pytest

from treadle import Pool
from treadle._base.locks import closed_latch
from treadle._dispatch import lifecycle
from treadle._dispatch.dispatcher import Dispatcher
from treadle._dispatch.state import Claims
from treadle._dispatch.worker import Worker
from treadle._dispatch.workers import Workers
from treadle.errors import PoolClosed

fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def python(source: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, with sixty seconds to end."""
    program = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n" + textwrap.dedent(source)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, env=environment
    )


def test_what_was_accepted_is_run_before_the_interpreter_exits() -> None:
    done = python("""
        import threading
        from treadle import Pool
        pool = Pool(1)
        pool.submit(threading.Event().wait, 0.2)
        for n in range(3):
            pool.submit(print, n)
    """)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["0", "1", "2"], "")


def test_who_waits_for_the_end_waits_for_a_thread_that_another_one_is_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the timers' thread does for a map whose results nobody takes: what was accepted would run after the end."""
    began, gate, ran = (threading.Event() for _ in range(3))
    start, pool = Thread.start, Pool(1, name="slow")

    def slowly(thread: Thread) -> None:
        if thread.name.startswith("slow"):
            began.set()
            assert gate.wait(30)
        start(thread)

    def submit() -> None:
        with suppress(PoolClosed):  # it may come too late by then
            pool.submit(int)

    def open_gate() -> Any:
        gate.set()
        return closed_latch()

    monkeypatch.setattr(Thread, "start", slowly)
    monkeypatch.setattr(lifecycle, "closed_latch", open_gate)
    other = Thread(target=submit)
    other.start()
    try:
        assert began.wait(30)
        pool.submit(ran.set)
        assert pool.shutdown(timeout=30) == ()
        assert ran.is_set()
    finally:
        gate.set()
        other.join(30)


def test_who_starts_a_thread_does_not_wait_for_it_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a signal handler would that comes amid that: the thread comes up when it has returned."""
    start, pool = Thread.start, Pool(1, name="slow")

    def handled(thread: Thread) -> None:
        if thread.name.startswith("slow"):
            pool.shutdown()
        start(thread)

    monkeypatch.setattr(Thread, "start", handled)
    with pytest.raises(PoolClosed):
        pool.submit(int)


def test_threads_that_outlive_the_main_one_may_still_submit() -> None:
    done = python("""
        import threading
        from treadle import Pool
        pool = Pool(1)
        def later():
            threading.main_thread().join()
            print(pool.submit(abs, -3).result(30))
        threading.Thread(target=later).start()
    """)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "3", "")


def test_a_pool_that_has_ended_keeps_none_of_its_threads() -> None:
    """CPython's own tests, for one, look for thread objects that somebody keeps."""
    pool = Pool(3)
    with pool:
        threads = [weakref.ref(pool.submit(threading.current_thread).result()) for _ in range(3)]
    assert [thread() for thread in threads] == [None] * 3
    assert pool.closed


def test_what_a_thread_object_holds_goes_with_no_lock_held() -> None:
    """For its destructor is the user's."""
    pool, held = Pool(1), []
    lock = pool._task_dispatcher.lock

    class Kept:
        def __del__(self) -> None:
            held.append(lock._is_owned())  # type: ignore[attr-defined]  # threading.Condition relies on it too

    thread = pool.submit(threading.current_thread).result()
    vars(thread).update(kept=Kept())
    pool.shutdown(wait=False)
    thread.join(60)
    del thread
    pool.shutdown()
    assert held == [False]


def test_submitting_when_the_interpreter_has_closed_its_pools_is_a_runtime_error() -> None:
    done = python("""
        import atexit
        @atexit.register
        def last():
            try:
                pool.submit(int)
            except RuntimeError as error:
                print(type(error).__name__, error)
        from treadle import Pool
        pool = Pool(1)
        pool.submit(int).result(30)
    """)
    assert done.stdout.startswith("RuntimeError cannot schedule new futures after interpreter shutdown")


def test_an_exception_that_nobody_asked_for_is_logged_at_exit() -> None:
    done = python("""
        from treadle import Pool
        pool = Pool(1)
        future = pool.submit(int, "x")
    """)
    assert done.stderr.count("task int failed, and nobody asked for its result") == 1
    assert "ValueError" in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("place", ["with", "module"])
def test_ctrl_c_ends_the_program_whatever_its_tasks_wait_for(place: str) -> None:
    block = "with pool: wait()" if place == "with" else "wait()"
    done = python(f"""
        import os, signal, threading
        from treadle import Pool
        pool = Pool(1)
        began = threading.Event()
        def task():
            began.set()
            threading.Event().wait()
        pool.submit(task)
        for n in range(3):
            pool.submit(print, "must not run", n)
        def wait():
            assert began.wait(30)
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(30)
        {block}
    """)
    assert done.returncode == -signal.SIGINT
    assert "must not run" not in done.stdout
    assert "KeyboardInterrupt" in done.stderr


def test_ctrl_c_while_the_interpreter_waits_for_tasks_ends_the_wait() -> None:
    done = python("""
        import _thread, os, signal, threading
        from treadle import Pool
        pool = Pool(1)
        def task():
            import treadle._dispatch.lifecycle
            while not treadle._dispatch.lifecycle.exiting():
                threading.Event().wait(0.01)
            while True:  # one that comes just before the main thread sleeps is seen when it wakes
                os.kill(os.getpid(), signal.SIGINT)
                threading.Event().wait(0.1)
        pool.submit(task)
    """)
    assert "KeyboardInterrupt" in done.stderr


@fork
def test_a_forked_child_has_an_empty_working_pool() -> None:
    done = python("""
        import os, threading
        from treadle import Pool
        pool = Pool(2, queue_size=10)
        gate = threading.Event()
        running = [pool.submit(gate.wait, 30) for _ in range(2)]
        waiting = pool.submit(print, "the parent's")
        if os.fork() == 0:
            now = pool.snapshot()
            print(now.threads, now.waiting, pool.submit(abs, -3).result(30), waiting.cancelled())
            print(type(running[0].exception(5)).__name__, flush=True)
            pool.shutdown()
            os._exit(0)
        os.wait()
        gate.set()
        pool.shutdown()
    """)
    assert done.stdout.splitlines() == ["0 0 3 True", "WorkerLost", "the parent's"]
    assert done.returncode == 0


@fork
def test_a_task_may_fork() -> None:
    done = python("""
        import multiprocessing
        from treadle import Pool
        def child():
            with Pool(2) as pool:
                assert list(pool.map(abs, range(100))) == list(range(100))
        def task():
            process = multiprocessing.get_context("fork").Process(target=child)
            process.start()
            process.join(30)
            return process.exitcode
        with Pool(2) as pool:
            print([pool.submit(task).result(60) for _ in range(4)])  # multiprocessing joins from one thread at a time
    """)
    assert done.stdout.strip() == "[0, 0, 0, 0]", done.stderr


@fork
def test_forking_while_others_submit_leaves_nobody_with_a_taken_lock() -> None:
    done = python("""
        import os, threading
        from treadle import Pool
        pool, stop = Pool(3), threading.Event()
        def flood():
            while not stop.is_set():
                pool.submit(int).result(30)
        threads = [threading.Thread(target=flood) for _ in range(3)]
        for thread in threads: thread.start()
        statuses = []
        for _ in range(30):
            pid = os.fork()
            if pid == 0:
                os._exit(0 if pool.submit(abs, -1).result(20) == 1 else 1)
            statuses.append(os.waitpid(pid, 0)[1])
        stop.set()
        for thread in threads: thread.join()
        print(set(statuses))
        pool.shutdown()
    """)
    assert done.stdout.strip() == "{0}", done.stderr


def test_every_lost_exception_is_logged_at_exit_whatever_a_log_handler_raises() -> None:
    done = python("""
        import logging
        from treadle import Pool
        class Bad(logging.Handler):
            def handle(self, record):
                print(record.getMessage())
                raise error
        errors = [OSError(), SystemExit(), KeyboardInterrupt()]
        error = None
        logging.getLogger("treadle").addHandler(Bad())
        pool = Pool(1)
        futures = [pool.submit(int, "x") for _ in range(3)]
        pool.shutdown()
        from treadle._tasks import unretrieved
        for error in errors:
            kept = [unretrieved.Unretrieved(f"{type(error).__name__}-{n}", ValueError()) for n in range(2)]
            try:
                unretrieved.log_living()
            except KeyboardInterrupt:
                print("passed on")
    """)
    lines = done.stdout.splitlines()
    assert sum("task int failed" in line for line in lines) == 3
    for kind in ("OSError", "SystemExit", "KeyboardInterrupt"):
        assert sum(f"task {kind}-" in line for line in lines) == 2
    assert "passed on" in lines


def test_whatever_fails_at_exit_keeps_no_other_pool_from_ending() -> None:
    done = python("""
        import threading
        from treadle import Pool
        from treadle._dispatch import lifecycle
        class Leaver:
            def __init__(self, error):
                self.error = error
            def _leave(self):
                print("left")
                raise self.error
        leavers = [Leaver(ValueError()), Leaver(SystemExit())]
        for leaver in leavers:
            lifecycle.before_exit(leaver._leave, leaver._leave)
        pools = [Pool(1) for _ in range(3)]
        close = type(pools[0]._task_dispatcher).close
        def fail(self, after, *, cancel):
            close(self, after, cancel=cancel)
            raise OSError
        type(pools[0]._task_dispatcher).close = fail
        for pool in pools:
            pool.submit(threading.Event().wait, 0.1)
            pool.submit(print, "ran")
    """)
    assert done.returncode == 0
    assert (done.stdout.count("left"), done.stdout.count("ran")) == (2, 3)  # of threads that print at once


@fork
@pytest.mark.parametrize("where", ["while it runs", "at exit"])
def test_a_forked_child_tells_orphans_before_it_gives_up_tasks_and_whatever_one_raises(where: str) -> None:
    """At exit too, while what was accepted still runs: the tasks that are given up may reach for what they hold."""
    done = python(f"""
        import os, threading
        from treadle import Pool
        from treadle._dispatch import lifecycle
        pool, gate = Pool(2), threading.Event()
        class Orphan:
            def _forget_threads(self):
                os.write(1, b"told " + (b"late" if task.done() else b"first") + b"\\n")
                raise ValueError
        orphans = [Orphan(), Orphan()]
        for orphan in orphans:
            lifecycle.after_fork(orphan._forget_threads)
        task = pool.submit(gate.wait, 60)
        def forks():
            while {where == "at exit"} and not lifecycle.exiting():
                threading.Event().wait(0.001)
            if os.fork() == 0:
                os.write(1, b"done\\n" if task.done() else b"not done\\n")
                os._exit(0)
            os.wait()
            gate.set()
        pool.submit(forks)
    """)
    assert done.stdout.split("\n")[:-1] == ["told first", "told first", "done"], done.stderr


@fork
def test_the_counts_of_a_forked_child_are_its_own() -> None:
    done = python("""
        import os, threading
        from treadle import Pool
        gate = threading.Event()
        pool = Pool(1)
        for _ in range(3):
            pool.submit(lambda: pool.submit(int, "x").exception()).result()
        pool.submit(gate.wait)
        pool.submit(int).cancel()
        pool.submit(int)
        if os.fork() == 0:
            pool.submit(int).result(30)
            pool.shutdown()
            now = pool.snapshot()
            print(now.submitted, now.finished, now.failed, now.cancelled, now.waiting, flush=True)
            os._exit(0)
        os.wait()
        gate.set()
        pool.shutdown()
        now = pool.snapshot()
        print(now.submitted, now.finished, now.failed, now.cancelled, now.waiting)
    """)
    assert done.stdout.splitlines() == ["1 1 0 0 0", "9 8 3 1 0"], done.stderr


def test_a_pool_that_is_made_when_the_interpreter_has_closed_its_pools_takes_nothing() -> None:
    """Nobody would close it, nor wait for what it accepts."""
    done = python("""
        import atexit
        @atexit.register
        def last():
            try:
                Pool(1).submit(print, "accepted")
            except RuntimeError as error:
                print(error)
        from treadle import Pool
    """)
    assert done.stdout.startswith("cannot schedule new futures after interpreter shutdown"), done.stderr


def test_what_ctrl_c_left_running_is_not_waited_for_at_exit_though_the_program_dealt_with_it() -> None:
    done = python("""
        import threading
        from treadle import Pool
        began = threading.Event()
        def task():
            began.set()
            threading.Event().wait(20)
            print("was waited for")
        try:
            with Pool(1) as pool:
                pool.submit(task)
                assert began.wait(30)
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            print("caught")
    """)
    assert (done.returncode, done.stdout.split("\n"), done.stderr) == (0, ["caught", ""], "")


def test_shutdown_returns_when_the_last_thread_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """It strikes itself out a moment before; here that moment lasts until somebody waits for it."""
    struck_out, gate, waited_for = threading.Event(), threading.Event(), list[Thread]()
    exited, join_one = Dispatcher.exited, lifecycle._join_one

    def exit_slowly(dispatcher: Dispatcher, worker: Worker) -> None:
        exited(dispatcher, worker)
        struck_out.set()
        assert gate.wait(30)

    def join_and_open(thread: Thread, deadline: float | None) -> bool:
        waited_for.append(thread)
        gate.set()
        return join_one(thread, deadline)

    monkeypatch.setattr(Dispatcher, "exited", exit_slowly)
    monkeypatch.setattr(lifecycle, "_join_one", join_and_open)
    pool = Pool(1)
    try:
        thread = pool.submit(threading.current_thread).result(30)
        pool.shutdown(wait=False)
        assert struck_out.wait(30)
        pool.shutdown()
        assert waited_for == [thread]
        assert not thread.is_alive()
    finally:
        gate.set()


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_shutdown_counts_out_a_thread_that_was_killed_whenever_it_tried_to(
    monkeypatch: pytest.MonkeyPatch, timeout: float | None
) -> None:
    """And another one runs what was handed over to it, before the pool has ended."""
    exited, killed = Dispatcher._exited, list[Worker]()

    def killed_in(dispatcher: Dispatcher, claims: Claims, worker: Worker) -> Thread | None:
        if threading.get_ident() == thread.ident:
            killed.append(worker)
            raise SystemExit
        return exited(dispatcher, claims, worker)

    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    monkeypatch.setattr(Dispatcher, "_exited", killed_in)
    pool = Pool(1)
    thread = pool.submit(threading.current_thread).result(30)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
    waiting = pool.submit(abs, -1)
    thread.join(30)
    assert not thread.is_alive()
    assert len(killed) > 2
    assert not waiting.done()
    assert pool.shutdown(timeout=timeout) == ()
    assert waiting.result(0) == 1
    assert pool.snapshot().threads == 0


def test_a_finalizer_in_a_thread_that_ends_may_shut_the_pool_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next thread to end waits for this one, which would wait for that."""
    free, first, threads = Workers.free, list[Thread](), list[Thread]()
    pool, leaves = Pool(2), threading.Barrier(2)

    def finalize(self: Workers) -> int:
        if not first:
            first.append(threading.current_thread())
            pool.shutdown()
        return free(self)

    def task() -> None:
        leaves.wait(30)
        threads.append(threading.current_thread())

    for future in [pool.submit(task) for _ in range(2)]:
        future.result(30)
    monkeypatch.setattr(Workers, "free", finalize)  # as called by a thread that was counted out
    assert pool.shutdown(timeout=30) == ()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert first[0] in threads


def test_a_finalizer_in_the_first_line_of_a_thread_may_shut_the_pool_down() -> None:
    """It would wait for itself."""
    pool, left, tick = Pool(1), list[object](), threading.Event()
    setup = pool._task_dispatcher.setup
    main = setup.main

    def finalize(dispatcher: Dispatcher, worker: Worker) -> None:
        while worker not in dispatcher.workers.present:  # whoever has started it is about to count it in
            tick.wait(0.001)
        left.append(pool.shutdown())
        main(dispatcher, worker)

    setup.main = finalize
    with suppress(PoolClosed):  # that may come first
        assert pool.submit(abs, -1).result(30) == 1
    assert pool.shutdown(timeout=30) == ()
    assert len(left) == 1, "it has raised"


def test_shutdown_looks_at_its_time_though_threads_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here one that has ended is found each time, as if others had been killed meanwhile."""
    ended = threading.Thread(target=int)
    ended.start()
    ended.join(30)
    pool, found = Pool(1), []

    def find(dispatcher: Dispatcher) -> tuple[list[Thread], bool]:
        found.append(ended)
        assert len(found) < 100_000
        return [ended], False

    monkeypatch.setattr(lifecycle, "_threads_to_join", find)
    pool.shutdown(wait=False)
    assert lifecycle.join(pool._task_dispatcher, 0.01) is False


@fork
def test_a_key_whose_task_runs_in_the_parent_has_its_turn_in_the_child() -> None:
    """And not only when that ends, which it never does there."""
    done = python("""
        import os, threading
        from treadle import Pool
        from treadle.orders import Fair
        pool, gate, began = Pool(2, order=Fair(max_running=1)), threading.Event(), threading.Event()
        view = pool.options(key="k")
        view.submit(lambda: began.set() or gate.wait(30))
        assert began.wait(30)
        pid = os.fork()
        if pid == 0:
            try:
                print(view.submit(abs, -3).result(10), flush=True)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        gate.set()
        pool.shutdown()
    """)
    assert done.stdout.strip() == "3", done.stderr
