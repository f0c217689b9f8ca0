"""Starting the data plane."""

from types import SimpleNamespace

import pytest

from testbed import dataplane
from testbed.errors import ClusterError


def test_an_instance_without_the_gateway_api_is_told_what_to_do():
    names = "customresourcedefinition.apiextensions.k8s.io/gateways.gateway.networking.k8s.io\n"
    cluster = SimpleNamespace(name="x", kubectl=lambda *_, **__: SimpleNamespace(stdout=names))
    with pytest.raises(ClusterError) as refused:
        dataplane.start(cluster)
    said = str(refused.value)
    assert "has no gatewayclasses.gateway.networking.k8s.io, httproutes." in said
    assert "python -m testbed up --name x" in said
