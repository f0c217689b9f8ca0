"""Applies manifests to an instance, once each.  Knows nothing of what is in them."""

import hashlib
from pathlib import Path

from testbed import process
from testbed.cluster import Cluster

_APPLIED = "applied:"
# `kubectl wait` asks for one after the other, which takes seconds.  A kind that was just made has no
# conditions, which a filter would not take.
_CONDITIONS = (
    "{range .items[*]}{.metadata.name}{range .status.conditions[*]} {.type}={.status}{end}"
    '{"\\n"}{end}'
)


def apply(cluster: Cluster, name: str, text: str) -> bool:
    """Apply the manifests ``text``, known as ``name``; False where the same were applied before."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    if cluster.recall(_APPLIED + name) == digest:
        return False
    # Written here or taken from a release: the API server's own validation is enough.
    arguments = ("--server-side", "--field-manager=testbed", "--validate=false", "-f", "-")
    cluster.kubectl("apply", *arguments, input=text)
    cluster.remember(_APPLIED + name, digest)
    return True


def apply_kinds(cluster: Cluster, name: str, path: Path) -> None:
    """Apply a file of CustomResourceDefinitions, and return once all kinds there can be used."""
    if apply(cluster, name, path.read_text()):
        process.wait_until(
            lambda: (
                not pending_kinds(
                    cluster.kubectl("get", "crd", "-o", f"jsonpath={_CONDITIONS}").stdout
                )
            ),
            seconds=60,
            interval=0.1,
            what=f"the kinds of {name} Established",
        )


def pending_kinds(listing: str) -> list[str]:
    """Which of the kinds in ``listing``, lines of "NAME TYPE=STATUS ...", are not established yet."""
    lines = (line.split() for line in listing.splitlines())
    return [name for name, *conditions in lines if "Established=True" not in conditions]
