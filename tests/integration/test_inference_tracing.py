"""Traces of a real server process, at a collector of the test's own and at one that is not there."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.integration.test_inference_drain import find_port, make_jpeg, start_server
from tests.integration.test_inference_faults import end

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {"content-type": "image/jpeg", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}


class Collector(ThreadingHTTPServer):
    """Keeps what is posted to /v1/traces."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[ExportTraceServiceRequest] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        assert self.path == "/v1/traces"
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


async def ask(port: int) -> int:
    async with httpx.AsyncClient(timeout=30) as client:
        answer = await client.post(
            f"http://127.0.0.1:{port}/embed", content=make_jpeg(), headers=HEADERS
        )
    return answer.status_code


async def test_the_spans_of_a_request_reach_the_collector(
    tmp_path: Path, collector: Collector
) -> None:
    port = find_port()
    process = await start_server(
        port,
        tmp_path / "log",
        OTLP_ENDPOINT=collector.url,
        SLUICE_SERVICE="pizza",
        DRAIN_LINGER_S="0",
    )
    try:
        assert await ask(port) == 200
    finally:
        code = await end(process)
    assert code == 0, "what is left to send is sent at the end"
    resources = [each for request in collector.requests for each in request.resource_spans]
    attributes = {one.key: one.value.string_value for one in resources[0].resource.attributes}
    spans = {
        span.name: span
        for resource in resources
        for scope in resource.scope_spans
        for span in scope.spans
    }
    assert attributes["service.name"] == "pizza"
    assert set(spans) == {"POST /embed", "read", "decode", "queue", "run", "encode"}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert spans["run"].parent_span_id == spans["POST /embed"].span_id


async def test_a_collector_that_is_not_there_costs_spans_and_no_requests(tmp_path: Path) -> None:
    port = find_port()
    process = await start_server(
        port, tmp_path / "log", OTLP_ENDPOINT="http://127.0.0.1:1", DRAIN_LINGER_S="0"
    )
    try:
        codes = [await ask(port) for _ in range(20)]
        started = asyncio.get_running_loop().time()
    finally:
        code = await end(process)
    assert (codes, code) == ([200] * 20, 0)
    assert asyncio.get_running_loop().time() - started < 15
