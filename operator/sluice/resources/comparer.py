"""The comparer of a shadow step: it gets what the gateway mirrors, and asks stable and candidate."""

from sluice import labels, names
from sluice.resources.companion import find_server, make_companion
from sluice.resources.metadata import Manifest, Owner, make_manifest
from sluice.resources.pod import SERVER_PORT, make_probe
from sluice.resources.service import make_ports

# It goes on taking mirrored requests for some seconds and finishes them (docs/contract.md).
TERMINATION_GRACE_SECONDS = 35


def make_comparer(owner: Owner, stable: str, candidate: str, template: Manifest) -> Manifest:
    """The Deployment of one pod; `template` is the candidate's pod template."""
    own = labels.comparer_labels(owner.name, candidate)
    pod = make_companion(template, own, _make_container(owner, stable, candidate, template))
    pod["spec"]["terminationGracePeriodSeconds"] = TERMINATION_GRACE_SECONDS
    return make_manifest(
        "apps/v1",
        "Deployment",
        names.comparer_name(owner.name, candidate),
        owner,
        own,
        {
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels.comparer_selector(owner.name, candidate)},
                "template": pod,
                "revisionHistoryLimit": 1,
            }
        },
    )


def make_comparer_service(owner: Owner, candidate: str) -> Manifest:
    """What the gateway mirrors to."""
    return make_manifest(
        "v1",
        "Service",
        names.comparer_name(owner.name, candidate),
        owner,
        labels.comparer_labels(owner.name, candidate),
        {
            "spec": {
                "type": "ClusterIP",
                "selector": labels.comparer_selector(owner.name, candidate),
                "ports": make_ports(),
            }
        },
    )


def _make_container(owner: Owner, stable: str, candidate: str, template: Manifest) -> Manifest:
    server = find_server(template)
    environment = {
        # In one namespace with it, so that the short name is found at the first try.
        "COMPARE_STABLE_URL": f"http://{names.child_name(owner.name, stable)}",
        "COMPARE_CANDIDATE_URL": f"http://{names.child_name(owner.name, candidate)}",
        "PORT": str(SERVER_PORT),
    }
    container: Manifest = {
        "name": "compare",
        "image": server["image"],
        "command": ["sluice-inference"],
        "args": ["compare"],
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "ports": [{"name": "http", "containerPort": SERVER_PORT, "protocol": "TCP"}],
        "resources": {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"memory": "512Mi"},
        },
        "securityContext": server["securityContext"],
        "startupProbe": make_probe("/ready", period=1, timeout=3, failures=120),
        "readinessProbe": make_probe("/ready", period=2, timeout=3, failures=3),
        "livenessProbe": make_probe("/health", period=10, timeout=3, failures=3),
        "terminationMessagePolicy": "File",
    }
    if policy := server.get("imagePullPolicy"):
        container["imagePullPolicy"] = policy
    return container
