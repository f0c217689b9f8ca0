import itertools
from typing import Any

import kopf
import pytest
from kubernetes.aio.client import Configuration

from sluice.handlers import Backoffs, build, make_credentials
from sluice.runtime.cache import Cache
from sluice.runtime.kinds import Kind
from sluice.runtime.metrics import Metrics
from sluice.runtime.pump import Intake, Pump
from sluice.runtime.queue import Queue


def make_intake(clock: Any, kind: Kind) -> Intake:
    metrics = Metrics()
    pump = Pump(kind, Cache(kind), lambda obj: ())
    return Intake(pump, Queue("test", clock, metrics), metrics, clock, lambda: None)


async def never() -> Configuration:
    raise AssertionError("nothing connects here")


def test_kopf_is_told_to_write_nothing_and_to_filter_on_the_server(clock: Any) -> None:
    deployments = Kind("apps", "v1", "deployments", "Deployment", selector="app=x")
    _, settings = build([make_intake(clock, deployments)], never)
    assert settings.posting.enabled is False
    assert settings.scanning.disabled is True
    assert settings.peering.standalone is True
    resource = kopf.Resource("apps", "v1", "deployments")
    assert list(settings.watching.label_selectors.collect(resource)) == ["app=x"]
    body = kopf.Body({"metadata": {"name": "a"}, "spec": {"large": 1}})
    storage = settings.persistence.diffbase_storage
    assert storage.build(body=body) == {}
    patch = kopf.Patch()
    storage.store(body=body, patch=patch, essence=storage.build(body=body))
    assert not patch


def test_retries_never_end() -> None:
    delays = list(itertools.islice(iter(Backoffs()), 200))
    assert max(delays) <= 39
    assert min(delays[10:]) >= 21


@pytest.mark.parametrize("token", ["bearer secret", "Bearer secret", None])
async def test_the_same_credentials_for_both_clients(token: str | None) -> None:
    connection = Configuration(host="https://10.0.0.1:6443")
    connection.ssl_ca_cert, connection.cert_file = "ca.crt", "tls.crt"
    if token:
        connection.api_key["BearerToken"] = token
    info = await make_credentials(connection)
    assert info.server == "https://10.0.0.1:6443"
    assert (info.ca_path, info.certificate_path) == ("ca.crt", "tls.crt")
    assert info.token == (token and "secret")
