"""Export from Safetensors: every family's graphs say what its network says, in float32 and in INT8.

Here for the seconds that torch and transformers take to import; needs nothing but a CPU.
"""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from benchmarks import tiny_models
from sluice_inference.engine.backend import Kind, Output
from sluice_inference.export.errors import ExportError
from sluice_inference.export.exporter import Options, export_artifact
from sluice_inference.export.report import Limits
from sluice_inference.models.adoption import adopt
from sluice_inference.models.onnx_backend import OnnxBackend
from sluice_inference.models.spatial import SpatialDualEncoder
from sluice_inference.settings import read_settings
from tests.integration.test_inference_drain import Connection, find_port, make_jpeg, start_server
from tests.unit.inference.test_spatial import CONFIG

FAMILIES = tiny_models.DUAL_ENCODERS | tiny_models.CLASSIFIERS
# Random weights make a network of noise, which INT8 disturbs more than a trained one.
ROUGH = Limits(min_cosine=0.97, min_agreement=0.6)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(8):
        noise = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((100, 80)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of each family, and one of our own architecture."""
    root = tmp_path_factory.mktemp("artifacts")
    for name, make in FAMILIES.items():
        make(root / f"{name}-published")
        labels = ("olive", "tomato") if name == "CLIP" else ()
        adopt(root / f"{name}-published", root / name, space="tiny-1", labels=labels)
    spatial = root / "SpatialDualEncoder"
    spatial.mkdir()
    (spatial / "config.json").write_text(json.dumps(CONFIG))
    words = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "left": 2, "a": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.save(str(spatial / "tokenizer.json"))
    torch.manual_seed(3)
    save_file(SpatialDualEncoder.from_config(CONFIG).state_dict(), spatial / "model.safetensors")
    return root


@pytest.mark.parametrize("family", [*FAMILIES, "SpatialDualEncoder"])
def test_graphs_of_a_family_say_what_its_network_says(
    family: str, artifacts: Path, pictures: Path, tmp_path: Path
) -> None:
    report = export_artifact(artifacts / family, tmp_path / "into", Options(images=pictures))
    assert report.problems == []
    is_classifier = family in tiny_models.CLASSIFIERS
    assert set(report.graphs) == ({"image"} if is_classifier else {"image", "text"})
    for graph in report.graphs.values():
        assert graph.parity.cosine_min > 0.9999


@pytest.mark.parametrize("family", ["CLIP", "ResNet", "SpatialDualEncoder"])
def test_int8_of_a_family_is_smaller_and_close(
    family: str, artifacts: Path, pictures: Path, tmp_path: Path
) -> None:
    options = Options(int8=True, images=pictures, limits=ROUGH)
    report = export_artifact(artifacts / family, tmp_path / "into", options)
    assert report.problems == []
    assert report.graphs["image"].quantisation == "static"


def test_a_dual_encoder_keeps_its_scale_for_classes_that_a_request_brings(
    artifacts: Path, pictures: Path, tmp_path: Path
) -> None:
    export_artifact(artifacts / "CLIP", tmp_path / "into", Options(images=pictures))
    env = {"MODEL_PATH": str(tmp_path / "into"), "DEVICE": "cpu"}
    backend = OnnxBackend(read_settings(env).model)
    facts = backend.load()
    assert facts.logit_scale > 1
    pixels = np.zeros((facts.image.height, facts.image.width, 3), np.uint8)
    (output,) = backend.run(Kind.IMAGE, [pixels])
    assert isinstance(output, Output)
    assert output.scores is not None
    assert len(output.scores) == 2, "classified by the labels' texts, which the graph has inside"


def test_what_a_graph_can_not_say_is_refused(
    artifacts: Path, pictures: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "labelled"
    adopt(artifacts / "SigLIP-published", folder, space="tiny-1", labels=("olive", "tomato"))
    with pytest.raises(ExportError, match="without labels"):
        export_artifact(folder, tmp_path / "into", Options(images=pictures))
    assert not (tmp_path / "into").exists()


async def test_the_server_serves_an_int8_export(
    artifacts: Path, pictures: Path, tmp_path: Path
) -> None:
    into = tmp_path / "into"
    options = Options(int8=True, images=pictures, limits=ROUGH)
    report = export_artifact(artifacts / "ResNet", into, options)
    port = find_port()
    process = await start_server(
        port,
        tmp_path / "log",
        BACKEND="onnx",
        MODEL_PATH=str(into),
        MODEL_DIGEST=report.digest,
        MODEL_TASKS="Classification",
        DRAIN_LINGER_S="0",
    )
    try:
        connection = await Connection.open(port)
        status, body = await connection.ask("POST", "/classify", make_jpeg())
        connection.close()
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 20)
    assert status == 200
    labels = json.loads((into / "config.json").read_text())["labels"]
    assert json.loads(body)["predictions"][0]["label"] in labels
