"""Workers killed from outside, at any instant: each is replaced, and every task has an outcome that is told."""

from __future__ import annotations

import pytest

from behaviour.scripts import script

KILL = """
    import ctypes, logging, random
    from collections import Counter
    from concurrent.futures import CancelledError, wait
    from treadle import Pool
    from treadle.errors import WorkerLost
    logging.disable(logging.CRITICAL)
    faulthandler.dump_traceback_later(80, exit=True)
    def kill(thread, how=SystemExit):
        "Let `thread`, which is in the middle of anything, raise `how`."
        if thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(how))
"""


@pytest.mark.parametrize("callbacks", [False, True])
@pytest.mark.parametrize("order", ["killed where it is", "killed while it wakes"])
def test_every_task_has_one_outcome_whoever_is_killed(callbacks: bool, order: str) -> None:
    done = script(
        KILL
        + f"""
    called, stop, killed = Counter(), threading.Event(), set()
    pool = Pool(3, idle_timeout=0.05)
    def hunt():
        chance = random.Random(1)
        while not stop.wait(chance.uniform(0.0, 0.002)):
            threads = [thread for thread in pool._threads if thread not in killed]
            if threads:
                victim = chance.choice(threads)
                killed.add(victim)  # once each: there is no defence against a second blow while the first is dealt with
                kill(victim)
    hunter = threading.Thread(target=hunt)
    hunter.start()
    ran = Counter()
    def task(number):
        ran[number] += 1
        return number
    number = 0
    for _ in range(150):
        futures = dict()
        for _ in range(20):
            number += 1
            future = pool.submit(task, number)
            futures[future] = number
            if {callbacks}:
                future.add_done_callback(lambda future: called.update([future]))
            if {order == "killed while it wakes"}:
                wait([future], 60)
        assert not wait(futures, 60).not_done, "lost"
        for future, each in futures.items():
            error = future.exception(60)
            assert isinstance(error, SystemExit | WorkerLost | None), error
            assert error or future.result() == each
            assert ran[each] == 1 or (ran[each] == 0 and error), (ran[each], error)
    stop.set()
    hunter.join()
    for _ in range(200):
        assert pool.submit(abs, -3).result(60) == 3
        assert list(pool.map(abs, range(10))) == list(range(10))
    now = pool.snapshot()
    assert now.busy <= now.threads <= 3 and now.waiting == 0, now
    pool.shutdown()
    print("ended", len(killed) > 20)
    """.replace("SystemExit | WorkerLost | None", "(SystemExit, WorkerLost, type(None))")
    )
    assert done.stdout.strip() == "ended True", done.stdout + done.stderr
