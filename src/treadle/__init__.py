"""treadle runs blocking Python on a bounded number of threads.

`Pool` takes tasks from a bounded queue, keeps its threads for the next task and hands results back through futures;
`TaskGroup`, `Channel`, `Crew` and `Pipeline` stand on it, for tasks that belong together and threads that live as long
as the work does. Under pressure: `deadline` and cancellation, `Limit`, `Rate`, and the orders in `treadle.orders`.
Errors are in `treadle.errors`, what pools tell in `treadle.events`.
"""

from __future__ import annotations

from treadle._channel import Channel
from treadle._crew import Crew
from treadle._futures import Future
from treadle._groups import TaskGroup
from treadle._limit import Limit
from treadle._pipeline import Pipeline
from treadle._pool import Pool
from treadle._rate import Rate
from treadle._scope import cancelled, checkpoint, deadline, sleep, time_left
from treadle._waiting import as_completed, wait

__all__ = [
    "Channel",
    "Crew",
    "Future",
    "Limit",
    "Pipeline",
    "Pool",
    "Rate",
    "TaskGroup",
    "as_completed",
    "cancelled",
    "checkpoint",
    "deadline",
    "sleep",
    "time_left",
    "wait",
]
