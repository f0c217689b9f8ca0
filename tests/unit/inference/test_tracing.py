"""The spans of a request, as the library's own in-memory exporter got them."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from sluice_inference.errors import SettingsError
from sluice_inference.settings import read_settings
from sluice_inference.tracing import SpanMaker, Visit, make_tracer
from sluice_inference.trail import Span, Trail

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01"


def record(
    *, headers: dict[str, str] | None = None, status: int = 200, percent: float = 100
) -> list[ReadableSpan]:
    """The spans of one request of 1 s that was decoded for 100 ms and waited for 200 ms."""
    exporter = InMemorySpanExporter()
    maker = SpanMaker(SimpleSpanProcessor(exporter), percent, {"service.name": "pizza"})
    end = time.monotonic()
    start = end - 1
    trail = Trail(
        [Span("decode", start + 0.1, start + 0.2), Span("queue", start + 0.2, start + 0.4)]
    )
    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    maker.record(Visit("/embed", "POST", status, "id-1", raw, trail, start, end))
    maker.close()
    return list(exporter.get_finished_spans())


def test_a_request_is_a_span_with_its_stages_below() -> None:
    decode, queue, request = record()
    assert (request.name, request.kind) == ("POST /embed", SpanKind.SERVER)
    assert [one.name for one in (decode, queue)] == ["decode", "queue"]
    assert request.context is not None
    for one in (decode, queue):
        assert one.parent is not None
        assert one.parent.span_id == request.context.span_id
    seconds = [
        ((one.end_time or 0) - (one.start_time or 0)) / 1e9 for one in (decode, queue, request)
    ]
    assert seconds == pytest.approx([0.1, 0.2, 1.0], abs=1e-6)
    assert abs((request.end_time or 0) / 1e9 - time.time()) < 60
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/embed",
        "http.response.status_code": 200,
        "sluice.request_id": "id-1",
        "sluice.cache": "",
    }
    assert request.resource.attributes["service.name"] == "pizza"


def test_the_clients_trace_is_taken_over() -> None:
    *_, request = record(headers={"traceparent": SAMPLED, "tracestate": "a=b"})
    assert request.context is not None
    assert request.parent is not None
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == PARENT
    assert request.context.trace_state.get("a") == "b"


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(f"00-{'0' * 32}-{PARENT}-01", id="no trace"),
        pytest.param(f"00-{TRACE}-{'0' * 16}-01", id="no span"),
        pytest.param(f"ff-{TRACE}-{PARENT}-01", id="no such version"),
        pytest.param(f"00-{TRACE.upper()}-{PARENT}-01", id="capitals"),
        pytest.param("nonsense", id="nonsense"),
        pytest.param("", id="empty"),
    ],
)
def test_what_is_no_traceparent_begins_a_trace_of_its_own(given: str) -> None:
    *_, request = record(headers={"traceparent": given})
    assert request.parent is None


def test_the_client_decides_and_else_the_share() -> None:
    assert record(headers={"traceparent": SAMPLED[:-1] + "0"}) == []
    assert record(percent=0) == []
    assert len(record(headers={"traceparent": SAMPLED}, percent=0)) == 3


@pytest.mark.parametrize(
    ("status", "code"),
    [
        pytest.param(200, StatusCode.UNSET, id="answered"),
        pytest.param(422, StatusCode.UNSET, id="the client's fault"),
        pytest.param(503, StatusCode.ERROR, id="ours"),
    ],
)
def test_only_our_own_failures_are_errors(status: int, code: StatusCode) -> None:
    *_, request = record(status=status)
    assert request.status.status_code is code


def test_without_a_collector_there_are_no_traces() -> None:
    assert make_tracer(read_settings({}).monitoring, {}) is None


def test_an_image_without_the_libraries_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    settings = read_settings({"OTLP_ENDPOINT": "http://collector:4318/"}).monitoring
    with pytest.raises(SettingsError, match="extra inference-tracing"):
        make_tracer(settings, {})


def test_a_collector_that_never_answers_does_not_hold_up_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = {"OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        tracer = make_tracer(read_settings({**env, "TRACE_PERCENT": "100"}).monitoring, {})
        assert tracer is not None
        now = time.monotonic()
        tracer.record(Visit("/embed", "POST", 200, "id-1", [], Trail(), now - 1, now))
        tracer.close()
        took_s = time.monotonic() - now
        silent.settimeout(5)
        silent.accept()[0].close()  # it was asked
    assert took_s < 4


def test_nothing_of_it_is_imported_where_it_is_off() -> None:
    code = (
        "import sys; import sluice_inference.server; "
        "print([name for name in sys.modules if name.partition('.')[0] in "
        "('opentelemetry', 'redis', 'pynvml', 'torch')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
