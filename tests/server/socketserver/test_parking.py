"""Parking: who is polled, for how long, and that the poller is rid of who is not."""

from __future__ import annotations

import os
import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from math import inf
from typing import Any

import pytest

from socketservers import ANYWHERE, PATIENCE, TCP, lot_of
from treadle._base import clock
from treadle.server._loop.poller import READ, WRITE
from treadle.server._socketserver.parking import Parking, ended
from treadle.server._socketserver.request import Request


@pytest.fixture
def parking() -> Iterator[Parking]:
    parking = Parking()
    yield parking
    parking.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def visit_of(sock: Any, stack: ExitStack) -> Request:
    server = stack.enter_context(TCP(ANYWHERE, socketserver.BaseRequestHandler))
    return Request(lot_of(server), sock, None, polled=True)


def pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    left, right = socket.socketpair()
    return stack.enter_context(left), stack.enter_context(right)


def soon() -> float:
    return clock.now() + PATIENCE


def test_who_has_something_to_say_is_given_and_stays_until_removed(parking: Parking, stack: ExitStack) -> None:
    mine, other = pair(stack)
    silent, _ = pair(stack)
    visit = visit_of(mine, stack)
    parking.add(visit, inf)
    parking.add(visit_of(silent, stack), inf)
    assert list(parking.ready(0.0)) == []
    other.send(b"x")
    assert list(parking.ready(soon())) == list(parking.ready(0.0)) == [(visit, READ)]
    parking.remove(visit)
    assert list(parking.ready(0.0)) == []
    assert visit.fd == -1


def test_an_end_is_something_to_say(parking: Parking, stack: ExitStack) -> None:
    mine, other = pair(stack)
    visit = visit_of(mine, stack)
    parking.add(visit, inf)
    other.close()
    assert [given for given, _ in parking.ready(soon())] == [visit]


def test_who_leaves_while_others_are_attended_to_is_not_given(parking: Parking, stack: ExitStack) -> None:
    pairs = [pair(stack) for _ in range(3)]
    visits = [visit_of(mine, stack) for mine, _ in pairs]
    for visit, (_, other) in zip(visits, pairs, strict=True):
        parking.add(visit, inf)
        other.send(b"x")
    given = []
    for visit, _ in parking.ready(soon()):
        given.append(visit)
        for other_visit in list(parking.visits.values()):
            parking.remove(other_visit)
    assert len(given) == 1


def test_late_are_those_whose_deadline_has_passed_and_nobody_twice(parking: Parking, stack: ExitStack) -> None:
    now = clock.now()
    visits = [visit_of(pair(stack)[0], stack) for _ in range(4)]
    for visit, due in zip(visits, (now - 1, now - 2, now + 3600, inf), strict=True):
        parking.add(visit, due)
    late = list(parking.late())
    assert late == [visits[1], visits[0]]
    for visit in late:
        parking.remove(visit)
    assert list(parking.late()) == []
    assert parking.timers.next == now + 3600


def test_a_visit_that_left_and_came_again_has_its_new_deadline_only(parking: Parking, stack: ExitStack) -> None:
    visit = visit_of(pair(stack)[0], stack)
    parking.add(visit, clock.now() - 1)
    parking.remove(visit)
    parking.add(visit, clock.now() + 3600)
    assert list(parking.late()) == []


@pytest.mark.parametrize("can_poll", [True, False])
def test_a_look_tells_who_was_on_time_nevertheless(
    can_poll: bool, parking: Parking, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("treadle.server._socketserver.parking.CAN_POLL", can_poll and hasattr(select, "poll"))
    mine, other = pair(stack)
    visit = visit_of(mine, stack)
    parking.add(visit, clock.now() - 1)
    assert [parking.look(late) for late in parking.late()] == [0]
    other.send(b"x")
    assert parking.look(visit) == READ
    parking.remove(visit)
    visit.wants = WRITE
    parking.add(visit, clock.now() - 1)
    assert parking.look(visit) == WRITE


def test_wake_ends_the_wait_once(parking: Parking) -> None:
    waker = threading.Thread(target=parking.wake)
    waker.start()
    assert list(parking.ready(soon())) == []
    waker.join(PATIENCE)
    parking.wake()
    parking.wake()
    assert list(parking.ready(soon())) == []
    assert list(parking.ready(0.0)) == []


def test_the_listener_is_polled_only_while_it_is_watched(parking: Parking, stack: ExitStack) -> None:
    listener = stack.enter_context(socket.create_server(ANYWHERE))
    stack.enter_context(socket.create_connection(listener.getsockname(), PATIENCE))
    assert list(parking.ready(0.0)) == []
    assert not parking.knocked
    parking.watch(listener.fileno())
    parking.watch(listener.fileno())
    assert list(parking.ready(soon())) == []
    assert parking.knocked
    parking.unwatch()
    parking.unwatch()
    assert list(parking.ready(0.0)) == []
    assert not parking.knocked


def test_a_clients_descriptor_that_was_the_listeners_is_the_clients(parking: Parking, stack: ExitStack) -> None:
    """Somebody has closed the listener behind its back, and the kernel gave the number anew."""
    listener = socket.create_server(ANYWHERE)
    number = listener.fileno()
    parking.watch(number)
    mine, other = pair(stack)
    listener.close()
    os.dup2(mine.fileno(), number)
    visit = visit_of(stack.enter_context(socket.socket(fileno=number)), stack)
    parking.add(visit, inf)
    other.send(b"x")
    assert [given for given, _ in parking.ready(soon())] == [visit]
    assert not parking.knocked
    parking.unwatch()
    assert [given for given, _ in parking.ready(soon())] == [visit]


@pytest.mark.skipif(not hasattr(select, "poll"), reason="without poll() nobody can tell")
def test_a_listener_has_ended_when_it_is_closed_or_shut_down(stack: ExitStack) -> None:
    for listener in (socket.create_server(ANYWHERE), socket.socket(type=socket.SOCK_DGRAM)):
        stack.enter_context(listener)
        if listener.type == socket.SOCK_DGRAM:
            listener.bind(ANYWHERE)
        assert not ended(listener.fileno())
        try:
            listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            assert listener.type == socket.SOCK_DGRAM  # it is nevertheless
        assert ended(listener.fileno())
        number = listener.fileno()
        listener.close()
        assert ended(number)
    assert ended(-1)


def test_a_socket_closed_behind_its_back_can_be_removed(parking: Parking, stack: ExitStack) -> None:
    mine, _ = pair(stack)
    visit = visit_of(mine, stack)
    parking.add(visit, inf)
    mine.close()
    parking.remove(visit)
    assert not parking.visits


@pytest.mark.skipif(not hasattr(os, "fork"), reason="files can be polled on other platforms, in a way")
def test_what_cannot_be_polled_is_not_parked(parking: Parking, stack: ExitStack) -> None:
    mine, _ = pair(stack)
    visit = visit_of(mine, stack)
    mine.close()
    with pytest.raises((OSError, ValueError)):
        parking.add(visit, clock.now())
    assert not parking.visits
    assert parking.timers.next == inf
