"""Log lines by structlog: events are short constant phrases, facts are keys, a lasting trouble is said once and ended once."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import structlog

Logger = Any  # structlog's bound logger has no useful static type


def configure(level: str, form: str, stream: TextIO = sys.stderr) -> None:
    """Send log lines to `stream`; `form` is "text", "json" or "auto" (text on a terminal, else JSON)."""
    readable = form == "text" or (form == "auto" and stream.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty()) if readable else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )


class Onsets:
    """Say a lasting trouble once when it begins and once when it ends.

    Each trouble has a key; `fail` logs only when the key is new or its facts changed, `mend` only when it was known.
    """

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._known: dict[str, dict[str, Any]] = {}

    def fail(self, key: str, event: str, **facts: Any) -> bool:
        """Log a warning that `key` is in trouble, unless that was said already; say whether the trouble is new.

        A trouble whose facts change is logged again, but is not new.
        """
        new = key not in self._known
        if self._known.get(key) != facts:
            self._known[key] = facts
            self._logger.warning(event, **facts)
        return new

    def mend(self, key: str, event: str, **facts: Any) -> None:
        """Log that `key` is well again, if it was in trouble."""
        if self._known.pop(key, None) is not None:
            self._logger.info(event, **facts)
