"""The test double: answers as configured, and says in /status that it is `fake`.

Its embeddings, scores and words depend on the input's bytes alone, so equal inputs get equal answers.
"""

from __future__ import annotations

import hashlib
import math
import random
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from sluice_inference.engine.backend import Kind, ModelFacts, Output, Payload, Prompt
from sluice_inference.errors import RunError
from sluice_inference.imaging.plan import ImagePlan
from sluice_inference.models.outputs import make_outputs
from sluice_inference.settings.model import TASKS, ModelSettings

_OTHER = "other"


class FakeBackend:
    """Latency is by batch, errors are by item. Readiness passes before the errors begin."""

    def __init__(
        self, settings: ModelSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._dimension = settings.embedding_dimension or settings.fake.dimension
        # Which items fail must differ between replicas, so the system's randomness seeds it.
        self._random = random.Random()  # noqa: S311 - decides which requests of a test fail
        self._clock = clock
        confidence = settings.fake.confidence
        # The softmax of these two is the confidence and the rest.
        self._logits = np.log(np.asarray([[confidence, 1 - confidence]], dtype=np.float32))
        self._ready_at = math.inf
        self._seen = 0

    def load(self) -> ModelFacts:
        settings = self._settings
        if settings.fake.never_ready:
            threading.Event().wait()  # the engine's thread is a daemon: the process still ends
        time.sleep(settings.fake.load_seconds)
        return ModelFacts(
            backend="fake",
            device="none",
            architecture="fake",
            tasks=settings.tasks or TASKS,
            labels=(settings.fake.label, _OTHER),
            space=settings.embedding_space or "fake",
            dimension=self._dimension,
            image=ImagePlan.square(settings.fake.image_size),
            logit_scale=10.0,
        )

    def warmup(self) -> None:
        """Nothing to warm: a double has no kernels. Its time to fail runs from here."""
        self._ready_at = self._clock()

    def run(self, kind: Kind, payloads: Sequence[Payload]) -> Sequence[Output | RunError]:
        if self._settings.fake.latency_ms:
            time.sleep(self._settings.fake.latency_ms / 1000)
        if kind is Kind.PROMPT:
            prompts = [one for one in payloads if isinstance(one, Prompt)]
            return [self._spoil(Output(None, None, _say(one))) for one in prompts]
        embeddings = np.stack([self._embed(payload) for payload in payloads])
        logits = np.tile(self._logits, (len(payloads), 1))
        outputs = make_outputs(embeddings, None if kind is Kind.TEXT else logits)
        return [self._spoil(one) for one in outputs]

    def health(self) -> str:
        return ""

    def close(self) -> None:
        """Nothing is held."""

    def _spoil(self, output: Output | RunError) -> Output | RunError:
        """The output, or the failure that is due."""
        fake = self._settings.fake
        self._seen += 1
        if self._seen > fake.fail_after_inputs:
            return RunError("FAKE_FAIL_AFTER_INPUTS")
        if self._clock() - self._ready_at >= fake.fail_after_seconds:
            return RunError("FAKE_FAIL_AFTER_SECONDS")
        if fake.error_percent and self._random.random() * 100 < fake.error_percent:
            return RunError("FAKE_ERROR_PERCENT")
        return output

    def _embed(self, payload: Payload) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        match payload:
            case str():
                data = payload.encode()
            case Prompt():  # answered in words; an embedding would be that of the picture
                data = payload.pixels.tobytes()
            case _:
                data = payload.tobytes()
        seed = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
        values = np.random.default_rng(seed).standard_normal(self._dimension)
        return values.astype(np.float32)


def _say(prompt: Prompt) -> str:
    """Words that depend on picture, question and task alone."""
    data = prompt.pixels.tobytes() + prompt.text.encode()
    return f"{prompt.task} {hashlib.blake2b(data, digest_size=4).hexdigest()}"
