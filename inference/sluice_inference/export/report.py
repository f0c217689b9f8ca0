"""What an export came to: figures, whether they are good enough, and how people and programs read them.

Pure. Must not measure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from sluice_inference.export.parity import BATCH, Latency, Parity


@dataclass(frozen=True)
class Limits:
    """Below these an export is no stand-in for its source. Cosine of embeddings; share of equal labels."""

    min_cosine: float
    min_agreement: float


@dataclass(frozen=True)
class Graph:
    """One graph of the export, `image` or `text`. `quantisation`: static, dynamic or none."""

    quantisation: str
    parity: Parity
    bytes_source: int
    bytes_export: int
    source: Latency
    export: Latency


@dataclass(frozen=True)
class Report:
    """The whole export. `golden_min_cosine` is what its golden.json asks of a server, "" without one."""

    architecture: str
    source_digest: str
    digest: str
    limits: Limits
    graphs: Mapping[str, Graph]
    calibrated_on: int
    is_shared: bool
    golden_min_cosine: str
    golden_min_cosine_source: str
    problems: Sequence[str] = field(default_factory=tuple)

    def to_json(self) -> str:
        """One line of JSON with every figure."""
        return json.dumps(asdict(self), sort_keys=True)

    def to_table(self) -> str:
        """Lines for a terminal."""
        lines = [f"{'':<26}{'source':>12}{'export':>12}"]
        for name, graph in self.graphs.items():
            lines += _describe(name, graph)
        shared = ", the same as calibrated on" if self.is_shared and self.calibrated_on else ""
        lines.append(
            f"{self.calibrated_on} pictures calibrated on; compared on "
            + " and ".join(
                f"{graph.parity.samples} ({name})" for name, graph in self.graphs.items()
            )
            + shared
        )
        if self.golden_min_cosine:
            lines.append(
                f"golden.json: min_cosine {self.golden_min_cosine}, "
                f"the source's {self.golden_min_cosine_source}"
            )
        return "\n".join(lines)


def find_problems(graphs: Mapping[str, Graph], limits: Limits) -> list[str]:
    """What is not good enough, in words with both values; nothing when all is."""
    problems = []
    for name, graph in graphs.items():
        parity = graph.parity
        if parity.cosine_of == "embeddings" and not parity.cosine_min >= limits.min_cosine:
            problems.append(
                f"{name}: smallest cosine {parity.cosine_min:.5f} of {parity.samples} embeddings, "
                f"at least {limits.min_cosine:g} is asked for (--min-cosine)"
            )
        if parity.agreement is not None and not parity.agreement >= limits.min_agreement:
            problems.append(
                f"{name}: {parity.agreement:.4f} of {parity.samples} labels are the source's, "
                f"at least {limits.min_agreement:g} are asked for (--min-agreement)"
            )
    return problems


def _describe(name: str, graph: Graph) -> list[str]:
    parity = graph.parity
    rows = [
        ("quantisation", "none", graph.quantisation),
        ("size KiB", f"{graph.bytes_source / 1024:.0f}", f"{graph.bytes_export / 1024:.0f}"),
        ("1 input, ms", f"{graph.source.single_ms:.2f}", f"{graph.export.single_ms:.2f}"),
        (f"{BATCH} inputs, ms", f"{graph.source.batch_ms:.2f}", f"{graph.export.batch_ms:.2f}"),
        (f"cosine of {parity.cosine_of}, min", "", f"{parity.cosine_min:.5f}"),
        ("… mean", "", f"{parity.cosine_mean:.5f}"),
    ]
    if parity.agreement is not None:
        rows.append(("same label", "", f"{parity.agreement:.4f}"))
    if parity.accuracy_source is not None and parity.accuracy_export is not None:
        rows.append(
            (
                f"accuracy ({parity.labelled})",
                f"{parity.accuracy_source:.4f}",
                f"{parity.accuracy_export:.4f}",
            )
        )
    return [name, *(f"  {title:<24}{before:>12}{after:>12}" for title, before, after in rows)]
