"""What a backend is: five methods, and the plain values they speak in."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sluice_inference.errors import RunError
from sluice_inference.imaging.plan import ImagePlan


@dataclass(frozen=True, slots=True)
class Prompt:
    """A picture and what is asked of it: for models that answer in words. Task as in spec.tasks."""

    pixels: NDArray[np.uint8]
    text: str
    task: str


Payload = NDArray[np.uint8] | str | Prompt


class Kind(enum.StrEnum):
    """What an item is. A batch holds items of one kind."""

    IMAGE = "image"
    TEXT = "text"
    PROMPT = "prompt"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the loaded model can do. `dimension` 0 and `space` "" mean: no embeddings."""

    backend: str
    device: str
    architecture: str
    tasks: tuple[str, ...]
    labels: tuple[str, ...]
    space: str
    dimension: int
    image: ImagePlan


@dataclass(frozen=True, slots=True)
class Output:
    """One item's answer: unit-length fp32 embedding [D], probabilities [C] by label, or words."""

    embedding: NDArray[np.float32] | None
    scores: NDArray[np.float32] | None
    text: str | None = None


class Backend(Protocol):
    """Runs a model. Every method but `health` is called by the engine's one owner thread."""

    def load(self) -> ModelFacts:
        """Load the model. Raises LoadError."""

    def warmup(self) -> None:
        """Run real shapes, then the golden samples. Raises LoadError."""

    def run(self, kind: Kind, payloads: Sequence[Payload]) -> Sequence[Output | RunError]:
        """One output for each payload, in order. Images are as the facts' plan says."""

    def health(self) -> str:
        """What is broken for good, or an empty string."""

    def close(self) -> None:
        """Give everything back."""
