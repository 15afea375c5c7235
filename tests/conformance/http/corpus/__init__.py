"""The corpus: every entry that there is, right ones first."""

from __future__ import annotations

from conformance.http.corpus import (
    refused_bodies,
    refused_chunks,
    refused_fields,
    refused_lines,
    smuggled,
    valid_bodies,
    valid_fields,
    valid_lines,
)

__all__ = ["ENTRIES", "REFUSED", "VALID"]

_MODULES = (
    valid_lines,
    valid_fields,
    valid_bodies,
    refused_lines,
    refused_fields,
    refused_bodies,
    refused_chunks,
    smuggled,
)
ENTRIES = [entry for module in _MODULES for entry in module.ENTRIES]
VALID = [entry for entry in ENTRIES if not entry.refused]
REFUSED = [entry for entry in ENTRIES if entry.refused]
