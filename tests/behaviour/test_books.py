"""The books are right: each task is told of from its beginning to its only end, and the counts say the same."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from behaviour.books import ENDINGS, ORDERS, STEPS, Audit, Program, random_program
from treadle._pool.submit import POLICIES

programs = st.builds(
    Program,
    workers=st.integers(1, 3),
    queue_size=st.sampled_from([0, 1, 2, 3, None]),
    policy=st.sampled_from(POLICIES),
    order=st.sampled_from(sorted(ORDERS)),
    context=st.booleans(),
    rate=st.booleans(),
    limit=st.booleans(),
    unlucky=st.sampled_from([0, 0, 1, 2]),
    steps=st.lists(st.tuples(st.sampled_from(sorted(set(STEPS))), st.integers(0, 999)), min_size=1, max_size=20),
    ending=st.sampled_from(ENDINGS),
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs)
def test_each_task_has_one_beginning_and_one_end_and_the_counts_add_up(program: Program) -> None:
    Audit(program).run()


@pytest.mark.parametrize("seed", range(60))
def test_so_it_is_in_the_programs_of_the_stress_run(seed: int) -> None:
    Audit(random_program(seed)).run()
