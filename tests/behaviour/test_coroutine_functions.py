"""Every way in refuses a coroutine function: a thread would call it, and nothing would run."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler
from socketserver import BaseRequestHandler, StreamRequestHandler, TCPServer
from typing import Any

import pytest

from treadle import Crew, Future, Pipeline, Pool, Rate, TaskGroup
from treadle.events import Observer
from treadle.server import Messages, PoolMixIn, Server, Session

PATIENCE = 30.0


async def answer(*arguments: object) -> Any:
    """Never run."""


class Watching(Observer):
    async def finished(self, event: object) -> None:  # type: ignore[override]  # that is the point
        """Never run."""


class Handling(StreamRequestHandler):
    async def handle(self) -> None:  # type: ignore[override]  # that is the point
        """Never run."""


class Cleaning(BaseRequestHandler):
    async def finish(self) -> None:  # type: ignore[override]  # that is the point
        """Never run."""


class Getting(BaseHTTPRequestHandler):
    async def do_GET(self) -> None:
        """Never run."""


class Running(BaseRequestHandler):
    """Runs its method itself."""

    def __init__(self, *arguments: Any) -> None:
        asyncio.run(self.handle())

    async def handle(self) -> None:  # type: ignore[override]  # that is the point
        """Run above."""


class Served(PoolMixIn, TCPServer):
    """A server of the standard library's kind."""


def in_a_group(pool: Pool) -> object:
    with TaskGroup(pool) as group:
        try:
            return group.submit(answer)
        except TypeError as error:
            refused = error
    raise refused


def served(handler: Any) -> object:
    with Served(("127.0.0.1", 0), handler) as server:
        return server


@pytest.mark.parametrize(
    "give",
    [
        lambda pool: pool.submit(answer),
        lambda pool: pool.submit(partial(answer, 1)),
        lambda pool: pool.options(name="task").submit(answer),
        lambda pool: pool.map(answer, [1]),
        lambda pool: pool.options(rate=Rate(1e6)).map(answer, [1]),
        lambda pool: asyncio.run(pool.run(answer)),
        in_a_group,
        lambda _: Pool(1, initializer=answer),
        lambda pool: setattr(pool, "_initializer", answer),
        lambda _: Pool(1, observers=[Watching()]),
        lambda _: Crew(answer, 1),
        lambda _: Crew(print, 1, on_error=answer),
        lambda _: Pipeline().stage(answer),
        lambda _: Future[int]().add_done_callback(answer),
        lambda pool: pool.submit(abs, -1).add_done_callback(answer),
        lambda _: Messages(answer),  # type: ignore[arg-type]  # that is the point
        lambda _: Session(answer),
        lambda _: Server(Messages(lambda message, peer: message), tls=answer),  # type: ignore[arg-type]  # as above
        lambda _: served(Handling),
        lambda _: served(partial(Cleaning)),
        lambda _: served(Getting),
    ],
)
def test_it_is_refused_in_words(give: Callable[[Pool], object]) -> None:
    with Pool(1) as pool:
        with pytest.raises(TypeError, match=r"is a coroutine function; .* must be an ordinary one, which may block"):
            give(pool)
        assert pool.snapshot().waiting == 0
    gc.collect()  # a coroutine that was made, and nobody has awaited, is a warning, and so an error


def test_who_calls_its_coroutine_functions_itself_is_not_refused() -> None:
    served(Running)


def test_what_is_no_callable_is_logged_when_it_is_called_back_as_in_the_standard_library(
    caplog: pytest.LogCaptureFixture,
) -> None:
    future: Future[int] = Future()
    future.add_done_callback(None)  # type: ignore[arg-type]  # that is the point
    future.set_result(1)
    assert "exception calling callback" in caplog.text


def test_a_coroutine_that_a_task_returns_is_its_result() -> None:
    """Whoever asks for it may run it."""
    with Pool(1) as pool:
        coroutine = pool.submit(lambda: answer()).result(PATIENCE)
    assert asyncio.run(coroutine) is None
