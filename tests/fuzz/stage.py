"""Stage: threads of which one runs at a time, and a seed decides which. So a race is a schedule that can be repeated.

An actor goes on until it comes to a `step`, or waits; there the dice choose who goes on. Time stands still, but for
what is added to it, and when nobody can go on without it.
"""

from __future__ import annotations

import random
import sys
import threading
from _thread import allocate_lock
from collections.abc import Callable
from math import inf
from types import FrameType
from typing import Any

__all__ = ["Actor", "Stage", "StageCondition", "StageLock", "StageMail", "Torn"]

PATIENCE = 20.0  # seconds of real time after which a play hangs
STEPS = 500_000  # of one play, after which it goes in circles
# Modules of treadle.server in which any line may be a step: none of their lines runs with a lock that is not staged.
ANYWHERE = ("_serving/", "_transport/connection", "_transport/intake", "_transport/io", "_transport/sending/")


class Torn(BaseException):
    """The play is over, for it has failed; every actor is to end."""


class Actor:
    """One thread of the play."""

    def __init__(self, stage: Stage, name: str, target: Callable[[], object]) -> None:
        self.stage = stage
        self.name = name
        self.target = target
        self.turn = allocate_lock()
        self.turn.acquire()
        self.ready: Callable[[], bool] | None = None  # None: it need not wait
        self.until = inf
        self.waits_for = ""
        self.over = False
        self.weight = stage.dice.choice([1, 1, 3, 10])
        self.thread = threading.Thread(target=self._main, name=name, daemon=True)

    def can_go(self) -> bool:
        """Whether there is nothing that it waits for."""
        return self.ready is None or self.until <= self.stage.now or self.ready()

    def _main(self) -> None:
        stage = self.stage
        stage.local.actor = self
        self.turn.acquire()
        if stage.nervous:
            sys.settrace(stage.trace)
        try:
            if stage.failure is None:
                self.target()
        except Torn:
            pass
        except BaseException as error:
            stage.fail(error)
        sys.settrace(None)
        self.over = True
        stage.actors.remove(self)
        stage.leave()


class Stage:
    """See above.

    Args:
        dice: decide everything.
        before_time: called when nobody can go on before some time has passed, with the seconds.
    """

    def __init__(self, dice: random.Random, before_time: Callable[[float], object]) -> None:
        self.dice = dice
        self.before_time = before_time
        self.now = 1000.0
        self.steps = 0
        self.restless = dice.choice([0.02, 0.1, 0.3, 0.7, 1.0])
        self.nervous = dice.choice([0.0] * 8 + [0.02, 0.2])  # how many lines of treadle's own are steps
        self.calm = False  # somebody looks, for whom the others have to stand still
        self._places: dict[str, bool] = {}
        self.actors: list[Actor] = []
        self.local = threading.local()
        self.failure: BaseException | None = None
        self.story: list[str] = []
        self._over = threading.Event()

    # -- the director's --------------------------------------------------------------------------------------------

    def add(self, name: str, target: Callable[[], object]) -> Actor:
        """Add an actor."""
        actor = Actor(self, name, target)
        self.actors.append(actor)
        actor.thread.start()
        return actor

    def play(self) -> None:
        """Let the play take its course.

        Raises:
            BaseException: what an actor raised.
            AssertionError: it hangs.
        """
        self._choose().turn.release()
        if not self._over.wait(PATIENCE):
            raise AssertionError(f"the play hangs in {getattr(self.local, 'actor', None)}; {self.scene()}")
        if self.failure is not None:
            raise self.failure

    def fail(self, error: BaseException) -> None:
        """Note that an invariant does not hold, and have everybody end."""
        if self.failure is None:
            self.failure = error
            for actor in self.actors:
                actor.ready = None

    def leave(self) -> None:
        """The present actor is over."""
        if not self.actors:
            self._over.set()
            return
        try:
            self._choose().turn.release()
        except BaseException as error:
            self.fail(error)
            self.actors[0].turn.release()

    # -- the actors' -----------------------------------------------------------------------------------------------

    def me(self) -> Actor | None:
        """Return the actor whose thread this is."""
        return getattr(self.local, "actor", None)

    def step(self) -> None:
        """Let others go on, perhaps."""
        me = self.me()
        if me is None:
            return
        if self.failure is not None:
            raise Torn
        self.steps += 1
        if self.steps > STEPS:
            self.tear(f"the play goes in circles; {self.scene()}")
        if self.dice.random() < self.restless:
            self._hand_over(me)

    def trace(self, frame: FrameType, event: str, arg: object) -> Any:
        """Take steps between the lines of what is called, if it is treadle's."""
        name = frame.f_code.co_filename
        if name not in self._places:
            _, found, rest = name.replace("\\", "/").rpartition("treadle/server/")
            self._places[name] = bool(found) and rest.startswith(ANYWHERE)
        return self._trace_line if self._places[name] else None

    def _trace_line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line" and not self.calm and self.failure is None and self.dice.random() < self.nervous:
            self.step()
        return self._trace_line

    def wait(self, ready: Callable[[], bool], timeout: float | None = None, what: str = "") -> bool:
        """Wait until `ready()`, or for `timeout` seconds; return the former."""
        me = self.me()
        if me is None:
            assert ready(), f"nobody waits outside of the play: {what}"
            return True
        me.ready, me.waits_for = ready, what
        me.until = inf if timeout is None else self.now + max(0.0, timeout)
        try:
            self._hand_over(me)
        finally:
            me.ready, me.until = None, inf
        return ready()

    def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        self.wait(lambda: False, seconds, "time")

    def tear(self, what: str) -> None:
        """Fail, in an actor.

        Raises:
            Torn: always.
        """
        self.fail(AssertionError(what))
        raise Torn

    def scene(self) -> str:
        """Return who waits for what."""
        return f"at {self.now:.6f}: " + "; ".join(
            f"{actor.name}: {'goes on' if actor.ready is None else actor.waits_for}" for actor in self.actors
        )

    def _hand_over(self, me: Actor) -> None:
        if self.failure is None:
            try:
                chosen = self._choose()
            except Exception as error:
                self.fail(error)
                raise Torn from None
            if chosen is not me:
                chosen.turn.release()
                me.turn.acquire()
        if self.failure is not None:
            raise Torn

    def _choose(self) -> Actor:
        """Return who goes on; let time pass if nobody can."""
        self.calm = True
        try:
            return self._who_can()
        finally:
            self.calm = False

    def _who_can(self) -> Actor:
        can = [actor for actor in self.actors if actor.can_go()]
        if not can:
            until = min(actor.until for actor in self.actors)
            if until == inf:
                raise AssertionError(f"nobody can go on, ever; {self.scene()}")
            self.before_time(until - self.now)
            self.now = max(self.now, until)
            can = [actor for actor in self.actors if actor.can_go()]
        if len(can) == 1:
            return can[0]
        return self.dice.choices(can, [actor.weight for actor in can])[0]


class StageLock:
    """A lock that is waited for on the stage."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.owner: Actor | None = None
        self.taken = False

    def __enter__(self) -> StageLock:
        stage = self.stage
        if stage.failure is None:
            stage.step()
            if self.taken:
                assert self.owner is not stage.me(), "a lock is taken twice"
                stage.wait(lambda: not self.taken, what="a lock")
        self.taken, self.owner = True, stage.me()
        return self

    def __exit__(self, *what: object) -> None:
        self.taken, self.owner = False, None
        if self.stage.failure is None:
            self.stage.step()

    def locked(self) -> bool:
        """Whether somebody has it."""
        return self.taken


class StageCondition:
    """A condition of a StageLock, as far as it is used."""

    def __init__(self, lock: StageLock) -> None:
        self.lock = lock
        self.waiting: list[list[None]] = []  # each of those who wait has one, which is filled to wake it

    def wait(self) -> None:
        """Wait for `notify`, without the lock meanwhile."""
        mail: list[None] = []
        self.waiting.append(mail)
        self.lock.__exit__()
        try:
            self.lock.stage.wait(lambda: bool(mail), what="room")
        finally:
            self.lock.__enter__()

    def notify(self) -> None:
        """Wake the one who has waited longest."""
        assert self.lock.taken
        if self.waiting:
            self.waiting.pop(0).append(None)

    def notify_all(self) -> None:
        """Wake all."""
        while self.waiting:
            self.notify()

    def __enter__(self) -> None:
        self.lock.__enter__()

    def __exit__(self, *error: object) -> None:
        self.lock.__exit__()


class StageMail:
    """A plain lock, as `allocate_lock` gives it, that is released to wake somebody."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.taken = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it."""
        assert blocking
        self.stage.step()
        if self.taken and not self.stage.wait(lambda: not self.taken, None if timeout < 0 else timeout, "mail"):
            return False
        self.taken = True
        return True

    def release(self) -> None:
        """Wake whoever waits for it."""
        if not self.taken:
            raise RuntimeError("release unlocked lock")
        self.taken = False
        if self.stage.failure is None:
            self.stage.step()
