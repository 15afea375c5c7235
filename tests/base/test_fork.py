"""What is done before and after a fork: the order of the table, and its reverse, in parent and child."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import get_args

import pytest

from programs import run
from treadle._base import fork
from treadle._base.fork import Place

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

PLACES = list(get_args(Place))

# Forks, and prints what was done, in parent and child, and whose process it was done in.
FORKS = """
    import os
    from typing import get_args
    from treadle._base.fork import Place, _table, at_fork

    _table.clear()
    parent, done = os.getpid(), []

    def note(what, place):
        return lambda: done.append(f"{what} {place} {os.getpid() == parent}")

    def put(place):
        at_fork(place, note("before", place), note("parent", place), note("child", place))

    def fork_and_print():
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.write(writer, ", ".join(done).encode())
            os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
        print(os.read(reader, 10_000).decode(), flush=True)
        os.close(reader)
        print(", ".join(done), flush=True)
        done.clear()
"""


def forked(program: str) -> list[list[str]]:
    """Run it; return what it printed, line by line."""
    status, out, err = run(sys.executable, "-W", "error", "-c", textwrap.dedent(FORKS) + textwrap.dedent(program))
    assert (status, err) == (0, "")
    return [line.split(", ") for line in out.splitlines()]


def expected(what: str, places: list[str]) -> list[str]:
    before = [f"before {place} True" for place in places]
    return [*before, *(f"{what} {place} {what == 'parent'}" for place in reversed(places))]


def test_what_is_before_comes_in_the_order_of_the_table_and_what_is_after_in_reverse() -> None:
    """Whoever came first: a module is imported when a feature begins."""
    assert (
        forked("""
        for place in reversed(get_args(Place)):
            put(place)
        fork_and_print()
        fork_and_print()
    """)
        == [expected("child", PLACES), expected("parent", PLACES)] * 2
    )


def test_a_place_that_nobody_has_taken_is_passed_by_and_the_last_to_take_one_has_it() -> None:
    assert forked("""
        put("timers")
        put("pools")
        at_fork("timers", done.clear, done.clear, done.clear)
        put("timers")
        fork_and_print()
    """) == [expected("child", ["pools", "timers"]), expected("parent", ["pools", "timers"])]


def test_what_is_left_for_last_is_done_once_no_place_holds_anything() -> None:
    child, parent = forked("""
        from treadle._base.fork import at_last

        def leaving(what):
            def leave():
                note(what, "pools")()
                at_last(note("last", "of all"))
            return leave

        put("groups")
        at_fork("pools", note("before", "pools"), leaving("parent"), leaving("child"))
        fork_and_print()
    """)
    before = ["before groups True", "before pools True"]
    assert child == [*before, "child pools False", "child groups False", "last of all False"]
    assert parent == [*before, "parent pools True", "parent groups True", "last of all True"]


def test_a_child_of_a_child_is_seen_to_likewise() -> None:
    lines = forked("""
        put("scopes")
        if not os.fork():
            done.clear()
            fork_and_print()
            os._exit(0)
        os.wait()
    """)
    assert [[each.rsplit(" ", 1)[0] for each in line] for line in lines] == [
        ["before scopes", "child scopes"],
        ["before scopes", "parent scopes"],
    ]


def test_whatever_treadle_locks_has_a_place() -> None:
    program = """
        import os
        import treadle
        import treadle.server._protocols.wsgi.access_log
        from treadle import TaskGroup
        from treadle._base.fork import _table
        print(*sorted(_table))
    """
    assert run(sys.executable, "-c", textwrap.dedent(program)) == (0, " ".join(sorted(PLACES)) + "\n", "")


@pytest.mark.parametrize("holder", ["groups", "pools", "scopes", "timers", "callbacks"])
def test_no_lock_that_another_thread_held_stays_taken_in_the_child(holder: str) -> None:
    """The fork waits for it: here a thread has it just then, for a moment."""
    program = f"""
        import os, threading, time
        import treadle
        from treadle import Pool, TaskGroup
        from treadle._base.fork import _table

        pool = Pool(1)
        assert pool.submit(abs, -1).result(30) == 1
        held, (before, in_parent, in_child) = threading.Event(), _table[{holder!r}]

        def hold():
            before()
            held.set()
            time.sleep(0.2)  # why: the fork below is to find the lock taken, and to wait for it
            in_parent()

        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(30)
        since = time.monotonic()
        child = os.fork()
        if not child:
            with TaskGroup(pool) as group:
                assert group.submit(abs, -2).result(30) == 2
            with treadle.deadline(30):
                assert pool.submit(abs, -3).result() == 3
            try:
                with treadle.deadline(0.01):
                    treadle.sleep(30)
            except treadle.errors.DeadlineExceeded:
                pass
            pool.shutdown()
            os._exit(0)
        assert time.monotonic() - since > 0.1, "it waits for whoever holds the lock"
        assert os.waitpid(child, 0)[1] == 0
        thread.join()
        assert pool.submit(abs, -1).result(30) == 1
    """
    status, _, err = run(sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(program))
    assert (status, err) == (0, "")


def test_the_table_is_one_for_the_process() -> None:
    assert set(fork._table) <= set(PLACES)
