"""Clients at a steady rate, inside an instance's network namespace, for as long as a test lasts.

`Load` starts this very file there as a program: open loop, each request to the next of its hosts, half of
them over kept connections.  It tries nothing again.  An answer is ours when its revision is not stamped on
it: an error that a pod gave is the pod's own.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiohttp

TIMEOUT_S = 20.0
TOO_LATE = ": 504 "


@dataclass(frozen=True)
class Report:
    """What clients of each host got: how many answers by "<status> <revision>", 0 for no answer."""

    answers: dict[str, dict[str, int]]
    broken: list[str] = field(
        default_factory=list
    )  # what came without a revision's stamp, in words

    def count(self, host: str) -> int:
        """Requests of clients of this host."""
        return sum(self.answers.get(host, {}).values())

    def failed(self, host: str) -> list[str]:
        """What broke for clients of this host, what came too late left out."""
        return [
            line for line in self.broken if line.startswith(f"{host} ") and TOO_LATE not in line
        ]

    def late(self) -> int:
        """Answers that came too late, of all hosts.

        Simulated pods take no time and one that is gone resets its connections, so a 504 says that the
        machine was too slow for its clients, and nothing of what it was asked to do.
        """
        return sum(TOO_LATE in line for line in self.broken)

    def errors(self, host: str) -> dict[str, int]:
        """What pods answered otherwise than with a 200, by status and revision."""
        found = self.answers.get(host, {})
        return {
            key: count
            for key, count in found.items()
            if not key.startswith("200 ") and not key.endswith(" ")
        }


class Load:
    """A `with` block with clients; `.report` is there after its end."""

    def __init__(
        self, enter: Sequence[str], address: str, hosts: Sequence[str], rate: float, port: int = 80
    ) -> None:
        self._words = [*enter, sys.executable, __file__]
        self._wish = {"address": address, "port": port, "hosts": list(hosts), "rate": rate}
        self.report = Report({})

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(self._wish) + "\n")
        self._process.stdin.flush()
        return self

    def __exit__(
        self,
        type_: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        out, problem = self._process.communicate(timeout=TIMEOUT_S * 2)
        if error is None:
            assert self._process.returncode == 0, problem
            self.report = Report(**json.loads(out))


async def _ask(session: aiohttp.ClientSession, url: str, host: str, report: Report) -> None:
    headers = {"Host": host, "Content-Type": "application/json"}
    status, revision, words = 0, "", ""
    began = time.time()
    try:
        async with session.post(url, data=b"{}", headers=headers) as answer:
            text = await answer.text()
            status, revision = answer.status, answer.headers.get("sluice-revision", "")
            words = text[:120]
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        words = f"{type(error).__name__}: {error}"
    found = report.answers.setdefault(host, {})
    key = f"{status} {revision}"
    found[key] = found.get(key, 0) + 1
    if not revision:
        at = time.strftime("%H:%M:%S", time.gmtime(began)) + f"{began % 1:.3f}"[1:]
        report.broken.append(f"{host} at {at}: {status} {words}")


async def _drive(wish: dict[str, Any]) -> Report:
    """Ask until standard input is closed."""
    report = Report({})
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    over = asyncio.create_task(reader.read())
    url = f"http://{wish['address']}:{wish['port']}/predict"
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    kept = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64), timeout=timeout)
    fresh = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True), timeout=timeout
    )
    running: set[asyncio.Task[None]] = set()
    began, number = loop.time(), 0
    async with kept, fresh:
        while not over.done():
            while number < (loop.time() - began) * wish["rate"]:
                host = wish["hosts"][number % len(wish["hosts"])]
                session = kept if (number // len(wish["hosts"])) % 2 else fresh
                task = asyncio.create_task(_ask(session, url, host, report))
                running.add(task)
                task.add_done_callback(running.discard)
                number += 1
            await asyncio.wait({over}, timeout=0.5 / wish["rate"])
        if running:
            await asyncio.wait(set(running))
    return report


def main() -> None:
    """Ask as the first line of standard input says."""
    report = asyncio.run(_drive(json.loads(sys.stdin.readline())))
    print(json.dumps({"answers": report.answers, "broken": report.broken}))


def share(report: Report, host: str) -> Counter[str]:
    """How many answers each revision gave."""
    found: Counter[str] = Counter()
    for key, count in report.answers.get(host, {}).items():
        found[key.partition(" ")[2]] += count
    return found


if __name__ == "__main__":
    main()
