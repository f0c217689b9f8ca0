"""`export` on a small real network: what it writes, what it holds the result to, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from sluice_inference.__main__ import main
from sluice_inference.artifact.manifest import verify_folder
from sluice_inference.artifact.push import write_manifest
from sluice_inference.engine.backend import Kind, Output
from sluice_inference.export import exporter
from sluice_inference.export.errors import ExportError
from sluice_inference.export.exporter import INT8_LIMITS, Options, export_artifact
from sluice_inference.export.parity import Answers, Latency, Parity, compare
from sluice_inference.export.report import Graph, Limits, Report, find_problems
from sluice_inference.export.samples import Picture, divide, read_pictures
from sluice_inference.imaging.plan import ImagePlan
from sluice_inference.models.onnx_backend import OnnxBackend
from sluice_inference.settings.model import read_model
from sluice_inference.settings.reader import Reader

SIZE, DIMENSION, LENGTH = 16, 8, 4
LABELS = ["red", "green", "blue"]
COLOURS = [(220, 30, 30), (30, 220, 30), (30, 30, 220)]
PLAN = ImagePlan.square(SIZE)


def write_graph(path: Path, takes: Any, nodes: list[Any], gives: list[str], values: Any) -> None:
    outputs = [helper.make_tensor_value_info(one, TensorProto.FLOAT, ["n", "w"]) for one in gives]
    constants = [numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "small", [takes], outputs, constants)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)


def write_image_graph(path: Path, gives: list[str]) -> None:
    """A convolution and a matrix for each output; the logits tell colours apart."""
    rng = np.random.default_rng(1)
    # Six filters that look at one colour each, and six that look at anything.
    colours = np.tile(np.eye(3), (2, 1))
    filters = np.concatenate([colours, rng.normal(size=(6, 3))])[:, :, None, None]
    logits = np.concatenate([4 * colours, 0.2 * rng.normal(size=(6, 3))])
    values = {
        "filters": np.tile(filters / 9, (1, 1, 3, 3)).astype(np.float32),
        "scale": np.asarray(255, dtype=np.float32),
        "embedding.weight": rng.normal(size=(12, DIMENSION)).astype(np.float32),
        "logits.weight": logits.astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["floats", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "filters"], ["seen"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["seen"], ["kept"]),
        helper.make_node("GlobalAveragePool", ["kept"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        *(helper.make_node("MatMul", ["flat", f"{name}.weight"], [name]) for name in gives),
    ]
    takes = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", SIZE, SIZE, 3])
    wanted = {"filters", "scale", *(f"{name}.weight" for name in gives)}
    used = {name: value for name, value in values.items() if name in wanted}
    write_graph(path, takes, nodes, gives, used)


def write_text_graph(path: Path) -> None:
    """The mean of the tokens' vectors, through a matrix."""
    rng = np.random.default_rng(2)
    values = {
        "table": rng.normal(size=(8, 16)).astype(np.float32),
        "weight": rng.normal(size=(16, DIMENSION)).astype(np.float32),
        "axis": np.asarray([1], dtype=np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["vectors"]),
        helper.make_node("ReduceMean", ["vectors", "axis"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["embedding"]),
    ]
    takes = helper.make_tensor_value_info("tokens", TensorProto.INT64, ["n", "l"])
    write_graph(path, takes, nodes, ["embedding"], values)


def make_picture(number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    noise = np.random.default_rng(number).integers(-25, 26, (SIZE, SIZE, 3))
    return np.clip(np.asarray(COLOURS[number % 3]) + noise, 0, 255).astype(np.uint8)


def answer(folder: Path, **inputs: Any) -> list[Output]:
    backend = OnnxBackend(read_model(Reader({"MODEL_PATH": str(folder), "DEVICE": "cpu"})))
    backend.load()
    outputs = [one for kind, values in inputs.items() for one in backend.run(Kind(kind), values)]
    assert all(isinstance(one, Output) for one in outputs)
    return [one for one in outputs if isinstance(one, Output)]


def make_artifact(folder: Path, *, embeds: bool = True) -> Path:
    """A classifier, and a dual encoder where it embeds; its golden samples are its own answers."""
    (folder / "golden").mkdir(parents=True)
    config: dict[str, Any] = {
        "schema": 1,
        "architecture": "SpatialDualEncoder" if embeds else "CNN",
        "image": {"size": SIZE, "mean": [0, 0, 0], "std": [1, 1, 1]},
        "labels": LABELS,
        "tasks": ["Classification"],
    }
    if embeds:
        config["embedding"] = {"space": "colour-1", "dimension": DIMENSION}
        config["text"] = {"max_length": LENGTH, "pad_id": 0}
        config["tasks"] += ["ImageEmbedding", "TextEmbedding"]
        words = {"[PAD]": 0, "[UNK]": 1, "red": 2, "green": 3, "blue": 4, "sky": 5}
        tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = Whitespace()
        tokenizer.save(str(folder / "tokenizer.json"))
        write_text_graph(folder / "text.onnx")
    (folder / "config.json").write_text(json.dumps(config))
    write_image_graph(folder / "image.onnx", ["embedding", "logits"] if embeds else ["logits"])
    samples = []
    for number in range(6):
        Image.fromarray(make_picture(number)).save(folder / "golden" / f"{number}.png")
        (output,) = answer(folder, image=[make_picture(number)])
        sample: dict[str, Any] = {"image": f"golden/{number}.png", "label": LABELS[number % 3]}
        if output.embedding is not None:
            sample["embedding"] = output.embedding.tolist()
        samples.append(sample)
    if embeds:
        (output,) = answer(folder, text=["blue sky"])
        assert output.embedding is not None
        samples.append({"text": "blue sky", "embedding": output.embedding.tolist()})
    golden = {"schema": 1, "min_cosine": "0.99999", "samples": samples}
    (folder / "golden" / "golden.json").write_text(json.dumps(golden))
    write_manifest(folder)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("export") / "source")


@pytest.fixture(scope="module")
def exported(source: Path) -> tuple[Path, Report]:
    into = source.parent / "int8"
    return into, export_artifact(source, into, Options(int8=True, limits=INT8_LIMITS))


def test_an_int8_export_is_an_artifact_that_loads_and_answers_alike(
    source: Path, exported: tuple[Path, Report]
) -> None:
    into, report = exported
    assert report.problems == []
    assert {name: graph.quantisation for name, graph in report.graphs.items()} == {
        "image": "static",
        "text": "dynamic",
    }
    verify_folder(into, report.digest)
    pictures = [make_picture(number) for number in range(10, 19)]
    for one, other in zip(
        answer(source, image=pictures, text=["red sky"]),
        answer(into, image=pictures, text=["red sky"]),
        strict=True,
    ):
        assert one.embedding is not None
        assert other.embedding is not None
        assert not np.array_equal(one.embedding, other.embedding), "it is quantised"
        assert float(one.embedding @ other.embedding) > 0.99
    graph = onnx.load(into / "image.onnx").graph
    weights = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    made_by = {node.output[0]: node.op_type for node in graph.node}
    assert {made_by[name] for name in weights} == {"DequantizeLinear"}


def test_an_export_says_what_it_was_made_of_and_keeps_the_space(
    source: Path, exported: tuple[Path, Report]
) -> None:
    into, report = exported
    before, after = (json.loads((one / "config.json").read_text()) for one in (source, into))
    assert after.pop("made_from") == {"digest": report.source_digest, "precision": "int8"}
    assert after.pop("model") == {}
    assert after == before


def test_its_golden_samples_are_the_sources_and_ask_what_int8_can_give(
    source: Path, exported: tuple[Path, Report]
) -> None:
    into, report = exported
    before, after = (
        json.loads((one / "golden" / "golden.json").read_text()) for one in (source, into)
    )
    assert after["samples"] == before["samples"]
    assert after["min_cosine"] == report.golden_min_cosine
    assert 0.9 < float(after["min_cosine"]) < float(before["min_cosine"])
    assert report.golden_min_cosine_source == "0.99999"


def test_a_classifier_without_embeddings_is_held_to_its_labels(tmp_path: Path) -> None:
    source = make_artifact(tmp_path / "source", embeds=False)
    report = export_artifact(source, tmp_path / "into", Options(int8=True, limits=INT8_LIMITS))
    parity = report.graphs["image"].parity
    assert (report.problems, parity.cosine_of, parity.agreement) == ([], "scores", 1.0)
    (output,) = answer(tmp_path / "into", image=[make_picture(1)])
    assert output.embedding is None
    assert output.scores is not None
    assert LABELS[int(output.scores.argmax())] == "green"


def test_graphs_are_copied_where_no_int8_is_asked_for(source: Path, tmp_path: Path) -> None:
    report = export_artifact(source, tmp_path / "into", Options())
    assert report.problems == []
    assert report.graphs["image"].parity.cosine_min > 0.999999
    for name in ("image.onnx", "text.onnx", "tokenizer.json"):
        assert (tmp_path / "into" / name).read_bytes() == (source / name).read_bytes()


def test_an_export_that_is_not_good_enough_leaves_nothing(source: Path, tmp_path: Path) -> None:
    options = Options(int8=True, limits=Limits(min_cosine=0.9999999, min_agreement=1.0))
    report = export_artifact(source, tmp_path / "into", options)
    assert len(report.problems) == 2
    assert "--min-cosine" in report.problems[0]
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_would_not_become_ready_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the limit of the golden samples had not been lowered.
    monkeypatch.setattr(exporter, "lower_golden", lambda before, after: ("0.99999", "0.99999"))
    report = export_artifact(source, tmp_path / "into", Options(int8=True, limits=INT8_LIMITS))
    (problem,) = report.problems
    assert "would not become ready: golden sample" in problem
    assert list(tmp_path.iterdir()) == []


def spoil_file(folder: Path) -> None:
    path = folder / "image.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def drop_pictures(folder: Path) -> None:
    (folder / "golden" / "golden.json").unlink()
    write_manifest(folder)


def drop_graph(folder: Path) -> None:
    (folder / "image.onnx").unlink()
    write_manifest(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(spoil_file, "image.onnx: sha256 is", id="not what its manifest says"),
        pytest.param(drop_pictures, "--images", id="nothing to compare on"),
        pytest.param(drop_graph, "neither image.onnx nor weights", id="nothing to export"),
        pytest.param(
            lambda folder: (folder / "config.json").unlink(), "config.json", id="no config"
        ),
    ],
)
def test_what_can_not_be_exported_is_refused(change: Any, words: str, tmp_path: Path) -> None:
    source = make_artifact(tmp_path / "source", embeds=False)
    change(source)
    with pytest.raises(ExportError, match=words):
        export_artifact(source, tmp_path / "into", Options(int8=True))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_folder_that_has_something_is_never_written_to(source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("dear")
    with pytest.raises(ExportError, match="is there already"):
        export_artifact(source, tmp_path, Options())
    assert (tmp_path / "mine").read_text() == "dear"


@pytest.mark.parametrize(
    ("count", "calibrate", "calibrated", "compared", "shared"),
    [
        pytest.param(6, 256, 6, 6, True, id="few do both"),
        pytest.param(100, 256, 50, 50, False, id="at most half"),
        pytest.param(1000, 256, 256, 744, False, id="the rest is compared"),
    ],
)
def test_pictures_are_divided(
    count: int, calibrate: int, calibrated: int, compared: int, shared: bool
) -> None:
    pictures = [Picture(str(number), np.full(1, number % 256, np.uint8)) for number in range(count)]
    samples = divide(pictures, calibrate, [])
    assert (len(samples.calibration), len(samples.pictures)) == (calibrated, compared)
    assert samples.is_shared is shared


def test_pictures_of_a_folder_come_with_their_labels(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        Image.fromarray(make_picture(0)).save(tmp_path / name)
    (tmp_path / "labels.jsonl").write_text('{"image":"b.png","label":"red","caption":"x"}\n')
    pictures = read_pictures(tmp_path, PLAN)
    assert [(one.name, one.label) for one in pictures] == [("a.png", ""), ("b.png", "red")]
    assert pictures[0].pixels.shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        pytest.param("readme.txt", b"", "no .jpg", id="no picture"),
        pytest.param("a.png", b"no picture", "a.png", id="a broken picture"),
        pytest.param("labels.jsonl", b"red\n", "'image' .* and 'label'", id="labels of no shape"),
    ],
)
def test_a_folder_that_can_not_be_used_is_named(
    name: str, content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ExportError, match=words):
        read_pictures(tmp_path, PLAN)


def test_the_arithmetic_of_a_comparison() -> None:
    one = Answers(
        embeddings=np.asarray([[1, 0], [0, 1]], np.float32),
        scores=np.asarray([[0.9, 0.1], [0.6, 0.4]], np.float32),
    )
    other = Answers(
        embeddings=np.asarray([[1, 0], [0.6, 0.8]], np.float32),
        scores=np.asarray([[0.8, 0.2], [0.4, 0.6]], np.float32),
    )
    parity = compare(one, other, ["cat", "dog"], ["cat", "dog"])
    assert parity.cosine_min == pytest.approx(0.8)
    assert parity.cosine_mean == pytest.approx(0.9)
    assert (parity.agreement, parity.accuracy_source, parity.accuracy_export) == (0.5, 0.5, 1.0)
    unknown = compare(one, other, ["cat", "dog"], ["", "dog"])
    assert (unknown.labelled, unknown.accuracy_source) == (1, 0.0)


def make_graph(cosine: float, agreement: float | None, cosine_of: str = "embeddings") -> Graph:
    parity = Parity(100, cosine_of, cosine, 0.999, agreement, 0, None, None)
    return Graph("static", parity, 4096, 1024, Latency(2, 20), Latency(1, 10))


@pytest.mark.parametrize(
    ("graph", "count"),
    [
        pytest.param(make_graph(0.99, 0.97), 0, id="just good enough"),
        pytest.param(make_graph(0.9899, 0.97), 1, id="an embedding too far off"),
        pytest.param(make_graph(0.99, 0.96), 1, id="too many other labels"),
        pytest.param(make_graph(float("nan"), 0.97), 1, id="no number"),
        pytest.param(make_graph(0.5, 0.97, "scores"), 0, id="scores are held to by labels"),
        pytest.param(make_graph(0.99, None), 0, id="no labels at all"),
    ],
)
def test_what_counts_as_good_enough(graph: Graph, count: int) -> None:
    assert len(find_problems({"image": graph}, INT8_LIMITS)) == count


def test_the_command_prints_a_table_and_json(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    into = tmp_path / "into"
    code = main(["export", str(source), str(into), "--int8", "--report", str(report)])
    said = capsys.readouterr()
    assert code == 0
    figures = json.loads(said.out.splitlines()[-1])
    assert figures == json.loads(report.read_text())
    assert figures["is_shared"] is True
    assert "compared on 6 (image) and 4 (text), the same as calibrated on" in said.err
    assert figures["digest"] in said.err


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        pytest.param(["--dynamic"], 2, "add --int8", id="a way to quantise, but no INT8"),
        pytest.param(["--int8", "--calibrate", "0"], 2, "no number of pictures", id="none"),
        pytest.param(["--int8", "--min-cosine", "1.1"], 3, "no export: image", id="too far off"),
        pytest.param(["--images", "/nowhere"], 3, "no .jpg", id="no pictures"),
    ],
)
def test_the_command_says_why_there_is_no_export(
    source: Path,
    tmp_path: Path,
    options: list[str],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["export", str(source), str(tmp_path / "into"), *options]) == code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "into").exists()


_WITHOUT = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
"""


def run_without(
    missing: set[str], program: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """A Python that can't import `missing`, as in an image that lacks them."""
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT.format(missing=missing) + program, *arguments],
        env={"PYTHONPATH": "inference"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_int8_artifact_is_served_without_torch(exported: tuple[Path, Report]) -> None:
    """What the `cpu` image lacks must not be missed: the server's modules, load, warm-up, answers."""
    program = """
import sluice_inference.server
from sluice_inference.models.onnx_backend import OnnxBackend
from sluice_inference.settings import read_settings

backend = OnnxBackend(read_settings({"MODEL_PATH": sys.argv[1], "DEVICE": "cpu"}).model)
print(backend.load().labels)
backend.warmup()
"""
    missing = {"torch", "transformers", "safetensors", "onnx", "onnxscript"}
    done = run_without(missing, program, str(exported[0]))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tuple(LABELS)}\n"


def test_an_image_without_the_packages_says_what_to_do(source: Path, tmp_path: Path) -> None:
    program = "from sluice_inference.__main__ import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["export", str(source), str(tmp_path / "into"), "--int8"]
    done = run_without({"torch", "onnx"}, program, *arguments)
    assert done.returncode == 3
    assert "needs the Python package onnx" in done.stderr
    assert "sluice[inference-export]" in done.stderr
