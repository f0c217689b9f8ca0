"""What backends that load an artifact share: folder checks, tokenizer, warm-up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sluice_inference.artifact.config import ArtifactConfig, read_config
from sluice_inference.artifact.errors import ArtifactError
from sluice_inference.artifact.manifest import (
    MANIFEST,
    SIGNATURE,
    check_manifest,
    compute_digest,
    parse_manifest,
)
from sluice_inference.artifact.signature import check_signature
from sluice_inference.engine.backend import Backend, Kind, ModelFacts, Output, Payload, Prompt
from sluice_inference.errors import LoadError, RunError
from sluice_inference.imaging.plan import Filter, Fit, ImagePlan
from sluice_inference.logs import log
from sluice_inference.models.golden import check_golden
from sluice_inference.settings.model import WORD_TASKS, ModelSettings

Tokens = NDArray[np.int64]
# What an architecture can answer at most. One that isn't named here embeds and classifies.
_OFFERS = {
    "CNN": ("Classification",),
    "ImageTextToText": WORD_TASKS,
    "TextReader": ("OCR",),
}
_ENCODES = ("ImageEmbedding", "TextEmbedding", "Classification", "Similarity")


def open_artifact(settings: ModelSettings) -> ArtifactConfig:
    """The artifact's config, once the folder is the version's and does what the version says.

    `fetch` hashed every file; here the manifest's digest and the files' sizes are held to it again,
    which costs nothing, and the manifest to its signature. Raises LoadError with both values.
    """
    folder = settings.path
    if settings.digest or settings.trust.keys:
        try:
            _check_folder(folder, settings)
        except OSError as error:
            raise LoadError(f"{error.filename}: {error.strerror}; did fetch run?") from error
        except ArtifactError as error:
            raise LoadError(error.message) from error
    config = read_config(folder)
    _check_promises(settings, config)
    return config


def _check_folder(folder: Path, settings: ModelSettings) -> None:
    data = (folder / MANIFEST).read_bytes()
    digest = settings.digest or compute_digest(data)
    check_manifest(data, digest, str(folder / MANIFEST))
    path = folder / SIGNATURE
    signature = path.read_text(errors="replace") if path.is_file() else ""
    if signer := check_signature(data, signature, settings.trust):
        log("info", "the manifest's signature is right", key=signer)
    for entry in parse_manifest(data).files:
        size = (folder / entry.path).stat().st_size
        if size != entry.size:
            raise LoadError(f"{entry.path}: {size} bytes, the manifest says {entry.size}")


def make_facts(
    settings: ModelSettings, config: ArtifactConfig, backend: str, device: str
) -> ModelFacts:
    """The facts of a loaded artifact, narrowed to the tasks that the version promises."""
    return ModelFacts(
        backend=backend,
        device=device,
        architecture=config.architecture,
        tasks=settings.tasks or config.tasks,
        labels=config.labels,
        space=config.embedding.space if config.embedding else "",
        dimension=config.embedding.dimension if config.embedding else 0,
        image=make_plan(config),
    )


def make_plan(config: ArtifactConfig) -> ImagePlan:
    """How config.json wants a picture to become pixels."""
    image = config.image
    edge = 0 if image.fit == "stretch" else image.edge or image.size
    return ImagePlan(image.size, image.size, Fit(image.fit), edge, Filter(image.filter))


def make_tokenizer(settings: ModelSettings, config: ArtifactConfig) -> Any:
    """The artifact's tokenizer, cutting and padding to the text length; None without text."""
    text = config.text
    if text is None:
        return None
    from tokenizers import Regex, Tokenizer, normalizers

    path = settings.path / "tokenizer.json"
    if not path.is_file():
        path = settings.path / "hf" / "tokenizer.json"
    if not path.is_file():
        raise LoadError("tokenizer.json is missing, here and in hf/, but config.json has text")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise LoadError(f"tokenizer.json: {error}") from error
    tokenizer.enable_truncation(text.max_length)
    # Always the full length: what a text embeds to must not depend on its neighbours in a batch.
    side = "left" if text.pad_left else "right"
    tokenizer.enable_padding(direction=side, pad_id=text.pad_id, length=text.max_length)
    steps: list[Any] = [normalizers.Lowercase()] if text.lowercase else []
    if text.drop_punctuation:
        steps += [
            normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    if steps:
        own = [tokenizer.normalizer] if tokenizer.normalizer else []
        tokenizer.normalizer = normalizers.Sequence(steps + own)
    return tokenizer


def tokenize(tokenizer: Any, texts: Sequence[str]) -> Tokens:
    """Token ids int64 [N, L] of the texts."""
    return np.asarray([one.ids for one in tokenizer.encode_batch(list(texts))], dtype=np.int64)


def tokenize_with_mask(tokenizer: Any, texts: Sequence[str]) -> tuple[Tokens, Tokens]:
    """Token ids int64 [N, L] and, beside each, 1 for a token and 0 for padding."""
    encoded = tokenizer.encode_batch(list(texts))
    tokens = np.asarray([one.ids for one in encoded], dtype=np.int64)
    return tokens, np.asarray([one.attention_mask for one in encoded], dtype=np.int64)


def warm_up(
    backend: Backend, settings: ModelSettings, config: ArtifactConfig, facts: ModelFacts
) -> None:
    """Run every batch size up to the largest, then the golden samples.

    Every outcome is held to what config.json says: a model that can't answer must not become ready,
    because traffic moves once it is. Raises LoadError with both values.
    """
    plan = facts.image
    # Noise and not a blank: a sound model may map a picture of nothing to the zero vector.
    shape = (plan.height, plan.width, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    inputs: dict[Kind, Payload] = {}
    if set(facts.tasks) & set(WORD_TASKS):
        inputs[Kind.PROMPT] = Prompt(noise, "warm up", facts.tasks[0])
    else:
        inputs[Kind.IMAGE] = noise
        if config.text is not None and "TextEmbedding" in facts.tasks:
            inputs[Kind.TEXT] = "warm up"
    for kind, payload in inputs.items():
        # An answer in words takes seconds on a CPU, and longer by the batch: one is enough there.
        largest = 1 if kind is Kind.PROMPT and facts.device == "cpu" else settings.batch_size
        for size in batch_sizes(largest):
            _check_outcomes(kind, backend.run(kind, [payload] * size), size, facts)
    check_golden(settings.path, backend, facts)


def batch_sizes(largest: int) -> Iterator[int]:
    """1, 2, 4, … and the largest itself."""
    size = 1
    while size < largest:
        yield size
        size *= 2
    yield largest


def _check_outcomes(
    kind: Kind, outcomes: Sequence[Output | RunError], size: int, facts: ModelFacts
) -> None:
    """Hold one warm-up run to the artifact's config. Raises LoadError with both values."""
    if len(outcomes) != size:
        raise LoadError(
            f"warm-up: {size} inputs ({kind}) gave {len(outcomes)} outputs; export the model with "
            "a free batch dimension"
        )
    for outcome in outcomes:
        if isinstance(outcome, RunError):
            raise LoadError(
                f"warm-up with {size} inputs ({kind}): {outcome}; check the weights and the "
                "precision the version was made with, and publish a new version"
            )
        if kind is Kind.PROMPT:
            if outcome.text is None:
                raise LoadError("warm-up: the model gave no words to a picture and a question")
            continue
        dimension = 0 if outcome.embedding is None else len(outcome.embedding)
        if facts.dimension and dimension != facts.dimension:
            raise LoadError(
                f"warm-up ({kind}): the model's embeddings have {dimension} numbers, config.json "
                f"says {facts.dimension} (embedding.dimension); publish a version where both agree"
            )
        classes = 0 if outcome.scores is None else len(outcome.scores)
        is_named = bool(facts.labels) or "Classification" in facts.tasks
        if kind is Kind.IMAGE and is_named and (not classes or classes != len(facts.labels)):
            raise LoadError(
                f"warm-up: the model's logits have {classes} numbers, config.json has "
                f"{len(facts.labels)} labels; publish a version where both agree"
            )


def _check_promises(settings: ModelSettings, config: ArtifactConfig) -> None:
    """Hold the artifact to what its ModelVersion says. Raises LoadError with both values."""
    embedding = config.embedding
    space = embedding.space if embedding else ""
    dimension = embedding.dimension if embedding else 0
    if settings.embedding_space and settings.embedding_space != space:
        raise LoadError(
            f"embedding space: the version says {settings.embedding_space!r} "
            f"(spec.embedding.space), the artifact's config.json {space!r}"
        )
    if settings.embedding_dimension and settings.embedding_dimension != dimension:
        raise LoadError(
            f"embedding dimension: the version says {settings.embedding_dimension} "
            f"(spec.embedding.dimension), the artifact's config.json {dimension}"
        )
    can = _OFFERS.get(config.architecture, _ENCODES)
    if strange := [task for task in config.tasks if task not in can]:
        raise LoadError(
            f"config.json: tasks {', '.join(strange)} can't be answered by architecture "
            f"{config.architecture}; it has {', '.join(can)}"
        )
    offered = config.tasks or can
    if missing := [task for task in settings.tasks if task not in offered]:
        raise LoadError(
            f"tasks {', '.join(missing)} (spec.tasks) can't be served: the artifact offers "
            f"{', '.join(offered)}"
        )
