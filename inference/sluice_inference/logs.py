"""Structured logs: one JSON object a line on stderr, one line at each state change.

Access lines are written for errors and slow requests only (all of them at debug level). Never a
payload, never a credential.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

_LOGGER = logging.getLogger("sluice_inference")
_HTTP_LOGGER = logging.getLogger("uvicorn.error")
_HTTP_LINES_PER_MINUTE = 10


class Throttle:
    """Lets a few events of each kind through in a period, and counts those it leaves out.

    Kinds are few and fixed; they are remembered for ever.
    """

    def __init__(
        self, most: int, period_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most
        self._period_s = period_s
        self._clock = clock
        self._kinds: dict[str, tuple[float, int, int]] = {}

    def admit(self, kind: str) -> int | None:
        """How many of the kind were left out since the last one that was let through; None: this is too."""
        now = self._clock()
        since, passed, left_out = self._kinds.get(kind, (now, 0, 0))
        if now - since >= self._period_s:
            since, passed = now, 0
        if passed >= self._most:
            self._kinds[kind] = (since, passed, left_out + 1)
            return None
        self._kinds[kind] = (since, passed + 1, 0)
        return left_out


class _JsonFormatter(logging.Formatter):
    """Time, level, message, what every line has, then the fields of the event."""

    def __init__(self, always: dict[str, str]) -> None:
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        line.update(self._always)
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _HttpFilter(logging.Filter):
    """Holds back the HTTP server's own lines where anybody can make it write them without end."""

    def __init__(self) -> None:
        super().__init__()
        self._throttle = Throttle(_HTTP_LINES_PER_MINUTE, 60.0)

    def filter(self, record: logging.LogRecord) -> bool:
        left_out = self._throttle.admit(str(record.msg))
        record.fields = {"left_out": left_out}
        return left_out is not None


def start_logging(level: str, **always: str) -> None:
    """Send this process's logs, and its libraries' warnings, to stderr as JSON.

    `always` are fields of every line; empty ones are left out.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter({name: value for name, value in always.items() if value}))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    _HTTP_LOGGER.filters[:] = [_HttpFilter()]
    # A level that nobody knows is told by whoever reads the settings, and needs a log for that.
    _LOGGER.setLevel(logging.getLevelNamesMapping().get(level.upper(), logging.INFO))


def log(level: str, message: str, /, *, exc_info: bool = False, **fields: Any) -> None:
    """Write one event. `fields` become keys of the line."""
    number = logging.getLevelNamesMapping()[level.upper()]
    if _LOGGER.isEnabledFor(number):
        _LOGGER.log(number, message, exc_info=exc_info, extra={"fields": fields})
