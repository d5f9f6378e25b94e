"""Times as the API writes them."""

from __future__ import annotations

from gpumon.store.schema import text_of


def iso(seconds: float) -> str:
    """Give a Unix time as ISO 8601 in UTC, to the millisecond."""
    return iso_of(text_of(seconds))


def iso_of(stored: str) -> str:
    """Give a time as stored as ISO 8601."""
    return f"{stored[:10]}T{stored[11:]}Z"
