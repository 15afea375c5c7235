"""The arithmetic of ratios, and who is measured when."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

Import = Callable[[str], ModuleType]


@pytest.fixture
def module(bench: Import) -> ModuleType:
    return bench("measure")


def outcome_of(module: ModuleType, **costs: list[float]) -> Any:
    case = module.Case("case", "Case", "tasks/s", lambda peer: None)
    return module.Outcome(case, {name: [module.Sample(cost) for cost in rounds] for name, rounds in costs.items()})


def kinds_named(bench: Import, *names: str) -> tuple[Any, ...]:
    return tuple(type(name, (bench("peers").Peer,), {"name": name}) for name in names)


def test_half_the_cost_is_twice_as_good(module: ModuleType) -> None:
    outcome = outcome_of(module, base=[2.0], ours=[1.0])
    assert outcome.ratio("ours", "base") == 2.0
    assert outcome.ratio("base", "ours") == 0.5
    assert outcome.ratio("base", "base") == 1.0


def test_the_ratio_is_the_median_of_rounds_and_not_the_ratio_of_medians(module: ModuleType) -> None:
    """A machine that is ten times slower in one round changes nothing; one bad turn in three does not either."""
    outcome = outcome_of(module, base=[4.0, 40.0, 4.0], ours=[2.0, 20.0, 8.0])
    assert outcome.ratios("ours", "base") == [2.0, 2.0, 0.5]
    assert outcome.ratio("ours", "base") == 2.0
    assert outcome.median("base") / outcome.median("ours") != 2.0


def test_rounds_that_do_not_pair_are_an_error(module: ModuleType) -> None:
    with pytest.raises(ValueError, match="shorter"):
        outcome_of(module, base=[1.0, 1.0], ours=[1.0]).ratios("ours", "base")


def test_tails_are_compared_as_costs_are(module: ModuleType) -> None:
    case = module.Case("case", "Case", "µs", lambda peer: None)
    samples = {"base": [module.Sample(1.0, 6.0), module.Sample(1.0, 8.0)], "ours": [module.Sample(1.0, 2.0)] * 2}
    outcome = module.Outcome(case, samples)
    assert outcome.tail("base") == 7.0
    assert outcome.tail_ratio("ours", "base") == 3.5


def test_there_is_no_tail_where_none_was_timed(module: ModuleType) -> None:
    outcome = outcome_of(module, base=[1.0], ours=[1.0])
    assert outcome.tail("ours") is None
    assert outcome.tail_ratio("ours", "base") is None


def test_every_round_has_every_peer_once_and_begins_with_another(bench: Import, module: ModuleType) -> None:
    turns: list[str] = []

    def measure(peer: Any) -> Any:
        turns.append(peer.name)
        return module.Sample(1.0)

    case = module.Case("case", "Case", "tasks/s", measure)
    module.run(case, kinds_named(bench, "a", "b", "c"), 3)
    assert turns == [*"abc", *"bca", *"cab", *"abc"]


def test_the_first_round_is_not_counted(bench: Import, module: ModuleType) -> None:
    costs = iter([100.0, 1.0, 2.0])
    case = module.Case("case", "Case", "tasks/s", lambda peer: module.Sample(next(costs)))
    outcome = module.run(case, kinds_named(bench, "a"), 2)
    assert [sample.cost for sample in outcome.samples["a"]] == [1.0, 2.0]


def test_a_peer_that_cannot_is_asked_once_and_its_reason_kept(bench: Import, module: ModuleType) -> None:
    asked: list[str] = []

    def measure(peer: Any) -> Any:
        asked.append(peer.name)
        if peer.name == "b":
            peer.map(len, 1)
        return module.Sample(1.0)

    outcome = module.run(module.Case("case", "Case", "items/s", measure), kinds_named(bench, "a", "b"), 2)
    assert asked.count("b") == 1
    assert outcome.absent == {"b": "has no map"}
    assert len(outcome.samples["a"]) == 2
    assert "b" not in outcome.samples


def test_each_turn_has_a_fresh_peer_with_room_that_is_closed(bench: Import, module: ModuleType) -> None:
    made: list[Any] = []

    def make(peer: Any, room: int | None) -> None:
        peer.room, peer.closed = room, False
        made.append(peer)

    (kind,) = kinds_named(bench, "a")
    kind.__init__, kind.close = make, lambda peer: setattr(peer, "closed", True)
    module.run(module.Case("case", "Case", "bytes", lambda peer: module.Sample(1.0), room=7), (kind,), 2)
    assert [(peer.room, peer.closed) for peer in made] == [(7, True)] * 3


def test_a_peer_is_closed_even_if_measuring_it_fails(bench: Import, module: ModuleType) -> None:
    closed: list[bool] = []
    (kind,) = kinds_named(bench, "a")
    kind.close = lambda self: closed.append(True)

    def measure(peer: Any) -> Any:
        raise RuntimeError("the pool broke")

    with pytest.raises(RuntimeError, match="broke"):
        module.run(module.Case("case", "Case", "tasks/s", measure), (kind,), 1)
    assert closed == [True]
