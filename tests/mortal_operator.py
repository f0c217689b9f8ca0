"""The operator, standing still for a service at a chosen one of its writes; whoever waits for that kills it.

    python tests/mortal_operator.py PLAN run --kubeconfig …

For crash tests only: nothing in the product knows of it.  PLAN is a JSON file: `namespace`, `armed` (writes
count from when this file is there), `notes` (a file that gets a line per write and per halt) and `moments`,
by service the number of a write and `before` or `after`.  Before: the request has not left.  After: its
answer has come, and nobody has read it.  From then on nothing more is written for that service, so that a
SIGKILL some moments later finds what it would have found at once; so one process can be killed at the
moments of many services.

A write is one of the service itself or of its children.  Events are not counted: they are sent beside.
"""

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from sluice.__main__ import main
from sluice.runtime.api import Api
from sluice.runtime.kinds import Kind, Obj


class Marks:
    """Counts writes by service, and holds those that are due."""

    def __init__(self, file: Path) -> None:
        plan = json.loads(file.read_text())
        self._namespace: str = plan["namespace"]
        self._armed = Path(plan["armed"])
        self._notes = Path(plan["notes"])
        self._moments: dict[str, tuple[int, str]] = {
            service: (number, when) for service, (number, when) in plan["moments"].items()
        }
        self._done: Counter[str] = Counter()
        self._halted: set[str] = set()

    def find_service(self, path: str) -> str:
        """The service that a request is about; an empty string for those that nobody marks."""
        place, _, rest = path.partition(f"/namespaces/{self._namespace}/")
        if not place or not rest or rest.startswith(("modelversions/", "events")):
            return ""
        name = [*rest.split("/"), ""][1]
        return next((one for one in self._moments if name == one or name.startswith(f"{one}-")), "")

    def is_halted(self, name: str) -> bool:
        """Whether nothing more may be written for what an event of this name is about."""
        return any(name.startswith(f"{service}.") for service in self._halted)

    async def reach(self, service: str, number: int, when: str, what: str) -> None:
        """Returns, unless this is the service's moment: then never."""
        if service in self._halted or (number and self._moments[service] == (number, when)):
            if service not in self._halted:
                self._halted.add(service)
                self._note(f"halt {service} {number} {when} {what}")
            await asyncio.Event().wait()

    def count(self, service: str, what: str) -> int:
        """The number of this write, 0 while none counts."""
        if not self._armed.exists():
            return 0
        self._done[service] += 1
        self._note(f"write {service} {self._done[service]} {what}")
        return self._done[service]

    def _note(self, line: str) -> None:
        with self._notes.open("a") as file:
            file.write(line + "\n")


def put_in(marks: Marks) -> None:
    """Lets every request of the API port pass by the marks."""
    send = Api._send

    async def marked(self: Api, verb: str, method: str, kind: Kind, path: str, *rest: Any) -> Obj:
        if kind.plural == "events" and marks.is_halted((rest[1] or {})["metadata"]["name"]):
            return dict(rest[1])  # a dead process tells nobody
        service = "" if method == "GET" else marks.find_service(path)
        if not service:
            return await send(self, verb, method, kind, path, *rest)
        what = f"{verb} {kind.kind} {path.rpartition('/namespaces/')[2].split('/')[2]}"
        number = marks.count(service, what)
        await marks.reach(service, number, "before", what)
        try:
            return await send(self, verb, method, kind, path, *rest)
        finally:
            if not asyncio.current_task().cancelling():  # type: ignore[union-attr]  # we run in one
                await marks.reach(service, number, "after", what)

    Api._send = marked  # type: ignore[method-assign]


if __name__ == "__main__":
    put_in(Marks(Path(sys.argv[1])))
    sys.exit(main(sys.argv[2:]))
