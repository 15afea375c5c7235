"""The order in which waiting tasks run; give one to `Pool(order=...)`, or its name.

"fifo"      Fifo()      first in, first out
"priority"  Priority()  the most urgent first, and the longer a task waits the more urgent it is
"fair"      Fair()      one key's tasks after another's, so that nobody can crowd out the others
"adaptive"  Adaptive()  first in, first out; when more is offered than can be done, newest first, and the rest is shed

Levels(order=...) keeps one such order for quick tasks and others for slow ones, which leave threads to the quick.

For an order of your own subclass `Order`, which sees each waiting task as a `Task`.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from treadle._base.public import late as _late
from treadle._base.public import publish as _publish
from treadle.orders._fifo import Fifo
from treadle.orders._order import Order, OrderName, Task

if _TYPE_CHECKING:
    from treadle.orders._adaptive import Adaptive
    from treadle.orders._fair import Fair
    from treadle.orders._levels import Levels
    from treadle.orders._priority import Priority

__all__ = ["Adaptive", "Fair", "Fifo", "Levels", "Order", "OrderName", "Priority", "Task"]

_publish(__name__, globals())
__getattr__, __dir__ = _late(
    __name__,
    globals(),
    {
        "Adaptive": "treadle.orders._adaptive",
        "Fair": "treadle.orders._fair",
        "Levels": "treadle.orders._levels",
        "Priority": "treadle.orders._priority",
    },
)
