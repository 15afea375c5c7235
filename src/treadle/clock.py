"""Monotonic time, and the seam through which tests replace it."""

from __future__ import annotations

from time import monotonic as now
from time import monotonic_ns as now_ns

__all__ = ["now", "now_ns"]
