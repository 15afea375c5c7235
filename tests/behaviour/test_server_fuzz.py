"""A short run of the fuzz programs in tests/fuzz; `make fuzz` runs them for long, and repeats a seed."""

from __future__ import annotations

import random

import pytest

from fuzz import framings, storm, world
from fuzz.web import requests

FIXED = 1_000  # the first seed of those that are always played
FRESH = random.SystemRandom().randrange(1_000_000_000)


def each_batch(count: int, size: int) -> pytest.MarkDecorator:
    """Play `count` batches of fixed seeds, and one of fresh ones."""
    firsts = [*range(FIXED, FIXED + count * size, size), None]
    return pytest.mark.parametrize("first", firsts, ids=lambda first: "fresh" if first is None else str(first))


def play(what: str, first: int | None, size: int) -> None:
    """Play `size` seeds from `first` on."""
    first = FRESH if first is None else first
    one = {"framings": framings.play, "requests": requests.play, "world": world.play, "storm": storm.play}[what]
    for seed in range(first, first + size):
        try:
            one(seed)
        except BaseException:
            print(f"repeat it with: python tests/fuzz/main.py {what} {seed}")
            raise


@each_batch(1, 1000)
def test_framings_cut_any_bytes_as_a_look_at_all_of_them_does(first: int | None) -> None:
    play("framings", first, 1000)


@each_batch(1, 1000)
def test_requests_are_made_of_any_bytes_wherever_they_are_cut_as_h11_sees_them(first: int | None) -> None:
    play("requests", first, 1000)


@each_batch(4, 50)
def test_a_server_whose_system_fails_in_every_way_keeps_its_promises(first: int | None) -> None:
    play("world", first, 50)


@each_batch(1, 15)
def test_a_server_with_real_threads_and_failing_sockets_keeps_its_promises(first: int | None) -> None:
    play("storm", first, 15)
