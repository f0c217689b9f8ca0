"""Reads text in pictures with the models of the rapidocr package (PP-OCR: find lines, turn them, read them).

The three graphs lie in the artifact, so the version's digest covers them; the package gives the code around
them and is asked for nothing from the network.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sluice_inference.artifact.config import ArtifactConfig, ImageConfig
from sluice_inference.artifact.push import write_manifest
from sluice_inference.errors import LoadError

# What the package calls its parts, and what the artifact calls the files.
_FILES = {"Det": "find.onnx", "Cls": "turn.onnx", "Rec": "read.onnx"}
_PARTS = {"Det": "_det_", "Cls": "_cls_", "Rec": "_rec_"}
_EDGE = 2000  # the longest side that the package itself works on


class TextReader:
    """The three graphs, loaded."""

    def __init__(self, folder: Path, threads: int) -> None:
        if missing := [name for name in _FILES.values() if not (folder / name).is_file()]:
            raise LoadError(f"{', '.join(missing)} missing; a TextReader needs {_list_files()}")
        params: dict[str, Any] = {
            f"{part}.model_path": str(folder / name) for part, name in _FILES.items()
        }
        params |= {
            "Global.log_level": "error",
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
        package = _import_package()
        try:
            self._read = package.RapidOCR(params=params)
            self.read(np.full((64, 256, 3), 255, dtype=np.uint8))  # it loads when it is first asked
        except Exception as error:
            raise LoadError(f"TextReader: the graphs can't be loaded: {error}") from error

    def read(self, pixels: NDArray[np.uint8]) -> str:
        """The lines of text in a picture uint8 [H,W,3] RGB, from top to bottom; "" where there are none."""
        found = self._read(np.ascontiguousarray(pixels[:, :, ::-1]))  # the package takes BGR
        return "\n".join(getattr(found, "txts", None) or ())


def adopt_text_reader(into: Path) -> str:
    """Make an artifact of the models that the package ships, and return its digest. Raises LoadError."""
    models = Path(_import_package().__file__).parent / "models"
    into.mkdir(parents=True, exist_ok=True)
    for part, name in _FILES.items():
        found = sorted(path for path in models.glob("*.onnx") if _PARTS[part] in path.name)
        if len(found) != 1:
            raise LoadError(
                f"the rapidocr package has {len(found)} models for {name}; 1 is expected"
            )
        shutil.copyfile(found[0], into / name)
    config = ArtifactConfig(
        schema=1,
        architecture="TextReader",
        image=ImageConfig(224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), fit="keep", edge=_EDGE),
        tasks=("OCR",),
    )
    (into / "config.json").write_bytes(msgspec.json.format(msgspec.json.encode(config)) + b"\n")
    return write_manifest(into)


def _import_package() -> Any:
    try:
        import rapidocr
    except ImportError as error:
        raise LoadError(
            "architecture TextReader needs the rapidocr package; install the extra inference-ocr"
        ) from error
    return rapidocr


def _list_files() -> str:
    return ", ".join(_FILES.values())
