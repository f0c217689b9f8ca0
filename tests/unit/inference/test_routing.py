"""The pure parts of routing: breaker, split, and the rules of who may speak for whom."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_inference.engine.backend import ModelFacts, Output
from sluice_inference.errors import RequestError, SettingsError
from sluice_inference.imaging.plan import ImagePlan
from sluice_inference.predictor import Job, Question
from sluice_inference.routing.breaker import Breaker, BreakerState
from sluice_inference.routing.split import PLACES, find_place
from sluice_inference.routing.truth import find_able, find_mixture, narrow_facts, narrow_outcome
from sluice_inference.settings import read_settings
from sluice_inference.settings.routing import BreakerSettings

GOLDEN_PLACES = [3000, 8828, 9614, 8933]
LIMITS = BreakerSettings(errors=5, error_percent=50, window_s=30, open_s=10, p95_s=1.0)


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def play(breaker: Breaker, clock: Clock, script: str) -> list[str]:
    """Run a script, one word a step, and tell the breaker's state after each.

    ok, error, timeout, slow: a request with that fate; refused: one that is not admitted; left: one
    whose client leaves; +N: N seconds pass.
    """
    states: list[str] = []
    for word in script.split():
        if word.startswith("+"):
            clock.now += float(word[1:])
        else:
            ticket = breaker.admit()
            assert (ticket is None) == (word == "refused"), f"{word} after {states}"
            if ticket is not None:
                if word == "left":
                    breaker.give_back(ticket)
                else:
                    problem = {"error": "Error", "timeout": "Timeout"}.get(word, "")
                    breaker.settle(ticket, problem, 2.0 if word == "slow" else 0.1)
        states.append(breaker.state.name.lower())
    return states


@pytest.mark.parametrize(
    ("script", "state", "reason"),
    [
        pytest.param("error " * 4, "closed", "", id="too few errors"),
        pytest.param("error " * 5, "open", "Error", id="enough errors"),
        pytest.param("timeout " * 5, "open", "Timeout", id="enough timeouts"),
        pytest.param("ok " * 6 + "error " * 5, "closed", "", id="many, but less than half"),
        pytest.param("ok " * 5 + "error " * 5, "open", "Error", id="half of all"),
        pytest.param("error " * 4 + "+31 error", "closed", "", id="old errors are forgotten"),
        pytest.param("error " * 4 + "+28 error", "open", "Error", id="within the window"),
        pytest.param("slow " * 19, "closed", "", id="too few for a p95"),
        pytest.param("ok " * 18 + "slow slow", "open", "Timeout", id="p95 over the limit"),
        pytest.param("ok " * 38 + "slow slow", "closed", "", id="p95 just within the limit"),
        pytest.param("error " * 5 + "refused +9 refused", "open", "Error", id="left alone"),
        pytest.param("error " * 5 + "+10 ok", "closed", "", id="a probe that works"),
        pytest.param("error " * 5 + "+10 error refused", "open", "Error", id="one that fails"),
        pytest.param("error " * 5 + "+10 slow refused", "open", "Timeout", id="one that is slow"),
        pytest.param("error " * 5 + "+10 left ok", "closed", "", id="a probe whose client left"),
        pytest.param(
            "error " * 5 + "+10 ok error", "closed", "", id="closed anew, errors count anew"
        ),
    ],
)
def test_the_breaker_opens_and_closes_as_its_limits_say(
    script: str, state: str, reason: str
) -> None:
    clock = Clock()
    breaker = Breaker(LIMITS, clock)
    assert play(breaker, clock, script)[-1] == state
    assert breaker.reason == reason


def test_one_probe_at_a_time_tries_the_model_again() -> None:
    clock = Clock()
    breaker = Breaker(LIMITS, clock)
    play(breaker, clock, "error " * 5 + "+10")
    probe = breaker.admit()
    assert probe is not None
    assert breaker.state is BreakerState.HALF_OPEN
    assert [breaker.admit() for _ in range(3)] == [None] * 3
    breaker.settle(probe, "", 0.1)
    assert breaker.admit() is not None


def test_answers_from_before_the_breaker_opened_do_not_close_it() -> None:
    clock = Clock()
    breaker = Breaker(LIMITS, clock)
    early = [breaker.admit() for _ in range(6)]
    for ticket in early[:5]:
        assert ticket is not None
        breaker.settle(ticket, "Error", 0.1)
    clock.now += 10
    assert breaker.admit() is not None
    assert early[5] is not None
    breaker.settle(early[5], "", 0.1)
    breaker.give_back(early[5])
    assert breaker.state is BreakerState.HALF_OPEN


@settings(max_examples=50)
@given(st.lists(st.sampled_from(["ok", "error", "slow", "left", "+3", "+11"]), max_size=60))
def test_the_breaker_never_locks_the_model_out_for_good(words: list[str]) -> None:
    clock = Clock()
    breaker = Breaker(LIMITS, clock)
    for word in words:
        if word.startswith("+"):
            clock.now += float(word[1:])
        elif (ticket := breaker.admit()) is not None:
            if word == "left":
                breaker.give_back(ticket)
            else:
                problem = "Error" if word == "error" else ""
                breaker.settle(ticket, problem, 2.0 if word == "slow" else 0.1)
    clock.now += LIMITS.open_s
    ticket = breaker.admit()
    assert ticket is not None
    breaker.settle(ticket, "", 0.1)
    assert breaker.admit() is not None


@settings(max_examples=30)
@given(st.text(min_size=1))
def test_equal_keys_have_equal_places(key: str) -> None:
    assert 0 <= find_place(key) == find_place(key) < PLACES


def test_places_are_the_same_in_every_release() -> None:
    """A golden row: another hash would send every client to the other model at an upgrade."""
    assert [find_place(key) for key in ("a", "b", "client-42", "ü")] == GOLDEN_PLACES


def test_keys_spread_evenly_over_the_places() -> None:
    """χ² over 100 cells of 20,000 keys; 99 degrees of freedom: beyond 180 is p < 1e-6."""
    cells = Counter(find_place(f"client-{number}") // 100 for number in range(20_000))
    chi2 = sum((cells[cell] - 200) ** 2 / 200 for cell in range(100))
    assert chi2 < 180


def make_facts(
    *tasks: str, space: str = "s", dimension: int = 4, labels: tuple[str, ...] = ("a",)
) -> ModelFacts:
    plan = ImagePlan.square(8)
    return ModelFacts("t", "cpu", "t", tasks, labels, space, dimension, plan)


ALL = ("ImageEmbedding", "TextEmbedding", "Classification")
CORRUPT = RequestError(422, "IMAGE_CORRUPT", "x")
PICTURE, TEXT, WHAT = b"jpeg", "olive", Question(b"jpeg", "what?", "OCR")


@pytest.mark.parametrize(
    ("fallback", "inputs", "tasks", "is_whole", "able"),
    [
        pytest.param(make_facts(*ALL), [PICTURE, TEXT], ALL[:2], False, {0, 1}, id="same space"),
        pytest.param(
            make_facts(*ALL, space="other"),
            [PICTURE, TEXT],
            ALL[:2],
            False,
            set(),
            id="other space",
        ),
        pytest.param(
            make_facts(*ALL, dimension=8), [PICTURE], ("ImageEmbedding",), False, set(), id="width"
        ),
        pytest.param(
            make_facts("Classification", space="", dimension=0),
            [PICTURE],
            ("Classification",),
            False,
            {0},
            id="labels need no space",
        ),
        pytest.param(
            make_facts("Classification", space="", dimension=0),
            [PICTURE],
            ("Classification", "ImageEmbedding"),
            False,
            {0},
            id="predict: what it has of both",
        ),
        pytest.param(make_facts("OCR"), [WHAT], ("OCR",), False, {0}, id="a question of its task"),
        pytest.param(make_facts(*ALL), [WHAT], ("OCR",), False, set(), id="a question of no task"),
        pytest.param(
            make_facts("ImageEmbedding"), [PICTURE, TEXT], ALL[:2], False, {0}, id="only pictures"
        ),
        pytest.param(
            make_facts("ImageEmbedding"), [PICTURE, TEXT], ALL[:2], True, set(), id="all or none"
        ),
        pytest.param(
            make_facts(*ALL), [PICTURE, CORRUPT], ALL[:1], True, {0}, id="bad inputs don't count"
        ),
        pytest.param(
            make_facts(*ALL), [PICTURE, TEXT], (), False, set(), id="nobody said what for"
        ),
        pytest.param(
            make_facts("Similarity"),
            [PICTURE, TEXT],
            ("Similarity",),
            False,
            {0, 1},
            id="both kinds",
        ),
    ],
)
def test_a_fallback_speaks_only_for_its_own_tasks_and_space(
    fallback: ModelFacts,
    inputs: list[object],
    tasks: tuple[str, ...],
    is_whole: bool,
    able: set[int],
) -> None:
    job = Job(inputs, 0, tasks=tasks, is_whole=is_whole)  # type: ignore[arg-type]
    assert find_able(job, narrow_facts(fallback, "s", 4)) == able


def test_an_embedding_of_another_space_never_leaves_the_fallback() -> None:
    vector = np.ones(4, dtype=np.float32)
    output = Output(vector, vector)
    other = narrow_facts(make_facts(*ALL, space="other"), "s", 4)
    kept = narrow_outcome(output, other)
    assert isinstance(kept, Output)
    assert kept.embedding is None
    assert kept.scores is vector
    assert (other.space, other.dimension, other.tasks) == ("", 0, ("Classification",))
    assert narrow_outcome(output, narrow_facts(make_facts(*ALL), "s", 4)) is output


def test_an_unknown_space_is_nobodys() -> None:
    assert narrow_facts(make_facts(*ALL, space=""), "", 4).tasks == ("Classification",)


@pytest.mark.parametrize(
    ("first", "second", "is_mixed"),
    [
        pytest.param(make_facts(*ALL), make_facts(*ALL), False, id="the same"),
        pytest.param(make_facts(*ALL), make_facts(*ALL, space="t"), True, id="another space"),
        pytest.param(make_facts(*ALL), make_facts(*ALL, dimension=8), True, id="another width"),
        pytest.param(
            make_facts(*ALL), make_facts(space="", dimension=0), False, id="one has no embeddings"
        ),
    ],
)
def test_two_models_share_requests_only_in_one_space(
    first: ModelFacts, second: ModelFacts, is_mixed: bool
) -> None:
    assert bool(find_mixture(first, second)) is is_mixed


def test_the_settings_of_other_models_have_the_same_names_behind_a_prefix() -> None:
    read = read_settings(
        {
            "EMBEDDING_SPACE": "s",
            "FALLBACK_MODEL_PATH": "/small",
            "FALLBACK_MODEL_NAME": "pizza-cnn",
            "FALLBACK_MODEL_VERSION": "1.4.0",
            "FALLBACK_MODEL_TASKS": "Classification",
            "FALLBACK_BATCH_SIZE": "8",
            "FALLBACK_ON": "Error,LowConfidence",
            "FALLBACK_MIN_CONFIDENCE": "0.6",
            "FALLBACK_FAKE_LABEL": "small",
            "BREAKER_P95_MS": "500",
            "AB_MODEL_PATH": "/b",
            "AB_MODEL_VERSION": "2.0.0",
            "AB_PERCENT": "12.34",
        }
    )
    fallback, split = read.routing.fallback, read.routing.split
    assert fallback is not None
    assert fallback.model is not None
    assert fallback.model.title == "pizza-cnn/1.4.0"
    assert fallback.model.tasks == ("Classification",)
    assert (fallback.model.batch_size, read.model.batch_size) == (8, 32)
    assert fallback.model.fake.label == "small"
    assert (fallback.on, fallback.min_confidence) == (("Error", "LowConfidence"), 0.6)
    assert fallback.breaker.p95_s == 0.5
    assert split is not None
    assert (split.model.path.name, split.percent) == ("b", 12.34)


def test_without_a_name_there_is_neither_fallback_nor_split() -> None:
    routing = read_settings({}).routing
    assert (routing.fallback, routing.split) == (None, None)


def test_by_default_a_fallback_is_asked_for_all_but_low_confidence() -> None:
    fallback = read_settings({"FALLBACK_URL": "http://small:8080/"}).routing.fallback
    assert fallback is not None
    assert fallback.url == "http://small:8080"
    assert fallback.on == ("Error", "Overload", "Timeout", "NoGPU")
    assert math.isinf(fallback.breaker.p95_s)


def test_a_server_that_is_a_fallback_has_none() -> None:
    env = {"SLUICE_ROLE": "fallback", "FALLBACK_URL": "http://small:8080"}
    assert read_settings(env).routing.fallback is None


@pytest.mark.parametrize(
    ("env", "name"),
    [
        pytest.param(
            {"FALLBACK_URL": "http://a", "FALLBACK_MODEL_PATH": "/x"}, "FALLBACK_URL", id="both"
        ),
        pytest.param({"FALLBACK_URL": "small:8080"}, "FALLBACK_URL", id="no scheme"),
        pytest.param({"FALLBACK_URL": "http://a/b"}, "FALLBACK_URL", id="a path"),
        pytest.param(
            {"FALLBACK_URL": "http://a", "FALLBACK_ON": "Boredom"}, "FALLBACK_ON", id="a reason"
        ),
        pytest.param(
            {"FALLBACK_URL": "http://a", "FALLBACK_ON": "LowConfidence"},
            "FALLBACK_MIN_CONFIDENCE",
            id="low confidence without a bound",
        ),
        pytest.param(
            {"FALLBACK_URL": "http://a", "FALLBACK_MIN_CONFIDENCE": "0.5"},
            "FALLBACK_MIN_CONFIDENCE",
            id="a bound that nothing is held to",
        ),
        pytest.param(
            {"FALLBACK_MODEL_PATH": "/x", "FALLBACK_KEY_FILE": "/k"},
            "FALLBACK_KEY_FILE",
            id="a key",
        ),
        pytest.param(
            {"FALLBACK_MODEL_PATH": "/x", "FALLBACK_BATCH_SIZE": "0"},
            "FALLBACK_BATCH_SIZE",
            id="a model's own setting",
        ),
        pytest.param(
            {
                "EMBEDDING_SPACE": "s",
                "AB_MODEL_PATH": "/x",
                "AB_MODEL_VERSION": "2.0.0",
                "AB_EMBEDDING_SPACE": "t",
            },
            "AB_EMBEDDING_SPACE",
            id="an A/B pair of two spaces",
        ),
        pytest.param({"AB_MODEL_PATH": "/x"}, "AB_MODEL_VERSION", id="a pair of one name"),
        pytest.param(
            {"AB_MODEL_PATH": "/x", "AB_MODEL_NAME": "b", "AB_PERCENT": "101"},
            "AB_PERCENT",
            id="a share of more than all",
        ),
    ],
)
def test_routing_that_can_not_be_meant_is_refused(env: dict[str, str], name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(env)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [name]
