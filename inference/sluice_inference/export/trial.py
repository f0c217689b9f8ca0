"""Holds an export to its source: both are opened as a server opens them, and asked the same.

Responsible for what a server of the export will be held to, too (`golden.json`). Must not make graphs, or
decide where an artifact goes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice_inference.artifact.config import read_config
from sluice_inference.engine.backend import Backend, Kind, ModelFacts, Payload
from sluice_inference.errors import LoadError
from sluice_inference.export.errors import ExportError
from sluice_inference.export.parity import ask, compare, compute_cosines, measure
from sluice_inference.export.report import Graph
from sluice_inference.export.samples import LABELS, Samples, read_golden, read_golden_file
from sluice_inference.models.artifact_model import make_plan
from sluice_inference.models.registry import make_backend
from sluice_inference.settings.model import ModelSettings, read_model
from sluice_inference.settings.reader import Reader

IMAGE, TEXT = "image.onnx", "text.onnx"
# A server may compute with other instructions: its golden samples may drift half as much again.
_DRIFT = 1.5


@dataclass(frozen=True)
class Served:
    """A folder in the backend that serves it, on the CPU."""

    folder: Path
    backend: Backend
    facts: ModelFacts

    def read_size(self, graph: str) -> int:
        """Bytes of a graph's file; of all weights where they are not in graphs."""
        one = self.folder / graph
        weights = [one] if one.is_file() else self.folder.rglob("*.safetensors")
        return sum(path.stat().st_size for path in weights)


def make_settings(folder: Path, digest: str = "") -> ModelSettings:
    """The settings that a server of this folder has on a CPU."""
    env = {
        "MODEL_PATH": str(folder),
        "MODEL_DIGEST": digest,
        "MODEL_FORMAT": "ONNX" if (folder / IMAGE).is_file() else "Safetensors",
        "DEVICE": "cpu",
    }
    return read_model(Reader(env))


@contextmanager
def open_served(folder: Path, digest: str = "") -> Iterator[Served]:
    """Load a folder as `serve` does. Raises ExportError where that can't be done."""
    try:
        backend = make_backend(make_settings(folder, digest))
        facts = backend.load()
    except LoadError as error:
        raise ExportError(f"{folder} can't be served as it is: {error}") from error
    except ImportError as error:
        raise explain_missing(error) from error
    try:
        yield Served(folder, backend, facts)
    finally:
        backend.close()


def explain_missing(error: ImportError) -> ExportError:
    """What to do about a package that isn't there."""
    return ExportError(
        f"this needs the Python package {error.name}, which a serving image may not have; install "
        "sluice[inference-export] and run it there"
    )


def compare_served(
    before: Served, after: Served, samples: Samples, quantisation: Mapping[str, str]
) -> dict[str, Graph]:
    """Every graph that `quantisation` names, on all samples of its kind; by `image` and `text`."""
    known = set(before.facts.labels)
    if strange := sorted({one.label for one in samples.pictures if one.label} - known):
        raise ExportError(
            f"{LABELS}: {strange[0]!r} is no label of the model; it has {', '.join(sorted(known))}"
        )
    graphs = {}
    if samples.pictures:
        pixels = [one.pixels for one in samples.pictures]
        truth = [one.label for one in samples.pictures]
        graphs["image"] = _compare(
            Kind.IMAGE, before, after, pixels, truth, quantisation.get(IMAGE, "none")
        )
    if samples.texts and TEXT in quantisation:
        graphs["text"] = _compare(Kind.TEXT, before, after, samples.texts, [], quantisation[TEXT])
    return graphs


def _compare(
    kind: Kind,
    before: Served,
    after: Served,
    payloads: Sequence[Payload],
    truth: Sequence[str],
    quantisation: str,
) -> Graph:
    one, other = (ask(each.backend, kind, payloads) for each in (before, after))
    source, export = measure([before.backend, after.backend], kind, payloads[0])
    return Graph(
        quantisation=quantisation,
        parity=compare(one, other, before.facts.labels, truth),
        bytes_source=before.read_size(f"{kind}.onnx"),
        bytes_export=after.read_size(f"{kind}.onnx"),
        source=source,
        export=export,
    )


def lower_golden(before: Served, after: Served) -> tuple[str, str]:
    """Let the export's golden.json ask what the export can give; returns the old and new `min_cosine`.

    The samples stay what training wrote down: a server of the export is held to the real thing, only
    not as closely. Both are "" where there are no samples.
    """
    golden = read_golden_file(after.folder)
    if not golden:
        return "", ""
    asked = str(golden.get("min_cosine", "0.999"))
    pictures, texts = read_golden(after.folder, make_plan(read_config(after.folder)))
    pixels = [one.pixels for one in pictures]
    lowest = min(
        _find_lowest(Kind.IMAGE, pixels, before, after),
        _find_lowest(Kind.TEXT, texts, before, after),
    )
    allowed = math.floor((1 - _DRIFT * (1 - lowest)) * 1000) / 1000
    said = asked if allowed >= float(asked) else f"{allowed:g}"
    path = after.folder / "golden" / "golden.json"
    write_json(path, {**golden, "min_cosine": said})
    return asked, said


def _find_lowest(kind: Kind, payloads: Sequence[Payload], before: Served, after: Served) -> float:
    """The smallest cosine of embeddings; 1 where there are none."""
    if not payloads or not before.facts.dimension:
        return 1.0
    one, other = (ask(each.backend, kind, payloads).embeddings for each in (before, after))
    if one is None or other is None:
        return 1.0
    return float(compute_cosines(one, other).min())


def check_ready(folder: Path, digest: str) -> list[str]:
    """Warm the folder up as `serve` does: shapes, golden samples, digest. What is wrong, in words."""
    with open_served(folder, digest) as served:
        try:
            served.backend.warmup()
        except LoadError as error:
            return [f"it would not become ready: {error}"]
    return []


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Canonical enough that the same value gives the same bytes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
