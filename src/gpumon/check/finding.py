"""What one check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Status(Enum):
    """How a check came out; with a `FAIL` the service could not work."""

    OK = "ok"
    INFO = "info"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, in words without a full stop, and what to do about it where something is to be done."""

    status: Status
    found: str
    advice: str = ""
