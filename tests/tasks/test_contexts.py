"""What a task gets of the contexts of its submitter and of its thread."""

from __future__ import annotations

import decimal
import sys
import types
from contextvars import Context, ContextVar, copy_context
from threading import Thread

import pytest

from programs import run
from treadle._tasks import contexts
from treadle._tasks.call import NoContext
from treadle._tasks.contexts import LENT, Lent, copier, taken

NAME: ContextVar[str] = ContextVar("name", default="nobody's")
OTHER: ContextVar[str] = ContextVar("other", default="nobody's")


def set_both(name: str, precision: int) -> None:
    NAME.set(name)
    decimal.setcontext(decimal.Context(prec=precision))


def precision(context: Context) -> int:
    return context.run(decimal.getcontext).prec


def lent_by(name: str, digits: int) -> Lent:
    """Return what a thread lends whose initializer has set these."""

    def initialize() -> Lent | None:
        set_both(name, digits)
        return Lent.by_this_thread()

    lent = Context().run(initialize)
    assert lent is not None
    return lent


# -- of the submitter ----------------------------------------------------------------------------------------------


def test_what_is_taken_has_a_decimal_context_of_its_own_as_it_was_then() -> None:
    def submitter() -> None:
        set_both("mine", 7)
        context = taken()
        decimal.getcontext().prec = 8
        assert precision(context) == 7
        context.run(decimal.getcontext).prec = 9
        assert decimal.getcontext().prec == 8
        assert context[NAME] == "mine"

    Context().run(submitter)


def test_where_decimal_was_not_used_nothing_is_made() -> None:
    assert not Context().run(taken)


def test_a_users_own_value_is_the_same_object() -> None:
    shared: ContextVar[list[int]] = ContextVar("shared")

    def submitter() -> None:
        shared.set([])
        decimal.getcontext()
        assert taken()[shared] is shared.get()

    Context().run(submitter)


def test_each_copy_has_values_of_its_own() -> None:
    def submitter() -> None:
        decimal.setcontext(decimal.Context(prec=7))
        copy = copier(taken())
        one, two = copy(), copy()
        assert isinstance(one, Context)
        assert isinstance(two, Context)
        one.run(decimal.getcontext).prec = 9
        assert precision(two) == 7

    Context().run(submitter)
    bare = NoContext()
    assert copier(bare)() is bare


def test_decimal_is_found_once_its_import_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "_decimal_found", False)
    monkeypatch.setattr(contexts, "_kinds", {})
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "decimal", types.ModuleType("decimal"))  # another thread imports it just now
        test_a_users_own_value_is_the_same_object()
        assert not contexts._kinds
    test_what_is_taken_has_a_decimal_context_of_its_own_as_it_was_then()
    assert len(contexts._kinds) == 1


def test_decimal_is_imported_for_nobody() -> None:
    code = "import sys, treadle; treadle.Pool(1).submit(int).result(30); print('decimal' in sys.modules)"
    assert run(sys.executable, "-c", code) == (0, "False\n", "")


WARNINGS = """
import warnings
from contextvars import Context, copy_context
from treadle._tasks.contexts import Lent, taken

def actions():
    return [entry[0] for entry in warnings._get_context()._filters]

with warnings.catch_warnings(record=True) as log:
    warnings.simplefilter("always")
    task = taken()
    warnings.simplefilter("error")
    assert task.run(actions)[0] == "always"
    task.run(warnings.simplefilter, "ignore")
    assert task.run(actions)[0] == "ignore"
    assert actions()[0] == "error"
    taken_again = taken()
    taken_again.run(warnings.simplefilter, "always")
    taken_again.run(warnings.warn, "from a task")
    assert [str(entry.message) for entry in log] == ["from a task"]  # whoever records, does so of tasks too

# It has left behind a context that stands for the filters of the process: which stay those.
left = copy_context()
assert len(left) == 1
task = taken()
task.run(warnings.simplefilter, "ignore")
assert warnings.filters[0][0] == actions()[0] == "ignore"
assert Lent.by_this_thread() is None

def initialize():
    warnings.catch_warnings().__enter__()
    warnings.simplefilter("error")
    return Lent.by_this_thread()

lent = Context().run(initialize)

def set_as_lent():
    warnings.catch_warnings().__enter__()
    warnings.simplefilter("error")
    return taken()

own = Context().run(set_as_lent)
assert len(lent.to(own.copy()).run(taken)) == 1, "the submitter's"
assert len(lent.to(Context()).run(taken)) == 0, "the thread's"
assert len(lent.to(Context()).run(set_as_lent)) == 1, "the task's"
assert lent.to(left.copy()).run(actions)[0] == "error"
task = lent.to(Context())
task.run(warnings.simplefilter, "always")
assert lent.to(Context()).run(actions)[0] == "error"
print("ok")
"""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="warnings are in no context before Python 3.14")
def test_filters_of_warnings_that_are_in_the_context_are_the_tasks_own() -> None:
    assert run(sys.executable, "-X", "context_aware_warnings=1", "-c", WARNINGS) == (0, "ok\n", "")


# -- of the thread -------------------------------------------------------------------------------------------------


def test_a_thread_lends_what_was_set_and_nothing_else() -> None:
    def used_only() -> Lent | None:
        assert decimal.Decimal(1) / 3
        return Lent.by_this_thread()

    assert Context().run(Lent.by_this_thread) is None
    assert Context().run(used_only) is None
    context = lent_by("thread's", 50).to(Context())
    assert context[NAME] == "thread's"
    assert precision(context) == 50


def test_what_the_submitter_set_holds() -> None:
    def submitter() -> None:
        set_both("mine", 7)
        OTHER.set("mine")
        context = lent_by("thread's", 50).to(taken())
        assert (context[NAME], context[OTHER], precision(context)) == ("mine", "mine", 7)

    Context().run(submitter)


@pytest.mark.parametrize("change", ["prec", "Emax", "clamp", "traps"])
def test_a_decimal_context_that_equals_the_default_was_not_set_by_the_submitter(change: str) -> None:
    def submitter() -> None:
        assert decimal.Decimal(1) / 3  # raises the flag Inexact, which is no setting
        assert precision(lent_by("thread's", 50).to(taken())) == 50
        if change == "traps":
            decimal.getcontext().traps[decimal.Inexact] = True
        else:
            setattr(decimal.getcontext(), change, 1)
        assert precision(lent_by("thread's", 50).to(taken())) == decimal.getcontext().prec

    Context().run(submitter)


def test_what_is_lent_is_each_tasks_own() -> None:
    lent = lent_by("thread's", 50)
    one, two = lent.to(Context()), lent.to(Context())
    one.run(decimal.getcontext).prec = 9
    assert precision(two) == precision(lent.to(Context())) == 50
    for make in (copier(Context(), lent), copier(Context().run(taken), lent)):
        three, four = make(), make()
        assert isinstance(three, Context)
        assert isinstance(four, Context)
        three.run(decimal.getcontext).prec = 9
        assert precision(four) == 50


def test_what_was_lent_is_not_passed_on_and_what_was_set_is() -> None:
    """What the task submits may run in another thread, with values of its own, or in another pool."""
    lent = lent_by("thread's", 50)

    def task() -> Context:
        OTHER.set("the task's")
        return taken()

    onward = lent.to(Context()).run(task)
    assert list(onward) == [OTHER]

    def setter() -> Context:
        NAME.set("the task's")
        decimal.getcontext().prec = 9
        return taken()

    onward = lent.to(Context()).run(setter)
    assert onward[NAME] == "the task's"
    assert precision(onward) == 9


VALUES = [None, True, 1, "interned", (), object()]


@pytest.mark.parametrize("value", VALUES)
def test_what_the_submitter_set_is_passed_on_though_it_is_the_very_object_that_the_thread_lends(value: object) -> None:
    shared: ContextVar[object] = ContextVar("shared")

    def set_it() -> None:
        shared.set(value)
        set_both("the same", 50)

    def initialize() -> Lent | None:
        set_it()
        return Lent.by_this_thread()

    lent = Context().run(initialize)
    assert lent is not None

    def submitter() -> Context:
        set_it()
        return taken()

    onward = lent.to(Context().run(submitter)).run(taken)
    assert onward[shared] is value
    assert (onward[NAME], precision(onward)) == ("the same", 50)
    assert LENT not in onward
    outliving = Context().run(submitter)
    lent.run(outliving, lambda: None)
    assert outliving[shared] is value
    assert precision(outliving) == 50


def test_what_the_submitter_has_reset_is_not_set() -> None:
    def submitter() -> Context:
        NAME.reset(NAME.set("mine"))
        return taken()

    lent = lent_by("thread's", 50)
    context = lent.to(Context().run(submitter))
    assert context[NAME] == "thread's"
    assert NAME not in context.run(taken)


def test_what_the_task_has_reset_is_the_threads() -> None:
    def task() -> Context:
        NAME.reset(NAME.set("mine"))
        with decimal.localcontext() as local:
            local.prec = 9
        return taken()

    assert not lent_by("thread's", 50).to(Context()).run(task)


@pytest.mark.parametrize("way", ["alone", "in a map"])
def test_a_task_that_sets_a_context_like_that_of_its_thread_has_set_it(way: str) -> None:
    lent = lent_by("thread's", 50)

    def make() -> Context:
        context = lent.to(Context()) if way == "alone" else copier(Context(), lent)()
        assert isinstance(context, Context)
        return context

    def task() -> Context:
        decimal.setcontext(decimal.Context(prec=50))
        return taken()

    assert precision(make().run(task)) == 50
    assert not make().run(taken), "it has set nothing"


def test_a_task_that_sets_the_very_object_that_its_thread_lends_has_set_nothing() -> None:
    """A context is the same before and after, so it cannot be told."""

    def task() -> Context:
        NAME.set("thread's")
        return taken()

    assert NAME not in lent_by("thread's", 50).to(Context()).run(task)


def test_a_thread_itself_does_not_pass_it_on_either() -> None:
    """As in callbacks, and where tasks have no context."""

    def thread() -> None:
        set_both("thread's", 50)
        assert Lent.by_this_thread() is not None
        assert not taken()
        decimal.getcontext().prec = 9
        assert precision(taken()) == 9

    Context().run(thread)


def test_a_task_that_had_to_wait_after_all_has_nothing_of_the_thread_it_was_to_run_in() -> None:
    def other_thread() -> Lent | None:
        OTHER.set("second's")
        return Lent.by_this_thread()

    second = Context().run(other_thread)
    assert second is not None
    context = second.to(lent_by("first's", 50).to(Context()))
    assert NAME not in context
    assert context[OTHER] == "second's"
    assert precision(context) == decimal.DefaultContext.prec


def test_a_context_that_outlives_the_call_gives_back_what_was_lent() -> None:
    context = Context()
    lent_by("first's", 50).run(context, lambda: None)
    assert not context
    assert lent_by("second's", 40).run(context, lambda: (NAME.get(), decimal.getcontext().prec)) == ("second's", 40)

    def fail() -> None:
        set_both("the call's", 7)
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        lent_by("third's", 30).run(context, fail)
    assert context[NAME] == "the call's"
    assert precision(context) == 7
    assert lent_by("third's", 30).run(context, lambda: (NAME.get(), decimal.getcontext().prec)) == ("the call's", 7)
    assert len(context) == 2


def test_what_a_thread_lends_can_be_used_from_many_at_once() -> None:
    """A map's context is copied by all threads, which lend to their copies."""
    template = Context().run(taken)
    failures: list[BaseException] = []

    def thread(number: int) -> None:
        try:
            copy = copier(template, lent_by(str(number), number))
            for _ in range(200):
                context = copy()
                assert isinstance(context, Context)
                assert (context[NAME], precision(context)) == (str(number), number)
                context.run(set_both, "", 1)
        except BaseException as error:
            failures.append(error)

    threads = [Thread(target=thread, args=(number,)) for number in range(10, 14)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert not failures
    assert copy_context().get(NAME) is None
