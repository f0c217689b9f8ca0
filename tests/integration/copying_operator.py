"""A small operator on the runtime, for its tests: every ConfigMap gets a Secret with its content.

Run as a program it takes the flags of ``sluice-operator run``. ConfigMaps and Secrets carry the
label ``runtime-test``.
"""

import argparse
import asyncio
import base64
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

from sluice import process
from sluice.errors import UserError
from sluice.runtime.api import Api
from sluice.runtime.cache import Cache
from sluice.runtime.clock import Clock
from sluice.runtime.kinds import Key, Kind, Obj
from sluice.runtime.logs import Format, configure_logs
from sluice.runtime.metrics import Metrics
from sluice.runtime.pump import Pump
from sluice.runtime.recorder import Recorder
from sluice.runtime.workers import Reconcile, Result
from sluice.settings import FIELDS, Settings, add_flags, load_settings

CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap", selector="runtime-test")
SECRET = Kind("", "v1", "secrets", "Secret", selector="runtime-test")
ABSENT = Kind("absent.example.com", "v1", "nothings", "Nothing")


@dataclass(frozen=True)
class Application:
    kinds: list[Pump]
    reconcile: dict[str, Reconcile]

    def start(self, wake: Callable[[Key], None]) -> None:
        """It needs no waking but by events."""

    async def stop(self) -> None:
        """Nothing runs beside it."""


def key_of(obj: Obj) -> Iterable[Key]:
    yield Key("ConfigMap", obj["metadata"]["namespace"], obj["metadata"]["name"])


def build(
    api: Api, recorder: Recorder, settings: Settings, clock: Clock, metrics: Metrics
) -> Application:
    sources, copies = Cache(CONFIG_MAP), Cache(SECRET)

    async def reconcile(key: Key) -> Result:
        source = sources.get(key.namespace, key.name)
        if source is None or "deletionTimestamp" in source["metadata"]:
            return Result()
        if "hold" in source["metadata"].get("annotations", {}):
            await clock.sleep(float(source["metadata"]["annotations"]["hold"]))
        content = {
            name: base64.b64encode(value.encode()).decode()
            for name, value in source.get("data", {}).items()
        }
        copy = copies.get(key.namespace, key.name)
        if copy is not None and copy.get("data", {}) == content:
            return Result()
        answer = await api.apply(
            SECRET,
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {
                    "namespace": key.namespace,
                    "name": key.name,
                    "labels": {"runtime-test": "copy"},
                    "ownerReferences": [
                        {
                            "apiVersion": "v1",
                            "kind": "ConfigMap",
                            "name": key.name,
                            "uid": source["metadata"]["uid"],
                            "controller": True,
                        }
                    ],
                },
                "data": content,
            },
        )
        copies.upsert(answer)
        recorder.event(source, "Normal", "Copied", f"{len(content)} entries")
        return Result()

    return Application(
        kinds=[
            Pump(CONFIG_MAP, sources, key_of),
            Pump(SECRET, copies, key_of),
            Pump(ABSENT, Cache(ABSENT), key_of, optional=True),
        ],
        reconcile={"ConfigMap": reconcile},
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    options = parser.parse_args()
    try:
        settings = load_settings({name: getattr(options, name) for name in FIELDS}, os.environ)
        configure_logs(settings.log_level, cast(Format, settings.log_format))
        return asyncio.run(process.run(settings, build))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
