"""The command line: what it prints, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.pizza.__main__ import main
from examples.pizza.render import render_scene
from examples.pizza.scenes import Split, draw_scene, read_label, write_caption


def test_scene_writes_a_held_out_picture_and_says_what_it_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "scene.png"
    assert main(["scene", "--seed", "7", "--out", str(path)]) == 0
    scene = draw_scene(Split.HOLDOUT, 7)
    assert np.array_equal(np.array(Image.open(path)), render_scene(scene)[0])
    said = capsys.readouterr().out
    assert write_caption(scene) in said
    assert f"label    {read_label(scene)}\n" in said


def test_an_unknown_version_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "--version", "9.9.9", "--out", str(tmp_path / "out")]) == 2
    assert "9.9.9: no such version; there are 1.0.0, 1.1.0, 1.2.0\n" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
