"""treadle runs blocking Python on a bounded number of threads.

`Pool` takes tasks from a bounded queue, keeps its threads for the next task and hands results back through futures;
`TaskGroup`, `Channel`, `Crew` and `Pipeline` stand on it, for tasks that belong together and threads that live as long
as the work does. Under pressure: `deadline` and cancellation, `ConcurrencyLimit`, `Rate`, and the orders in
`treadle.orders`. Errors are in `treadle.errors`, what pools tell in `treadle.events`.
"""

from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from typing import TYPE_CHECKING as _TYPE_CHECKING

from treadle._base.public import late as _late
from treadle._base.public import publish as _publish
from treadle._pool.pool import Pool
from treadle._pool.submit import WhenFull
from treadle._tasks.future import Future
from treadle._tasks.rate import Rate
from treadle._tasks.scope import checkpoint, deadline, should_stop, sleep, time_left

if _TYPE_CHECKING:
    from treadle._base.limit import ConcurrencyLimit
    from treadle._flow.channel import Channel
    from treadle._flow.crew import Crew, CrewSnapshot
    from treadle._flow.groups import TaskGroup
    from treadle._flow.pipeline import Pipeline
    from treadle._pool.current import current_pool, current_task
    from treadle._pool.mapping.outcome import Outcome
    from treadle._pool.mapping.results import Results
    from treadle._pool.view import PoolView
    from treadle._pool.wait import as_completed, wait

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "Channel",
    "ConcurrencyLimit",
    "Crew",
    "CrewSnapshot",
    "Future",
    "Outcome",
    "Pipeline",
    "Pool",
    "PoolView",
    "Rate",
    "Results",
    "TaskGroup",
    "WhenFull",
    "__version__",
    "as_completed",
    "checkpoint",
    "current_pool",
    "current_task",
    "deadline",
    "should_stop",
    "sleep",
    "time_left",
    "wait",
]

__version__ = "0.1.0.dev0"

_publish(__name__, globals())
__getattr__, __dir__ = _late(
    __name__,
    globals(),
    {
        "Channel": "treadle._flow.channel",
        "ConcurrencyLimit": "treadle._base.limit",
        "Crew": "treadle._flow.crew",
        "CrewSnapshot": "treadle._flow.crew",
        "Outcome": "treadle._pool.mapping.outcome",
        "Pipeline": "treadle._flow.pipeline",
        "PoolView": "treadle._pool.view",
        "Results": "treadle._pool.mapping.results",
        "TaskGroup": "treadle._flow.groups",
        "as_completed": "treadle._pool.wait",
        "current_pool": "treadle._pool.current",
        "current_task": "treadle._pool.current",
        "events": "treadle.events",
        "wait": "treadle._pool.wait",
    },
)
