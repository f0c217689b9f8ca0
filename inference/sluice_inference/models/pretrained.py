"""Opens a public model's folder (`hf/` of an artifact) through transformers.

From this disk alone, safetensors alone, and never code that the folder brings. The folder was verified
before; what is refused here is what would be served wrongly: weights that are missing, or a model of
another family than config.json says.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from sluice_inference.errors import LoadError
from sluice_inference.logs import log

_MAX_BYTES = 16 * 1024 * 1024
# Settings in a config.json of transformers that would load more packages, or weights of another kind.
_REFUSED = ("quantization_config", "_attn_implementation_internal", "auto_map")


def read_family(folder: Path) -> str:
    """`model_type` of the folder's own config.json. Raises LoadError for what isn't served."""
    path = folder / "config.json"
    try:
        config = msgspec.json.decode(path.read_bytes()[: _MAX_BYTES + 1], type=dict[str, Any])
    except OSError as error:
        raise LoadError(f"hf/config.json can't be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise LoadError(f"hf/config.json: {error}") from error
    if found := [key for key in _REFUSED if config.get(key)]:
        raise LoadError(
            f"hf/config.json: {', '.join(found)} is refused; plain weights of a family that "
            "transformers itself has are served, and no code of the artifact is run"
        )
    return str(config.get("model_type", ""))


def import_transformers() -> Any:
    """The library, told to stay off the network and to draw no progress bars into the log."""
    # Read by the hub's client when it is imported; everything here says local_files_only besides.
    os.environ["HF_HUB_OFFLINE"] = "1"
    import transformers

    logging: Any = transformers.utils.logging  # without types
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return transformers


def load_network(kind: str, folder: Path, dtype: Any, device: str) -> Any:
    """The network of transformers' class `kind` with the folder's weights, in eval mode on `device`.

    Raises LoadError: weights that can't be read, or don't cover the network.
    """
    transformers = import_transformers()
    try:
        network, info = getattr(transformers, kind).from_pretrained(
            str(folder),
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:
        text = " ".join(str(error).split())[:500]
        raise LoadError(f"hf/: {kind} can't be loaded: {text}") from error
    if missing := sorted(info["missing_keys"]):
        raise LoadError(
            f"hf/: {len(missing)} weights of {kind} are missing, {', '.join(missing[:3])} among them; "
            "they would be random. Publish a checkpoint that has all of them"
        )
    if unused := sorted(info["unexpected_keys"]):
        log(
            "warning", "weights that the network has no use for", count=len(unused), first=unused[0]
        )
    return network.to(device).eval()


def load_processor(folder: Path) -> Any:
    """The folder's processor (pictures and text to a network's inputs). Raises LoadError."""
    transformers = import_transformers()
    try:
        return transformers.AutoProcessor.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, backend="pil"
        )
    except Exception as error:
        text = " ".join(str(error).split())[:500]
        raise LoadError(f"hf/: the processor can't be loaded: {text}") from error
