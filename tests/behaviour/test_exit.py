"""The end of the interpreter: what was accepted is run, what came too late is refused, and nothing hangs."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys

import pytest

from behaviour.scripts import PRELUDE, script

# CPython loses a signal that comes after the main thread's last look for one and before it sleeps at a lock.
LET_IT_SLEEP = "let_it_sleep = lambda: threading.Event().wait(0.2)"

fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def test_idle_threads_do_not_delay_the_exit() -> None:
    done = script("""
        from treadle import Pool
        pool = Pool(5, min_workers=5, idle_timeout=None)
        print(list(pool.map(abs, range(3))))
    """)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[0, 1, 2]", "")


@pytest.mark.parametrize(("end", "status"), [("sys.exit(3)", 3), ("raise OSError", 1), ("pool.submit(sys.exit)", 0)])
def test_the_queue_is_run_whatever_ends_the_program_and_its_status_is_kept(end: str, status: int) -> None:
    done = script(f"""
        from treadle import Pool
        pool, gate = Pool(1), threading.Event()
        pool.submit(gate.wait, 0.1)
        futures = [pool.submit(print, n) for n in range(3)]
        {end}
    """)
    assert (done.returncode, done.stdout.split()) == (status, ["0", "1", "2"]), done.stderr


def test_a_pool_that_was_dropped_runs_what_it_accepted() -> None:
    done = script("""
        from treadle import Pool
        gate = threading.Event()
        Pool(1).submit(gate.wait, 0.1)
        futures = [Pool(1).submit(print, "kept future")]
        Pool(1).submit(print, "dropped future")
    """)
    assert (done.returncode, sorted(done.stdout.splitlines())) == (0, ["dropped future", "kept future"]), done.stderr


def test_exit_handlers_may_use_pools_old_and_new() -> None:
    done = script("""
        import atexit
        from treadle import Pool
        pool = Pool(1)
        @atexit.register
        def handler():
            print(pool.submit(abs, -3).result(30))
            print(sum(Pool(2).map(abs, range(10))))
            pool.submit(print, "and what they do not wait for is run")
    """)
    expected = ["3", "45", "and what they do not wait for is run"]
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, expected, "")


@pytest.mark.parametrize("how", ["submit", "map"])
@pytest.mark.parametrize("kind", ["Pool", "ThreadPoolExecutor"])
def test_what_was_accepted_runs_before_exit_handlers_of_whatever_age(kind: str, how: str) -> None:
    """They may take away what the tasks need: a temporary directory, or a listener that writes the log."""
    done = script(f"""
        import atexit, tempfile
        from concurrent.futures import ThreadPoolExecutor
        from treadle import Pool
        folder = tempfile.TemporaryDirectory()
        atexit.register(print, "handler")
        def task(number):
            open(f"{{folder.name}}/{{number}}", "w").close()
            print("task")
        pool = {kind}(1)
        pool.submit(threading.Event().wait, 0.3)  # longer than it takes to come to the handlers
        if {how!r} == "map":
            pool.map(task, range(3))
        else:
            for number in range(3):
                pool.submit(task, number)
    """)
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, ["task", "task", "task", "handler"], "")


def test_ctrl_c_while_what_was_accepted_runs_at_exit_ends_the_program() -> None:
    """Exit handlers are called nevertheless, and are not followed by a second wait."""
    done = script(f"""
        import atexit
        from treadle import Pool
        atexit.register(print, "handler")
        pool = Pool(1)
        {LET_IT_SLEEP}
        def task():
            while not pool.snapshot().closed:
                threading.Event().wait(0.001)
            let_it_sleep()
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(20)
            print("was waited for")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        pool.submit(task)
        pool.submit(print, "must not run")
    """)
    assert (done.returncode, done.stdout.splitlines()) == (0, ["handler"]), done.stderr
    assert "KeyboardInterrupt" in done.stderr


INTERRUPT = """
def interrupt(pool):
    "Press Ctrl-C once Python exits and waits for the pool; until it has come, for CPython may lose one."
    while not pool.snapshot().closed:
        threading.Event().wait(0.001)
    while signal.getsignal(signal.SIGINT) is come:
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(0.001)

def come(*_):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt

signal.signal(signal.SIGINT, come)
"""


def test_ctrl_c_ends_the_program_while_tasks_wait_at_exit_behind_one_that_waits_for_an_event() -> None:
    done = script(
        """
        import atexit
        from treadle import Pool
        atexit.register(print, "handler")
        pool, never = Pool(2), threading.Event()
        def task():
            try:
                never.wait()
            finally:
                print("was ended")
        futures = [pool.submit(task), pool.submit(interrupt, pool), pool.submit(task)]
        futures += [pool.submit(print, "must not run") for _ in range(100)]
        """,
        prelude=PRELUDE + INTERRUPT,
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, ["handler"]), done.stderr
    assert "KeyboardInterrupt" in done.stderr


def test_ctrl_c_ends_the_program_while_tasks_wait_at_exit_for_their_rate() -> None:
    """Or it would stay for hours: no thread runs them, and the timers would call them one by one."""
    done = script(
        """
        import atexit
        from treadle import Pool, Rate
        atexit.register(print, "handler")
        pool = Pool(2, rate=Rate(1, per=3600))
        pool.submit(print, "first").result()
        futures = [pool.submit(print, "must not run") for _ in range(100)]
        threading.Thread(target=interrupt, args=(pool,), daemon=True).start()
        """,
        prelude=PRELUDE + INTERRUPT,
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, ["first", "handler"]), done.stderr
    assert "KeyboardInterrupt" in done.stderr


def test_threads_that_outlive_the_main_one_may_make_pools() -> None:
    done = script("""
        from treadle import Pool
        def later():
            threading.main_thread().join()
            with Pool(2) as pool:
                print(sum(pool.map(abs, range(10))), pool.submit(abs, -3).result(30))
            Pool(1).submit(print, "not waited for")
        threading.Thread(target=later).start()
    """)
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, ["45 3", "not waited for"], "")


def test_a_task_that_submits_when_the_interpreter_exits_fails_and_the_others_are_run() -> None:
    done = script("""
        import treadle._dispatch.lifecycle
        from treadle import Pool
        pool, other = Pool(1), Pool(1)
        def task():
            while not treadle._dispatch.lifecycle.exiting():
                threading.Event().wait(0.001)
            for each in pool, other:
                while not each.snapshot().closed:
                    threading.Event().wait(0.001)
                try:
                    each.submit(print, "must not run")
                except RuntimeError as error:
                    print(type(error).__name__, error)
        pool.submit(task)
        pool.submit(print, "behind it")
    """)
    refused = "RuntimeError cannot schedule new futures after interpreter shutdown"
    lines = done.stdout.splitlines()
    assert [line[: len(refused)] for line in lines] == [refused, refused, "behind it"], done.stderr
    assert done.returncode == 0


def test_a_daemon_thread_that_waits_for_room_does_not_keep_the_program() -> None:
    done = script("""
        from treadle import Pool
        pool, gate = Pool(1, queue_size=1), threading.Event()
        pool.submit(gate.wait, 60)
        pool.submit(print, "admitted")
        def enter():
            try:
                pool.submit(print, "must not run")
            except RuntimeError as error:
                print("refused")
            gate.set()
        threading.Thread(target=enter, daemon=True).start()
        while not pool.snapshot().blocked:
            threading.Event().wait(0.001)
    """)
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, ["refused", "admitted"], "")


@pytest.mark.parametrize("how", ["held", "begun", "dropped", "replaced"])
def test_every_item_of_a_map_runs_though_python_exits(how: str) -> None:
    done = script(f"""
        import atexit
        ran = []
        atexit.register(lambda: print(len(ran)))  # called after the pools are closed: treadle is imported later
        from treadle import Pool
        pool = Pool(2, queue_size=10)
        if {how!r} == "replaced":
            submit = pool.submit
            pool.submit = lambda fn, *args: submit(fn, *args)
        results = pool.map(ran.append, range(5000))
        if {how!r} == "begun":
            next(results)
        elif {how!r} == "dropped":
            del results
    """)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "5000", "")


@pytest.mark.parametrize("begun", [True, False])
def test_a_map_over_endless_input_ends_with_the_program(begun: bool) -> None:
    done = script(f"""
        from treadle import Pool
        pool = Pool(2, queue_size=10)
        results = pool.map(abs, iter(int, 1), buffersize=5)
        if {begun}:
            next(results)
        print("ends")
    """)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "ends", "")


def test_ctrl_c_in_a_result_outside_any_block_ends_the_program_and_drops_the_queue() -> None:
    done = script(f"""
        from treadle import Pool
        signal.signal(signal.SIGINT, signal.default_int_handler)
        {LET_IT_SLEEP}
        pool, asking = Pool(1), threading.Event()
        def task():
            assert asking.wait(30)
            let_it_sleep()
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait()
        futures = [pool.submit(task), *(pool.submit(print, "must not run") for _ in range(3))]
        asking.set()
        futures[0].result()
    """)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, ""), done.stderr
    assert done.stderr.count("Traceback") == 1, done.stderr


def test_ctrl_c_that_the_program_dealt_with_drops_nothing_at_its_end() -> None:
    done = script(f"""
        from treadle import Pool
        signal.signal(signal.SIGINT, signal.default_int_handler)
        {LET_IT_SLEEP}
        pool = Pool(1)
        asking = threading.Event()
        def task():
            assert asking.wait(30)
            let_it_sleep()
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(0.1)
        futures = [pool.submit(task), *(pool.submit(print, n) for n in range(3))]
        try:
            asking.set()
            futures[0].result()
        except KeyboardInterrupt:
            print("caught")
    """)
    assert (done.returncode, sorted(done.stdout.split())) == (0, ["0", "1", "2", "caught"]), done.stderr


@fork
def test_a_forked_child_runs_at_its_end_what_it_accepted_and_not_what_its_parent_did() -> None:
    done = script("""
        from treadle import Pool
        pool, gate = Pool(1), threading.Event()
        pool.submit(gate.wait, 60)
        pool.submit(print, "the parent's")
        pid = os.fork()
        if pid == 0:
            signal.alarm(30)
            pool.submit(print, "the child's")
            sys.exit(7)
        print(os.WEXITSTATUS(os.waitpid(pid, 0)[1]))
        gate.set()
    """)
    assert done.stdout.splitlines() == ["the child's", "7", "the parent's"], done.stderr


@fork
def test_a_forked_multiprocessing_child_runs_what_was_accepted() -> None:
    """Such a child runs no exit handlers; the standard library's pool is drained there too."""
    done = script("""
        import multiprocessing
        from treadle import Pool
        inherited = Pool(1)
        inherited.submit(int).result()
        def child():
            signal.alarm(30)
            gate = threading.Event()
            for pool in inherited, Pool(1):
                pool.submit(gate.wait, 0.1)
                pool.submit(print, "ran")
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        print(process.exitcode)
    """)
    assert done.stdout.split() == ["ran", "ran", "0"], done.stderr


INTERPRETERS = importlib.util.find_spec("_interpreters") is not None


@pytest.mark.skipif(not INTERPRETERS, reason="this Python cannot make isolated sub-interpreters")
@pytest.mark.parametrize("kind", ["legacy", "isolated"])
def test_sub_interpreters_have_working_pools_that_are_drained(kind: str) -> None:
    done = script(f"""
        import _interpreters
        program = '''if True:
            import sys
            sys.path[:] = {sys.path!r}
            import threading
            from treadle import Pool
            pool, gate = Pool(2), threading.Event()
            write = sys.stdout.write
            write(f"{{pool.submit(abs, -3).result(30)}} {{sum(pool.map(abs, range(10)))}}" + chr(10))
            pool.submit(gate.wait, 0.1)
            pool.submit(write, "drained" + chr(10))
        '''
        signal.alarm(60)
        interpreter = _interpreters.create("{kind}")
        print(_interpreters.exec(interpreter, program))
        _interpreters.destroy(interpreter)
    """)
    assert sorted(done.stdout.splitlines()) == ["3 45", "None", "drained"], done.stdout + done.stderr
