"""Fork, at any instant and from any thread: the child has an empty pool, and nothing of its parent hangs there."""

from __future__ import annotations

import os

import pytest

from behaviour.scripts import CHILD_PATIENCE, script

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def test_the_child_works_whatever_other_threads_were_doing() -> None:
    done = script("""
        import random
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
            statuses = {fork(child) for _ in range(60)}
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
                failures = []
                while True:
                    try:
                        next(results)
                    except StopIteration:
                        break
                    except BaseException as error:
                        failures.append(type(error).__name__)
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
        "pool = Pool(2, idle_timeout=0.01); done = pool.submit(int); done.add_done_callback(forks)",
        "pool = Pool(2, idle_timeout=0.01); done = pool.submit(lambda: pool.submit(forks).result())",
    ],
    ids=["initializer", "task", "callback", "nested task"],
)
def test_a_child_that_returns_from_wherever_it_was_forked_ends(pool: str) -> None:
    """It prints nothing of its own, and leaves with the last of its pool's threads."""
    done = script(f"""
        from treadle import Pool
        forked, over = [], threading.Event()
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
            host, _, port = server.address.partition(":")
            with socket.create_connection((host, int(port)), 30) as sock:
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
