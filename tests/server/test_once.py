"""A turn that one of several processes takes."""

from __future__ import annotations

import os
import sys

import pytest

from treadle.server._once import Once

if sys.platform == "win32":
    pytest.skip("there are no forked processes on Windows", allow_module_level=True)


def test_a_turn_is_taken_once() -> None:
    with Once() as turn:
        assert not turn.taken
        assert [turn.take() for _ in range(3)] == [True, False, False]
        assert turn.taken


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_turn_that_a_child_took_is_taken_for_its_parent() -> None:
    with Once() as turn:
        process = os.fork()
        if process == 0:
            os._exit(int(turn.take()))
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 1
        assert turn.taken
        assert not turn.take()
