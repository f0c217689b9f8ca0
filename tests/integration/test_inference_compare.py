"""The comparer between two real servers: it agrees, disagrees, sheds, waits for nobody, and ends well."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.test_inference_drain import (
    ROOT,
    Connection,
    find_port,
    make_jpeg,
    start_server,
    wait_until,
)


@dataclass
class Stage:
    """A comparer and the two servers it asks."""

    port: int
    stable: int
    candidate: int
    process: asyncio.subprocess.Process

    async def mirror(self, body: bytes, path: str = "/predict") -> int:
        connection = await Connection.open(self.port)
        status, answer = await connection.ask("POST", path, body)
        connection.close()
        assert answer == b""
        return status

    async def read(self, port: int | None = None, path: str = "/metrics") -> dict[str, float]:
        """Samples of a process by name and labels' values; those that are 0 are left out."""
        connection = await Connection.open(port or self.port)
        status, body = await connection.ask("GET", path)
        connection.close()
        assert status == 200
        return {
            " ".join([one.name, *one.labels.values()]): one.value
            for family in text_string_to_metric_families(body.decode())
            for one in family.samples
            if one.value
        }

    async def wait_outcomes(self, **wanted: int) -> None:
        """Wait until exactly these outcomes are counted."""

        async def are_counted() -> bool:
            found = await self.read(path="/metrics/rollout")
            prefix = "sluice_compare_answers_total "
            counted = {
                name.removeprefix(prefix): int(value)
                for name, value in found.items()
                if name.startswith(prefix)
            }
            return counted == wanted

        await wait_until(are_counted, 15)


async def end(process: asyncio.subprocess.Process) -> int:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    return await asyncio.wait_for(process.wait(), 30)


async def start_comparer(
    port: int, log: Path, stable: int, candidate: int, **env: str
) -> asyncio.subprocess.Process:
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sluice_inference", "compare"),
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT / "inference"),
                "PORT": str(port),
                "COMPARE_STABLE_URL": f"http://127.0.0.1:{stable}",
                "COMPARE_CANDIDATE_URL": f"http://127.0.0.1:{candidate}",
                "DRAIN_LINGER_S": "0",
                "TERMINATION_LOG": str(log.with_suffix(".report")),
                **env,
            },
            stderr=output,
        )

    async def is_ready() -> bool:
        assert process.returncode is None, f"the comparer ended; see {log}"
        try:
            connection = await Connection.open(port)
            status, _ = await connection.ask("GET", "/ready")
        except OSError:
            return False
        connection.close()
        return status == 200

    await wait_until(is_ready, 30)
    return process


@asynccontextmanager
async def set_stage(
    folder: Path,
    *,
    stable: dict[str, str] | None = None,
    candidate: dict[str, str] | None = None,
    **env: str,
) -> AsyncIterator[Stage]:
    ports = [find_port() for _ in range(3)]
    async with AsyncExitStack() as stack:
        for name, port, own in (
            ("stable", ports[0], stable or {}),
            ("candidate", ports[1], candidate or {}),
        ):
            settings = {"EMBEDDING_SPACE": "pizza-1", "DRAIN_LINGER_S": "0", **own}
            process = await start_server(port, folder / name, **settings)
            stack.push_async_callback(end, process)
        comparer = await start_comparer(ports[2], folder / "compare", *ports[:2], **env)
        stack.push_async_callback(end, comparer)
        yield Stage(ports[2], ports[0], ports[1], comparer)


async def test_two_equal_servers_agree_and_their_clients_answers_stay_uncounted(
    tmp_path: Path,
) -> None:
    async with set_stage(tmp_path) as stage:
        assert [await stage.mirror(make_jpeg()) for _ in range(5)] == [202] * 5
        await stage.wait_outcomes(agree=5)
        counts = await stage.read()
        small = await stage.read(path="/metrics/rollout")
        tracks = [await stage.read(port) for port in (stage.stable, stage.candidate)]
    assert counts["sluice_compare_top1_total true"] == 5
    assert counts["sluice_compare_top_k_overlap_sum"] == 5
    assert counts["sluice_compare_asked_total 200 stable"] == 5
    assert counts["sluice_compare_asked_total 200 candidate"] == 5
    assert small["sluice_compare_cosine_count"] == 5
    assert small["sluice_compare_cosine_bucket 1.0"] == 5
    assert "sluice_compare_cosine_bucket 0.9999" not in small
    for track in tracks:
        assert track["sluice_inference_requests_total 200 unnamed/0.0.0 /predict"] == 5
        assert not [name for name in track if name.startswith("sluice_inference_answers_total")]


@pytest.mark.parametrize(
    ("stable", "candidate", "outcome"),
    [
        pytest.param({}, {"FAKE_LABEL": "other"}, "disagree", id="another label"),
        pytest.param({}, {"EMBEDDING_SPACE": "pizza-2"}, "agree", id="labels, other space"),
        pytest.param({}, {"FAKE_DIMENSION": "4"}, "disagree", id="another vector, same space"),
        pytest.param({}, {"FAKE_ERROR_PERCENT": "100"}, "candidate_failed", id="500s"),
        pytest.param({"FAKE_ERROR_PERCENT": "100"}, {}, "stable_failed", id="stable's 500s"),
        pytest.param(
            {"FAKE_ERROR_PERCENT": "100"},
            {"FAKE_ERROR_PERCENT": "100"},
            "both_failed",
            id="500s of both",
        ),
        pytest.param(
            {}, {"MODEL_TASKS": "TextEmbedding"}, "candidate_failed", id="a task that is gone"
        ),
        pytest.param({}, {"FAKE_LATENCY_MS": "3000"}, "candidate_failed", id="too slow"),
    ],
)
async def test_what_differs_is_counted(
    tmp_path: Path, stable: dict[str, str], candidate: dict[str, str], outcome: str
) -> None:
    async with set_stage(
        tmp_path, stable=stable, candidate=candidate, COMPARE_TIMEOUT_S="1.5"
    ) as stage:
        assert await stage.mirror(make_jpeg()) == 202
        await stage.wait_outcomes(**{outcome: 1})


async def test_what_both_refuse_is_skipped(tmp_path: Path) -> None:
    async with set_stage(tmp_path) as stage:
        await stage.mirror(b"not a picture")
        await stage.wait_outcomes(skipped=1)
        counts = await stage.read()
    assert counts["sluice_compare_skipped_total refused"] == 1


async def test_the_mirror_waits_for_nobody_and_what_is_too_much_is_shed(tmp_path: Path) -> None:
    slow = {"FAKE_LATENCY_MS": "1500"}
    async with set_stage(tmp_path, stable=slow, candidate=slow, COMPARE_MAX_IN_FLIGHT="2") as stage:
        codes = [await stage.mirror(make_jpeg()) for _ in range(5)]
        during = await stage.read()
        await stage.wait_outcomes(agree=2, skipped=3)
    assert codes == [202] * 5
    assert during["sluice_compare_in_flight"] == 2
    assert during["sluice_compare_skipped_total shed"] == 3
    assert "sluice_compare_answers_total agree" not in during, "it was answered before they were"


async def test_a_comparison_under_way_is_finished_before_the_exit(tmp_path: Path) -> None:
    slow = {"FAKE_LATENCY_MS": "1200"}
    async with set_stage(tmp_path, stable=slow, candidate=slow) as stage:
        assert await stage.mirror(make_jpeg()) == 202
        started = time.monotonic()
        code = await end(stage.process)
        took = time.monotonic() - started
        tracks = [await stage.read(port) for port in (stage.stable, stage.candidate)]
    assert code == 0
    assert took < 10
    for track in tracks:
        assert track["sluice_inference_requests_total 200 unnamed/0.0.0 /predict"] == 1


async def test_a_candidate_that_is_not_there_has_failed(tmp_path: Path) -> None:
    port, stable = find_port(), find_port()
    server = await start_server(stable, tmp_path / "stable", DRAIN_LINGER_S="0")
    comparer = await start_comparer(port, tmp_path / "compare", stable, find_port())
    stage = Stage(port, stable, 0, comparer)
    try:
        await stage.mirror(make_jpeg())
        await stage.wait_outcomes(candidate_failed=1)
        asked = await stage.read()
    finally:
        await end(comparer)
        await end(server)
    assert asked["sluice_compare_asked_total 0 candidate"] == 1


async def test_without_two_places_to_ask_it_says_so_and_ends(tmp_path: Path) -> None:
    report = tmp_path / "report"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sluice_inference", "compare"),
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "inference"),
            "COMPARE_STABLE_URL": "http://127.0.0.1:1",
            "TERMINATION_LOG": str(report),
        },
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await asyncio.wait_for(process.wait(), 30) == 3
    said = json.loads(report.read_text())
    assert (said["outcome"], said["permanent"]) == ("Failed", True)
    assert said["message"].startswith("COMPARE_CANDIDATE_URL: ''")
