"""Fuzz for a given time: `make fuzz`, or `python tests/fuzz/main.py [SECONDS [SEED]]`; `main.py NAME SEED` repeats one.

Ends with status 1, and how to repeat it, at the first fault.
"""

from __future__ import annotations

import faulthandler
import gc
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from fuzz import framings, storm, world
from fuzz.web import requests

PLAYS: dict[str, tuple[Callable[[int], object], int]] = {  # and how many in a row
    "framings": (framings.play, 500),
    "requests": (requests.play, 500),
    "world": (world.play, 50),
    "storm": (storm.play, 5),
}
HANG = 120.0  # seconds of one play, after which every stack is shown and the run ends


def attempt(name: str, seed: int) -> None:
    """Play once; say how to repeat what fails."""
    faulthandler.dump_traceback_later(HANG, exit=True)
    try:
        PLAYS[name][0](seed)
    except BaseException:
        print(f"FAILED: repeat it with: python tests/fuzz/main.py {name} {seed}", flush=True)
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()


def fuzz(seconds: float, seed: int) -> dict[str, int]:
    """Play everything in turn, each with one seed after another, until the time is over; return how often."""
    played = dict.fromkeys(PLAYS, 0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, (_, batch) in PLAYS.items():
            for _ in range(batch):
                attempt(name, seed + played[name])
                played[name] += 1
                if time.monotonic() >= end:
                    break
        gc.collect()
    return played


def main() -> int:
    """Read the command line, and go."""
    words = sys.argv[1:]
    if words and words[0] in PLAYS:
        attempt(words[0], int(words[1]))
        print("every invariant held")
        return 0
    seconds = float(words[0]) if words else 600.0
    seed = int(words[1]) if len(words) > 1 else random.randrange(1_000_000_000)
    print(f"first seed {seed}, for {seconds:g} s, Python {sys.version.split()[0]}", flush=True)
    played = fuzz(seconds, seed)
    print(f"every invariant held: {', '.join(f'{count} {name}' for name, count in played.items())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
