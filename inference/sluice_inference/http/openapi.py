"""The OpenAPI 3.1 document of the routes, made from their table and the types of their bodies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from sluice_inference import __version__
from sluice_inference.http.catalogue import JSON, Content, Entry

_TEMPLATE = "#/components/schemas/{name}"
_ABOUT = (
    "One model behind several protocols: our own JSON, the Open Inference Protocol (v2), KServe v1 and "
    "OpenAI's embeddings. docs/inference.md has the whole story."
)


def make_document(entries: Sequence[Entry], names: Mapping[str, str]) -> dict[str, Any]:
    """The document as plain values. Every entry is in it, under its path and method.

    `names` are what the parameters in paths can be here: the model's name and version.
    """
    types = list(dict.fromkeys(_list_types(entries)))
    schemas, components = msgspec.json.schema_components(types, ref_template=_TEMPLATE)
    by_type = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for entry in entries:
        paths[entry.path] = {entry.method.lower(): _make_operation(entry, by_type, names)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sluice model server", "version": __version__, "description": _ABOUT},
        "paths": paths,
        "components": {"schemas": components},
    }


def _list_types(entries: Sequence[Entry]) -> Iterator[type]:
    for entry in entries:
        yield entry.dialect.error
        for content in (*entry.takes, *entry.gives):
            yield from content.parts
            if isinstance(content.schema, type):
                yield content.schema


def _make_operation(
    entry: Entry, by_type: dict[type, dict[str, Any]], names: Mapping[str, str]
) -> dict[str, Any]:
    error = {JSON: {"schema": by_type[entry.dialect.error]}}
    operation: dict[str, Any] = {
        "operationId": _make_id(entry),
        "summary": entry.summary,
        "tags": [entry.dialect.name],
        "responses": {
            "200": {"description": "The answer", "content": _describe(entry.gives, by_type)},
            "default": {"description": "What went wrong", "content": error},
        },
    }
    if not entry.is_for_clients:
        # A probe that fails says so in the form in which it says yes.
        failing = {"description": "Not now", "content": _describe(entry.gives, by_type)}
        operation["responses"]["503"] = failing
    if any(name == b"deprecation" for name, _ in entry.headers):
        operation["deprecated"] = True
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "enum": [names[name]]},
        }
        for name in entry.parameters
    ]
    parameters += [
        {"name": one.name, "in": "query", "description": one.says, "schema": one.schema}
        for one in entry.query
    ]
    if parameters:
        operation["parameters"] = parameters
    if entry.takes:
        operation["requestBody"] = {"required": True, "content": _describe(entry.takes, by_type)}
    return operation


def _make_id(entry: Entry) -> str:
    words = "".join(sign if sign.isalnum() else " " for sign in entry.path).split()
    return "_".join([entry.method.lower(), *words]).lower()


def _describe(contents: Sequence[Content], by_type: dict[type, dict[str, Any]]) -> dict[str, Any]:
    return {
        content.media_type: {
            "schema": by_type[content.schema]
            if isinstance(content.schema, type)
            else content.schema
        }
        for content in contents
    }
