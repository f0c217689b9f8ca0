"""The test double: answers as configured, and says in /status that it is `fake`.

Its embeddings and scores depend on the input's bytes alone, so equal inputs get equal answers.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Sequence

import numpy as np

from sluice_inference.engine.backend import Kind, ModelFacts, Output, Payload
from sluice_inference.errors import RunError
from sluice_inference.models.outputs import make_outputs
from sluice_inference.settings import SERVED_TASKS, Settings

_OTHER = "other"


class FakeBackend:
    """Latency is by batch, errors are by item."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._dimension = settings.embedding_dimension or settings.fake.dimension
        # Which items fail must differ between replicas, so the system's randomness seeds it.
        self._random = random.Random()  # noqa: S311 - decides which requests of a test fail

    def load(self) -> ModelFacts:
        time.sleep(self._settings.fake.load_seconds)
        settings = self._settings
        tasks = settings.tasks or SERVED_TASKS
        return ModelFacts(
            backend="fake",
            device="none",
            architecture="fake",
            tasks=tuple(task for task in tasks if task in SERVED_TASKS),
            labels=(settings.fake.label, _OTHER),
            space=settings.embedding_space or "fake",
            dimension=self._dimension,
            image_size=settings.fake.image_size,
        )

    def warmup(self) -> None:
        """Nothing to warm: a double has no kernels."""

    def run(self, kind: Kind, payloads: Sequence[Payload]) -> Sequence[Output | RunError]:
        if self._settings.fake.latency_ms:
            time.sleep(self._settings.fake.latency_ms / 1000)
        embeddings = np.stack([self._embed(payload) for payload in payloads])
        logits = np.tile(np.asarray([[3.0, 0.0]], dtype=np.float32), (len(payloads), 1))
        outputs = make_outputs(embeddings, None if kind is Kind.TEXT else logits)
        percent = self._settings.fake.error_percent
        if not percent:
            return outputs
        return [
            RunError("FAKE_ERROR_PERCENT") if self._random.random() * 100 < percent else one
            for one in outputs
        ]

    def health(self) -> str:
        return ""

    def close(self) -> None:
        """Nothing is held."""

    def _embed(self, payload: Payload) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        data = payload.encode() if isinstance(payload, str) else payload.tobytes()
        seed = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
        values = np.random.default_rng(seed).standard_normal(self._dimension)
        return values.astype(np.float32)
