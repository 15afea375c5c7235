"""Pollers: one contract for all of them; kqueue over a scripted one, for this is not a BSD everywhere."""

from __future__ import annotations

import os
import select
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from math import inf
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from tcp import PATIENCE, ask, client, receive_all
from treadle.server import Lines, Messages, Server
from treadle.server._loop import poller as module
from treadle.server._loop.poller import (
    READ,
    WRITE,
    EpollPoller,
    KqueuePoller,
    Poller,
    SelectorPoller,
    new_poller,
    renew_waker,
)


class Kqueue:
    """What kqueue does, by means of poll()."""

    def __init__(self) -> None:
        self.filters: set[tuple[int, int]] = set()

    def control(self, changes: list[Any] | None, most: int, timeout: float | None = None) -> list[Any]:
        for change in changes or ():
            key = (change.ident, change.filter)
            if change.flags == 1:
                self.filters.add(key)
            else:
                self.filters.remove(key)  # ENOENT on a real one
        if not most:
            return []
        deadline = inf if timeout is None else monotonic() + timeout
        while True:  # in slices, for a real one notices what is changed while it waits
            left = max(0.0, deadline - monotonic())
            if (told := self.look(min(left, 0.01))) or left == 0.0:
                return told

    def look(self, timeout: float) -> list[Any]:
        poll = select.poll()
        filters = set(self.filters)
        for fd in {fd for fd, _ in filters}:
            kinds = {kind for other, kind in filters if other == fd}
            poll.register(fd, (select.POLLIN if -1 in kinds else 0) | (select.POLLOUT if -2 in kinds else 0))
        told = []
        for fd, event in poll.poll(timeout * 1000):
            for kind, bits in ((-1, select.POLLIN | select.POLLHUP), (-2, select.POLLOUT | select.POLLERR)):
                if event & bits and (fd, kind) in filters:
                    told.append(SimpleNamespace(ident=fd, filter=kind))
        return told

    def close(self) -> None:
        self.filters.clear()


SCRIPTED = SimpleNamespace(
    kqueue=Kqueue,
    kevent=lambda ident, filter, flags: SimpleNamespace(ident=ident, filter=filter, flags=flags),
    KQ_FILTER_READ=-1,
    KQ_FILTER_WRITE=-2,
    KQ_EV_ADD=1,
    KQ_EV_DELETE=2,
)
KINDS: list[Callable[[], Poller]] = [SelectorPoller, KqueuePoller]
if hasattr(select, "epoll"):
    KINDS.append(EpollPoller)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def poller(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Poller]:
    if request.param is KqueuePoller:
        monkeypatch.setattr(module, "_select", SCRIPTED)
    made = request.param()
    yield made
    made.close()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


def told(poller: Poller, fd: int) -> int:
    """Return what the poller says of `fd`, in all."""
    events = 0
    for other, event in poller.poll(0):
        if other == fd:
            events |= event & (READ | WRITE)
    return events


def test_it_tells_what_is_watched_and_ready_and_tells_it_again(
    poller: Poller, ends: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ends
    fd = ours.fileno()
    poller.add(fd, READ)
    assert told(poller, fd) == 0
    theirs.send(b"x")
    assert told(poller, fd) == READ
    assert told(poller, fd) == READ  # level-triggered
    poller.change(fd, READ, WRITE)
    assert told(poller, fd) == WRITE
    poller.change(fd, WRITE, READ | WRITE)
    assert told(poller, fd) == READ | WRITE
    poller.change(fd, READ | WRITE, READ)
    assert told(poller, fd) == READ
    poller.remove(fd, READ)
    assert told(poller, fd) == 0
    poller.add(fd, READ | WRITE)
    assert told(poller, fd) == READ | WRITE
    poller.remove(fd, READ | WRITE)
    assert told(poller, fd) == 0


def test_an_end_counts_as_something_to_read(poller: Poller, ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    poller.add(ours.fileno(), READ)
    theirs.close()
    assert told(poller, ours.fileno()) & READ
    poller.remove(ours.fileno(), READ)


def test_wake_ends_a_poll_under_way_and_the_next_one(poller: Poller) -> None:
    poller.wake()
    assert [fd for fd, _ in poller.poll(PATIENCE)] == [poller.waker.fd]
    poller.waker.clear()
    assert poller.poll(0) == []
    waiting = threading.Thread(target=poller.poll, args=(PATIENCE,))
    waiting.start()
    with suppress(BlockingIOError):
        while True:
            poller.waker.writer.send(b"x")
    poller.wake()  # though the waker's socket is full
    waiting.join(PATIENCE)
    assert not waiting.is_alive()
    while poller.poll(0):
        poller.waker.clear()
    assert poller.waker.clear(), "of nothing"


@pytest.mark.parametrize("how", ["shut down", "one end closed"])
def test_a_waker_that_somebody_broke_is_replaced(poller: Poller, how: str) -> None:
    """It would be readable for ever."""
    if how == "shut down":
        poller.waker.reader.shutdown(socket.SHUT_RDWR)
    else:
        os.close(poller.waker.writer.fileno())
    assert [fd for fd, _ in poller.poll(PATIENCE)] == [poller.waker.fd]
    assert not poller.waker.clear()
    renew_waker(poller)
    assert poller.poll(0) == []
    poller.wake()
    assert [fd for fd, _ in poller.poll(PATIENCE)] == [poller.waker.fd]
    assert poller.waker.clear()


def test_what_was_closed_behind_its_back_need_not_be_watched_any_more(poller: Poller) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        poller.add(ours.fileno(), READ)
        os.close(ours.fileno())
        poller.remove(ours.detach(), READ)
        assert poller.poll(0) == []


def test_select_fails_for_one_that_is_closed_and_so_all_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(selectors, "PollSelector", raising=False)
    poller = SelectorPoller()
    (ours, theirs), (mine, yours) = socket.socketpair(), socket.socketpair()
    with theirs, mine, yours:
        poller.add(ours.fileno(), READ)
        poller.add(mine.fileno(), READ)
        os.close(ours.fileno())
        assert {ours.fileno(), mine.fileno()} <= {fd for fd, _ in poller.poll(PATIENCE)}
        poller.remove(ours.detach(), READ)
        assert poller.poll(0) == []
        poller.remove(mine.fileno(), READ)
    poller.close()


def test_what_another_thread_changes_holds_for_a_poll_under_way(
    poller: Poller, ends: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ends
    seen = threading.Event()

    def wait() -> None:
        while not seen.is_set():
            for fd, _ in poller.poll(PATIENCE):
                if fd == poller.waker.fd:
                    poller.waker.clear()
                elif fd == ours.fileno():
                    seen.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    theirs.send(b"x")
    poller.add(ours.fileno(), READ)
    assert seen.wait(PATIENCE)
    waiting.join(PATIENCE)
    poller.remove(ours.fileno(), READ)


def test_a_selector_that_sleeps_is_woken_for_a_change_and_one_that_does_not_is_left_alone(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = ends
    fd, poller, asleep, reports = ours.fileno(), SelectorPoller(), threading.Event(), list[Any]()
    select_now = poller._selector.select

    def sleep(timeout: float | None) -> list[Any]:
        asleep.set()
        return select_now(timeout)

    monkeypatch.setattr(poller._selector, "select", sleep)
    theirs.send(b"x")
    sleeper = threading.Thread(target=lambda: reports.extend(poller.poll(PATIENCE)))
    sleeper.start()
    assert asleep.wait(PATIENCE)
    poller.add(fd, READ)
    sleeper.join(PATIENCE)
    assert reports == [(poller.waker.fd, READ)]
    poller.waker.clear()
    assert poller.poll(PATIENCE) == [(fd, READ)]
    poller.remove(fd, READ)
    assert poller.poll(0) == []
    poller.close()


def test_the_best_that_there_is_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, kind in ((SCRIPTED, KqueuePoller), (SimpleNamespace(), SelectorPoller)):
        monkeypatch.setattr(module, "_select", has)
        made = new_poller()
        assert type(made) is kind
        made.close()
    monkeypatch.undo()
    made = new_poller()
    assert type(made) is (EpollPoller if hasattr(select, "epoll") else type(made))
    made.close()


@pytest.mark.parametrize("kind", [SelectorPoller, KqueuePoller])
def test_a_server_runs_on_each(kind: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    gate, inside = threading.Event(), threading.Event()

    def handle(line: bytes, peer: object) -> bytes:
        if line == b"slow":
            inside.set()
            assert gate.wait(PATIENCE)
        return b"x" * 3_000_000 if line == b"big" else line + b"\n"

    monkeypatch.setattr(module, "_select", SCRIPTED)
    monkeypatch.setattr("treadle.server._loop.event_loop.new_poller", kind)
    with Server(Messages(handle, Lines()), "127.0.0.1:0", max_workers=2) as server:
        with client(server) as slow, client(server) as quick:
            slow.sendall(b"slow\n")
            assert inside.wait(PATIENCE)
            slow.sendall(b"next\n")
            for _ in range(50):
                assert ask(quick, b"ping\n") == b"ping\n"
            assert ask(quick, b"big\nping\n", 3_000_005).endswith(b"xping\n")
            gate.set()
            assert ask(slow, b"", 10) == b"slow\nnext\n"
            stopper = threading.Thread(target=server.stop)
            stopper.start()
            assert receive_all(quick) == b""
            quick.close()
            slow.close()
            stopper.join(PATIENCE)
