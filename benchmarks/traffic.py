"""An open-loop client that writes down every answer, so that each failure has an owner.

    python -m benchmarks.traffic --url http://10.96.0.7:80/classify --host fake.example.com \
        --image scene.png --rate 300 --out answers.csv

Requests leave at a steady rate, half over kept connections and half over fresh ones, whatever becomes of
those before them, and nothing is tried again.  It runs until its standard input is closed.  One line of
`--out` per request, in order of the answers; `Answer` says what is in it.  What an answer means is decided
by `benchmarks/attribution.py`.
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import aiohttp

from testbed.cluster import Cluster
from tests.waiting import wait_for

TIMEOUT_S = 15.0
FLUSH_S = 0.2
MAX_RATE = 2000.0
MAX_SECONDS = 3600.0
# So far behind its schedule the client is not open-loop any more, and says so.
MAX_LATE_S = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request.  Times are this machine's wall clock, in seconds."""

    sent: float
    ended: float
    status: int  # 0: no answer
    revision: str  # by the server's own word; empty where no server stamped it
    routed: str  # by the gateway's word
    is_fresh: bool  # over a connection of its own
    note: str  # what went wrong, where something did

    @property
    def is_good(self) -> bool:
        """Whether the client got what it asked for."""
        return 200 <= self.status < 300


@dataclass(slots=True)
class Client:
    """What the requests have in common."""

    url: str
    body: bytes
    out: TextIO

    async def ask(self, session: aiohttp.ClientSession, *, is_fresh: bool) -> None:
        """One request, and its line."""
        status, revision, routed, note = 0, "", "", ""
        sent = time.time()
        try:
            async with session.post(self.url, data=self.body) as answer:
                text = await answer.read()
                status = answer.status
                revision = answer.headers.get("sluice-revision", "")
                routed = answer.headers.get("sluice-routed", "")
                if not 200 <= status < 300:
                    note = _say(text)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            status, revision, routed = 0, "", ""
            note = f"{type(error).__name__}: {error}"[:160]
        note = " ".join(note.split())  # one line, without tabs
        line = (
            f"{sent:.4f}",
            f"{time.time():.4f}",
            str(status),
            revision,
            routed,
            str(int(is_fresh)),
        )
        self.out.write("\t".join((*line, note)) + "\n")


async def drive(client: Client, host: str, rate: float, seconds: float) -> None:
    """Asks until standard input is closed, `seconds` at most."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    headers = {"Host": host, "Content-Type": "image/png"}
    end = asyncio.create_task(_wait_for_end())
    running: set[asyncio.Task[None]] = set()
    latest = 0.0
    async with (
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=timeout, headers=headers
        ) as kept,
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=timeout,
            headers=headers,
        ) as fresh,
    ):
        began = flushed = time.perf_counter()
        number = 0
        while (now := time.perf_counter()) - began < seconds and not end.done():
            due = int((now - began) * rate)
            latest = max(latest, (due - number) / rate)
            while number < due:
                is_fresh = number % 2 == 0
                task = asyncio.create_task(
                    client.ask(fresh if is_fresh else kept, is_fresh=is_fresh)
                )
                running.add(task)
                task.add_done_callback(running.discard)
                number += 1
            if now - flushed > FLUSH_S:
                client.out.flush()
                flushed = now
            await asyncio.sleep(1 / rate / 2)
        while running:
            await asyncio.wait(set(running))
    end.cancel()
    client.out.flush()
    if latest > MAX_LATE_S:
        print(f"the client was {latest:.1f} s behind its schedule: lower --rate", file=sys.stderr)


async def _wait_for_end() -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


def _say(body: bytes) -> str:
    """What an answer that is no success says: the server's error code, else its first words."""
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return body[:160].decode(errors="replace")


class Traffic:
    """A running client, from the side of the benchmark that started it."""

    def __init__(self, process: "subprocess.Popen[str]", out: Path) -> None:
        self._process = process
        self._file = out.open()
        self._rest = ""
        self._answers: list[Answer] = []
        self._counts: Counter[str] = Counter()

    @property
    def answers(self) -> list[Answer]:
        """All answers so far, in order of their ends."""
        code = self._process.poll()
        if code:
            raise RuntimeError(f"the client ended with {code}")
        text = self._rest + self._file.read()
        *lines, self._rest = text.split("\n")
        fresh = [_read_line(line) for line in lines]
        self._answers += fresh
        self._counts.update(one.revision for one in fresh)
        return self._answers

    def count(self, revision: str) -> int:
        """How many answers a revision has given so far."""
        return self._counts[revision] if self.answers else 0

    def wait(self, revision: str, count: int, seconds: float = 60.0) -> None:
        """Until clients have so many answers of a revision."""
        what = f"{count} answers of {revision}"
        wait_for(lambda: self.count(revision) >= count, what=what, seconds=seconds)

    def close(self) -> None:
        """Ends it at once, whatever is under way."""
        if self._process.poll() is None:
            self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        self._file.close()

    def stop(self) -> list[Answer]:
        """Lets the last answers come in; gives all of them."""
        self._process.communicate(timeout=2 * TIMEOUT_S)
        return self.answers


def _read_line(line: str) -> Answer:
    sent, ended, status, revision, routed, fresh, note = line.split("\t")
    return Answer(float(sent), float(ended), int(status), revision, routed, fresh == "1", note)


@contextlib.contextmanager
def run_traffic(
    cluster: Cluster, host: str, image: Path, rate: float, out: Path
) -> Iterator[Traffic]:
    """Traffic through the instance's gateway for as long as the block runs, from inside its namespace."""
    address, port = cluster.gateway_address()
    out.write_text("")
    process = subprocess.Popen(
        [
            *cluster.enter,
            *(sys.executable, "-m", "benchmarks.traffic"),
            *("--url", f"http://{address}:{port}/classify", "--host", host),
            *("--image", str(image), "--rate", str(rate), "--out", str(out)),
        ],
        stdin=subprocess.PIPE,
        text=True,
    )
    traffic = Traffic(process, out)
    try:
        yield traffic
    finally:
        traffic.close()


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.traffic", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--host", required=True, help="the Host header")
    parser.add_argument("--image", required=True, type=Path)
    parser.add_argument("--rate", type=float, default=300.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=MAX_SECONDS, help="at most so long")
    parser.add_argument("--out", required=True, type=Path, help="file for the answers")
    options = parser.parse_args()
    rate, seconds = min(options.rate, MAX_RATE), min(options.seconds, MAX_SECONDS)
    with options.out.open("w") as out:
        client = Client(options.url, options.image.read_bytes(), out)
        asyncio.run(drive(client, options.host, rate, seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
