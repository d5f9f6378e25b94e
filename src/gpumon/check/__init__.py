"""`gpumon check`: what would keep the service from working, one line each, with what to do about it."""

from __future__ import annotations

from gpumon.check.rows import CHECKS, Check, check, examine, line

__all__ = ["CHECKS", "Check", "check", "examine", "line"]
