"""Which model may speak for another: only in its own tasks, and in embeddings only of one space.

Pure rules. A number from another space looks like an answer and is none.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

from sluice_inference.engine.backend import ModelFacts, Output
from sluice_inference.errors import RequestError
from sluice_inference.predictor import Input, Job, Outcome, Question

# What is made of embeddings, and so only comparable within one space.
_EMBEDDING_TASKS = frozenset({"ImageEmbedding", "TextEmbedding", "Similarity"})
_TEXT_TASKS = frozenset({"TextEmbedding", "Similarity"})
_TEXT_ONLY = frozenset({"TextEmbedding"})


def narrow_facts(facts: ModelFacts, space: str, dimension: int) -> ModelFacts:
    """What is left of a model where embeddings are to be of `space` and have `dimension` numbers."""
    if space and (facts.space, facts.dimension) == (space, dimension):
        return facts
    tasks = tuple(task for task in facts.tasks if task not in _EMBEDDING_TASKS)
    return replace(facts, tasks=tasks, space="", dimension=0, logit_scale=0.0)


def narrow_outcome(outcome: Outcome, facts: ModelFacts) -> Outcome:
    """The outcome without an embedding that the narrowed `facts` don't have."""
    if isinstance(outcome, RequestError) or facts.dimension or outcome.embedding is None:
        return outcome
    return replace(outcome, embedding=None)


@functools.lru_cache(maxsize=1024)
def _keep_pictures(tasks: tuple[str, ...]) -> frozenset[str]:
    return frozenset(tasks) - _TEXT_ONLY


def list_wanted(one: Input, tasks: Sequence[str]) -> frozenset[str]:
    """The tasks that an answer to this input may be of, where a request is for any of `tasks`."""
    match one:
        case str():
            return _TEXT_TASKS & set(tasks)
        case Question():
            return frozenset({one.task})
        case _:
            return _keep_pictures(tuple(tasks))


def find_able(job: Job, facts: ModelFacts) -> frozenset[int]:
    """The inputs, by index, that a model with these (narrowed) facts has an answer to.

    All or none where the job is to be answered by one model; none where that model lacks the scale
    which the job's labels are judged by.
    """
    if job.needs_scale and not facts.logit_scale:
        return frozenset()
    usable = {at: one for at, one in enumerate(job.inputs) if not isinstance(one, RequestError)}
    able = {at for at, one in usable.items() if list_wanted(one, job.tasks) & set(facts.tasks)}
    return frozenset(able if len(able) == len(usable) or not job.is_whole else ())


def is_replaceable(one: Input, tasks: Sequence[str], by: ModelFacts, of: ModelFacts) -> bool:
    """Would an answer of `by` have everything that the answer of `of` has?"""
    return list_wanted(one, tasks) & set(of.tasks) <= set(by.tasks)


def find_mixture(first: ModelFacts, second: ModelFacts) -> str:
    """Why these two can't share requests, or an empty string."""
    if not (first.dimension and second.dimension):
        return ""
    if (first.space, first.dimension) == (second.space, second.dimension):
        return ""
    return (
        f"the models of an A/B pair embed into {first.space!r} ({first.dimension} numbers) and "
        f"{second.space!r} ({second.dimension}); their embeddings would be mixed. Take a second "
        "model (AB_MODEL_PATH) of the first one's space"
    )


def read_confidence(outcome: Outcome) -> float | None:
    """The best label's probability; None where there is none."""
    if isinstance(outcome, Output) and outcome.scores is not None and len(outcome.scores):
        return float(outcome.scores.max())
    return None
