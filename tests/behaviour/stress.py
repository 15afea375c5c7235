"""All sweeps, then random schedules for a time: `make stress`, or `python tests/behaviour/stress.py [SECONDS [SEED]]`.

Ends with status 1, and the seed, when an invariant does not hold or anything hangs.
"""

from __future__ import annotations

import faulthandler
import logging
import random
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from behaviour import handlers, handovers
from behaviour.books import Audit, random_program
from behaviour.schedules import LONG, Play, random_schedule
from behaviour.sweep import SCENES, WORKERS, Instants, run, run_in_workers

MOST = 1000  # instants of an operation at which a handler comes
SERVE_EVERY = 20  # schedules of the pool to one of the server, which takes longer


def sweep(name: str, strike: Callable[[int | None], Instants]) -> int:
    """Strike at every instant of one operation; return how many there were."""
    faulthandler.dump_traceback_later(20 * LONG, exit=True)
    instants = strike(None).count
    for at in range(1, instants + 1):
        strike(at)
    print(f"{name}: {instants} instants", flush=True)
    return instants


def sweep_all() -> int:
    """Strike at every instant of every operation."""
    threading.excepthook = lambda arguments: None  # threads are killed outside of all that is caught,
    sys.unraisablehook = lambda arguments: None  # and Ctrl-C may come amid a destructor
    try:
        instants = sum(sweep(name, partial(run, *scene)) for name, scene in SCENES.items())
        return instants + sum(sweep(f"{name}, killed", partial(run_in_workers, *it)) for name, it in WORKERS.items())
    finally:
        threading.excepthook, sys.unraisablehook = threading.__excepthook__, sys.__unraisablehook__


def visit(name: str, run: Callable[[int | None, handlers.Deed], handlers.Visits], number: int) -> int:
    """Do one deed or another at the instants of one operation; return at how many."""
    faulthandler.dump_traceback_later(20 * LONG, exit=True)
    visits = list(handlers.chosen(run(None, handlers.look).count, MOST, number))
    for at, deed in visits:
        run(at, deed)
    print(f"{name}: {len(visits)} instants", flush=True)
    return len(visits)


def visit_all() -> int:
    """Have a signal handler, or a finalizer, call the pool at the instants of every operation."""
    runs = {f"{name}, visited": partial(handlers.run, *it) for name, it in handlers.VISITED.items()}
    runs |= {
        f"{name}, visited in threads": partial(handlers.run_in_workers, *it) for name, it in handlers.WORKERS.items()
    }
    return sum(visit(name, run, number) for number, (name, run) in enumerate(runs.items()))


def main() -> int:
    """Play one schedule after another until the time is over."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 300.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1_000_000_000)
    logging.disable(logging.CRITICAL)  # failing tasks that nobody asks for are part of it
    print(f"first seed {seed}, for {seconds:g} s, Python {sys.version.split()[0]}", flush=True)
    before = set(threading.enumerate())
    print(f"{sweep_all()} instants, nothing was lost", flush=True)
    print(f"{visit_all()} instants of handlers, nothing was lost", flush=True)
    end, played = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        faulthandler.dump_traceback_later(4 * LONG, exit=True)
        try:
            if played % SERVE_EVERY:
                Play(random_schedule(seed + played)).run()
                Audit(random_program(seed + played)).run()
            else:
                handovers.run(seed + played, clients=1 + played % 23, messages=150, workers=1 + played % 7)
        except BaseException:
            print(f"FAILED: seed {seed + played}", flush=True)
            faulthandler.dump_traceback(all_threads=True)
            raise
        played += 1
    started = [thread for thread in threading.enumerate() if thread not in before]
    for thread in started:  # the timers' stays for a moment after the last deadline
        thread.join(10)
    left = [thread for thread in started if thread.is_alive()]
    print(f"{played} schedules, every invariant held, {len(left)} threads left")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
