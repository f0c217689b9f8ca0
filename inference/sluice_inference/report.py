"""The last words of a process: one small JSON object where the kubelet picks it up."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sluice_inference.logs import log

MAX_BYTES = 4096

EXIT_OK = 0
EXIT_CRASHED = 1
EXIT_PERMANENT = 3
EXIT_TRY_AGAIN = 4


def make_report(outcome: str, **fields: Any) -> str:
    """The report as JSON of at most 4,096 bytes; a long `message` is cut, nothing else is."""
    report = {"outcome": outcome, **fields}
    text = json.dumps(report, ensure_ascii=False)
    while len(text.encode()) > MAX_BYTES and report.get("message"):
        excess = len(text.encode()) - MAX_BYTES
        message = str(report["message"])
        report["message"] = message[: max(0, len(message) - excess - 1)] + "…"
        if report["message"] == message:
            report["message"] = ""
        text = json.dumps(report, ensure_ascii=False)
    return text


def write_report(path: Path, text: str) -> None:
    """Write the report; where there is no such file (outside Kubernetes) the log line remains."""
    try:
        path.write_text(text)
    except OSError as error:
        log("debug", f"no termination report at {path}: {error.strerror}")
    print(text, file=sys.stderr, flush=True)
