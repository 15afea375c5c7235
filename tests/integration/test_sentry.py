"""Sentry, which replaces `ThreadPoolExecutor.submit`: each task has the scope of its submitter, and keeps its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import Any

import pytest

from treadle import Pool, TaskGroup

sentry_sdk = pytest.importorskip("sentry_sdk", reason="sentry_sdk is not installed")
threading_integration = pytest.importorskip(
    "sentry_sdk.integrations.threading", reason="sentry_sdk is not installed, or another one"
)


@pytest.fixture(scope="module")
def sent() -> Iterator[dict[str, Any]]:
    """Set Sentry up, which is done once a process; it fills this with the user of each message, and sends nothing."""
    users: dict[str, Any] = {}

    def before_send(event: dict[str, Any], hint: object) -> None:
        users[event["message"]] = event.get("user", {}).get("id")

    scope = sentry_sdk.get_global_scope()
    submit, start, client = ThreadPoolExecutor.submit, Thread.start, scope.client
    sentry_sdk.init(
        dsn="http://nobody@127.0.0.1:9/1",
        before_send=before_send,
        default_integrations=False,
        auto_enabling_integrations=False,
        auto_session_tracking=False,
        integrations=[threading_integration.ThreadingIntegration()],
    )
    yield users
    sentry_sdk.get_client().close(timeout=0)
    scope.set_client(client)
    ThreadPoolExecutor.submit, Thread.start = submit, start  # type: ignore[method-assign]


@pytest.fixture
def seen(sent: dict[str, Any]) -> Iterator[dict[str, Any]]:
    sent.clear()
    with sentry_sdk.isolation_scope():
        yield sent


def handle(customer: str) -> None:
    if customer != "anonymous":
        sentry_sdk.set_user({"id": customer})
    sentry_sdk.capture_message(customer)


def in_a_group(pool: Pool, customer: str) -> None:
    with TaskGroup(pool) as group:
        group.submit(handle, customer)


DOORS: dict[str, Callable[[Pool, str], object]] = {
    "submit": lambda pool, customer: pool.submit(handle, customer).result(30),
    "a view": lambda pool, customer: pool.options(name="a").submit(handle, customer).result(30),
    "map": lambda pool, customer: list(pool.map(handle, [customer])),
    "run": lambda pool, customer: asyncio.run(pool.run(handle, customer)),
    "group": in_a_group,
}


@pytest.mark.parametrize("context", [True, False])
@pytest.mark.parametrize("door", DOORS)
def test_one_tasks_user_goes_out_with_its_own_events_only(door: str, context: bool, seen: dict[str, Any]) -> None:
    with Pool(1, context=context) as pool:
        for customer in ("alice", "anonymous", "bob"):
            DOORS[door](pool, customer)
    sentry_sdk.capture_message("main")
    assert seen == {"alice": "alice", "anonymous": None, "bob": "bob", "main": None}


def test_a_task_begins_with_its_submitters_user(seen: dict[str, Any]) -> None:
    with Pool(1, context=False) as pool:
        for customer in ("alice", "bob"):
            sentry_sdk.set_user({"id": customer})
            pool.submit(sentry_sdk.capture_message, customer).result(30)
    assert seen == {"alice": "alice", "bob": "bob"}


def test_a_task_is_called_by_its_own_function(seen: dict[str, Any]) -> None:
    with Pool(1) as pool:
        assert pool.submit(handle, "alice").name == "handle"
