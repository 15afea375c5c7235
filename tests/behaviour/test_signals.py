"""Signal handlers and Ctrl-C at any instant: no lock stays taken, and nothing hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs setitimer")


def run(program: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )


def test_a_signal_handler_may_submit_in_the_middle_of_anything() -> None:
    """The standard library's pool deadlocks here: its lock is taken by the thread that the handler interrupts."""
    done = run("""
        import faulthandler, signal
        from treadle import Pool
        faulthandler.dump_traceback_later(90, exit=True)
        pool, from_handler = Pool(2, queue_size=None), []
        depth, armed = 0, True
        def arm():
            if armed and depth < 10:  # it comes in the midst of itself, but not without end where that takes long
                signal.setitimer(signal.ITIMER_REAL, 0.0002)
        def handler(*_):
            global depth
            depth += 1
            arm()
            from_handler.append(pool.submit(abs, -1))
            from_handler[-1].cancel()
            pool.snapshot()
            depth -= 1
            arm()
        signal.signal(signal.SIGALRM, handler)
        arm()
        for round in range(300):
            futures = [pool.submit(abs, -n) for n in range(50)]
            futures[round % 50].cancel()
            for future in futures:
                if not future.cancelled():
                    future.result()
            assert sum(pool.map(abs, range(50))) == 1225
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        pool.shutdown()
        now = pool.snapshot()
        assert all(future.done() for future in from_handler)
        assert now.submitted == now.finished + now.cancelled, now
        print("ended", len(from_handler) > 10)
    """)
    assert done.stdout.strip() == "ended True", done.stderr


def test_a_signal_handler_that_asks_for_a_result_in_the_middle_of_anything_does_not_hang() -> None:
    """It gets it, or is told that it would never come."""
    done = run("""
        import faulthandler, signal, time
        from treadle import Pool
        from treadle.errors import PoolDeadlock
        faulthandler.dump_traceback_later(90, exit=True)
        pool, came, refused, waits = Pool(2), 0, 0, False
        def handler(*_):
            global came, refused, waits
            if not waits:
                waits = True
                for ask in (lambda: pool.submit(abs, -1).result(), lambda: list(pool.map(abs, [-1, -2]))):
                    try:
                        assert ask() in (1, [1, 2])
                    except PoolDeadlock:
                        refused += 1
                came, waits = came + 1, False
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0017)
        since = time.monotonic()
        while time.monotonic() < since + 3:
            future = pool.submit(abs, -3)
            if came % 3 == 0:
                future.cancel()
            elif came % 3 == 1:
                assert future.result() == 3
        signal.setitimer(signal.ITIMER_REAL, 0)
        pool.shutdown()
        now = pool.snapshot()
        assert now.submitted == now.finished + now.cancelled, now
        print("ended", came > 2)
    """)
    assert done.stdout.strip() == "ended True", done.stderr


@pytest.mark.parametrize("queue_size", [None, 16])
def test_a_signal_handler_may_shut_the_pool_down_and_wait_in_the_middle_of_a_submit(queue_size: int | None) -> None:
    """The standard library's pool deadlocks here, see https://github.com/python/cpython/issues/121649."""
    done = run(f"""
        import faulthandler, signal
        from treadle import Pool
        from treadle.errors import PoolClosed
        faulthandler.dump_traceback_later(90, exit=True)
        for round in range(150):
            pool, last = Pool(2, queue_size={queue_size}), None
            def stop(*_):
                pool.shutdown(wait=True, cancel_futures=True)
            signal.signal(signal.SIGALRM, stop)
            signal.setitimer(signal.ITIMER_REAL, 0.0004 + round % 8 * 0.0001)
            try:
                while True:
                    last = pool.submit(abs, -1)
            except PoolClosed:
                pass
            assert last is None or last.done()
            assert pool.shutdown(timeout=60) == ()  # of a thread that was started amid it
            now = pool.snapshot()
            assert not now.threads and now.submitted == now.finished + now.cancelled, now
        print("ended")
    """)
    assert done.stdout.strip() == "ended", done.stderr


def test_ctrl_c_at_any_instant_leaves_a_pool_that_works() -> None:
    done = run("""
        import faulthandler, random, signal
        from treadle import Pool
        faulthandler.dump_traceback_later(90, exit=True)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        pool, interrupted = Pool(2, queue_size=5), 0
        for round in range(600):
            try:  # and again a little later, since one that comes in a destructor is lost
                signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00005, 0.002), 0.01)
                while True:
                    futures = [pool.submit(abs, -n) for n in range(20)]
                    for future in futures:
                        future.result()
                    list(pool.map(abs, range(20)))
            except KeyboardInterrupt:
                interrupted += 1
                while True:
                    try:  # on a busy machine the next one is here already
                        signal.setitimer(signal.ITIMER_REAL, 0)
                        break
                    except KeyboardInterrupt:
                        pass
            assert pool.submit(abs, -7).result(60) == 7
            assert list(pool.map(abs, range(10))) == list(range(10))
        pool.shutdown()
        print("ended", interrupted)
    """)
    assert done.stdout.strip() == "ended 600", done.stderr
