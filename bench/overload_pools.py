"""Pools that are offered more than they can do, and what an order costs that keeps their tasks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import cycle, islice
from statistics import median
from time import perf_counter, process_time, sleep
from typing import Any

from overload_load import PATIENCE, TASK, THREADS, Rows, Settings, Submit, capacity, loaded, open_loop, turned, warm
from overload_tally import Values

import treadle
from treadle.errors import PoolClosed
from treadle.orders import Adaptive, Fair

NEIGHBOUR = 0.2  # of capacity, that the tenant offers who does not flood
KEYS = 10  # tenants, or priorities, where an order has several to tell apart
NEVER = 1e9  # seconds


# -- goodput ----------------------------------------------------------------------------------------------------------

POOLS: dict[str, Callable[[], Executor]] = {
    "standard": lambda: ThreadPoolExecutor(THREADS),
    "fifo": lambda: treadle.Pool(THREADS, when_full="reject"),
    "adaptive": lambda: treadle.Pool(THREADS, when_full="reject", order="adaptive"),
}


def goodput(settings: Settings, number: int) -> Rows:
    """Offer each pool several times what it can do: how much of that is answered in time."""
    able = capacity(settings.seconds / 2)
    rows = {"capacity": {"rate": able}}
    for load in settings.loads:
        for name in turned(POOLS, number):
            rows[f"{name}@{load:g}x"] = under(POOLS[name], load * able, able, settings)
    return rows


def under(make: Callable[[], Executor], rate: float, able: float, settings: Settings) -> Values:
    """Offer a new pool `rate` tasks a second; "kept" is the part of what it is able to do that came in time."""
    executor = make()
    with loaded(executor):
        warm(executor)
        count = open_loop(executor.submit, rate, settings)
    values = count()
    return {"kept": values["rate"] / able, **values}


# -- tenants ----------------------------------------------------------------------------------------------------------


def tenants(settings: Settings, number: int) -> Rows:
    """One tenant keeps the queue full, another offers little: how late are the other's answers, to those alone."""
    able = capacity(settings.seconds / 2)
    rate = NEIGHBOUR * able
    rows = {"capacity": {"rate": able}, "alone": neighbour("fair", rate, settings, flooded=False)}
    for name in turned(("fair", "fifo"), number):
        rows[name] = neighbour(name, rate, settings, flooded=True)
        if "p99" in rows[name] and "p99" in rows["alone"]:
            rows[name]["p99 to alone"] = rows[name]["p99"] / rows["alone"]["p99"]
    return rows


def neighbour(order: str, rate: float, settings: Settings, *, flooded: bool) -> Values:
    """Offer a pool `rate` tasks a second of one tenant's, beside another who floods it."""
    if order == "fair":
        pool = treadle.Pool(THREADS, order=Fair(max_waiting=settings.flood), queue_size=None)
        offered, flooding = pool.options(when_full="reject", key="neighbour"), pool.options(key="flood")
    else:
        pool = treadle.Pool(THREADS, order=order, queue_size=settings.flood)
        offered, flooding = pool.options(when_full="reject"), pool.options()
    flooder = threading.Thread(target=flood, args=(flooding.submit,))
    with loaded(pool):
        warm(pool)
        if flooded:
            for _ in range(settings.flood):
                flooding.submit(sleep, TASK)
            flooder.start()
        count = open_loop(offered.submit, rate, settings)
    if flooded:
        flooder.join(PATIENCE)
    values = count()
    return {"answered": values["rate"] / rate, **values}


def flood(submit: Submit) -> None:
    """Submit as fast as the queue admits, until the pool is closed."""
    try:
        while True:
            submit(sleep, TASK)
    except PoolClosed:
        pass


# -- cost -------------------------------------------------------------------------------------------------------------

BASE = "fifo"
# Of each the order, and what tasks are submitted by in turn: the pool, or views of it with different options.
KINDS: dict[str, tuple[Callable[[], Any], Callable[[treadle.Pool], list[Submit]]]] = {
    BASE: (lambda: "fifo", lambda pool: [pool.submit]),
    "fifo-view": (lambda: "fifo", lambda pool: [pool.options(name="task").submit]),
    "adaptive": (lambda: Adaptive(target=NEVER, interval=NEVER), lambda pool: [pool.submit]),
    "priority": (lambda: "priority", lambda pool: [pool.submit]),
    "priority-10": (lambda: "priority", lambda pool: [pool.options(priority=n).submit for n in range(KEYS)]),
    "fair": (lambda: "fair", lambda pool: [pool.submit]),
    "fair-10": (lambda: "fair", lambda pool: [pool.options(key=n).submit for n in range(KEYS)]),
}
PROMISED = ("adaptive", "priority", "priority-10", "fair", "fair-10")


def cost(settings: Settings, number: int) -> Rows:
    """Tasks that do nothing pass through each order while `depths` of them wait: how many a second, and to fifo's.

    Medians of a few turns in quick succession: what slows the machine for a moment slows one of them.
    """
    rows = Rows()
    for depth in settings.depths:
        slices = min(settings.slices, 2) if depth > settings.passed else settings.slices
        turns = range(number, number + slices)
        rounds = [{kind: passing(kind, depth, settings) for kind in turned(KINDS, turn)} for turn in turns]
        for kind in KINDS:
            rows[f"{kind}@{depth}"] = {
                "rate": median(found[kind][0] for found in rounds),
                "to fifo": median(found[kind][0] / found[BASE][0] for found in rounds),
                "CPU to fifo": median(found[BASE][1] / found[kind][1] for found in rounds),
            }
    return rows


def passing(kind: str, depth: int, settings: Settings) -> tuple[float, float]:
    """Return how many tasks a second pass through an order in which `depth` wait, and the CPU time of one in seconds.

    One thread runs them: with more, how these take turns would be most of what is measured. It is held while the first
    tasks are submitted. Each then submits another, so that as many wait as before, until enough have been.
    """
    order, views = KINDS[kind]
    pool = treadle.Pool(1, order=order(), queue_size=None)
    with loaded(pool):
        gate, over, submits = held(pool), threading.Event(), cycle(views(pool))
        waiting, count = depth + 1, max(depth + 1, settings.passed)  # one of those that wait is about to run
        to_submit, to_run = count - waiting, count

        def pass_on() -> None:
            nonlocal to_submit, to_run
            if to_submit:
                to_submit -= 1
                next(submits)(pass_on)
            to_run -= 1
            if not to_run:
                over.set()

        start, spent = perf_counter(), process_time()
        for submit in islice(submits, waiting):
            submit(pass_on)
        gate.set()
        if not over.wait(PATIENCE):
            raise TimeoutError(f"{kind}: {to_run} of {count} tasks are still to be run")
        seconds, spent = perf_counter() - start, process_time() - spent
    return count / seconds, spent / count


def held(pool: treadle.Pool) -> threading.Event:
    """Keep the thread of `pool` busy until the event that is returned is set."""
    gate, begun = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        gate.wait(PATIENCE)

    pool.submit(hold)
    begun.wait(PATIENCE)
    return gate
