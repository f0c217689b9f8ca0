"""GET /openapi.json, and /docs: the same as a page for people. Needs nothing from outside."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sluice_inference.http.catalogue import JSON, Content, Entry, Purpose
from sluice_inference.http.context import Context
from sluice_inference.http.dialects import NATIVE
from sluice_inference.http.openapi import make_document

_HTML = "text/html"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1d2733}
h1{font-size:1.6rem} h2{font-size:1.2rem;margin-top:2rem;border-bottom:1px solid #cfd8e3}
summary{cursor:pointer;padding:.35rem 0} code,pre{font:14px/1.45 ui-monospace,monospace}
pre{background:#f4f6f9;padding:.75rem;overflow-x:auto;border-radius:4px}
.method{display:inline-block;min-width:3.5rem;font-weight:600} .says{color:#51606f}
@media (prefers-color-scheme:dark){body{background:#12171d;color:#d8e0e8}pre{background:#1b232c}
h2{border-color:#33404d}.says{color:#9badbe}}
"""


def make_routes(context: Context, entries: Sequence[Entry]) -> list[Entry]:
    """The two routes; the document tells of `entries` and of themselves."""
    model = context.settings.model
    names = {"model": model.name, "version": model.version}

    @cache
    def get_document() -> dict[str, Any]:
        return make_document([*entries, *made], names)

    async def openapi(_: Request) -> Response:
        return Response(msgspec.json.encode(get_document()), media_type=JSON)

    async def docs(_: Request) -> Response:
        page = make_page(get_document())
        headers = {"content-security-policy": _POLICY}
        return Response(page, headers=headers, media_type=_HTML)

    about = Purpose.ABOUT
    document = (Content(JSON, {"type": "object"}),)
    page = (Content(_HTML, {"type": "string"}),)
    made = [
        Entry("GET", "/openapi.json", about, NATIVE, openapi, "This document", gives=document),
        Entry("GET", "/docs", about, NATIVE, docs, "This document, for people", gives=page),
    ]
    return made


def make_page(document: dict[str, Any]) -> str:
    """The document as HTML, by dialect. What it shows is escaped."""
    by_tag: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            part = _make_operation(method, path, operation)
            by_tag.setdefault(operation["tags"][0], []).append(part)
    sections = "".join(f"<h2>{escape(tag)}</h2>{''.join(parts)}" for tag, parts in by_tag.items())
    info = document["info"]
    title = escape(f"{info['title']} {info['version']}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style><h1>{title}</h1>'
        f'<p>{escape(info["description"])}</p><p>Machines read <a href="/openapi.json">'
        f"openapi.json</a>.</p>{sections}<h2>Types</h2>"
        f"{''.join(_make_type(*one) for one in document['components']['schemas'].items())}</html>"
    )


def _make_operation(method: str, path: str, operation: dict[str, Any]) -> str:
    shown = {
        key: operation[key]
        for key in ("parameters", "requestBody", "responses")
        if key in operation
    }
    ended = " <em>deprecated</em>" if operation.get("deprecated") else ""
    return (
        f'<details><summary><span class="method">{escape(method.upper())}</span>'
        f'<code>{escape(path)}</code>{ended} <span class="says">{escape(operation["summary"])}</span>'
        f"</summary>{_make_code(shown)}</details>"
    )


def _make_type(name: str, schema: dict[str, Any]) -> str:
    return f"<details><summary><code>{escape(name)}</code></summary>{_make_code(schema)}</details>"


def _make_code(value: Any) -> str:
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    return f"<pre>{escape(text)}</pre>"
