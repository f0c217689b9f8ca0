"""What an answer and /metrics say of the way a request took: cache, times, quality, predictions."""

from __future__ import annotations

import asyncio
import base64
import io
import re
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from sluice_inference.gpu_memory import make_meter
from sluice_inference.loop_lag import LoopLag
from sluice_inference.metrics import Metrics, measure_memory
from sluice_inference.tracing import Visit
from tests.serving import RAW, make_jpeg, serve

JPEG = make_jpeg()


def make_noise(seed: int = 1, side: int = 64) -> bytes:
    """A picture that is sharp, well lit and unlike that of another seed."""
    spots = np.random.default_rng(seed).integers(40, 216, (16, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(spots).resize((side, side), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def read_samples(text: str) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name.removeprefix("sluice_inference_"): float(value) for name, _, value in lines}


async def read_metrics(client: httpx.AsyncClient) -> dict[str, float]:
    return read_samples((await client.get("/metrics")).text)


async def test_a_second_answer_comes_from_the_cache_and_says_so() -> None:
    async with serve(CACHE_SIZE_MB="1") as served, served.connect() as client:
        first = await client.post("/predict", content=JPEG, headers=RAW)
        second = await client.post("/predict", content=JPEG, headers=RAW)
        texts = {"inputs": [{"image": base64.b64encode(JPEG).decode()}, {"text": "olive"}]}
        third = await client.post("/embed", json=texts)
        fourth = await client.post("/classify", content=JPEG, headers=RAW)
        samples = await read_metrics(client)
    said = [each.headers["sluice-cache"] for each in (first, second, third, fourth)]
    assert said == ["miss", "hit", "partial", "hit"]
    assert first.content == second.content
    assert samples['cache_hits_total{tier="memory"}'] == 3
    assert samples["cache_misses_total"] == 2
    assert samples["cache_items"] == 2
    assert samples["cache_bytes"] > 2 * 8 * 4
    assert samples['inference_total{model="pizza/1.0.0"}'] == 2


@pytest.mark.parametrize(
    ("headers", "computed"),
    [
        pytest.param({"cache-control": "no-cache"}, [2, 2], id="no-cache"),
        pytest.param({"cache-control": "max-age=0, No-Store"}, [2, 2], id="no-store"),
        pytest.param({"sluice-shadow": "true"}, [2, 2], id="a shadow request judges the model"),
        pytest.param({"cache-control": "max-age=60"}, [1, 1], id="anything else"),
    ],
)
async def test_who_wants_a_new_answer_gets_one(
    headers: dict[str, str], computed: list[int]
) -> None:
    counts = []
    async with serve(CACHE_SIZE_MB="1") as served, served.connect() as client:
        await client.post("/embed", content=JPEG, headers=RAW)
        for each in (headers, {}):
            answer = await client.post("/embed", content=JPEG, headers={**RAW, **each})
            assert answer.status_code == 200
            counts.append((await read_metrics(client))['inference_total{model="pizza/1.0.0"}'])
    assert counts == computed


async def test_without_a_cache_nothing_is_said_of_one() -> None:
    async with serve() as served, served.connect() as client:
        answer = await client.post("/embed", content=JPEG, headers=RAW)
    assert "sluice-cache" not in answer.headers


async def test_server_timing_has_every_stage_in_its_order() -> None:
    async with serve(FAKE_LATENCY_MS="20") as served, served.connect() as client:
        answer = await client.post("/embed", content=JPEG, headers=RAW)
        probe = await client.get("/ready")
        failed = await client.post("/embed", content=b"no", headers=RAW)
    found = re.findall(r"(\w+);dur=([0-9.]+)", answer.headers["server-timing"])
    milliseconds = {stage: float(value) for stage, value in found}
    assert list(milliseconds) == ["read", "decode", "queue", "run", "encode"]
    assert 20 <= milliseconds["run"] < 2000
    assert "server-timing" not in probe.headers
    assert "decode;dur=" in failed.headers["server-timing"]


@pytest.mark.parametrize(
    "env",
    [
        pytest.param({"MONITORING_ENABLED": "false"}, id="not monitored"),
    ],
)
async def test_what_is_not_to_be_told_is_not_told(env: dict[str, str]) -> None:
    async with serve(**env) as served, served.connect() as client:
        answer = await client.post("/embed", content=JPEG, headers=RAW)
        metrics = (await client.get("/metrics")).text
        rollout = (await client.get("/metrics/rollout")).text
    assert "server-timing" not in answer.headers
    assert "requests_total" not in metrics
    assert 'sluice_inference_answers_total{outcome="ok"} 1' in metrics.splitlines()
    assert metrics == rollout


async def test_the_metrics_have_the_names_that_were_asked_for() -> None:
    async with serve() as served, served.connect() as client:
        await client.post("/classify", content=JPEG, headers=RAW)
        await client.post("/classify", content=b"no", headers=RAW)
        samples = await read_metrics(client)
    model = 'model="pizza/1.0.0"'
    assert samples[f'requests_total{{code="200",{model},route="/classify"}}'] == 1
    assert samples[f'request_duration_seconds_count{{{model},route="/classify"}}'] == 2
    assert samples[f"inference_total{{{model}}}"] == 1
    assert samples[f"inference_duration_seconds_count{{{model}}}"] == 1
    assert samples["active_connections"] == 0
    assert samples['queue_items{model="pizza/1.0.0"}'] == 0
    assert samples["memory_usage_bytes"] > 1 << 20
    assert samples[f'predictions_total{{label="fake",{model}}}'] == 1
    assert samples[f"prediction_confidence_count{{{model}}}"] == 1
    assert not any(name.startswith(("gpu_memory", "request_seconds")) for name in samples)


@pytest.mark.parametrize(
    ("env", "status", "type_"),
    [
        pytest.param({"FAKE_ERROR_PERCENT": "100"}, 500, "MODEL_FAILED", id="it fails"),
        pytest.param(
            {"FAKE_LATENCY_MS": "2000", "REQUEST_TIMEOUT_MS": "100"}, 504, "TIMEOUT", id="too late"
        ),
    ],
)
async def test_a_models_errors_are_counted_by_type(
    env: dict[str, str], status: int, type_: str
) -> None:
    async with serve(**env) as served, served.connect() as client:
        answer = await client.post("/embed", content=JPEG, headers=RAW)
        samples = await read_metrics(client)
    assert answer.status_code == status
    assert samples[f'model_errors_total{{model="pizza/1.0.0",type="{type_}"}}'] == 1


async def test_quality_is_told_where_it_is_asked_for() -> None:
    images = [make_noise(1), JPEG, make_noise(1), make_noise(2)]
    files = [("files", ("x", data)) for data in (*images, b"no")]
    async with serve(QUALITY_MIN_SIDE="32") as served, served.connect() as client:
        first = await client.post("/predict?quality=true", files=files)
        again = await client.post("/classify?quality=true", content=images[3], headers=RAW)
        silent = await client.post("/classify", content=images[3], headers=RAW)
        samples = await read_metrics(client)
    reports = first.json()["quality"]
    assert [each and each["issues"] for each in reports] == [[], ["blur"], [], [], None]
    assert [each and each["duplicate_of"] for each in reports] == [None, None, 0, None, None]
    assert [each and each["is_recent"] for each in reports] == [False] * 4 + [None]
    assert (reports[1]["width"], reports[1]["height"]) == (64, 64)
    assert 0.4 < reports[1]["exposure"]["brightness"] < 0.6
    assert again.json()["quality"][0]["is_recent"] is True
    assert "quality" not in silent.json()
    assert samples['quality_issues_total{issue="blur"}'] == 1


async def test_quality_that_is_enforced_is_refused_with_the_numbers() -> None:
    env = {"QUALITY_ENFORCE": "blur,size", "QUALITY_MIN_SIDE": "100"}
    async with serve(**env) as served, served.connect() as client:
        one = await client.post("/classify", content=make_noise(), headers=RAW)
        files = [("files", ("x", data)) for data in (make_noise(1, 128), JPEG)]
        two = await client.post("/classify", files=files)
        samples = await read_metrics(client)
    error = one.json()["error"]
    assert (one.status_code, error["code"]) == (422, "IMAGE_QUALITY")
    assert "64 x 64 pixels" in error["message"]
    assert "blur" not in error["message"]
    good, bad = two.json()["predictions"]
    assert (two.status_code, good["label"], bad["error"]["code"]) == (200, "fake", "IMAGE_QUALITY")
    assert samples['inference_total{model="pizza/1.0.0"}'] == 1, "what is refused is not run"


async def test_a_kept_answer_tells_the_quality_too() -> None:
    async with serve(CACHE_SIZE_MB="1") as served, served.connect() as client:
        said: list[Any] = []
        for query in ("", "?quality=true", "?quality=true"):
            answer = await client.post(f"/embed{query}", content=make_noise(), headers=RAW)
            said.append((answer.headers["sluice-cache"], answer.json().get("quality")))
    assert [cache for cache, _ in said] == ["miss", "miss", "hit"]
    assert said[0][1] is None
    assert said[1][1][0]["sharpness"] == said[2][1][0]["sharpness"] > 0


async def test_quality_is_true_or_false() -> None:
    async with serve() as served, served.connect() as client:
        answer = await client.post("/embed?quality=yes", content=JPEG, headers=RAW)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "QUERY_INVALID")


async def test_every_request_of_a_client_is_traced_and_no_probe() -> None:
    class Notebook:
        def __init__(self) -> None:
            self.visits: list[Visit] = []

        def record(self, visit: Visit) -> None:
            self.visits.append(visit)

        def close(self) -> None:
            raise NotImplementedError

    notebook = Notebook()
    async with serve() as served, served.connect() as client:
        served.context.tracer = notebook
        await client.post("/embed", content=JPEG, headers={**RAW, "x-request-id": "id-1"})
        await client.post("/nothing")
        await client.get("/ready")
    first, second = notebook.visits
    assert (first.method, first.route, first.status, first.request_id) == (
        *("POST", "/embed"),
        *(200, "id-1"),
    )
    assert [span.stage for span in sorted(first.trail.spans, key=lambda span: span.start)] == [
        *("read", "decode", "queue"),
        *("run", "encode"),
    ]
    assert all(first.start <= span.start <= span.end <= first.end for span in first.trail.spans)
    assert (second.route, second.status, second.trail.spans) == ("other", 404, [])


class FakeNvml:
    """Two GPUs, as the library's documentation has them; fails as told."""

    class NVMLError(Exception):
        pass

    def __init__(self, fails: Iterator[bool], count: int = 2) -> None:
        self._fails = fails
        self._count = count

    def nvmlInit(self) -> None:  # noqa: N802 - the library's name
        if next(self._fails):
            raise self.NVMLError

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self._count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, device: int) -> Any:  # noqa: N802
        if next(self._fails):
            raise self.NVMLError

        class Memory:
            used = 1000 + device

        return Memory


def test_the_memory_of_all_gpus_is_added_up() -> None:
    metrics = Metrics()
    measure = make_meter(FakeNvml(iter([False] * 9)))
    assert measure is not None
    metrics.show_gpu_memory(measure)
    assert read_samples(metrics.render().decode())["gpu_memory_usage_bytes"] == 2001


@pytest.mark.parametrize(
    ("fails", "count"),
    [
        pytest.param([True], 2, id="no driver"),
        pytest.param([False, True], 2, id="no right to ask"),
        pytest.param([False], 0, id="no GPU"),
    ],
)
def test_without_a_gpu_that_can_be_asked_there_is_no_metric(fails: list[bool], count: int) -> None:
    assert make_meter(FakeNvml(iter(fails), count)) is None


def test_a_gpu_that_is_lost_has_no_number() -> None:
    measure = make_meter(FakeNvml(iter([False, False, False, True])))
    assert measure is not None
    assert np.isnan(measure())


async def test_the_loop_is_late_where_it_was_held_up() -> None:
    class Seen(list[float]):
        def observe(self, seconds: float) -> None:
            self.append(seconds)

    seen = Seen()
    lag = LoopLag(seen)
    watching = asyncio.create_task(lag.watch(every_s=0.001))
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    held_until = loop.time() + 0.05
    while loop.time() < held_until:
        pass
    await asyncio.sleep(0.02)
    watching.cancel()
    assert 0.03 < seen[0] < 5
    assert lag.recent_s == max(seen[-8:])


def test_memory_is_what_the_kernel_says_or_else_the_peak(tmp_path: Any) -> None:
    statm = tmp_path / "statm"
    statm.write_text("900 25 3 4 0 6 0")
    assert measure_memory(statm) % 25 == 0
    assert measure_memory(tmp_path / "nothing") > 1 << 20
