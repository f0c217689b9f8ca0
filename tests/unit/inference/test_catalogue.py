"""The table of routes: what it finds, what the OpenAPI document tells of it, how a version ends."""

from __future__ import annotations

import dataclasses
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from sluice_inference.http.app import make_catalogue
from sluice_inference.http.catalogue import Catalogue, Content, Entry, Purpose
from sluice_inference.http.dialects import NATIVE, OPENAI, V1, V2
from sluice_inference.http.openapi import make_document
from sluice_inference.http.routes_docs import make_page
from sluice_inference.http.versions import VERSIONS, ApiVersion, add_versions
from tests.unit.inference.test_http import JPEG, RAW, start

SERVED = {
    *("/embed", "/classify", "/predict", "/predict/batch", "/similarity"),
    *("/caption", "/vqa", "/ocr"),
}


async def answer(_: Request) -> Response:
    return Response("")


def entry(path: str, method: str = "GET") -> Entry:
    return Entry(method, path, Purpose.INFERENCE, NATIVE, answer, "A route")


@pytest.mark.parametrize(
    ("path", "found", "parameters"),
    [
        pytest.param("/a", "/a", {}, id="fixed"),
        pytest.param("/m/x", "/m/{model}", {"model": "x"}, id="a name"),
        pytest.param("/m/x:predict", "/m/{model}:predict", {"model": "x"}, id="a verb"),
        pytest.param("/m/x/y", None, None, id="a segment too many"),
        pytest.param("/m/", None, None, id="no name"),
        pytest.param("/a/", None, None, id="a slash at the end"),
        pytest.param("/m/x\n", "/m/{model}", {"model": "x\n"}, id="a line feed is part of a name"),
        pytest.param("", None, None, id="nothing"),
    ],
)
def test_a_path_finds_its_route(
    path: str, found: str | None, parameters: dict[str, str] | None
) -> None:
    match = Catalogue([entry("/a"), entry("/m/{model}"), entry("/m/{model}:predict")]).find(path)
    assert (match.entry.path if match.entry else None, match.parameters) == (found, parameters)


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        pytest.param("/nothing", NATIVE, id="ours"),
        pytest.param("/v2x", NATIVE, id="no v2"),
        pytest.param("/v2", V2, id="v2"),
        pytest.param("/v2/models", V2, id="under v2"),
        pytest.param("/v1/chat/completions", OPENAI, id="openai"),
        pytest.param("/v1/models/x:explain", V1, id="a verb of v1"),
    ],
)
def test_what_is_no_route_is_refused_in_the_dialect_it_looks_like(path: str, dialect: Any) -> None:
    assert Catalogue([]).find(path).dialect is dialect


async def test_a_wrong_method_is_told_the_right_one() -> None:
    async with start() as client:
        wrong = await client.get("/embed")
        head = await client.head("/health")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert head.status_code == 200


async def test_a_missing_route_names_those_there_are() -> None:
    async with start() as client:
        error = (await client.get("/nothing")).json()["error"]
    for path in SERVED:
        assert f"POST {path}," in error["message"]
    assert "/api/" not in error["message"]


async def test_the_document_has_every_route_and_no_other() -> None:
    async with start() as client:
        catalogue = make_catalogue(client.context)  # type: ignore[attr-defined]
        document = (await client.get("/openapi.json")).json()
    told = {
        (method.upper(), path) for path, methods in document["paths"].items() for method in methods
    }
    assert told == {(one.method, one.path) for one in catalogue.entries}
    assert len(catalogue.entries) == len({one.path for one in catalogue.entries})
    operations = [one for methods in document["paths"].values() for one in methods.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    assert document["openapi"].startswith("3.1")


def find_references(value: Any) -> set[str]:
    if isinstance(value, dict):
        found = {value["$ref"]} if "$ref" in value else set()
        return found.union(*(find_references(one) for one in value.values()))
    if isinstance(value, list):
        return set().union(*(find_references(one) for one in value))
    return set()


async def test_every_reference_of_the_document_leads_to_a_type() -> None:
    async with start() as client:
        document = (await client.get("/openapi.json")).json()
    types = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert find_references(document) <= types
    body = document["paths"]["/embed"]["post"]["requestBody"]["content"]
    assert set(body) == {
        *("application/json", "multipart/form-data"),
        *("image/jpeg", "image/png", "application/octet-stream"),
    }


class _Page(HTMLParser):
    """What a page would load, and what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "img", "iframe", "object"):
            self.loads.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


async def test_the_page_shows_every_route_and_loads_nothing() -> None:
    async with start() as client:
        answer = await client.get("/docs")
        paths = (await client.get("/openapi.json")).json()["paths"]
    page = _Page()
    page.feed(answer.text)
    assert page.loads == []
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for path in paths:
        assert path in page.text


def test_what_the_page_shows_is_escaped() -> None:
    evil = dataclasses.replace(
        entry("/x"),
        summary="<script>alert(1)</script>",
        gives=(Content("text/html", {"type": "<b>"}),),
    )
    page = make_page(make_document([evil], {}))
    assert "<script" not in page
    assert "<b>" not in page


async def test_our_own_routes_are_there_by_version_too() -> None:
    async with start() as client:
        catalogue = make_catalogue(client.context)  # type: ignore[attr-defined]
        plain = await client.post("/classify", content=JPEG, headers=RAW)
        versioned = await client.post("/api/v1/classify", content=JPEG, headers=RAW)
        samples = (await client.get("/metrics/rollout")).text
    assert plain.json() == versioned.json()
    assert not {"deprecation", "sunset", "link"} & set(versioned.headers)
    assert 'answers_total{outcome="ok"} 2' in samples
    own = {one.path for one in catalogue.entries if one.purpose is Purpose.INFERENCE}
    assert {f"/api/{VERSIONS[-1].name}{path}" for path in SERVED} <= own


ENDING = (
    ApiVersion(
        "v1",
        deprecated=datetime(2027, 1, 1, tzinfo=UTC),
        sunset=datetime(2027, 7, 1, 12, tzinfo=UTC),
    ),
    ApiVersion("v2"),
)


@pytest.mark.parametrize(
    ("path", "is_ending"),
    [
        pytest.param("/embed", False, id="without a version it is the last"),
        pytest.param("/api/v2/embed", False, id="the last"),
        pytest.param("/api/v1/embed", True, id="the one that ends"),
    ],
)
def test_a_version_that_ends_says_so(path: str, is_ending: bool) -> None:
    match = Catalogue(add_versions([entry("/embed", "POST")], ENDING)).find(path)
    assert match.entry is not None
    headers = {name.decode(): value.decode() for name, value in match.entry.headers}
    if not is_ending:
        assert headers == {}
        return
    assert headers["deprecation"] == "@1798761600"  # RFC 9745: a date, in Unix seconds
    assert headers["sunset"] == "Thu, 01 Jul 2027 12:00:00 GMT"  # RFC 8594: an HTTP date
    assert '</api/v2/embed>; rel="successor-version"' in headers["link"]
    assert re.search(r'</docs>; rel="deprecation"', headers["link"])


async def test_errors_of_a_version_that_ends_say_so_too() -> None:
    async with start(versions=ENDING) as client:
        refused = await client.post("/api/v1/embed", content=b"x", headers=RAW)
        wrong = await client.get("/api/v1/embed")
        document = (await client.get("/openapi.json")).json()
    assert refused.status_code == 415
    assert refused.headers["deprecation"] == wrong.headers["deprecation"] == "@1798761600"
    assert document["paths"]["/api/v1/embed"]["post"]["deprecated"] is True
    assert "deprecated" not in document["paths"]["/api/v2/embed"]["post"]
