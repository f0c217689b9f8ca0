"""HTTP from inside an instance's network namespace, where pods and gateways have their addresses.

`Client` starts this very file there as a program, with the standard library only: its input is one JSON
object, its output one line of JSON for each answer.  It tries nothing again: no answer is status 0.
"""

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """What came back; `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    seconds: float = 0.0

    @property
    def revision(self) -> str:
        """The revision that answered, by its own word."""
        return self.headers.get("sluice-revision", "")

    @property
    def routed(self) -> str:
        """The revision that the gateway chose."""
        return self.headers.get("sluice-routed", "")


class Pending:
    """Requests under way."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def result(self) -> list[Answer]:
        """All answers; an AssertionError where the client itself failed."""
        out, problem = self._process.communicate(timeout=SECONDS)
        assert self._process.returncode == 0, problem
        return [Answer(**json.loads(line)) for line in out.splitlines()]


class Client:
    """Clients in a namespace that the words `enter` lead into."""

    def __init__(self, enter: Sequence[str]) -> None:
        self._enter = list(enter)

    def begin(
        self,
        address: str,
        port: int,
        path: str = "/predict",
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        body: str = "{}",
        count: int = 1,
        at_once: int = 1,
    ) -> Pending:
        """Start `count` equal requests, `at_once` at a time over as many connections."""
        process = subprocess.Popen(
            [*self._enter, sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        wish = {"address": address, "port": port, "path": path, "method": method}
        wish |= {"body": body if method == "POST" else None}
        wish |= {"headers": dict(headers or {}), "count": count, "at_once": at_once}
        process.stdin.write(json.dumps(wish))
        process.stdin.flush()
        process.stdin.close()
        process.stdin = None
        return Pending(process)

    def send(self, address: str, port: int, path: str = "/predict", **more: Any) -> list[Answer]:
        """The same, and wait for all answers."""
        return self.begin(address, port, path, **more).result()


def _ask(wish: Mapping[str, Any], count: int) -> list[Answer]:
    """`count` requests, one after the other over one connection."""
    answers = []
    connection = http.client.HTTPConnection(wish["address"], wish["port"], timeout=SECONDS / 2)
    body = None if wish["body"] is None else wish["body"].encode()
    for _ in range(count):
        began = time.perf_counter()
        try:
            connection.request(wish["method"], wish["path"], body, wish["headers"])
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            text = response.read().decode(errors="replace")
            answer = Answer(response.status, headers, text, time.perf_counter() - began)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            seconds = time.perf_counter() - began
            answer = Answer(0, {}, f"{type(error).__name__}: {error}", seconds)
        answers.append(answer)
    connection.close()
    return answers


def main() -> None:
    """Ask what standard input says."""
    wish = json.load(sys.stdin)
    at_once = min(wish["at_once"], wish["count"])
    shares = [wish["count"] // at_once + (i < wish["count"] % at_once) for i in range(at_once)]
    with ThreadPoolExecutor(at_once) as threads:
        for answers in threads.map(lambda count: _ask(wish, count), shares):
            for answer in answers:
                sys.stdout.write(json.dumps(asdict(answer)) + "\n")


if __name__ == "__main__":
    main()
