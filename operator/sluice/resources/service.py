"""Services: one per revision, and the one that clients use."""

from sluice import labels, names
from sluice.resources.metadata import Manifest, Owner, make_manifest


def _make_spec(owner: Owner, revision: str) -> Manifest:
    return {
        "spec": {
            "type": "ClusterIP",
            "selector": labels.pod_selector(owner.name, revision),
            "ports": make_ports(),
        }
    }


def make_ports() -> list[Manifest]:
    """The one port of every Service, to the port that its pods call `http`."""
    port = {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}
    return [port | {"appProtocol": "http"}]


def make_service(owner: Owner, revision: str, model: str, version: str) -> Manifest:
    """Reaches one revision's pods whatever clients are sent to: for tests, previews and probes."""
    return make_manifest(
        "v1",
        "Service",
        names.child_name(owner.name, revision),
        owner,
        labels.revision_labels(owner.name, revision, model, version),
        _make_spec(owner, revision),
    )


def make_front(owner: Owner, revision: str) -> Manifest:
    """The Service that clients use; a switch is one write of its selector.

    Its own labels don't name the revision: EndpointSlices mirror them, and would all be rewritten.
    """
    return make_manifest(
        "v1",
        "Service",
        names.front_name(owner.name),
        owner,
        labels.service_labels(owner.name) | {labels.FRONT: "true"},
        _make_spec(owner, revision),
    )
