"""Golden samples: inputs whose outputs training wrote down. A server that disagrees isn't ready."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from sluice_inference.engine.backend import Backend, Kind, ModelFacts, Output, Payload, Prompt
from sluice_inference.errors import LoadError, RequestError
from sluice_inference.imaging.decode import decode_image
from sluice_inference.imaging.plan import ImagePlan
from sluice_inference.logs import log

_MAX_BYTES = 64 * 1024 * 1024
_MAX_SAMPLES = 256


class GoldenSample(msgspec.Struct, frozen=True):
    """One input, an image's path in the artifact or a text, and what is expected of it.

    With `task` an image is asked `question`, and `answer` is expected word for word.
    """

    embedding: tuple[float, ...] = ()
    image: str = ""
    text: str = ""
    label: str = ""
    task: str = ""
    question: str = ""
    answer: str = ""

    @property
    def name(self) -> str:
        return self.image or repr(self.text)


class Golden(msgspec.Struct, frozen=True):
    """`golden/golden.json`. `min_cosine` is a decimal string, 0..1."""

    schema: int
    samples: tuple[GoldenSample, ...]
    min_cosine: str = "0.999"


def check_golden(folder: Path, backend: Backend, facts: ModelFacts) -> int:
    """Run every golden sample of the artifact through the backend; returns how many there are.

    An artifact without samples passes. Raises LoadError with the sample, its value and the limit.
    """
    path = folder / "golden" / "golden.json"
    if not path.is_file():
        log("warning", "the artifact has no golden samples; its outputs were not checked")
        return 0
    try:
        golden = msgspec.json.decode(path.read_bytes()[: _MAX_BYTES + 1], type=Golden)
        limit = float(golden.min_cosine)
    except (msgspec.DecodeError, ValueError) as error:
        raise LoadError(f"golden/golden.json: {error}") from error
    if golden.schema != 1 or len(golden.samples) > _MAX_SAMPLES:
        raise LoadError(f"golden/golden.json: not schema 1, or more than {_MAX_SAMPLES} samples")
    lowest = 1.0
    for sample in golden.samples:
        lowest = min(lowest, _check_sample(folder, backend, sample, facts, limit))
    log("info", "golden samples pass", samples=len(golden.samples), lowest_cosine=round(lowest, 6))
    return len(golden.samples)


def _check_sample(
    folder: Path, backend: Backend, sample: GoldenSample, facts: ModelFacts, limit: float
) -> float:
    kind, payload = _read_sample(folder, sample, facts.image)
    outcome = backend.run(kind, [payload])[0]
    if not isinstance(outcome, Output):
        raise LoadError(f"golden sample {sample.name}: {outcome}")
    cosine = 1.0
    if sample.embedding:
        cosine = _compare(sample, outcome)
        if not cosine >= limit:
            raise LoadError(
                f"golden sample {sample.name}: cosine {cosine:.6f} < {limit:g} (min_cosine); this "
                "server does not compute what training computed"
            )
    if sample.label:
        if outcome.scores is None:
            raise LoadError(f"golden sample {sample.name}: has a label, the model gives none")
        label = facts.labels[int(np.argmax(outcome.scores))]
        if label != sample.label:
            raise LoadError(
                f"golden sample {sample.name}: label {label!r}, expected {sample.label!r}"
            )
    if sample.task and outcome.text != sample.answer:
        raise LoadError(
            f"golden sample {sample.name}: answer {outcome.text!r}, expected {sample.answer!r}"
        )
    return cosine


def _compare(sample: GoldenSample, output: Output) -> float:
    expected = np.asarray(sample.embedding, dtype=np.float32)
    if output.embedding is None or output.embedding.shape != expected.shape:
        size = 0 if output.embedding is None else len(output.embedding)
        raise LoadError(
            f"golden sample {sample.name}: the embedding has {size} numbers, "
            f"expected {len(expected)}"
        )
    return float(np.dot(output.embedding, expected) / np.linalg.norm(expected))


def _read_sample(folder: Path, sample: GoldenSample, plan: ImagePlan) -> tuple[Kind, Payload]:
    if bool(sample.image) == bool(sample.text):
        raise LoadError("golden/golden.json: each sample needs either an image or a text")
    if sample.text:
        return Kind.TEXT, sample.text
    path = (folder / sample.image).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise LoadError(f"golden sample {sample.image}: outside the artifact")
    try:
        data = path.read_bytes()
        pixels = decode_image(data, plan, max_bytes=1 << 28, max_pixels=1 << 28)
    except OSError as error:
        raise LoadError(f"golden sample {sample.image}: {error.strerror}") from error
    except RequestError as problem:
        raise LoadError(f"golden sample {sample.image}: {problem.message}") from problem
    if sample.task:
        return Kind.PROMPT, Prompt(pixels, sample.question, sample.task)
    return Kind.IMAGE, pixels
