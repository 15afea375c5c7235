"""Observer: who may be one, and what its events say."""

from __future__ import annotations

import dataclasses
import logging
import threading
from typing import Any

import pytest

from treadle.server import ConnectionEvent, MessageEvent, Messages, Observer, Peer, Server
from treadle.server._transport.observing.observer import TOLD, Observers, server_observers_in

PEER = Peer(("192.0.2.1", 5), None)  # type: ignore[arg-type]  # it is not asked for its socket
CONNECTED = ConnectionEvent("handle", PEER, 1, "thread", 1)


class Keeps(Observer):
    def __init__(self) -> None:
        self.told: list[Any] = []

    def connected(self, event: ConnectionEvent) -> None:
        self.told.append(event)


class Raises(Observer):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def connected(self, event: ConnectionEvent) -> None:
        raise self.error


class Asynchronous(Observer):
    async def handled(self, event: MessageEvent) -> None:  # type: ignore[override]
        pass


class Lacks:
    def connected(self, event: object) -> None:
        pass


class Yields(Observer):
    def handled(self, event: MessageEvent) -> Any:
        yield event


class TakesNothing(Observer):
    def closed(self) -> None:  # type: ignore[override]  # that is the point
        pass


@pytest.mark.parametrize(
    ("observers", "said"),
    [
        (Keeps(), "observers="),
        ([Keeps], "a class; pass an object of it, as in Keeps()"),
        ([Lacks()], "it lacks rejected, handled, closed; make it a subclass of treadle.server.Observer"),
        ([Asynchronous()], "Asynchronous.handled"),
        ([Yields()], "is a generator function, which a call does not run"),
        (
            [TakesNothing()],
            "is called with (event); give it such arguments, or did you mean closed(self, event), as of",
        ),
    ],
)
def test_who_cannot_be_told_is_refused_when_the_server_is_made(observers: Any, said: str) -> None:
    with pytest.raises(TypeError) as caught:
        Server(Messages(lambda data, peer: data), observers=observers)
    assert said in str(caught.value)


def test_whoever_has_all_methods_may_be_told() -> None:
    observer = type("Like", (), {what: lambda self, event: None for what in TOLD})()
    assert server_observers_in([observer]) == (observer,)


def test_events_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONNECTED.reason = "none"  # type: ignore[misc]


def message(begun_ns: int | None, returned_ns: int | None) -> MessageEvent:
    return MessageEvent("handle", PEER, 1, 10, begun_ns, returned_ns, 10**9 + 10, "thread", False, None, 1, 1, None)


def test_a_message_says_how_long_it_waited_and_ran() -> None:
    run = message(5 * 10**8 + 10, 7 * 10**8 + 10)
    assert (run.waited, run.ran) == (0.5, 0.2)
    never = message(None, None)
    assert (never.waited, never.ran) == (1.0, 0.0)


@pytest.mark.parametrize("error", [ValueError(), SystemExit(), KeyboardInterrupt()], ids=repr)
def test_what_one_raises_keeps_no_other_from_being_told_and_is_logged_as_an_error_once(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    good = Keeps()
    observers = Observers("handle", [Raises(error), good])

    def tell() -> None:
        observers.tell("connected", CONNECTED)
        observers.tell("connected", CONNECTED)

    elsewhere = threading.Thread(target=tell)  # where Ctrl-C never comes
    elsewhere.start()
    elsewhere.join(30)
    assert good.told == [CONNECTED] * 2
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.DEBUG]
    assert "Raises" in caplog.records[0].getMessage()


def test_ctrl_c_in_the_main_thread_is_raised_once_the_others_were_told() -> None:
    good = Keeps()
    with pytest.raises(KeyboardInterrupt):
        Observers("handle", [Raises(KeyboardInterrupt()), good]).tell("connected", CONNECTED)
    assert good.told == [CONNECTED]


def test_after_a_fork_nobody_is_told() -> None:
    good = Keeps()
    observers = Observers("handle", [good])
    observers.forget_threads()
    observers.tell("connected", CONNECTED)
    assert not good.told


def test_who_forks_in_an_observer_leaves_the_others_to_the_parent() -> None:
    class Forks(Observer):
        def connected(self, event: ConnectionEvent) -> None:
            observers.forget_threads()
            raise SystemExit

    good = Keeps()
    observers = Observers("handle", [Forks(), good])
    observers.tell("connected", CONNECTED)
    assert not good.told
