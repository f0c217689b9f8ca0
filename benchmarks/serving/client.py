"""A process full of clients: sends requests that were encoded before, over kept connections.

    python -m benchmarks.serving.client < plan

Its first line of input is the plan as JSON (see `Plan`). It answers "ready", waits for a line with the
moment to start at (CLOCK_MONOTONIC, which all processes of a machine share), and prints one JSON object: what
came within the `seconds` after the warm-up. It imports little, because every client process competes with
the server for the CPUs.

Closed loop: each client sends its next request when it has the answer to the last. Open loop: requests are
sent at random moments (Poisson), whatever the server does; what counts is the time since that moment.
"""

from __future__ import annotations

import asyncio
import json
import random
import struct
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving.wire import Answer, Connection

TIMEOUT_S = 60.0
# Older than this at the window's end is no request that the end cut off, but one that hangs.
HUNG_S = 10.0
# More waiting connections than this say nothing that fewer don't: the server is far behind.
MOST_CONNECTIONS = 2000


@dataclass(frozen=True, slots=True)
class Plan:
    """What one process does.

    `port` is on this machine, `requests` a file of `write_requests`. `rate` is in requests a second, for
    an open loop; None is a closed loop of `clients`.
    """

    port: int
    requests: str
    clients: int
    seconds: float
    warm_s: float = 0.0
    rate: float | None = None
    seed: int = 0


@dataclass(slots=True)
class Tally:
    """What came of the requests that ended within the window."""

    latencies_s: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    cpu_s: float = 0.0


def write_requests(path: Path, requests: list[bytes]) -> None:
    """Encoded requests in one file, each after its length (4 bytes, little-endian)."""
    path.write_bytes(b"".join(struct.pack("<I", len(one)) + one for one in requests))


def read_requests(path: Path) -> list[bytes]:
    data, at, requests = path.read_bytes(), 0, []
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        requests.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return requests


class Crowd:
    """The clients of one process."""

    def __init__(self, plan: Plan, requests: list[bytes], started: float) -> None:
        self._plan = plan
        self._requests = requests
        self._began = started + plan.warm_s
        self._ends = self._began + plan.seconds
        self._random = random.Random(plan.seed)
        # Every process begins elsewhere, so that they don't send the same picture at once.
        self._next = self._random.randrange(len(requests))
        self._idle: list[Connection] = []
        self._open = 0
        self.tally = Tally()

    async def run(self) -> Tally:
        cpu = asyncio.create_task(self._measure_cpu())
        if self._plan.rate is None:
            await asyncio.gather(*(self._work() for _ in range(self._plan.clients)))
        else:
            await self._send_on_schedule(self._plan.rate)
        await cpu
        for connection in self._idle:
            connection.hang_up()
        return self.tally

    async def _work(self) -> None:
        while (now := time.monotonic()) < self._ends:
            await self._ask(now)

    async def _send_on_schedule(self, rate: float) -> None:
        due = time.monotonic()
        asking: set[asyncio.Task[None]] = set()
        while due < self._ends:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._ask(due))
            asking.add(task)
            task.add_done_callback(asking.discard)
            due += self._random.expovariate(rate)
        if asking:
            await asyncio.wait(asking)

    async def _ask(self, since: float) -> None:
        """One request on an idle connection, or on a new one.

        Counted if it ends within the window, or hangs when that ends.
        """
        request = self._requests[self._next % len(self._requests)]
        self._next += 1
        try:
            status = str((await self._send(request)).status)
        except (OSError, ValueError, TimeoutError) as error:
            status = type(error).__name__
            await asyncio.sleep(0.01)
        now = time.monotonic()
        if self._began <= now < self._ends:
            self.tally.statuses[status] += 1
            if status == "200":
                self.tally.latencies_s.append(now - since)
        elif now >= self._ends and self._ends - since > HUNG_S:
            self.tally.statuses["hung"] += 1

    async def _send(self, request: bytes) -> Answer:
        if self._open >= MOST_CONNECTIONS:
            raise ConnectionError("too many connections wait")
        self._open += 1
        try:
            connection = self._idle.pop() if self._idle else await Connection.open(self._plan.port)
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    answer = await connection.ask(request)
            except BaseException:
                connection.hang_up(rudely=True)
                raise
        finally:
            self._open -= 1
        if connection.is_open:
            self._idle.append(connection)
        return answer

    async def _measure_cpu(self) -> None:
        await asyncio.sleep(max(0.0, self._began - time.monotonic()))
        before = time.process_time()
        await asyncio.sleep(max(0.0, self._ends - time.monotonic()))
        self.tally.cpu_s = time.process_time() - before


async def play(plan: Plan, requests: list[bytes], started: float) -> Tally:
    """Waits for `started`, then runs the plan."""
    await asyncio.sleep(max(0.0, started - time.monotonic()))
    return await Crowd(plan, requests, started).run()


def main() -> int:
    plan = Plan(**json.loads(sys.stdin.readline()))
    requests = read_requests(Path(plan.requests))
    print("ready", flush=True)
    started = float(sys.stdin.readline())
    tally = asyncio.run(play(plan, requests, started))
    print(json.dumps({name: getattr(tally, name) for name in tally.__slots__}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
