"""ConnectionLimiter: who is counted, and as whom."""

from __future__ import annotations

import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from treadle.server import Limits
from treadle.server._accept import limiter as module
from treadle.server._accept.limiter import ConnectionLimiter
from treadle.server._accept.proxy import Proxies


def test_the_ceiling_is_exact_and_leaving_makes_room() -> None:
    limiter = ConnectionLimiter(Limits(max_connections=2))
    assert limiter.enter("") is None
    assert limiter.enter(("127.0.0.1", 1)) is None
    assert limiter.full()
    assert "all 2 connections are taken" in str(limiter.enter(("127.0.0.1", 2)))
    assert limiter.leave("") is True
    assert not limiter.full()
    assert limiter.leave(("127.0.0.1", 1)) is False
    assert limiter.connections == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("10.0.0.1", 1), ("10.0.0.1", 2), True),
        (("10.0.0.1", 1), ("10.0.0.2", 1), False),
        (("2001:db8:1:2::1", 1, 0, 0), ("2001:db8:1:2:ffff::9", 1, 0, 0), True),
        (("2001:db8:1:2::1", 1, 0, 0), ("2001:db8:1:3::1", 1, 0, 0), False),
        (("::ffff:10.0.0.1", 1, 0, 0), ("10.0.0.1", 2), True),
        (("fe80::1%eth0", 1, 0, 2), ("fe80::2%eth0", 1, 0, 2), True),
        (("fe80::1", 1, 0, 98765432), ("fe80::1", 1, 0, 98765433), False),  # of another link
        ("", "", False),  # UNIX sockets have no address
    ],
)
def test_an_ipv6_address_counts_by_its_64(one: Any, other: Any, same: bool) -> None:
    limiter = ConnectionLimiter(Limits(max_connections_per_host=1))
    assert limiter.enter(one) is None
    assert (limiter.enter(other) is not None) is same
    limiter.leave(one)
    if same:
        assert limiter.enter(other) is None


def test_a_client_is_counted_out_though_its_interface_has_another_name_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter(["before", "after"])
    monkeypatch.setattr(socket, "if_indextoname", lambda index: next(names))
    limiter, address = ConnectionLimiter(Limits(max_connections_per_host=1)), ("fe80::1", 1, 0, 7)
    assert limiter.enter(address) is None
    limiter.leave(address)
    assert limiter.enter(address) is None


def test_the_ceiling_of_one_address_is_exact_and_nothing_is_remembered_of_those_who_left() -> None:
    limiter, address = ConnectionLimiter(Limits(max_connections_per_host=2)), ("10.0.0.1", 1)
    for _ in range(2):
        assert limiter.enter(address) is None
    for _ in range(3):
        assert limiter.enter(address) == "10.0.0.1 has 2 connections already (max_connections_per_host)"
        limiter.leave(address)
        assert limiter.enter(address) is None
    assert limiter.connections == 2  # the refused are not counted
    for _ in range(2):
        limiter.leave(address)
    assert limiter._by_address == {}  # or every address that ever came would stay in memory


def test_a_proxy_counts_by_its_clients_and_not_at_all_before() -> None:
    limiter, proxy, other = (
        ConnectionLimiter(Limits(max_connections_per_host=1), Proxies("10.0.0.0/8")),
        ("10.0.0.1", 1),
        ("8.8.8.8", 1),
    )
    for _ in range(3):
        assert limiter.crowded(proxy) is None
        assert limiter.enter(proxy) is None
    assert limiter.connections == 3
    for client in (other, ("10.0.0.1", 5)):  # the second one has an address that is trusted, and counts all the same
        assert limiter.enter_behind(client) is None
        assert "has 1 connection already" in str(limiter.enter_behind(client))
    assert limiter.crowded(other) is not None  # nor may it come without the proxy
    assert limiter.connections == 3  # they are in already
    for client in (other, ("10.0.0.1", 5)):
        limiter.leave(client, behind=True)
    limiter.leave(proxy)
    assert (limiter.connections, limiter._by_address) == (0, {})


def test_a_seconds_worth_may_come_at_once_and_then_no_faster_than_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    time: Any = SimpleNamespace(now=lambda: time.value, value=100.0)
    monkeypatch.setattr(module, "clock", time)
    limiter = ConnectionLimiter(Limits(accept_rate=4.0))
    for _ in range(4):
        assert limiter.delay() == 0.0
        limiter.enter("")
    assert limiter.delay() == pytest.approx(0.25)
    time.value += 0.125
    assert limiter.delay() == pytest.approx(0.125)
    time.value += 0.125
    assert limiter.delay() == 0.0
    limiter.enter("")
    time.value += 1000.0
    for _ in range(4):
        assert limiter.delay() == 0.0
        limiter.enter("")
    assert limiter.delay() > 0.0


def test_of_a_rate_below_one_a_second_the_first_may_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    time: Any = SimpleNamespace(now=lambda: time.value, value=100.0)
    monkeypatch.setattr(module, "clock", time)
    limiter = ConnectionLimiter(Limits(accept_rate=0.5))
    assert limiter.delay() == 0.0
    limiter.enter("")
    assert limiter.delay() == 2.0
    time.value += 1000.0
    limiter.delay()
    limiter.enter("")
    assert limiter.delay() == 2.0


def test_without_a_rate_there_is_no_delay() -> None:
    assert ConnectionLimiter(Limits()).delay() == 0.0


def test_counts_hold_from_many_threads() -> None:
    limiter, most = ConnectionLimiter(Limits(max_connections=5, max_connections_per_host=5)), []

    def come_and_go() -> None:
        for _ in range(500):
            if limiter.enter(("10.0.0.1", 1)) is None:
                most.append(limiter.connections)
                limiter.leave(("10.0.0.1", 1))

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) <= 5
    assert limiter.connections == 0
