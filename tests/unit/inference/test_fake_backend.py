"""The test double misbehaves as told, and only as told."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from sluice_inference.engine.backend import Kind, Output, Prompt
from sluice_inference.errors import SettingsError
from sluice_inference.models.fake_backend import FakeBackend
from sluice_inference.settings import read_settings
from sluice_inference.settings.model import TASKS


class Clock:
    """A clock that stands still."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def make_fake(clock: Clock | None = None, **env: str) -> FakeBackend:
    backend = FakeBackend(read_settings({"BACKEND": "fake", **env}).model, clock or Clock())
    backend.load()
    backend.warmup()
    return backend


def run(backend: FakeBackend, count: int = 1) -> list[str]:
    """For each of `count` texts: "ok", or the failure's words."""
    outcomes = backend.run(Kind.TEXT, [f"text {number}" for number in range(count)])
    return ["ok" if isinstance(one, Output) else str(one) for one in outcomes]


def test_told_nothing_it_never_fails() -> None:
    clock = Clock()
    backend = make_fake(clock)
    clock.now += 1e9
    assert set(run(backend, 2000)) == {"ok"}


def test_a_share_of_the_inputs_fails() -> None:
    outcomes = run(make_fake(FAKE_ERROR_PERCENT="5"), 20_000)
    assert set(outcomes) == {"ok", "FAKE_ERROR_PERCENT"}
    # Six standard deviations about 1,000.
    assert 815 <= outcomes.count("FAKE_ERROR_PERCENT") <= 1185


def test_after_so_many_inputs_every_one_fails() -> None:
    backend = make_fake(FAKE_FAIL_AFTER_INPUTS="3")
    assert run(backend, 2) == ["ok", "ok"]
    assert run(backend, 3) == ["ok", "FAKE_FAIL_AFTER_INPUTS", "FAKE_FAIL_AFTER_INPUTS"]
    assert run(backend) == ["FAKE_FAIL_AFTER_INPUTS"]


def test_so_long_after_it_is_ready_every_input_fails() -> None:
    clock = Clock()
    backend = make_fake(clock, FAKE_FAIL_AFTER_SECONDS="30")
    clock.now += 29.9
    assert run(backend) == ["ok"]
    clock.now += 0.1
    assert run(backend, 2) == ["FAKE_FAIL_AFTER_SECONDS"] * 2


def test_told_to_it_never_becomes_ready() -> None:
    backend = FakeBackend(read_settings({"BACKEND": "fake", "FAKE_NEVER_READY": "true"}).model)
    thread = threading.Thread(target=backend.load, daemon=True)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("FAKE_NEVER_READY", "yes", "true, false"),
        ("FAKE_FAIL_AFTER_SECONDS", "-1", "0 and 86400"),
        ("FAKE_FAIL_AFTER_INPUTS", "0", "1 and 1000000000"),
    ],
)
def test_a_knob_that_can_not_be_used_is_named(name: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}.*{allowed}"):
        read_settings({name: value})


def test_it_answers_in_words_that_depend_on_picture_question_and_task() -> None:
    backend = make_fake()
    picture = np.zeros((4, 4, 3), dtype=np.uint8)

    def ask(pixels: Any, text: str, task: str) -> str:
        (outcome,) = backend.run(Kind.PROMPT, [Prompt(pixels, text, task)])
        assert isinstance(outcome, Output)
        return str(outcome.text)

    said = ask(picture, "what?", "Captioning")
    assert said.startswith("Captioning ")
    assert said == ask(picture.copy(), "what?", "Captioning")
    others = {ask(picture + 1, "what?", "Captioning"), ask(picture, "who?", "Captioning")}
    assert said not in others | {ask(picture, "what?", "OCR")}


def test_it_offers_every_task_unless_told_which() -> None:
    facts = FakeBackend(read_settings({"BACKEND": "fake"}).model).load()
    assert (set(facts.tasks), facts.logit_scale > 0) == (set(TASKS), True)
    told = FakeBackend(read_settings({"BACKEND": "fake", "MODEL_TASKS": "OCR"}).model).load()
    assert told.tasks == ("OCR",)
