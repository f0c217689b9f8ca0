"""The only file that knows kopf: the watches, as handlers that hand every event to its intake.

kopf lists, watches, resumes and re-lists; it writes nothing. There are no handlers for creation,
update or deletion, no daemons, timers, indexes, peering or finalizers, and the storages that
would leave annotations on objects are replaced by ones that store nothing.
"""

import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from typing import Any

import kopf
from kubernetes.aio.client import Configuration

from sluice.runtime.kinds import Obj
from sluice.runtime.pump import Intake

WATCH_SECONDS = 300
CHUNK = 500
EXIT_SECONDS = 25.0

Connect = Callable[[], Awaitable[Configuration]]


class NullDiffBase(kopf.DiffBaseStorage):
    """Remembers nothing: kopf then neither writes nor copies objects."""

    def build(
        self, *, body: kopf.Body, extra_fields: Iterable[kopf.FieldSpec] | None = None
    ) -> kopf.BodyEssence:
        return {}

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        pass


class NullProgress(kopf.ProgressStorage):
    """Remembers nothing: there are no handlers whose progress could matter."""

    def fetch(self, *, key: str, body: kopf.Body) -> kopf.ProgressRecord | None:
        return None

    def store(
        self, *, key: str, record: kopf.ProgressRecord, body: kopf.Body, patch: kopf.Patch
    ) -> None:
        pass

    def purge(self, *, key: str, body: kopf.Body, patch: kopf.Patch) -> None:
        pass

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: str | None) -> None:
        pass

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


class Backoffs:
    """Seconds between retries: rising to about half a minute, without an end.

    kopf takes the end of the series for a reason to end the process.
    """

    def __iter__(self) -> Iterator[float]:
        delay = 0.5
        while True:
            yield delay * random.uniform(0.7, 1.3)  # noqa: S311 - jitter
            delay = min(delay * 2, 30.0)


def build(
    intakes: Collection[Intake], connect: Connect
) -> tuple[kopf.OperatorRegistry, kopf.OperatorSettings]:
    """What ``kopf.spawn_tasks`` needs to feed the intakes."""
    registry = kopf.OperatorRegistry()
    settings = make_settings(intakes)

    @kopf.on.login(registry=registry, id="login", errors=kopf.ErrorsMode.TEMPORARY, backoff=2.0)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        # Called again whenever the server refuses the credentials, so they are always loaded anew.
        return await make_credentials(await connect())

    for intake in intakes:
        add_pump(registry, intake)
    return registry, settings


def add_pump(registry: kopf.OperatorRegistry, intake: Intake) -> None:
    """Hand the events of a kind to its intake."""
    kind = intake.pump.kind

    @kopf.on.event(
        kind.group, kind.version, kind.plural, registry=registry, id=f"pump-{kind.plural}"
    )
    async def pump(event: kopf.RawEvent, **_: Any) -> None:
        obj: Obj = event["object"]  # type: ignore[assignment]  # a TypedDict of the same content
        intake.take(event["type"], obj)


async def make_credentials(connection: Configuration) -> kopf.ConnectionInfo:
    """Our client's connection in kopf's terms."""
    header = await connection.get_api_key_with_prefix("BearerToken", alias="authorization")
    return kopf.ConnectionInfo(
        server=connection.host,
        ca_path=connection.ssl_ca_cert,
        ca_data=connection.ca_cert_data,
        insecure=not connection.verify_ssl,
        token=header.split()[-1] if header else None,
        certificate_path=connection.cert_file,
        private_key_path=connection.key_file,
        proxy_url=connection.proxy,
    )


def make_settings(intakes: Collection[Intake]) -> kopf.OperatorSettings:
    """kopf's settings for a pump: bounded streams, patient retries, no writes."""
    settings = kopf.OperatorSettings()
    settings.persistence.diffbase_storage = NullDiffBase()
    settings.persistence.progress_storage = NullProgress()
    settings.posting.enabled = False
    settings.peering.standalone = True
    # Without scanning kopf needs no rights on CRDs and namespaces.
    settings.scanning.disabled = True
    settings.process.ultimate_exiting_timeout = EXIT_SECONDS

    settings.queueing.idle_timeout = 1.0  # a task and an object's body live for so long
    settings.queueing.exit_timeout = 1.0
    settings.queueing.error_delays = (1, 2, 5, 10, 30)

    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.connect_timeout = 10
    settings.watching.reconnect_backoff = 1.0
    settings.watching.chunk_size = CHUNK
    for intake in intakes:
        kind = intake.pump.kind
        if kind.selector:
            # Only this form of the key matches; "apps/deployments" would match nothing, silently.
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = kind.selector

    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = Backoffs()
    settings.networking.enforce_retry_after = True
    return settings
