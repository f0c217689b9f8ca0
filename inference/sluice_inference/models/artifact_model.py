"""What backends that load an artifact share: folder checks, tokenizer, warm-up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sluice_inference.artifact.config import ArtifactConfig, read_config
from sluice_inference.artifact.errors import ArtifactError
from sluice_inference.artifact.manifest import MANIFEST, verify_manifest
from sluice_inference.engine.backend import Backend, Kind, ModelFacts, Output
from sluice_inference.errors import LoadError, RunError
from sluice_inference.imaging.plan import ImagePlan
from sluice_inference.models.golden import check_golden
from sluice_inference.settings.model import SERVED_TASKS, ModelSettings

Tokens = NDArray[np.int64]


def open_artifact(settings: ModelSettings) -> ArtifactConfig:
    """The artifact's config, once the folder is the version's and does what the version says.

    `fetch` hashed every file; here the manifest's digest and the files' sizes are held to it again,
    which costs nothing. Raises LoadError with both values.
    """
    folder = settings.path
    if settings.digest:
        try:
            data = (folder / MANIFEST).read_bytes()
            manifest = verify_manifest(data, settings.digest, str(folder / MANIFEST))
            for entry in manifest.files:
                size = (folder / entry.path).stat().st_size
                if size != entry.size:
                    raise LoadError(f"{entry.path}: {size} bytes, the manifest says {entry.size}")
        except OSError as error:
            raise LoadError(f"{error.filename}: {error.strerror}; did fetch run?") from error
        except ArtifactError as error:
            raise LoadError(error.message) from error
    config = read_config(folder)
    _check_promises(settings, config)
    return config


def make_facts(
    settings: ModelSettings, config: ArtifactConfig, backend: str, device: str
) -> ModelFacts:
    """The facts of a loaded artifact, narrowed to the tasks that the version promises."""
    tasks = settings.tasks or config.tasks
    return ModelFacts(
        backend=backend,
        device=device,
        architecture=config.architecture,
        tasks=tuple(task for task in tasks if task in SERVED_TASKS),
        labels=config.labels,
        space=config.embedding.space if config.embedding else "",
        dimension=config.embedding.dimension if config.embedding else 0,
        image=ImagePlan.square(config.image.size),
    )


def make_tokenizer(settings: ModelSettings, config: ArtifactConfig) -> Any:
    """The artifact's tokenizer, cutting and padding to the text length; None without text."""
    if config.text is None:
        return None
    from tokenizers import Tokenizer

    path = settings.path / "tokenizer.json"
    if not path.is_file():
        raise LoadError("tokenizer.json is missing, but config.json has text")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise LoadError(f"tokenizer.json: {error}") from error
    tokenizer.enable_truncation(config.text.max_length)
    # Always the full length: what a text embeds to must not depend on its neighbours in a batch.
    tokenizer.enable_padding(pad_id=config.text.pad_id, length=config.text.max_length)
    return tokenizer


def tokenize(tokenizer: Any, texts: Sequence[str]) -> Tokens:
    """Token ids int64 [N, L] of the texts."""
    return np.asarray([one.ids for one in tokenizer.encode_batch(list(texts))], dtype=np.int64)


def warm_up(
    backend: Backend, settings: ModelSettings, config: ArtifactConfig, facts: ModelFacts
) -> None:
    """Run every batch size up to the largest, then the golden samples.

    Every outcome is held to what config.json says: a model that can't answer must not become ready,
    because traffic moves once it is. Raises LoadError with both values.
    """
    side = config.image.size
    # Noise and not a blank: a sound model may map a picture of nothing to the zero vector.
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    for size in batch_sizes(settings.batch_size):
        _check_outcomes(Kind.IMAGE, backend.run(Kind.IMAGE, [noise] * size), size, facts)
        if config.text is not None and "TextEmbedding" in facts.tasks:
            texts = ["warm up"] * size
            _check_outcomes(Kind.TEXT, backend.run(Kind.TEXT, texts), size, facts)
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
    missing = [task for task in settings.tasks if config.tasks and task not in config.tasks]
    unserved = [task for task in settings.tasks if task not in SERVED_TASKS]
    if missing or unserved:
        raise LoadError(
            f"tasks {', '.join(missing or unserved)} (spec.tasks) can't be served: the artifact "
            f"offers {', '.join(config.tasks)}, this server {', '.join(SERVED_TASKS)}"
        )
