"""The export: one folder in, one folder out, and nothing left behind when it isn't good enough.

Responsible for the order of the steps and for every file of the new artifact. Knows no graph from inside
(`graphs`, `quantise`) and measures nothing (`trial`).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice_inference.artifact.config import ArtifactConfig, read_config
from sluice_inference.artifact.errors import ArtifactError
from sluice_inference.artifact.manifest import MANIFEST, compute_digest, verify_folder
from sluice_inference.artifact.push import write_manifest
from sluice_inference.errors import LoadError
from sluice_inference.export.errors import ExportError
from sluice_inference.export.report import Limits, Report, find_problems
from sluice_inference.export.samples import Samples, divide, read_golden, read_pictures
from sluice_inference.export.trial import (
    IMAGE,
    TEXT,
    check_ready,
    compare_served,
    explain_missing,
    lower_golden,
    make_settings,
    open_served,
    write_json,
)
from sluice_inference.models.artifact_model import make_plan

# What the export may lose unless it is told: INT8, and float32 that another library computes.
INT8_LIMITS = Limits(min_cosine=0.99, min_agreement=0.97)
FLOAT_LIMITS = Limits(min_cosine=0.9999, min_agreement=0.999)
# What a text graph is held to its source by where neither golden samples nor labels bring a text.
_TEXTS = ("pizza", "a photo of two red apples", "an olive left of a tomato, on a wooden table")
_TOKENIZERS = ("tokenizer.json", "hf/tokenizer.json")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How to export: on at most `calibrate` pictures of the folder `images`, the others being compared.

    Without a folder the golden samples' pictures do both.
    """

    int8: bool = False
    dynamic: bool = False
    calibrate: int = 256
    images: Path | None = None
    limits: Limits = FLOAT_LIMITS


def export_artifact(
    source: Path,
    into: Path,
    options: Options,
    *,
    samples: Samples | None = None,
    say: Say = lambda line: None,
) -> Report:
    """Make the artifact `into` of the artifact `source`; `samples` stand for those that options name.

    Nothing is written where the report has problems. Raises ExportError where there can't be a report.
    """
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise ExportError(f"{into}: is there already; name a folder that is new or empty")
    try:
        config = read_config(source)
        digest = _check_source(source)
    except (LoadError, ArtifactError) as error:
        raise ExportError(str(error)) from error
    samples = samples or _find_samples(source, config, options)
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{into.name}-", dir=into.parent) as scratch:
        made = Path(scratch) / "made"
        _copy_files(source, made)
        floats, facts = _find_graphs(source, config, Path(scratch) / "float", say)
        quantisation = _write_graphs(floats, made, options, samples, say)
        _write_config(source, made, facts, digest, options)
        report = _judge(source, made, config, options, samples, quantisation, digest, say)
        if not report.problems:
            if into.exists():
                into.rmdir()
            made.rename(into)
    return report


def _check_source(source: Path) -> str:
    """The source's digest, "" where it has no manifest. What is not what its manifest says is refused."""
    path = source / MANIFEST
    if not path.is_file():
        return ""
    digest = compute_digest(path.read_bytes())
    verify_folder(source, digest)
    return digest


def _find_samples(source: Path, config: ArtifactConfig, options: Options) -> Samples:
    plan = make_plan(config)
    pictures, texts = read_golden(source, plan)
    if options.images is not None:
        pictures = read_pictures(options.images, plan)
    if not pictures:
        raise ExportError(
            f"{source}: no golden sample has a picture, so there is nothing to hold the export to; "
            "name a folder of pictures (--images)"
        )
    if config.text is not None:
        texts = list(dict.fromkeys([*texts, *config.labels])) or list(_TEXTS)
    is_static = options.int8 and not options.dynamic
    return divide(pictures, options.calibrate if is_static else 0, texts)


def _copy_files(source: Path, made: Path) -> None:
    """Everything of the new folder that an export does not change."""
    made.mkdir()
    for name in _TOKENIZERS:
        if (source / name).is_file():
            shutil.copyfile(source / name, made / "tokenizer.json")
            break
    if (source / "golden").is_dir():
        shutil.copytree(source / "golden", made / "golden", copy_function=shutil.copyfile)


def _find_graphs(
    source: Path, config: ArtifactConfig, scratch: Path, say: Say
) -> tuple[Path, dict[str, Any]]:
    """The folder that has float32 graphs, the source or one that is made now; and facts they can't say."""
    if (source / IMAGE).is_file():
        return source, {}
    if not any(source.rglob("*.safetensors")):
        raise ExportError(
            f"{source}: neither {IMAGE} nor weights in Safetensors are in this folder"
        )
    try:
        from sluice_inference.export.graphs import write_graphs
        from sluice_inference.export.networks import load_network
    except ImportError as error:
        raise explain_missing(error) from error
    say(f"writing graphs of {config.architecture}")
    scratch.mkdir()
    loaded = load_network(make_settings(source), config)
    write_graphs(loaded.entrances, scratch)
    facts = {"logit_scale": loaded.logit_scale, "logit_bias": loaded.logit_bias}
    return scratch, {name: value for name, value in facts.items() if value}


def _write_graphs(
    floats: Path, made: Path, options: Options, samples: Samples, say: Say
) -> dict[str, str]:
    """Write the new folder's graphs; returns how each was quantised, by file name."""
    names = [name for name in (IMAGE, TEXT) if (floats / name).is_file()]
    if not options.int8:
        for name in names:
            shutil.copyfile(floats / name, made / name)
        return dict.fromkeys(names, "none")
    try:
        from sluice_inference.export.quantise import quantise_dynamic, quantise_static
    except ImportError as error:
        raise explain_missing(error) from error
    chosen = {}
    for name in names:
        chosen[name] = "dynamic" if options.dynamic or name == TEXT else "static"
        say(f"quantising {name}, {chosen[name]}")
        if chosen[name] == "dynamic":
            quantise_dynamic(floats / name, made / name)
        else:
            quantise_static(floats / name, made / name, samples.calibration)
    return chosen


def _write_config(
    source: Path, made: Path, facts: dict[str, Any], digest: str, options: Options
) -> None:
    """The source's config, with what this was made from."""
    config = json.loads((source / "config.json").read_bytes())
    config["model"] = {**config.get("model", {}), **facts}
    config["made_from"] = {"digest": digest, "precision": "int8" if options.int8 else "float32"}
    write_json(made / "config.json", config)


def _judge(
    source: Path,
    made: Path,
    config: ArtifactConfig,
    options: Options,
    samples: Samples,
    quantisation: dict[str, str],
    digest: str,
    say: Say,
) -> Report:
    """Hold the new folder to the source; where they agree it gets its manifest and has to load."""
    say(f"comparing on {len(samples.pictures)} pictures and {len(samples.texts)} texts")
    with open_served(source) as before, open_served(made) as after:
        graphs = compare_served(before, after, samples, quantisation)
        asked, said = lower_golden(before, after)
    problems = find_problems(graphs, options.limits)
    written = ""
    if not problems:
        written = write_manifest(made)
        problems = check_ready(made, written)
    return Report(
        architecture=config.architecture,
        source_digest=digest,
        digest=written,
        limits=options.limits,
        graphs=graphs,
        calibrated_on=len(samples.calibration) if "static" in quantisation.values() else 0,
        is_shared=samples.is_shared,
        golden_min_cosine=said,
        golden_min_cosine_source=asked,
        problems=problems,
    )
