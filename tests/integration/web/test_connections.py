"""Connections to a database that belong to a thread: how many there are, and who closes them when the thread ends.

Those of SQLite are counted by the files that this process has open.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from integration.web.served import DESCRIPTORS, PATIENCE, WORKERS, Client, count_open, crowd, serve, until
from integration.web.shop.watch import LOG
from treadle import Pool
from treadle._cli.web.app import closing_connections

ROUNDS = 4
pytestmark = pytest.mark.skipif(not DESCRIPTORS.exists(), reason="this system does not tell which files are open")


class Together:
    """An app whose first answers wait for each other, so that as many threads are at work."""

    def __init__(self, app: Any, count: int) -> None:
        self.app = app
        self.barrier = threading.Barrier(count)
        self.turns = iter(range(count))
        self.lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        answer: Iterable[bytes] = self.app(environ, start_response)
        with self.lock:
            first = next(self.turns, None) is not None
        if first:
            self.barrier.wait(PATIENCE)
        return answer


@pytest.fixture
def database(project: Path, shop: Any) -> Path:
    """Return the file of Django's database, which nobody has open."""
    path = project / "shop.sqlite3"
    assert count_open(path) == 0
    return path


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, database: Path) -> None:
    """Have Django keep its connections from one request to the next."""
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", None)


def visit(client: Client, number: int) -> None:
    for turn in range(ROUNDS):
        assert client.post(f"/things/{number}.{turn}", b"[1, 2]").status == 200


def test_django_closes_its_connection_with_each_request(shop: Any, database: Path) -> None:
    with serve(shop) as address:
        clients = len(crowd(address, visit))
        until(lambda: LOG.finished == clients * ROUNDS)
        until(lambda: count_open(database) == 0)
    LOG.check(clients * ROUNDS)


@pytest.mark.usefixtures("kept")
def test_connections_that_django_keeps_are_at_most_as_many_as_threads(shop: Any, database: Path) -> None:
    together = Together(shop, WORKERS)  # so that every thread has one
    with Pool(WORKERS, thread_lifespan=closing_connections) as pool:
        with serve(together, pool=pool) as address:
            clients = len(crowd(address, visit))
            assert count_open(database) == WORKERS
    LOG.check(clients * ROUNDS)
    assert len(LOG.threads) == WORKERS
    assert count_open(database) == 0


@pytest.mark.usefixtures("kept")
def test_connection_that_django_keeps_is_closed_when_its_thread_ends_for_want_of_work(
    shop: Any, database: Path
) -> None:
    """One thread leads, and stays."""
    with Pool(2, idle_timeout=0.01, thread_lifespan=closing_connections) as pool:
        with serve(Together(shop, 2), pool=pool) as address:
            crowd(address, lambda client, number: client.post(f"/things/{number}", b"[1]"), clients=2)
            assert len(LOG.threads) == 2
            until(lambda: count_open(database) == 1)
    assert count_open(database) == 0


def test_each_thread_has_a_connection_of_its_own_as_long_as_it_lives(tmp_path: Path) -> None:
    path, mine, opened = tmp_path / "shop.sqlite3", threading.local(), []
    with closing(sqlite3.connect(path)) as setup:
        setup.execute("CREATE TABLE visits (client INTEGER)")

    @contextmanager
    def connection() -> Iterator[None]:
        with closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as mine.database:
            opened.append(threading.current_thread())
            yield

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        client = int(environ["QUERY_STRING"])
        mine.database.execute("INSERT INTO visits VALUES (?)", (client,))
        start_response("200 OK", [("Content-Type", "text/plain")])
        rows = mine.database.execute("SELECT client FROM visits WHERE client = ?", (client,))
        return (b"%d\n" % found for (found,) in rows)

    with Pool(WORKERS, thread_lifespan=connection) as pool:
        with serve(app, pool=pool) as address:

            def come(client: Client, number: int) -> None:
                for turn in range(1, ROUNDS + 1):
                    assert client.get(f"/?{number}").body == b"%d\n" % number * turn

            crowd(address, come)
            assert count_open(path) == len(opened) <= WORKERS
    assert count_open(path) == 0
