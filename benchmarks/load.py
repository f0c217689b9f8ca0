"""An open-loop client: requests at a steady rate, half over kept connections, half over fresh ones.

    python -m benchmarks.load --url http://10.96.0.7/classify --image scene.png --rate 60 --until-stdin-closes

Nothing is tried again, and whatever isn't a 200 counts as failed, 429 and 503 too.  Bounded in time by
`--seconds`, and ended earlier when its standard input is closed.  The last line of stdout is one JSON
object: requests, failed, rate, seconds, failures {what: count}, revisions {revision: count}, p95_ms.

It only talks to the address it is given, which must be on this machine or in the testbed's namespace.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

TIMEOUT_S = 30.0
MAX_SECONDS = 900.0
MAX_RATE = 2000.0


@dataclass
class Tally:
    """What came of the requests."""

    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    revisions: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


async def ask(session: aiohttp.ClientSession, url: str, body: bytes, tally: Tally) -> None:
    """One request; its outcome goes into the tally."""
    tally.requests += 1
    began = time.perf_counter()
    try:
        async with session.post(url, data=body, headers={"Content-Type": "image/png"}) as answer:
            text = await answer.read()
            if answer.status != 200:
                tally.failures[f"{answer.status} {text[:120].decode(errors='replace')}"] += 1
                return
            tally.revisions[answer.headers.get("sluice-revision", "unstamped")] += 1
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        tally.failures[f"{type(error).__name__}: {error}"[:160]] += 1
        return
    tally.seconds.append(time.perf_counter() - began)


async def wait_for_end() -> None:
    """Returns when standard input is closed."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


def _note(file: Path, number: int) -> None:
    """A few bytes into a file of this machine: too short to keep the loop from its schedule."""
    file.write_text(str(number))


async def drive(
    url: str,
    body: bytes,
    rate: float,
    seconds: float,
    *,
    stdin: bool,
    count: Path | None,
    host: str | None = None,
) -> dict[str, object]:
    """Asks at `rate` a second for `seconds` at most, and reports."""
    tally = Tally()
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    end = asyncio.create_task(wait_for_end()) if stdin else None
    running: set[asyncio.Task[None]] = set()
    began = time.perf_counter()
    headers = {"Host": host} if host else None
    kept = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=64), timeout=timeout, headers=headers
    )
    fresh = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True), timeout=timeout, headers=headers
    )
    async with kept, fresh:
        number = 0
        while (now := time.perf_counter() - began) < seconds and not (end and end.done()):
            due = int(now * rate)
            while number < due:
                session = kept if number % 2 else fresh
                task = asyncio.create_task(ask(session, url, body, tally))
                running.add(task)
                task.add_done_callback(running.discard)
                number += 1
            if count is not None:
                _note(count, tally.requests - len(running))
            await asyncio.sleep(1 / rate / 2)
        elapsed = time.perf_counter() - began
        while running:
            await asyncio.wait(set(running))
    if end is not None:
        end.cancel()
    answered = sorted(tally.seconds)
    return {
        "requests": tally.requests,
        "failed": sum(tally.failures.values()),
        "rate": round(tally.requests / elapsed, 1),
        "seconds": round(elapsed, 1),
        "failures": dict(tally.failures.most_common(10)),
        "revisions": dict(tally.revisions),
        "p95_ms": round(1000 * answered[int(0.95 * (len(answered) - 1))], 1) if answered else None,
    }


def main() -> int:
    """Reads the command line; the exit code is 0 when nothing failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--host", help="the Host header, where it differs from the URL's")
    parser.add_argument("--image", required=True, type=Path)
    parser.add_argument("--rate", type=float, default=60.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=300.0, help="at most so long")
    parser.add_argument("--until-stdin-closes", action="store_true")
    parser.add_argument("--count", type=Path, help="file to keep the number of answers in")
    options = parser.parse_args()
    rate, seconds = min(options.rate, MAX_RATE), min(options.seconds, MAX_SECONDS)
    report = asyncio.run(
        drive(
            options.url,
            options.image.read_bytes(),
            rate,
            seconds,
            stdin=options.until_stdin_closes,
            count=options.count,
            host=options.host,
        )
    )
    print(json.dumps(report), flush=True)
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
