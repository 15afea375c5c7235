"""treadle runs blocking Python on a bounded number of threads.

`Pool` takes tasks from a bounded queue, keeps its threads for the next task and hands results back through futures.
`Channel`, `Crew` and `Pipeline` stand on it, for threads that live as long as the work does.
Errors are in `treadle.errors`, what observers and snapshots tell in `treadle.events`, the order of tasks in
`treadle.orders`.
"""

from __future__ import annotations

from treadle.futures import Future
from treadle.pool import Pool
from treadle.waiting import as_completed, wait

__all__ = ["Future", "Pool", "as_completed", "wait"]
