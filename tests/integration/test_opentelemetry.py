"""OpenTelemetry, which replaces `ThreadPoolExecutor.submit`: each task has the span of its submitter."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from treadle import Pool
from treadle._pool.passage import STANDARD

trace = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed")
instrumentation = pytest.importorskip(
    "opentelemetry.instrumentation.threading", reason="opentelemetry-instrumentation-threading is not installed"
)
opentelemetry = pytest.importorskip("opentelemetry.trace", reason="opentelemetry-sdk is not installed")


@pytest.fixture
def tracer() -> Iterator[Any]:
    """Instrument the threads, and undo it."""
    instrumentor = instrumentation.ThreadingInstrumentor()
    instrumentor.instrument()
    yield trace.TracerProvider().get_tracer("test")
    instrumentor.uninstrument()


def span_here() -> int:
    return int(opentelemetry.get_current_span().get_span_context().span_id)


@pytest.mark.parametrize("context", [True, False])
def test_each_task_has_the_span_of_its_submitter(tracer: Any, context: bool) -> None:
    with Pool(1, context=context) as pool:
        for door in (pool, pool.options(name="a")):
            for name in ("first", "second"):
                with tracer.start_as_current_span(name):
                    assert door.submit(span_here).result(30) == span_here() != 0
                    assert list(door.map(lambda _: span_here(), "xy")) == [span_here()] * 2
            assert door.submit(span_here).result(30) == 0


def test_it_can_be_taken_away_and_come_again(tracer: Any) -> None:
    instrumentor = instrumentation.ThreadingInstrumentor()
    instrumentor.uninstrument()
    assert ThreadPoolExecutor.submit is STANDARD
    with Pool(1, context=False) as pool:
        with tracer.start_as_current_span("nobody's"):
            assert pool.submit(span_here).result(30) == 0
        instrumentor.instrument()
        with tracer.start_as_current_span("somebody's"):
            assert pool.submit(span_here).result(30) == span_here()
