"""Fallbacks as clients meet them: real server processes, models that fail, stall or never load."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.test_inference_drain import (
    find_port,
    make_jpeg,
    start_server,
    wait_until,
)
from tests.integration.test_inference_faults import end

BIG = {"MODEL_NAME": "big", "MODEL_VERSION": "2.0.0", "DRAIN_LINGER_S": "0", "FAKE_LATENCY_MS": "5"}
SMALL = {
    "FALLBACK_MODEL_PATH": "/small",
    "FALLBACK_BACKEND": "fake",
    "FALLBACK_MODEL_NAME": "small",
    "FALLBACK_MODEL_VERSION": "1.4.0",
    "FALLBACK_FAKE_LATENCY_MS": "2",
}
JPEG = make_jpeg()


@asynccontextmanager
async def serve(
    folder: Path, *settings: dict[str, str], path: str = "/ready", **env: str
) -> AsyncIterator[tuple[httpx.AsyncClient, asyncio.subprocess.Process, int]]:
    """A server process and a client of it; ended by SIGTERM."""
    port, merged = find_port(), dict(BIG)
    for one in (*settings, env):
        merged |= one
    process = await start_server(port, folder / f"{port}.log", path=path, **merged)
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=20, trust_env=False
        ) as client:
            yield client, process, port
    finally:
        await end(process)


async def classify(client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    media = {"content-type": "image/jpeg"}
    return await client.post("/classify", content=JPEG, headers=media | headers)


async def ask_many(client: httpx.AsyncClient, count: int, at_once: int) -> list[httpx.Response]:
    """`count` requests by `at_once` clients that each wait for their answer."""
    places = asyncio.Semaphore(at_once)

    async def ask() -> httpx.Response:
        async with places:
            return await classify(client)

    return await asyncio.gather(*(ask() for _ in range(count)))


def read_report(folder: Path) -> str:
    """What the only server of a test left as its last words."""
    (report,) = folder.glob("*.report")
    return report.read_text()


def count_models(answers: list[httpx.Response]) -> Counter[tuple[int, str, str]]:
    return Counter(
        (
            one.status_code,
            one.headers.get("sluice-model", ""),
            one.headers.get("sluice-fallback-reason", ""),
        )
        for one in answers
    )


async def read_status(client: httpx.AsyncClient) -> dict[str, Any]:
    said: dict[str, Any] = (await client.get("/status")).json()
    return said


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        pytest.param({"FAKE_FAIL_AFTER_INPUTS": "40"}, "Error", id="it answers 500 from now on"),
        pytest.param({"FAKE_ERROR_PERCENT": "30"}, "Error", id="it fails now and then"),
        pytest.param(
            {
                "FAKE_LATENCY_MS": "4000",
                "REQUEST_TIMEOUT_MS": "1500",
                "FALLBACK_RESERVE_MS": "1000",
            },
            "Timeout",
            id="it is too slow",
        ),
        pytest.param(
            {"FAKE_LATENCY_MS": "50", "BATCH_SIZE": "1", "QUEUE_MAX_ITEMS": "4"},
            "Overload",
            id="it has too much to do",
        ),
    ],
)
async def test_under_load_a_model_that_fails_costs_nobody_an_answer(
    tmp_path: Path, env: dict[str, str], reason: str
) -> None:
    async with serve(tmp_path, SMALL, env) as (client, _, _):
        answers = await ask_many(client, 200, 24)
        samples = (await client.get("/metrics/rollout")).text.splitlines()
    seen = count_models(answers)
    fallen = 200 - seen[(200, "big/2.0.0", "")]
    assert {status for status, _, _ in seen} == {200}, seen
    assert seen[(200, "small/1.4.0", reason)] > 0, seen
    assert f'sluice_inference_answers_total{{outcome="fallback"}} {fallen}' in samples


async def test_a_breaker_closes_again_when_the_model_is_well(tmp_path: Path) -> None:
    """The model is too slow only while much is asked of it."""
    env = {
        "FAKE_LATENCY_MS": "300",
        "BATCH_SIZE": "1",
        "REQUEST_TIMEOUT_MS": "800",
        "FALLBACK_RESERVE_MS": "400",
        "FALLBACK_ON": "Error,Timeout",
        "BREAKER_OPEN_S": "0.5",
    }
    async with serve(tmp_path, SMALL, env) as (client, _, _):
        answers = await ask_many(client, 100, 24)
        assert {one.status_code for one in answers} == {200}

        async def is_back() -> bool:
            answer = await classify(client)
            assert answer.status_code == 200
            return answer.headers["sluice-model"] == "big/2.0.0"

        await wait_until(is_back, 20)
        said = await read_status(client)
    assert said["fallback_active"] is False
    assert said["models"][0]["breaker"] == "closed"


async def test_a_model_that_never_loads_is_stood_in_for_and_the_pod_says_so(tmp_path: Path) -> None:
    missing = {"BACKEND": "onnx", "MODEL_PATH": str(tmp_path / "nothing")}
    slow = {"FALLBACK_FAKE_LOAD_SECONDS": "0.5"}
    async with serve(tmp_path, SMALL, missing, slow) as (client, process, _):
        answers = await ask_many(client, 60, 12)
        shadow = await classify(client, **{"sluice-shadow": "true"})
        health = await client.get("/health")
        said = await read_status(client)
        metrics = (await client.get("/metrics")).text
        process.send_signal(signal.SIGTERM)
        code = await process.wait()
    assert count_models(answers) == {(200, "small/1.4.0", "Error"): 60}
    assert shadow.status_code == 503
    assert shadow.headers["retry-after"] == "1"
    assert health.status_code == 200
    assert (said["state"], said["fallback_active"]) == ("ready", True)
    primary, fallback = said["models"]
    assert (primary["state"], fallback["state"]) == ("failed", "ready")
    assert "nothing" in primary["fault"]
    assert "sluice_inference_fallback_active 1.0" in metrics
    assert code == 0


async def test_without_a_fallback_that_loads_the_version_is_to_blame(tmp_path: Path) -> None:
    missing = {"BACKEND": "onnx", "MODEL_PATH": str(tmp_path / "nothing")}
    also = {"FALLBACK_BACKEND": "onnx", "FALLBACK_MODEL_PATH": str(tmp_path / "neither")}
    with pytest.raises(AssertionError, match="the server ended"):
        async with serve(tmp_path, SMALL, missing, also):
            pass
    assert '"LoadFailed"' in read_report(tmp_path)


async def test_another_server_stands_in_and_its_end_is_no_harm_to_a_model_that_works(
    tmp_path: Path,
) -> None:
    small = {"MODEL_NAME": "small", "MODEL_VERSION": "1.4.0", "SLUICE_ROLE": "fallback"}
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(serve(tmp_path, small))
        url = f"http://127.0.0.1:{other[2]}"
        erring = await stack.enter_async_context(
            serve(tmp_path, FALLBACK_URL=url, FAKE_ERROR_PERCENT="30")
        )
        well = await stack.enter_async_context(serve(tmp_path, FALLBACK_URL=url))
        for client, _, _ in (erring, well):
            await wait_until(make_is_reached(client), 20)
        before = await ask_many(erring[0], 200, 16)
        other[1].kill()
        await other[1].wait()
        after = await ask_many(well[0], 100, 16)
        alone = await ask_many(erring[0], 60, 8)
    assert {one.status_code for one in before} == {200}
    assert count_models(before)[(200, "small/1.4.0", "Error")] > 20
    assert count_models(after) == {(200, "big/2.0.0", ""): 100}
    assert {one.status_code for one in alone} == {200, 500}, "its own errors, and no others"


async def test_a_server_is_ready_while_its_fallback_elsewhere_is_not_there(tmp_path: Path) -> None:
    async with serve(tmp_path, FALLBACK_URL=f"http://127.0.0.1:{find_port()}") as (client, _, _):
        answers = await ask_many(client, 20, 4)
        said = await read_status(client)
    assert count_models(answers) == {(200, "big/2.0.0", ""): 20}
    assert said["models"][1]["state"] == "unreachable"


async def test_a_model_that_never_loads_waits_for_the_other_server(tmp_path: Path) -> None:
    small = {"MODEL_NAME": "small", "MODEL_VERSION": "1.4.0"}
    async with serve(tmp_path, small) as (_, _, port):
        missing = {"BACKEND": "onnx", "MODEL_PATH": str(tmp_path / "nothing")}
        url = f"http://127.0.0.1:{port}"
        async with serve(tmp_path, missing, FALLBACK_URL=url) as (client, _, _):
            answers = await ask_many(client, 20, 4)
    assert count_models(answers) == {(200, "small/1.4.0", "Error"): 20}


async def test_two_servers_that_are_each_others_fallback_do_not_ask_in_circles(
    tmp_path: Path,
) -> None:
    ports = [find_port(), find_port()]
    async with AsyncExitStack() as stack:
        clients = []
        for own, other in (ports, ports[::-1]):
            env = {"FALLBACK_URL": f"http://127.0.0.1:{other}", "FAKE_ERROR_PERCENT": "100"}
            process = await start_server(own, tmp_path / f"{own}.log", **(BIG | env))
            stack.push_async_callback(end, process)
            client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{own}", trust_env=False)
            clients.append(await stack.enter_async_context(client))
        for client in clients:
            await wait_until(make_is_reached(client), 20)
        answers = [await classify(client) for client in clients for _ in range(3)]
        counts = [
            sum(
                float(line.split()[-1])
                for line in (await client.get("/metrics/rollout")).text.splitlines()
                if line.startswith("sluice_inference_answers_total")
            )
            for client in clients
        ]
    assert {one.status_code for one in answers} == {500}
    assert sum(counts) == 12, "each was asked once by its client and once by the other server"


def make_is_reached(client: httpx.AsyncClient) -> Callable[[], Any]:
    async def is_reached() -> bool:
        said = await read_status(client)
        return any(one["state"] == "reached" for one in said["models"])

    return is_reached


async def test_keys_share_two_models_as_the_percentage_says(tmp_path: Path) -> None:
    env = {
        "AB_MODEL_PATH": "/second",
        "AB_BACKEND": "fake",
        "AB_MODEL_NAME": "big",
        "AB_MODEL_VERSION": "3.0.0",
        "AB_PERCENT": "25",
    }
    async with AsyncExitStack() as stack:
        replicas = [(await stack.enter_async_context(serve(tmp_path, env)))[0] for _ in range(2)]
        seen = []
        for key in range(200):
            both = [
                (await classify(one, **{"sluice-key": f"k{key}"})).headers["sluice-model"]
                for one in replicas
            ]
            assert both[0] == both[1], "replicas agree on every key"
            seen.append(both[0])
    # Binomial of 200 at 0.25: 20 to 85 is six standard deviations to either side.
    assert 20 <= Counter(seen)["big/3.0.0"] <= 85
