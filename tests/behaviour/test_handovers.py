"""Random hand-overs on real sockets; `make stress` runs many more."""

from __future__ import annotations

import pytest

from behaviour import handovers


@pytest.mark.parametrize("seed", range(10))
def test_random_hand_overs_lose_repeat_and_reorder_nothing(seed: int) -> None:
    handovers.run(seed, clients=(1, 3, 8, 20)[seed % 4], messages=150, workers=(1, 2, 4, 8, 3)[seed % 5])
