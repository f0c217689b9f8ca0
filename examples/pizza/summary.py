"""What a build measured, kept beside its artifacts.

Responsible for the record and its file. Must not measure, nor import what does.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Built:
    """One version as built. ``metrics`` are decimal strings, ready for a ModelVersion."""

    version: str
    digest: str
    bytes: int
    correct: int
    accuracy: float
    metrics: dict[str, str]


@dataclass(frozen=True)
class Summary:
    """All that a build measured, in shares of 1; ``holdout`` is the number of held-out images."""

    versions: tuple[Built, ...]
    holdout: int
    without_geometry: float
    seconds: float

    def find(self, version: str) -> Built:
        """The build of one version."""
        return next(built for built in self.versions if built.version == version)


def write_summary(folder: Path, summary: Summary) -> None:
    """Keep the summary in ``folder``."""
    (folder / SUMMARY).write_text(json.dumps(asdict(summary), indent=1) + "\n", encoding="utf-8")


def read_summary(folder: Path) -> Summary:
    """The summary that a build left in ``folder``."""
    value = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    return Summary(**{**value, "versions": tuple(Built(**built) for built in value["versions"])})
