"""Answers that are kept: who computes, who waits, who is served from where, and what a cancellation ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from sluice_inference.caching.cached import Cached
from sluice_inference.caching.keys import KeyMaker
from sluice_inference.caching.memory import MemoryCache
from sluice_inference.caching.tiers import Tiers
from sluice_inference.engine.backend import ModelFacts, Output
from sluice_inference.errors import RequestError
from sluice_inference.imaging.plan import Fit, ImagePlan
from sluice_inference.metrics import Metrics
from sluice_inference.predictor import CacheUse, Input, Job, Outcome, Question, Reply
from sluice_inference.settings import Settings, read_settings
from sluice_inference.settings.model import ModelSettings
from tests.serving import serve

FACTS = ModelFacts(
    "fake", "cpu", "fake", ("ImageEmbedding",), ("a", "b"), "space-1", 2, ImagePlan.square(32)
)
POISON = b"poison"


def settings(**env: str) -> Settings:
    names = {"MODEL_NAME": "pizza", "MODEL_VERSION": "1.0.0", "MODEL_DIGEST": "sha256:1"}
    return read_settings({"CACHE_SIZE_MB": "1", **names, **env})


@dataclass
class Model:
    """An answerer that says what it was asked, and answers when it is let."""

    model: ModelSettings
    facts: ModelFacts | None = FACTS
    asked: list[Input] = field(default_factory=list)
    cancelled: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    failure: RequestError | None = None
    at_failure: Callable[[], object] = lambda: None

    async def answer(self, job: Job) -> Reply:
        self.asked += [one for one in job.inputs if not isinstance(one, RequestError)]
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failure is not None:
            self.at_failure()
            raise self.failure
        assert self.facts is not None
        return Reply([self._answer_one(one) for one in job.inputs], self.model, self.facts)

    def _answer_one(self, one: Input | RequestError) -> Outcome:
        if isinstance(one, RequestError):
            return one
        if one == POISON:
            return RequestError(500, "MODEL_FAILED", "no")
        number = float(len(self.asked))
        return Output(np.array([number, 0], dtype=np.float32), None)


class Case:
    """A cache before a model."""

    def __init__(self, *, is_open: bool = True, **env: str) -> None:
        read = settings(**env)
        self.model = Model(read.model)
        if is_open:
            self.model.gate.set()
        metrics = Metrics()
        tiers = Tiers(read.cache.size_bytes, None, metrics)
        self.cached = Cached(
            self.model, read.model, read.quality, tiers, metrics, server=read.server
        )

    async def ask(
        self,
        *inputs: Input | RequestError,
        within_s: float = 10,
        cache: CacheUse = CacheUse.ANY,
    ) -> tuple[list[float | str], str]:
        """What was answered, number or error code, and what the cache says of it."""
        deadline = asyncio.get_running_loop().time() + within_s
        job = Job(inputs, deadline, cache=cache)
        async with asyncio.timeout_at(deadline):
            reply = await self.cached.answer(job)
        assert reply.model is self.model.model
        return [name(one) for one in reply.outcomes], job.trail.describe_cache()


def name(one: Outcome) -> float | str:
    if isinstance(one, RequestError):
        return one.code
    assert one.embedding is not None
    return float(one.embedding[0])


async def settle() -> None:
    """Let everything that can happen now happen."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_what_was_answered_before_is_not_computed_again() -> None:
    case = Case()
    assert await case.ask(b"x") == ([1.0], "miss")
    assert await case.ask(b"x") == ([1.0], "hit")
    assert await case.ask(b"y", b"x") == ([2.0, 1.0], "partial")
    assert case.model.asked == [b"x", b"y"]


async def test_the_same_input_twice_in_one_request_is_computed_once() -> None:
    case = Case()
    assert await case.ask("x", "y", "x") == ([2.0, 2.0, 2.0], "miss")
    assert case.model.asked == ["x", "y"]


async def test_a_failed_input_keeps_its_place_and_is_not_kept() -> None:
    case = Case()
    problem = RequestError(400, "BODY_INVALID", "no")
    assert (await case.ask(problem, POISON, b"x"))[0] == ["BODY_INVALID", "MODEL_FAILED", 2.0]
    assert await case.ask(b"x", POISON) == ([2.0, "MODEL_FAILED"], "partial")
    assert case.model.asked == [POISON, b"x", POISON]
    assert await case.ask(problem) == (["BODY_INVALID"], "")


async def test_identical_inputs_under_way_are_computed_once() -> None:
    case = Case(is_open=False)
    requests = [asyncio.create_task(case.ask(b"x")) for _ in range(5)]
    await settle()
    case.model.gate.set()
    answers = await asyncio.gather(*requests)
    assert case.model.asked == [b"x"]
    assert [values for values, _ in answers] == [[1.0]] * 5
    assert sorted(said for _, said in answers) == ["hit"] * 4 + ["miss"]


async def test_who_computes_leaves_and_who_waits_is_answered() -> None:
    case = Case(is_open=False)
    first = asyncio.create_task(case.ask(b"x"))
    await settle()
    second = asyncio.create_task(case.ask(b"x"))
    await settle()
    first.cancel()
    await settle()
    case.model.gate.set()
    assert await second == ([1.0], "hit")
    assert (first.cancelled(), case.model.cancelled, case.model.asked) == (True, 0, [b"x"])


async def test_work_that_nobody_waits_for_any_more_is_ended() -> None:
    case = Case(is_open=False)
    requests = [asyncio.create_task(case.ask(b"x")) for _ in range(2)]
    await settle()
    for request in requests:
        request.cancel()
    await settle()
    assert case.model.cancelled == 1
    case.model.gate.set()
    assert await case.ask(b"x") == ([2.0], "miss"), "a flight that was left is not boarded"


async def test_each_waiter_has_its_own_deadline() -> None:
    case = Case(is_open=False)
    patient = asyncio.create_task(case.ask(b"x", within_s=30))
    await settle()
    with pytest.raises(TimeoutError):
        await case.ask(b"x", within_s=0.01)
    case.model.gate.set()
    assert await patient == ([1.0], "miss")


async def test_a_waiter_with_time_left_goes_on_where_the_first_ran_out_of_it() -> None:
    case = Case(is_open=False)
    hasty = asyncio.create_task(case.ask(b"x", within_s=0.02))
    await settle()
    patient = asyncio.create_task(case.ask(b"x", within_s=30))
    with pytest.raises(TimeoutError):
        await hasty
    await settle()
    case.model.gate.set()
    (value,), _ = await patient
    assert value in (1.0, 2.0), "by the first's work or, if that was ended, by its own"


async def test_who_finds_no_room_is_told_and_who_waited_asks_for_itself() -> None:
    case = Case(is_open=False)
    first = asyncio.create_task(case.ask(b"x"))
    await settle()
    second = asyncio.create_task(case.ask(b"x"))
    await settle()
    case.model.failure = RequestError(503, "OVERLOADED", "full")
    case.model.gate.set()
    with pytest.raises(RequestError, match="full"):
        await first
    with pytest.raises(RequestError, match="full"):
        await second
    assert case.model.asked == [b"x", b"x"]


async def test_who_comes_in_the_moment_of_a_failure_asks_for_itself() -> None:
    """The work is over, and nobody could yet be told: to wait for it again would be for ever."""
    case = Case()
    case.model.failure = RequestError(503, "OVERLOADED", "full")
    late: list[asyncio.Task[tuple[list[float | str], str]]] = []

    def come_late() -> None:
        case.model.failure = None
        late.append(asyncio.create_task(case.ask(b"x")))
        raise RequestError(503, "OVERLOADED", "full")

    case.model.at_failure = come_late
    with pytest.raises(RequestError, match="full"):
        await case.ask(b"x")
    assert await late[0] == ([2.0], "miss")


@pytest.mark.parametrize(
    ("use", "answers"),
    [
        pytest.param(CacheUse.FRESH, [2.0, 2.0], id="no-cache: computed anew and kept"),
        pytest.param(CacheUse.NONE, [2.0, 1.0], id="no-store: computed anew and not kept"),
    ],
)
async def test_a_client_may_ask_for_a_new_answer(use: CacheUse, answers: list[float]) -> None:
    case = Case()
    await case.ask(b"x")
    (anew,), said = await case.ask(b"x", cache=use)
    (after,), _ = await case.ask(b"x")
    assert ([anew, after], said) == (answers, "")


async def test_a_model_that_is_not_loaded_answers_for_itself() -> None:
    case = Case()
    await case.ask(b"x")
    case.model.facts = None
    case.model.failure = RequestError(503, "NOT_READY", "not yet")
    with pytest.raises(RequestError, match="not yet"):
        await case.ask(b"x")


def make_key(
    one: Input,
    facts: ModelFacts = FACTS,
    *,
    with_quality: bool = False,
    **env: str,
) -> bytes:
    read = settings(**env)
    maker = KeyMaker(read.model, facts, read.quality, read.server)
    return maker.make(one, with_quality=with_quality)


KEYS: Sequence[tuple[str, bytes]] = [
    ("the plain one", make_key(b"x")),
    ("another picture", make_key(b"y")),
    ("a text of the same bytes", make_key("x")),
    ("a question", make_key(Question(b"x", "", "OCR"))),
    ("another task", make_key(Question(b"x", "", "Captioning"))),
    ("a text that moves over", make_key(Question(b"x", "OCR", ""))),
    ("with quality", make_key(b"x", with_quality=True)),
    ("another digest", make_key(b"x", MODEL_DIGEST="sha256:2")),
    ("another version", make_key(b"x", MODEL_VERSION="1.0.1")),
    ("another name", make_key(b"x", MODEL_NAME="pasta")),
    ("a revision", make_key(b"x", SLUICE_REVISION="abc123")),
    ("another revision", make_key(b"x", SLUICE_REVISION="abc124")),
    ("another precision", make_key(b"x", PRECISION="bfloat16")),
    ("another backend", make_key(b"x", replace(FACTS, backend="onnx"))),
    ("another device", make_key(b"x", replace(FACTS, device="cuda"))),
    ("another space", make_key(b"x", replace(FACTS, space="space-2"))),
    ("other labels", make_key(b"x", replace(FACTS, labels=("b", "a")))),
    ("another size", make_key(b"x", replace(FACTS, image=ImagePlan.square(64)))),
    ("another fit", make_key(b"x", replace(FACTS, image=ImagePlan(32, 32, Fit.CROP, 32)))),
    ("blurred ones refused", make_key(b"x", QUALITY_ENFORCE="blur")),
    ("more refused", make_key(b"x", QUALITY_ENFORCE="blur", QUALITY_MIN_SHARPNESS="9")),
]


def test_whatever_decides_an_answer_is_in_its_key() -> None:
    assert len({key for _, key in KEYS}) == len(KEYS)


@pytest.mark.parametrize(
    ("one", "env", "with_quality"),
    [
        pytest.param(b"x", {"BATCH_SIZE": "3"}, False, id="the batch size"),
        pytest.param(b"x", {"QUALITY_MIN_SHARPNESS": "9"}, False, id="a threshold, only reported"),
    ],
)
def test_what_decides_nothing_is_not_in_the_key(
    one: Input, env: dict[str, str], with_quality: bool
) -> None:
    assert make_key(one, with_quality=with_quality, **env) == make_key(one)


def test_where_there_is_no_revision_the_packages_version_is_in_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = make_key(b"x")
    revised = make_key(b"x", SLUICE_REVISION="abc123")
    monkeypatch.setattr("sluice_inference.settings.__version__", "0.0.0")
    assert make_key(b"x") != before
    assert make_key(b"x", SLUICE_REVISION="abc123") == revised


async def test_a_server_does_not_answer_with_what_another_revision_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiers = Tiers(1 << 20, None, Metrics())
    monkeypatch.setattr("tests.serving.make_tiers", lambda *_: tiers)
    said = []
    for revision in ("a", "a", "b"):
        async with serve(SLUICE_REVISION=revision) as served, served.connect() as client:
            answer = await client.post("/embed", json={"inputs": [{"text": "x"}]})
            said.append(answer.headers["sluice-cache"])
    assert said == ["miss", "hit", "miss"]


def test_a_texts_key_does_not_care_for_the_quality_of_pictures() -> None:
    assert make_key("x", with_quality=True) == make_key("x")


def test_what_was_not_used_for_longest_goes_first() -> None:
    memory = MemoryCache(3 * 1170)
    for key in (b"a", b"b", b"c"):
        memory.put(key, bytes(1000))
    assert memory.size == 3 * 1170
    memory.get(b"a")
    memory.put(b"d", bytes(1000))
    assert [memory.get(key) is not None for key in (b"a", b"b", b"c", b"d")] == [
        *(True, False),
        *(True, True),
    ]
    memory.put(b"e", bytes(3000))
    assert (len(memory), memory.size) == (1, 3170)
    memory.put(b"f", bytes(9999))
    assert (len(memory), memory.size) == (1, 3170), "one larger than all room drops nothing"
    memory.put(b"e", bytes(10))
    memory.drop(b"e")
    assert (len(memory), memory.size) == (0, 0)
