"""treadle._base.words: names, texts and log lines of objects that raise whatever they are asked."""

from __future__ import annotations

import logging
import threading
from typing import NoReturn

import pytest

from treadle._base.words import (
    LONGEST,
    LONGEST_NAME,
    MOST_NOTES,
    all_of,
    brief,
    counted,
    cut,
    is_a,
    log,
    log_first,
    note,
    pass_on,
    show,
    traceback_of,
    type_name,
)

_log = logging.getLogger("treadle.test_words")


def refuse(*_: object) -> NoReturn:
    raise LookupError("asked for what it does not tell")


class Masked(type):
    """Of classes that do not tell their names."""

    def __getattribute__(cls, name: str) -> object:
        if name == "__name__":
            refuse()
        return super().__getattribute__(name)


class Thing(metaclass=Masked):
    """It tells nothing."""

    __repr__ = refuse
    __class__ = property(refuse)


class Closed(Exception):
    """It tells nothing of what led to it."""

    __traceback__ = __cause__ = property(refuse)


def test_the_name_of_a_type_is_told_whatever_its_class_says() -> None:
    assert type_name(3) == "int"
    assert type_name(Thing()) == "Thing"
    assert type_name(type("x" * 1000, (), {})()) == f"{'x' * LONGEST_NAME}..."


def test_what_does_not_show_itself_is_shown_by_its_type() -> None:
    assert show("text") == "'text'"
    assert show(Thing()) == "<Thing, whose repr raised LookupError>"
    assert show("x" * 1_000_000) == f"'{'x' * (LONGEST - 1)}..."


def test_in_passing_things_are_shown_in_part_and_on_one_line() -> None:
    class Lines:
        def __repr__(self) -> str:
            return "one\n  two"

    assert brief("text") == "'text'"
    assert brief(Lines()) == "one two"
    assert brief(range(10**9)) == "range(0, 1000000000)"
    assert brief(list(range(10**6))) == "[0, 1, 2, 3, 4, 5, ...]"
    assert len(brief("x" * 10**6)) < 100
    assert len(brief(1 << 10**5)) < 200, "which Python does not show at all"
    assert brief(Thing()).startswith("<Thing")


def test_an_exception_gathers_so_many_notes_and_the_last_is_the_newest() -> None:
    error = ValueError()
    error.add_note("in its own words")
    for number in range(100):
        note(error, f"in item {number} of something")
    assert len(error.__notes__) == MOST_NOTES + 1
    assert error.__notes__[0] == "in its own words"
    assert error.__notes__[-1] == "in item 99 of something"


def test_a_repr_that_is_no_text_is_none() -> None:
    class Odd:
        def __repr__(self) -> str:
            return 3  # type: ignore[return-value]  # that is the point

    assert show(Odd()) == "<Odd, whose repr raised TypeError>"


def test_what_raises_when_it_is_asked_for_its_class_is_of_none() -> None:
    assert is_a(3, int)
    assert is_a(3, (str, int))
    assert not is_a(3, str)
    assert not is_a(Thing(), int)
    assert is_a(Thing(), Thing)


def test_a_traceback_is_found_whatever_the_exception_has_made_of_it() -> None:
    error = Closed()
    assert traceback_of(error) is None
    try:
        raise error
    except Closed:
        pass
    assert traceback_of(error) is not None


def test_a_text_is_cut_to_a_plain_one() -> None:
    class Sly(str):
        """A text that tells nothing."""

        __len__ = __str__ = __getitem__ = refuse

    assert cut("12345", 5) == "12345"
    assert cut("123456", 5) == "12345..."
    assert type(cut(Sly("12345"), 5)) is str


def test_a_log_line_has_the_traceback_and_the_place_of_whoever_logs(caplog: pytest.LogCaptureFixture) -> None:
    error = ValueError("told")
    log(_log, logging.ERROR, "task %s failed", "work", error=error)
    log(_log, logging.WARNING, "100 %")
    first, second = caplog.records
    assert first.getMessage() == "task work failed"
    assert first.exc_info == (ValueError, error, None)
    assert first.funcName == "test_a_log_line_has_the_traceback_and_the_place_of_whoever_logs"
    assert (second.levelno, second.getMessage(), second.exc_info) == (logging.WARNING, "100 %", None)


def test_an_exception_that_cannot_be_told_is_logged_with_the_place_where_it_was_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    try:
        raise Closed
    except Closed as error:
        log(_log, logging.ERROR, "task %s failed", "work", error=error)
    (record,) = caplog.records
    assert record.getMessage().startswith("task work failed: Closed, which cannot be shown, raised here:\n  File")
    assert "raise Closed" in record.getMessage()


class Bad(logging.Handler):
    """It raises."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def handle(self, record: logging.LogRecord) -> NoReturn:
        raise self.error


@pytest.mark.parametrize("error", [OSError(), SystemExit(), GeneratorExit()])
@pytest.mark.parametrize("of_task", [None, ValueError()])
def test_what_a_log_handler_raises_is_dropped(error: BaseException, of_task: Exception | None) -> None:
    handler = Bad(error)
    _log.addHandler(handler)
    try:
        log(_log, logging.ERROR, "line", error=of_task)
    finally:
        _log.removeHandler(handler)


def test_a_line_below_the_level_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("treadle._base.words.traceback.format_exception", refuse)
    handler = Bad(OSError())
    _log.addHandler(handler)
    try:
        log(_log, logging.DEBUG, "line", error=ValueError())
    finally:
        _log.removeHandler(handler)


def test_of_what_happens_again_and_again_one_line_is_logged_and_the_others_at_debug_level(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: dict[object, object] = {}
    with caplog.at_level(logging.DEBUG, "treadle"):
        for number in range(3):
            log_first(told, "key", _log, logging.WARNING, "line %d", number, error=ValueError("why"))
        log_first(told, "another", _log, logging.ERROR, "line")
        log_first({}, "key", _log, logging.WARNING, "line of another pool")
    assert [(record.levelno, record.getMessage(), record.funcName) for record in caplog.records] == [
        (level, text, test_of_what_happens_again_and_again_one_line_is_logged_and_the_others_at_debug_level.__name__)
        for level, text in [
            (logging.WARNING, "line 0"),
            (logging.DEBUG, "line 1"),
            (logging.DEBUG, "line 2"),
            (logging.ERROR, "line"),
            (logging.WARNING, "line of another pool"),
        ]
    ]


def test_ctrl_c_is_passed_on_in_the_main_thread_alone() -> None:
    pass_on(SystemExit())
    with pytest.raises(KeyboardInterrupt):
        pass_on(KeyboardInterrupt())
    raised: list[BaseException] = []

    def elsewhere() -> None:
        try:
            pass_on(KeyboardInterrupt())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(30)
    assert not raised


@pytest.mark.parametrize(
    ("number", "said", "all_said"),
    [
        (0, "0 tasks wait", "all 0 tasks are"),
        (1, "1 task waits", "the only task is"),
        (2, "2 tasks wait", "all 2 tasks are"),
    ],
)
def test_what_is_counted_agrees_with_its_number(number: int, said: str, all_said: str) -> None:
    assert counted(number, "task waits", "tasks wait") == said
    assert counted(number, "task") == said.rpartition(" ")[0]
    assert all_of(number, "task") == all_said
