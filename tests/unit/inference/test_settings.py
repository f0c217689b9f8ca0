"""Settings: every variable has a default, and one that can't be used is named with what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluice_inference.errors import SettingsError
from sluice_inference.settings import read_settings
from sluice_inference.settings.reader import count_cpus


def test_everything_has_a_default() -> None:
    settings = read_settings({})
    assert (settings.process.port, settings.process.drain_timeout_s) == (8080, 25)
    assert settings.model.backend == "auto"
    assert settings.limits.max_images == 10


def test_values_are_read_with_their_units() -> None:
    settings = read_settings(
        {
            "MODEL_TASKS": "ImageEmbedding, Classification",
            "MAX_IMAGE_MB": "2",
            "MAX_BODY_MB_IN_FLIGHT": "64",
            "REQUEST_TIMEOUT_MS": "1500",
            "MODEL_NAME": "pizza",
            "MODEL_VERSION": "1.0.0",
            "EMBEDDING_DIMENSION": "",
        }
    )
    assert settings.model.tasks == ("ImageEmbedding", "Classification")
    assert settings.limits.max_image_bytes == 2 * 1024 * 1024
    assert settings.limits.max_body_bytes_in_flight == 64 * 1024 * 1024
    assert settings.limits.request_timeout_s == 1.5
    assert settings.model.title == "pizza/1.0.0"
    assert settings.model.embedding_dimension == 0


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        pytest.param("PORT", "http", "0 and 65535", id="a word for a number"),
        pytest.param("PORT", "70000", "0 and 65535", id="out of range"),
        pytest.param("BATCH_SIZE", "1.5", "whole number", id="a fraction of a batch"),
        pytest.param("DRAIN_TIMEOUT_S", "nan", "between", id="not a number"),
        pytest.param("MODEL_FORMAT", "Pickle", "Safetensors, ONNX", id="a format nobody serves"),
        pytest.param("BACKEND", "tensorrt", "auto, torch, onnx, fake", id="a backend"),
        pytest.param("MODEL_TASKS", "Dancing", "ImageEmbedding", id="a task"),
        pytest.param("LOG_LEVEL", "loud", "debug, info", id="a level"),
        pytest.param("DRAIN_LINGER_S", "60", "DRAIN_TIMEOUT_S", id="a linger past the drain"),
    ],
)
def test_an_unusable_variable_is_named_with_what_is_allowed(
    name: str, value: str, allowed: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings({name: value})
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(name)
    assert allowed in caught.value.problems[0]


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings({"PORT": "x", "BACKEND": "y"})
    assert {problem.split(":")[0] for problem in caught.value.problems} == {"PORT", "BACKEND"}


@pytest.mark.parametrize(
    ("text", "most"),
    [
        pytest.param("50000 100000", 1, id="half a core"),
        pytest.param("100000 100000", 1, id="one core"),
        pytest.param("max 100000", 4096, id="no quota"),
        pytest.param("nonsense", 4096, id="an odd file"),
    ],
)
def test_cpus_are_the_containers_share(tmp_path: Path, text: str, most: int) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(text)
    assert 1 <= count_cpus(file) <= most
