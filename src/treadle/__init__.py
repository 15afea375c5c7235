"""treadle runs blocking Python on a bounded number of threads.

`Pool` takes tasks from a bounded queue, keeps its threads for the next task and hands results back through futures;
`Channel`, `Crew` and `Pipeline` stand on it, for threads that live as long as the work does.
Errors are in `treadle.errors`, what pools tell in `treadle.events`, the order of tasks in `treadle.orders`.
"""

from __future__ import annotations

from treadle.channel import Channel
from treadle.crew import Crew
from treadle.futures import Future
from treadle.pipeline import Pipeline
from treadle.pool import Pool
from treadle.waiting import as_completed, wait

__all__ = ["Channel", "Crew", "Future", "Pipeline", "Pool", "as_completed", "wait"]
