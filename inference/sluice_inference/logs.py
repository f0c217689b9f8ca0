"""Structured logs: one JSON object a line on stderr, one line at each state change.

Access lines are written for errors and slow requests only (all of them at debug level). Never a
payload, never a credential.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_LOGGER = logging.getLogger("sluice_inference")


class _JsonFormatter(logging.Formatter):
    """Time, level, message, then the fields of the event."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def start_logging(level: str) -> None:
    """Send this process's logs, and its libraries' warnings, to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    _LOGGER.setLevel(level.upper())


def log(level: str, message: str, /, *, exc_info: bool = False, **fields: Any) -> None:
    """Write one event. `fields` become keys of the line."""
    number = logging.getLevelNamesMapping()[level.upper()]
    if _LOGGER.isEnabledFor(number):
        _LOGGER.log(number, message, exc_info=exc_info, extra={"fields": fields})
