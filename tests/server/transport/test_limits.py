"""Limits: what is allowed in them."""

from __future__ import annotations

import dataclasses

import pytest

from treadle.server import Limits
from treadle.server._transport.limits import Phase


def test_limits_are_frozen_and_show_what_was_changed() -> None:
    limits = Limits(max_connections=3, idle_timeout=None)
    assert repr(limits) == "Limits(max_connections=3, idle_timeout=None)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        limits.max_connections = 4  # type: ignore[misc]


def test_a_misspelt_limit_has_nowhere_to_go() -> None:
    with pytest.raises(TypeError, match="idle_time"):
        Limits(idle_time=3)  # type: ignore[call-arg]
    assert not hasattr(Limits(), "__dict__")


def test_everything_has_a_ceiling_by_default() -> None:
    limits = Limits()
    sizes = ("max_message", "max_unsent", "spool_memory", "spool_file")
    for name in ("max_connections", *sizes, "handshake_timeout", "read_timeout"):
        assert getattr(limits, name) is not None
    assert limits.write_timeout is not None
    assert limits.idle_timeout is not None


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("max_connections", 0, ValueError, "max_connections=0: max_connections must be greater than 0"),
        ("max_connections", None, TypeError, "max_connections=None is NoneType"),
        ("max_connections_per_host", 0, ValueError, "must be None or > 0"),
        ("accept_rate", 0, ValueError, "accept_rate=0; allowed: more than 0 a second, or None"),
        (
            "at_max_connections",
            "panic",
            ValueError,
            "at_max_connections='panic' is unknown; allowed: 'pause', 'reject', 'evict_idle'",
        ),
        ("reject_connections_with", "no", TypeError, "reject_connections_with='no' is str; allowed: bytes"),
        ("max_message", 1.5, TypeError, "max_message=1.5 is float"),
        ("max_unsent", -1, ValueError, "max_unsent must be 0 or more"),
        ("spool_memory", -1, ValueError, "spool_memory must be 0 or more"),
        ("spool_file", None, TypeError, "spool_file=None is NoneType"),
        ("spool_folder", 7, TypeError, "spool_folder=7 is int; allowed: a path, or None"),
        ("handshake_timeout", None, TypeError, "handshake_timeout=None is NoneType; allowed: seconds as a number$"),
        ("handshake_timeout", 0, ValueError, "more than 0 seconds$"),
        ("handshake_timeout", -1, ValueError, "0 seconds or more$"),
        ("read_timeout", 0.0, ValueError, "read_timeout=0.0; allowed: more than 0 seconds, or None for no limit"),
        ("read_timeout", "1", TypeError, "read_timeout='1' is str"),
        ("write_timeout", -1, ValueError, "write_timeout=-1"),
        ("idle_timeout", float("nan"), ValueError, "idle_timeout=nan"),
        ("max_age", True, TypeError, "max_age=True is bool"),
        ("min_read_rate", 0, ValueError, "min_read_rate=0"),
        ("min_write_rate", -5, ValueError, "min_write_rate=-5"),
        ("min_rate_grace", 0, ValueError, "min_rate_grace=0"),
        ("linger_timeout", -1, ValueError, "linger_timeout=-1"),
        ("max_linger_bytes", -1, ValueError, "max_linger_bytes=-1"),
    ],
)
def test_what_is_not_allowed_is_named(name: str, value: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words.replace("(", r"\(")):
        Limits(**{name: value})  # type: ignore[arg-type]


def test_a_phase_has_a_time_or_none() -> None:
    assert (Phase(3).timeout, Phase(None, 2).min_rate, Phase(3).min_rate) == (3, 2, None)
    with pytest.raises(ValueError, match="timeout=0; allowed: more than 0 seconds, or None for no limit"):
        Phase(0)
    with pytest.raises(ValueError, match="min_rate=0; allowed: more than 0 a second, or None"):
        Phase(None, 0)
    with pytest.raises(TypeError, match="timeout='3'"):
        Phase("3")  # type: ignore[arg-type]
