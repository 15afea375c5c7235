"""Random schedules of submit, cancel, callbacks, map, waits and shutdown keep every invariant."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from behaviour.schedules import ORDERS, STEPS, Play, Schedule, random_schedule
from treadle._pool.submit import POLICIES

steps = st.lists(st.tuples(st.sampled_from(sorted(set(STEPS))), st.integers(0, 999)), min_size=1, max_size=25)
schedules = st.builds(
    Schedule,
    workers=st.integers(1, 4),
    queue_size=st.sampled_from([0, 1, 2, 5, 100, None]),
    policy=st.sampled_from(POLICIES),
    order=st.sampled_from(sorted(ORDERS)),
    threads=st.lists(steps, min_size=1, max_size=3),
    cancel=st.booleans(),
)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(schedules)
def test_every_schedule_keeps_the_invariants(schedule: Schedule) -> None:
    Play(schedule).run()


@pytest.mark.parametrize("seed", range(40))
def test_the_schedules_of_the_stress_run_do_so_too(seed: int) -> None:
    Play(random_schedule(seed)).run()
