"""Turns pydantic's JSON schema into what a CRD accepts: a structural OpenAPI v3 schema.

It also holds every kind to the house rules (all bounded, all described), so that a field that
breaks them cannot be generated. It must not know a kind.
"""

import copy
from types import UnionType
from typing import get_args, get_origin

from pydantic import BaseModel

from sluice.api.base import JSON, OPTIONAL_MARK, VALIDATIONS, Model, Rule

_ORDER = (
    "description",
    "type",
    "format",
    "default",
    "enum",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "required",
    "properties",
    "items",
    "additionalProperties",
    VALIDATIONS,
)
_INT32 = 2**31 - 1


class SchemaError(Exception):
    """A model that no CRD can be made of: names the field and what is missing."""


def make_structural(model: type[Model], path: str) -> JSON:
    """The structural schema of `model`; `path` (such as `spec`) is where it hangs, for messages.

    Raises SchemaError for a field without description or bound, or that OpenAPI v3 can't say.
    """
    schema = model.model_json_schema(by_alias=True, mode="validation")
    out = _convert(schema, schema.get("$defs", {}), path, described=True)
    _add_immutability(out, model, path)
    return out


def _convert(node: JSON, defs: JSON, path: str, *, described: bool) -> JSON:
    node = _resolve(node, defs)
    out: JSON = {key: copy.deepcopy(node[key]) for key in _ORDER if key in node}
    if out.get("default", 0) in (None, []):
        del out["default"]  # null is no default, and an empty list means the same as none
    if "const" in node:
        out["enum"] = [node["const"]]
    if described and not out.get("description"):
        raise SchemaError(f"{path}: has no description")
    if "x-kubernetes-int-or-string" in out:
        return out
    match out.get("type"):
        case "object":
            _convert_object(out, node, defs, path)
        case "array":
            _convert_array(out, node, defs, path)
        case "string":
            if not {"maxLength", "enum"} & out.keys():
                raise SchemaError(f"{path}: a string needs a maxLength or an enum")
            if out.get("format") == "date-time":
                del out["maxLength"]  # the form bounds it, and format is the clearer message
        case "integer":
            if not {"minimum", "maximum"} <= out.keys():
                raise SchemaError(f"{path}: an integer needs a minimum and a maximum")
            out["format"] = "int32" if out["maximum"] <= _INT32 else "int64"
        case "boolean":
            pass
        case other:
            raise SchemaError(f"{path}: type {other!r} has no structural form")
    return {key: out[key] for key in _ORDER if key in out}


def _convert_object(out: JSON, node: JSON, defs: JSON, path: str) -> None:
    properties = node.get("properties", {})
    more = node.get("additionalProperties", False)
    out.pop("additionalProperties", None)
    if more is True or (isinstance(more, dict) and not more):
        out["x-kubernetes-preserve-unknown-fields"] = True
    elif isinstance(more, dict):
        if "maxProperties" not in out:
            raise SchemaError(f"{path}: a map needs a maxProperties")
        out["additionalProperties"] = _convert(more, defs, f"{path}[*]", described=False)
        if not out["additionalProperties"].get("description"):
            out["additionalProperties"].pop("description", None)
    if properties:
        out["properties"] = {
            name: _convert(child, defs, f"{path}.{name}", described=True)
            for name, child in properties.items()
        }
        optional = {name for name, child in properties.items() if child.get(OPTIONAL_MARK)}
        out["required"] = [name for name in node.get("required", []) if name not in optional]
        if not out["required"]:
            del out["required"]


def _convert_array(out: JSON, node: JSON, defs: JSON, path: str) -> None:
    for needed in ("maxItems", "x-kubernetes-list-type"):
        if needed not in out:
            raise SchemaError(f"{path}: a list needs {needed}")
    if "items" not in node:
        raise SchemaError(f"{path}: a list needs a type of items")
    out["items"] = _convert(node["items"], defs, f"{path}[]", described=False)


def _resolve(node: JSON, defs: JSON) -> JSON:
    """Inlines `$ref` and folds `X | None` into X; what stands beside the reference wins."""
    beside = {k: v for k, v in node.items() if k not in ("$ref", "anyOf", "title")}
    if "$ref" in node:
        base = _resolve(defs[node["$ref"].rpartition("/")[2]], defs)
    elif "anyOf" in node:
        choices = [choice for choice in node["anyOf"] if choice != {"type": "null"}]
        if len(choices) != 1:
            raise SchemaError(f"a union of {len(choices)} types has no structural form")
        base = _resolve(choices[0], defs)
    else:
        return beside
    rules = [*base.get(VALIDATIONS, []), *beside.get(VALIDATIONS, [])]
    merged = base | beside
    return merged | {VALIDATIONS: rules} if rules else merged


def _add_immutability(schema: JSON, model: type[Model], path: str) -> None:
    """Transition rules for every field of a model that updates may not change, down to the leaves.

    A leaf is compared in its parent's rules: there a field that comes or goes is seen too.
    """
    if model.mutable is not None:
        _freeze(schema, model, path, model.mutable)


def _freeze(schema: JSON, model: type[Model], path: str, exempt: frozenset[str]) -> None:
    rules = schema.setdefault(VALIDATIONS, [])
    for name, child in schema["properties"].items():
        if name in exempt:
            continue
        nested = _nested_model(model, name)
        always = name in schema.get("required", []) or "default" in child
        same = f"self.{name} == oldSelf.{name}"
        if nested is not None:
            _freeze(child, nested, f"{path}.{name}", frozenset())
            if always:
                continue
            rule = f"has(self.{name}) == has(oldSelf.{name})"
        elif always:
            rule = same
        else:
            rule = f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || {same})"
        message = f"{path}.{name} is immutable: register a new version instead"
        rules.append(Rule(rule, message, field_path=f".{name}").to_dict())


def _nested_model(model: type[BaseModel], alias: str) -> type[Model] | None:
    """The model class of a field that is one object; None for lists, maps and scalars."""
    annotation = next(f.annotation for f in model.model_fields.values() if alias == f.alias)
    options = get_args(annotation) if get_origin(annotation) is UnionType else (annotation,)
    return next((c for c in options if isinstance(c, type) and issubclass(c, Model)), None)


def walk_fields(schema: JSON, path: str = "") -> list[tuple[str, JSON]]:
    """Every property below `schema` with its path (`spec.env[].name`), parents before children."""
    out: list[tuple[str, JSON]] = []
    for name, child in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        out.append((here, child))
        out += walk_fields(child, here)
        if "items" in child:
            out += walk_fields(child["items"], f"{here}[]")
    return out
