"""What a backend is: five methods, and the plain values they speak in."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sluice_inference.errors import RunError
from sluice_inference.imaging.plan import ImagePlan
from sluice_inference.imaging.quality import Quality


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
    # How alike an image and a text are, for classes that a request brings itself: scores are those of
    # `models.zero_shot`. 0: this model can't say. No bias: the scores of all classes add up to 1.
    logit_scale: float = 0.0
    logit_bias: float | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """One item's answer: unit-length fp32 embedding [D], probabilities [C] by label, or words.

    `quality` is no model's affair: what was measured on the picture, where that was asked for.
    """

    embedding: NDArray[np.float32] | None
    scores: NDArray[np.float32] | None
    text: str | None = None
    quality: Quality | None = None


class Backend(Protocol):
    """Runs a model. Every method but `health` is called by the engine's one owner thread."""

    def load(self) -> ModelFacts:
        """Load the model. Raises LoadError."""

    def warmup(self) -> None:
        """Run real shapes, then the golden samples. Raises LoadError."""

    def run(self, kind: Kind, payloads: Sequence[Payload]) -> Sequence[Output | RunError]:
        """One output for each payload, in order. Images are as the facts' plan says.

        Images of one size come as an `engine.stack.ImageStack`: `stack_images` gives their array without a
        copy. What it raises is classified by `engine.faults`.
        """

    def health(self) -> str:
        """What is broken for good, or an empty string."""

    def close(self) -> None:
        """Give everything back."""


@runtime_checkable
class MakesArrays(Protocol):
    """What a backend may offer besides: memory for batches that its device reads faster."""

    def make_array(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """An array for a batch of images [N, H, W, 3]. Called after `warmup`, by any thread."""
