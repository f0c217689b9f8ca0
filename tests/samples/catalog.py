"""The sample manifests of this folder, and which constraint of the schema each invalid one breaks.

An invalid sample begins with comments: `# field:` and `# message:`, once for every cause that the API
server reports, and `# breaks:`, the schema path and the constraint. With two documents the first is
the object as it is and the second the refused update.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sluice.api.generate import make_schema
from sluice.api.kinds import KINDS

FOLDER = Path(__file__).parent
_BOUNDS = ("enum", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems")

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """One file: what it holds and, when invalid, what the user is told."""

    name: str
    documents: tuple[Manifest, ...]
    causes: tuple[tuple[str, str], ...]
    breaks: str

    @property
    def kind(self) -> str:
        """The kind of its objects."""
        return str(self.documents[0]["kind"])


def load_samples(folder: str) -> list[Sample]:
    """The samples in `valid` or `invalid`, by name."""
    return [_read(path) for path in sorted((FOLDER / folder).glob("*.yaml"))]


def _read(path: Path) -> Sample:
    text = path.read_text(encoding="utf-8")
    comments = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]
    said = [line.partition(": ")[::2] for line in comments]
    fields = [value for key, value in said if key == "field"]
    messages = [value for key, value in said if key == "message"]
    return Sample(
        path.stem,
        tuple(yaml.safe_load_all(text)),
        tuple(zip(fields, messages, strict=True)),
        next((value for key, value in said if key == "breaks"), ""),
    )


def list_constraints(kind: str) -> set[str]:
    """Every constraint on what a user writes, in the words of `# breaks:`."""
    schema = make_schema(next(item for item in KINDS if item.kind == kind))
    del schema["properties"]["status"]
    out = {f"{path}: {what}" for path, node in _walk(schema, "") for what in _name(node)}
    # The envelope's own: apiVersion and kind pick the schema, so nothing can break them.
    return out - {": required spec"}


def _walk(node: Manifest, path: str) -> Iterator[tuple[str, Manifest]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from _walk(child, f"{path}.{name}" if path else name)
    if "items" in node:
        yield from _walk(node["items"], f"{path}[]")
    if "additionalProperties" in node:
        yield from _walk(node["additionalProperties"], f"{path}[*]")


def _name(node: Manifest) -> Iterator[str]:
    yield from (f"required {name}" for name in node.get("required", []))
    yield from (bound for bound in (*_BOUNDS, "maxProperties") if bound in node)
    if node.get("x-kubernetes-list-type") in ("set", "map"):
        yield "duplicate"
    for rule in node.get("x-kubernetes-validations", []):
        # A field with one possible value cannot be changed to another.
        if "architecture is immutable" not in rule["message"]:
            yield f"rule {rule['message']}"
