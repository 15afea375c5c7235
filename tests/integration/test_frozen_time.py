"""freezegun and time-machine: where a test freezes time, treadle's own goes on."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from behaviour.scripts import script

FREEZE = {
    "freezegun": "freezegun.freeze_time('2020-02-02')",
    "time_machine": "time_machine.travel('2020-02-02', tick=False)",
}
WAITS = """
with Pool(2, rate=Rate(200.0), idle_timeout=0.001) as pool:
    assert [task.result(30) for task in [pool.submit(abs, n) for n in range(5)]] == list(range(5))
gate = threading.Event()
pool = Pool(1)
held = pool.submit(gate.wait, 30)
for wait in (
    lambda: held.result(0.01),
    lambda: next(pool.map(abs, [1], timeout=0.01)),
    lambda: Channel(1).get(timeout=0.01),
):
    try:
        wait()
    except (TimeoutError, ChannelEmpty):
        print("timeout")
assert not treadle.wait([held], 0.01).done
assert pool.shutdown(timeout=0.01) == (held,)
gate.set()
with Pool(1) as pool:
    with treadle.deadline(0.02):
        late = pool.submit(treadle.sleep, 30)
        try:
            treadle.sleep(30)
        except DeadlineExceeded:
            print("deadline")
    assert isinstance(late.exception(30), DeadlineExceeded)
last = Pool(1, rate=Rate(200.0))
[last.submit(print, "at exit") for _ in range(2)]
"""
IMPORTS = """
import treadle
from treadle import Channel, Pool, Rate
from treadle.errors import ChannelEmpty, DeadlineExceeded
"""
WRITTEN = ["timeout", "timeout", "timeout", "deadline", "at exit", "at exit"]


@pytest.fixture(params=sorted(FREEZE))
def freeze(request: pytest.FixtureRequest) -> str:
    """The lines that freeze time, with each of them."""
    library: str = request.param
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    return f"import {library}\nfrozen = {FREEZE[library]}\nfrozen.start()\n"


@pytest.mark.parametrize("first", ["treadle is imported", "time is frozen"])
def test_rates_deadlines_and_timeouts_pass_where_time_is_frozen(freeze: str, first: str) -> None:
    done = script(IMPORTS + freeze + WAITS if first == "treadle is imported" else freeze + IMPORTS + WAITS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == WRITTEN
