"""What the server does for 200 clients of which some are broken or malicious: `make bench-abuse`.

A real server process with real decoding; the model is the test double with a real one's latency. For a
minute, of a hundred requests one is damaged, one is huge, and three clients hang up: in the middle of the
request, while it is worked on, when the answer begins. Then the server gets SIGTERM, under load and with
uploads under way. Last line of stdout: {"requests", "lost", "http_500", "rss_growth", …}; exit 1 unless all
goals are met.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.instance import clean_up_when_told_to_end
from benchmarks.serving.load import find_quantile
from benchmarks.serving.mischief import Act, Manner, Repertoire, judge
from benchmarks.serving.ours import start_ours
from benchmarks.serving.pictures import make_jpegs
from benchmarks.serving.process import ServerProcess
from benchmarks.serving.wire import Answer, Connection, make_get
from testbed.progress import Progress

TIMEOUT_S = 60.0
EXIT_S = 15.0
MOST_GROWTH = 1.1
MOST_REFUSED = 0.01  # of the good requests; a server that only refuses is none
_SAMPLE_S = 0.5
# After SIGTERM: how long new connections still come, as until endpoints are taken out everywhere.
_LATE_S = 2.0
_UPLOADS, _UPLOAD_S = 4, 3.0


@dataclass(slots=True)
class Tally:
    """What came of the requests."""

    requests: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    improper: Counter[str] = field(default_factory=Counter)
    statuses: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    hung_up: int = 0
    refused: int = 0  # good requests, in the proper way
    good_s: list[float] = field(default_factory=list)

    @property
    def http_500(self) -> int:
        """Answers that blame the server: 5xx, but for a refusal that is as it should be."""
        return sum(
            count
            for statuses in self.statuses.values()
            for status, count in statuses.items()
            if status.startswith("5") and status != "503"
        )

    @property
    def refused_share(self) -> float | None:
        """Of the good requests that were answered at all; None without any."""
        good = sum(self.statuses["good"].values())
        return round(self.refused / good, 4) if good else None

    def note(self, act: Act, answer: Answer, seconds: float) -> None:
        self.statuses[act.name][str(answer.status)] += 1
        if problem := judge(act, answer):
            self.improper[f"{act.name}: {problem}"] += 1
        elif act.name == "good" and answer.status != 200:
            self.refused += 1
        if act.name == "good" and answer.status == 200:
            self.good_s.append(seconds)


class Client:
    """One of the clients: one request after the other, on a connection it keeps while it can."""

    def __init__(self, port: int, repertoire: Repertoire, tally: Tally, seed: int) -> None:
        self._port = port
        self._repertoire = repertoire
        self._tally = tally
        self._random = random.Random(seed)
        self._connection: Connection | None = None
        self.may_connect = True

    async def work(self, until: float) -> None:
        """Until that moment, or until it has no connection and may open none."""
        while time.monotonic() < until:
            if not await self.act(self._repertoire.choose()):
                return
        if self._connection is not None:
            self._connection.hang_up()

    async def act(self, act: Act) -> bool:
        """One request in its manner; False where there is no connection to be had."""
        connection = self._connection
        if connection is None or not connection.is_open:
            if not self.may_connect:
                return False
            try:
                connection = self._connection = await Connection.open(self._port)
            except OSError as error:
                self._tally.requests += 1
                self._tally.lost[f"connect: {type(error).__name__}"] += 1
                await asyncio.sleep(0.1)
                return True
        if act.manner is not Manner.ASK:
            await self._leave(connection, act)
            return True
        self._tally.requests += 1
        began = time.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await connection.ask(act.request)
        except (OSError, ValueError, TimeoutError) as error:
            self._tally.lost[f"{act.name}: {type(error).__name__} {error}"[:120]] += 1
            connection.hang_up(rudely=True)
        else:
            self._tally.note(act, answer, time.monotonic() - began)
        return True

    async def _leave(self, connection: Connection, act: Act) -> None:
        self._tally.hung_up += 1
        try:
            match act.manner:
                case Manner.LEAVE_MID_REQUEST:
                    connection.write(act.request[: self._random.randrange(1, len(act.request))])
                    await asyncio.sleep(self._random.uniform(0, 0.5))
                case Manner.LEAVE_BEFORE_ANSWER:
                    connection.ask(act.request).add_done_callback(_forget)
                    await asyncio.sleep(self._random.uniform(0, 0.2))
                case _:
                    connection.write(act.request)
                    async with asyncio.timeout(TIMEOUT_S):
                        await connection.wait_for_byte()
        except (OSError, TimeoutError):
            pass  # it left first; nothing was owed
        connection.hang_up(rudely=self._random.random() < 0.5)


def _forget(future: asyncio.Future[Answer]) -> None:
    """Whoever left does not want to know."""
    if not future.cancelled():
        future.exception()


async def abuse(server: ServerProcess, options: argparse.Namespace) -> dict[str, Any]:
    """The minute of mischief, after a warm-up of the same."""
    pictures = make_jpegs(options.pictures)
    tally = Tally()
    began = time.monotonic() + options.warm_seconds
    until = began + options.seconds
    clients = [
        Client(server.port, Repertoire(pictures, seed=seed), tally, seed)
        for seed in range(options.clients)
    ]
    samples: list[float] = []

    async def watch() -> None:
        while (now := time.monotonic()) < until:
            if now >= began:
                samples.append(server.measure_rss_mb())
            await asyncio.sleep(_SAMPLE_S)

    await asyncio.gather(watch(), *(client.work(until) for client in clients))
    return {
        "requests": tally.requests,
        "lost": sum(tally.lost.values()),
        "http_500": tally.http_500,
        "refused_share": tally.refused_share,
        "rss_growth": find_growth(samples),
        "improper": sum(tally.improper.values()),
        "hung_up": tally.hung_up,
        "rss_mb": round(samples[-1]) if samples else None,
        "good_per_s": round(len(tally.good_s) / (options.seconds + options.warm_seconds), 1),
        "good_p50_ms": round(1000 * find_quantile(tally.good_s, 0.5), 1),
        "good_p95_ms": round(1000 * find_quantile(tally.good_s, 0.95), 1),
        "statuses": {name: dict(count) for name, count in sorted(tally.statuses.items())},
        "what_was_lost": dict(tally.lost.most_common(10)),
        "what_was_improper": dict(tally.improper.most_common(10)),
    }


def find_growth(samples: Sequence[float]) -> float | None:
    """The mean of the last quarter by that of the first; None for too few samples."""
    quarter = len(samples) // 4
    if not quarter:
        return None
    return round(fmean(samples[-quarter:]) / fmean(samples[:quarter]), 3)


async def find_life(server: ServerProcess, picture: bytes) -> str:
    """What is wrong with the server now that all are gone, or an empty string."""
    connection = await Connection.open(server.port)
    try:
        async with asyncio.timeout(30):
            for path in ("/health", "/ready"):
                answer = await connection.ask(make_get(path))
                if answer.status != 200:
                    return f"{path} is {answer.status}"
            act = Repertoire([picture]).make_good()
            answer = await connection.ask(act.request)
            if problem := judge(act, answer):
                return problem
            if answer.status != 200:
                return f"a good request is answered {answer.status}"
            status = json.loads((await connection.ask(make_get("/status"))).body)
    finally:
        connection.hang_up()
    left = {key: status[key] for key in ("in_flight", "queued") if status.get(key)}
    return f"still under way: {left}" if left else ""


async def end_under_load(server: ServerProcess, clients: int, picture: bytes) -> dict[str, Any]:
    """SIGTERM while everybody asks and some still send; who comes late is still served."""
    tally = Tally()
    crowd = [
        Client(server.port, _make_good_only(picture, seed), tally, seed) for seed in range(clients)
    ]
    working = [asyncio.create_task(client.work(time.monotonic() + 60)) for client in crowd]
    uploads = [asyncio.create_task(_upload_slowly(server.port, picture)) for _ in range(_UPLOADS)]
    await asyncio.sleep(1.0)
    before, began = tally.requests, time.monotonic()
    os.kill(server.pid, signal.SIGTERM)
    await asyncio.sleep(_LATE_S)
    for client in crowd:
        client.may_connect = False
    await asyncio.gather(*working)
    sent = await asyncio.gather(*uploads)
    try:
        code: int | None = await asyncio.to_thread(server.wait, 2 * EXIT_S)
    except TimeoutError:
        code = None
    exit_s = round(time.monotonic() - began, 1)
    return {
        "requests": tally.requests - before + _UPLOADS,
        "lost": sum(tally.lost.values()) + sum(not one.isdigit() for one in sent),
        "refused": tally.refused
        + sum(tally.improper.values())
        + sum(one.isdigit() and one != "200" for one in sent),
        "uploads": sent,
        "exit_s": exit_s,
        "exit_code": code,
        "statuses": {name: dict(count) for name, count in sorted(tally.statuses.items())},
        "what_was_lost": dict(tally.lost.most_common(10)),
    }


def _make_good_only(picture: bytes, seed: int) -> Repertoire:
    return Repertoire([picture], seed, corrupt_share=0, huge_share=0, leave_share=0)


async def _upload_slowly(port: int, picture: bytes) -> str:
    """A request whose body takes its time: the status of its answer, or how it was lost."""
    request = Repertoire([picture]).make_good().request
    connection = await Connection.open(port)
    pieces = 10
    step = len(request) // pieces
    try:
        for at in range(pieces - 1):
            connection.write(request[at * step : (at + 1) * step])
            await asyncio.sleep(_UPLOAD_S / pieces)
        async with asyncio.timeout(TIMEOUT_S):
            answer = await connection.ask(request[(pieces - 1) * step :])
    except (OSError, TimeoutError) as error:
        return f"{type(error).__name__} {error}"[:120]
    finally:
        connection.hang_up()
    return str(answer.status)


def start_server(log: Path, latency_ms: float) -> ServerProcess:
    """Ours with its default limits, but without one on the rate: all clients share an address."""
    return start_ours(
        log,
        BACKEND="fake",
        FAKE_LATENCY_MS=str(latency_ms),
        FAKE_IMAGE_SIZE="224",
        FAKE_DIMENSION="512",
        MODEL_TASKS="ImageEmbedding",
        RATE_LIMIT_PER_MINUTE="0",
        LOG_LEVEL="error",
    )


def find_missed(report: dict[str, Any]) -> list[str]:
    """The goals that were not met, in words."""
    drain = report["drain"]
    growth, refused = report["rss_growth"], report["refused_share"]
    goals = {
        "requests were lost": report["lost"],
        "answers blame the server": report["http_500"],
        "answers were not as they should be": report["improper"],
        f"more than {MOST_REFUSED:g} of the good requests were refused": (
            refused is None or refused > MOST_REFUSED
        ),
        f"memory grew by more than {MOST_GROWTH:g}": growth is None or growth >= MOST_GROWTH,
        f"afterwards: {report['afterwards']}": report["afterwards"],
        "requests were lost at the end": drain["lost"] + drain["refused"],
        f"the end took more than {EXIT_S:g} s": drain["exit_s"] >= EXIT_S,
        "it did not end well": drain["exit_code"] != 0,
    }
    return [what for what, is_missed in goals.items() if is_missed]


def run(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """All three parts on one server."""
    picture = make_jpegs(1)[0]
    with tempfile.TemporaryDirectory(prefix="sluice-bench-abuse-") as scratch:
        server = start_server(Path(scratch) / "server.log", options.latency_ms)
        try:
            with progress.step("start the server"):
                server.wait_ready(120)
            with progress.step(f"{options.clients} clients, {options.seconds:g} s of mischief"):
                report = asyncio.run(abuse(server, options))
            with progress.step("is it still alive?"):
                report["afterwards"] = asyncio.run(find_life(server, picture))
            with progress.step("SIGTERM under load"):
                report["drain"] = asyncio.run(end_under_load(server, options.clients, picture))
            if words := server.read_last_words():
                progress.say(f"the server's last words: {words}")
        finally:
            server.kill()
    return {**report, "missed": find_missed(report)}


def main() -> int:
    """Sets up, runs, cleans up."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.abuse", description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--warm-seconds", type=float, default=10.0, help="before memory is looked at"
    )
    parser.add_argument("--latency-ms", type=float, default=20.0, help="of one run of the model")
    parser.add_argument("--pictures", type=int, default=32, help="different good ones")
    clean_up_when_told_to_end()
    report = run(parser.parse_args(), Progress())
    print(json.dumps(report), flush=True)
    return 1 if report["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
