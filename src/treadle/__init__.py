"""treadle runs blocking Python on a bounded number of threads.

`Pool` takes tasks from a bounded queue, keeps its threads for the next task and hands results back through futures;
`TaskGroup`, `Channel`, `Crew` and `Pipeline` stand on it, for tasks that belong together and threads that live as long
as the work does. Under pressure: `deadline` and cancellation, `ConcurrencyLimit`, `Rate`, and the orders in
`treadle.orders`. Errors are in `treadle.errors`, what pools tell in `treadle.events`.
"""

from treadle._channel import Channel
from treadle._crew import Crew, CrewSnapshot
from treadle._current import current_pool, current_task
from treadle._futures import Future
from treadle._groups import TaskGroup
from treadle._limit import ConcurrencyLimit
from treadle._mapping import Results
from treadle._options import PoolView, WhenFull
from treadle._outcome import Outcome
from treadle._pipeline import Pipeline
from treadle._pool import Pool
from treadle._public import publish as _publish
from treadle._rate import Rate
from treadle._scope import checkpoint, deadline, should_stop, sleep, time_left
from treadle._waiting import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, as_completed, wait

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
