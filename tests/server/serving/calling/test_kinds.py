"""Kinds: which messages have been slow, and what is forgotten first."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any

import pytest

from treadle._base.log_throttle import LogThrottles
from treadle.server._serving.calling.kinds import LONGEST, MOST, QUICK_AGAIN, YOUNG, Kinds, Record

QUICK, SLOW, SLOWER = 0.0001, 0.005, 0.1  # seconds
SHORT = 0.0  # of what is handled inline, and not measured


def kinds(kind: Callable[[Any], Hashable] = lambda message: message) -> Kinds:
    return Kinds(kind, LogThrottles(), "handler")


def handle(table: Kinds, message: Any, took: float = SHORT, times: int = 1) -> Record:
    """Handle messages as a server does: those of slow kinds in tasks, others inline, where the watchdog is awake."""
    for _ in range(times):
        record = table.find(message)
        if record.level:
            table.timed(record, took)
            continue
        record.quick += 1
        if took > 0.001:
            table.caught(record)
            table.returned(record, took)
    return record


def test_a_kind_that_is_quick_stays_inline_and_is_only_counted() -> None:
    table = kinds()
    record = handle(table, "q", times=500)
    assert (record.level, record.quick, record.messages) == (0, 500, 500)
    assert table.find("q") is record
    assert table.slow() == []


@pytest.mark.parametrize(("took", "level"), [(SLOW, 1), (SLOWER, 2)])
def test_a_newcomer_is_slow_at_its_first_slow_message_and_its_level_is_that_of_its_mean(
    took: float, level: int
) -> None:
    table = kinds()
    record = handle(table, "s", took)
    assert record.level == level
    assert dict(table.slow())["s"] == pytest.approx(took)


def test_it_counts_as_slow_at_the_moment_that_the_lead_is_taken_away() -> None:
    table = kinds()
    record = table.find("s")
    record.quick += 1
    table.caught(record)
    assert record.level == 1
    table.returned(record, SLOWER)
    assert record.level == 2


def test_one_slow_message_among_many_does_not_make_a_kind_slow() -> None:
    """Of 100 ms every 500: handing over the other 499 would cost more than it."""
    table = kinds()
    for _ in range(50):
        handle(table, "v", times=499)
        assert handle(table, "v", SLOWER).level == 0


def test_one_slow_message_in_fifty_makes_a_kind_slow() -> None:
    table = kinds()
    handle(table, "v", times=100)
    for _ in range(20):
        handle(table, "v", QUICK, times=49)
        handle(table, "v", SLOW)
    assert table.find("v").level == 1


def test_a_kind_that_turns_slow_is_found_out_soon_and_is_quick_again_after_many_quick_ones_in_a_row() -> None:
    table = kinds()
    handle(table, "t", times=10_000)
    assert handle(table, "t", SLOWER, times=4).level >= 1
    assert handle(table, "t", SLOWER, times=40).level == 2
    assert handle(table, "t", QUICK, times=QUICK_AGAIN - 1).level > 0
    assert handle(table, "t", QUICK).level == 0
    assert handle(table, "t", SLOWER).level == 0  # it has a clean record


def test_a_slow_message_begins_the_count_of_quick_ones_anew() -> None:
    table = kinds()
    handle(table, "t", SLOW)
    for _ in range(5):
        handle(table, "t", QUICK, times=QUICK_AGAIN - 1)
        assert handle(table, "t", SLOW).level > 0


def test_a_level_is_left_downwards_at_half_a_step() -> None:
    table = kinds()
    assert handle(table, "t", 0.011).level == 2
    assert handle(table, "t", 0.002, times=50).level == 2
    assert 0.0032 < table.find("t").mean < 0.01
    assert handle(table, "t", 0.002, times=500).level == 1
    assert handle(table, "t", 0.05, times=100).level == 2


def test_the_first_messages_of_newcomers_go_the_way_of_those_before_them() -> None:
    table = kinds()
    handle(table, 0, SLOWER)
    new = table.find(1)
    assert (new.level, table.shared.level) == (1, 2)
    table.timed(new, QUICK)
    assert new.level == 0  # at once
    assert table.find(2).level > 0
    for number in range(3, 3 + QUICK_AGAIN):
        handle(table, number, QUICK)
    assert table.find(-1).level == 0


def test_a_newcomer_has_its_own_level_after_its_first_message() -> None:
    table = kinds()
    handle(table, "s", SLOWER)
    assert handle(table, "m", SLOW).level == 1
    assert handle(table, "s2", SLOWER).level == 2
    assert handle(table, "q", QUICK).level == 0


def test_a_few_slow_newcomers_make_all_others_that_come_wait() -> None:
    table = kinds()
    handle(table, "q", times=100)
    assert [handle(table, f"s{number}", SLOWER).level for number in range(10)][-1] == 2
    assert table.shared.level > 0


def test_the_table_is_bounded() -> None:
    table = kinds()
    for number in range(3 * MOST):
        handle(table, number)
    assert len(table._records) == len(table._young) + len(table._old) == MOST


def test_invented_kinds_do_not_drive_out_one_that_is_seldom_used() -> None:
    table = kinds()
    good, slow = handle(table, "seldom", times=2), handle(table, "slow", SLOWER, times=2)
    for number in range(20 * MOST):
        handle(table, number)
        if number % (5 * MOST) == 0:
            assert handle(table, "seldom") is good
            assert handle(table, "slow", SLOWER) is slow
    assert table.find("seldom") is good
    assert table.find("slow").level == 2


def test_invented_kinds_that_come_twice_drive_out_the_one_that_was_not_used_for_longest() -> None:
    table = kinds()
    kept = handle(table, "kept", times=2)
    lost = handle(table, "lost", times=2)
    for number in range(2 * MOST):
        handle(table, number, times=2)
        if number % 100 == 0:
            assert handle(table, "kept") is kept
    assert table.find("lost") is not lost
    assert len(table._records) <= MOST


def test_newcomers_are_let_go_of_first_come_first() -> None:
    table = kinds()
    old = [handle(table, number, times=2) for number in range(MOST - YOUNG)]
    for number in range(MOST, MOST + 3 * YOUNG):
        handle(table, number)
    assert all(table.find(number) is record for number, record in enumerate(old))
    assert MOST not in table._records
    assert MOST + 3 * YOUNG - 1 in table._records


class Strange:
    """What cannot be compared."""

    def __hash__(self) -> int:
        return hash("q")

    def __eq__(self, other: object) -> bool:
        raise ArithmeticError("it cannot be compared")


def fails(message: Any) -> Hashable:
    raise LookupError("no such route")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (fails, "no such route"),
        (lambda message: [message], "unhashable"),
        (lambda message: Strange(), "cannot be compared"),
        (lambda message: "x" * (LONGEST + 1), "more than 200 bytes"),
        (lambda message: ("x" * 100, "y" * 90), "more than 200 bytes"),
        (lambda message: frozenset([b"x" * 201]), "more than 200 bytes"),
        (lambda message: 1 << 2000, "more than 200 bytes"),
        (lambda message: memoryview(b"GET / HTTP/1.1")[:3], "more than 200 bytes"),
    ],
)
def test_what_is_no_kind_shares_one_record_and_is_logged_once(
    kind: Callable[[Any], Hashable], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    table = kinds()
    handle(table, "q")
    table.kind = kind
    with caplog.at_level(logging.WARNING, "treadle.server"):
        assert {handle(table, str(number)) for number in range(100)} == {table.shared}
    (record,) = caplog.records
    assert said in record.getMessage() + str(record.exc_info)
    handle(table, "q", SLOWER, times=4)
    assert table.shared.level > 0  # as any other
    assert len(table._records) == 1


@pytest.mark.parametrize("kind", ["x" * LONGEST, b"y" * LONGEST, ("GET", "/orders"), 7, None, fails, frozenset("ab")])
def test_what_is_small_and_hashable_is_a_kind(kind: Hashable, caplog: pytest.LogCaptureFixture) -> None:
    table = kinds(lambda message: kind)
    handle(table, b"", SLOW)
    assert dict(table.slow())[kind] == pytest.approx(SLOW)
    assert not caplog.records
