"""Text in pictures, read by the models that the rapidocr package ships."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from sluice_inference.__main__ import main
from sluice_inference.engine.backend import Kind, Output, Prompt
from sluice_inference.errors import LoadError
from sluice_inference.models.onnx_backend import OnnxBackend
from sluice_inference.settings import read_settings


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    assert main(["adopt-ocr", str(folder)]) == 0
    return folder


def make_reader(folder: Path) -> OnnxBackend:
    env = {"MODEL_PATH": str(folder), "MODEL_TASKS": "OCR", "COMPUTE_THREADS": "2"}
    return OnnxBackend(read_settings(env).model)


def draw(*lines: str) -> Prompt:
    picture = Image.new("RGB", (600, 100 * len(lines) + 40), (250, 250, 240))
    for number, line in enumerate(lines):
        ImageDraw.Draw(picture).text(
            (30, 30 + 100 * number), line, (20, 20, 60), font=ImageFont.load_default(60)
        )
    return Prompt(np.asarray(picture), "", "OCR")


def test_lines_are_read_from_top_to_bottom(artifact: Path) -> None:
    reader = make_reader(artifact)
    facts = reader.load()
    reader.warmup()
    assert (facts.architecture, facts.tasks, facts.dimension) == ("TextReader", ("OCR",), 0)
    both, none = reader.run(Kind.PROMPT, [draw("Pizza Verona", "Table 42"), draw("")])
    assert isinstance(both, Output)
    assert isinstance(none, Output)
    assert str(both.text).splitlines() == ["Pizza Verona", "Table 42"]
    assert none.text == ""


def test_a_graph_that_is_not_there_is_told_and_not_downloaded(
    artifact: Path, tmp_path: Path
) -> None:
    for path in artifact.iterdir():
        if path.name != "read.onnx":
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(LoadError, match=r"read\.onnx missing"):
        make_reader(tmp_path).load()
