"""The CRDs on a real API server: what it takes, what it refuses and with which words.

Nothing runs here but the API server: no operator, no pods.
"""

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from sluice.api.conditions import PENDING_CONDITIONS
from sluice.api.inferenceservice import InferenceService, InferenceServiceStatus
from sluice.api.kinds import KINDS, KindDefinition
from sluice.api.modelversion import ModelVersion
from sluice.api.structural import make_structural, walk_fields
from testbed.cluster import Cluster
from tests.samples.catalog import Sample, load_samples

pytestmark = pytest.mark.controlplane

ROOT = Path(__file__).parents[2]
# Added by the API server when a schema error kept it from looking at the CEL rules.
NOT_CHECKED = "some validation rules were not checked"
STRICT = {"field_validation": "Strict"}
DRY = {"dry_run": "All", **STRICT}

Manifest = dict[str, Any]


def by_name(item: Sample | KindDefinition) -> str:
    return item.name if isinstance(item, Sample) else item.kind


@dataclass(frozen=True)
class Namespace:
    """Objects of ours in one namespace of the cluster."""

    api: client.CustomObjectsApi
    name: str

    def _place(self, kind: str) -> tuple[str, str, str, str]:
        return ("sluice.dev", "v1alpha1", self.name, f"{kind.lower()}s")

    def create(self, obj: Manifest, **options: Any) -> Manifest:
        made: Any = self.api.create_namespaced_custom_object(
            *self._place(obj["kind"]), obj, **options
        )
        return dict(made)

    def replace(self, obj: Manifest, **options: Any) -> Manifest:
        made: Any = self.api.replace_namespaced_custom_object(
            *self._place(obj["kind"]), obj["metadata"]["name"], obj, **options
        )
        return dict(made)

    def get(self, kind: str, name: str) -> Manifest:
        found: Any = self.api.get_namespaced_custom_object(*self._place(kind), name)
        return dict(found)

    def delete(self, obj: Manifest) -> None:
        self.api.delete_namespaced_custom_object(*self._place(obj["kind"]), obj["metadata"]["name"])


@pytest.fixture(scope="module")
def crds(cluster: Cluster) -> Cluster:
    """The cluster with our CRDs established."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(ROOT / "crds"))
    names = [f"crd/{kind.crd_name}" for kind in KINDS]
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", *names)
    return cluster


@pytest.fixture(scope="module")
def namespace(crds: Cluster) -> Iterator[Namespace]:
    name = f"crds-{uuid.uuid4().hex[:8]}"
    crds.kubectl("create", "namespace", name)
    with config.new_client_from_config(config_file=str(crds.kubeconfig)) as api:
        yield Namespace(client.CustomObjectsApi(api), name)
    crds.kubectl("delete", "namespace", name, "--wait=false")


def causes_of(refusal: client.ApiException) -> list[tuple[str, str]]:
    status = json.loads(refusal.body or "{}")
    return sorted(
        (cause["field"], cause["message"])
        for cause in status["details"]["causes"]
        if NOT_CHECKED not in cause["message"]
    )


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_schema_is_structural_and_names_are_taken(crds: Cluster, kind: KindDefinition) -> None:
    found = json.loads(crds.kubectl("get", "crd", kind.crd_name, "-o", "json").stdout)
    conditions = {item["type"]: item["status"] for item in found["status"]["conditions"]}
    assert conditions == {"NamesAccepted": "True", "Established": "True"}


@pytest.mark.parametrize("sample", load_samples("valid"), ids=by_name)
def test_valid_is_accepted(namespace: Namespace, sample: Sample) -> None:
    (document,) = sample.documents
    made = namespace.create(document, **DRY)
    parse = {"ModelVersion": ModelVersion.parse, "InferenceService": InferenceService.parse}
    parse[sample.kind](made)


@pytest.mark.parametrize("sample", load_samples("invalid"), ids=by_name)
def test_invalid_is_refused_with_its_words(namespace: Namespace, sample: Sample) -> None:
    *before, wanted = sample.documents
    for old in before:
        made = namespace.create(old, **STRICT)
        wanted["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"]
    try:
        with pytest.raises(client.ApiException) as refused:
            (namespace.replace if before else namespace.create)(wanted, **DRY)
    finally:
        for old in before:
            namespace.delete(old)
    assert refused.value.status == 422
    assert causes_of(refused.value) == sorted(sample.causes)


def test_an_unknown_field_is_refused_by_its_path(namespace: Namespace) -> None:
    minimal = next(s for s in load_samples("valid") if s.name == "inferenceservice-minimal")
    (document,) = minimal.documents
    document["spec"]["scalling"] = {"minReplicas": 2}
    with pytest.raises(client.ApiException) as refused:
        namespace.create(document, **DRY)
    said = json.loads(refused.value.body or "{}")["message"]
    assert 'unknown field "spec.scalling"' in said


@pytest.fixture
def fresh(namespace: Namespace) -> Iterator[Manifest]:
    """A service as nobody but its author has touched it, read back."""
    minimal = next(s for s in load_samples("valid") if s.name == "inferenceservice-minimal")
    namespace.create(minimal.documents[0], **STRICT)
    yield namespace.get("InferenceService", "p")
    namespace.delete(minimal.documents[0])


def test_defaults_are_filled_in(fresh: Manifest) -> None:
    assert fresh["spec"] == {
        "model": {"name": "pizza-spatial", "version": "2.1.0"},
        "runtime": {"image": "inference"},
        "scaling": {"minReplicas": 1},
        "rollout": {
            "strategy": "RollingUpdate",
            "bake": "0s",
            "deadline": "20m",
            "onFailure": "Rollback",
            "quarantine": False,
        },
        "suspend": False,
    }


def test_defaults_of_a_rollout_are_filled_in(namespace: Namespace) -> None:
    minimal = next(s for s in load_samples("valid") if s.name == "inferenceservice-minimal")
    (document,) = minimal.documents
    check = {"name": "errors", "metric": "ErrorRate", "type": "Absolute", "maxPercent": "1"}
    document["spec"] |= {
        "traffic": {"parentRefs": [{"name": "eg"}], "hostnames": ["pizza.example.com"]},
        "rollout": {
            "strategy": "Canary",
            "canary": {"steps": [{"weight": 100}]},
            "analysis": {"checks": [check]},
        },
    }
    spec = namespace.create(document, **DRY)["spec"]
    assert spec["traffic"]["timeout"] == "30s"
    assert spec["rollout"]["canary"]["steps"] == [{"weight": 100}]
    assert spec["rollout"]["analysis"] == {
        "interval": "15s",
        "source": {"type": "Pods"},
        "minSamples": 300,
        "checks": [check],
    }


def test_defaults_of_a_version_are_filled_in(namespace: Namespace) -> None:
    minimal = next(s for s in load_samples("valid") if s.name == "modelversion-minimal")
    (document,) = minimal.documents
    document["spec"]["requirements"] = {"gpu": {"count": 1}}
    made = namespace.create(document, **DRY)
    assert made["spec"]["lifecycle"] == "Active"
    assert made["spec"]["requirements"] == {
        "gpu": {"count": 1, "resource": "nvidia.com/gpu"},
        "precision": "float32",
    }


def test_a_fresh_object_is_in_progress_not_done(fresh: Manifest) -> None:
    assert fresh["status"] == {
        "conditions": PENDING_CONDITIONS,
        "phase": "Pending",
        "message": "Waiting for the operator",
    }


def test_the_first_status_written_leaves_nothing_of_the_default(
    crds: Cluster, namespace: Namespace, fresh: Manifest
) -> None:
    """A defaulted condition has no owner, so server-side apply alone would never take it away."""
    stalled = PENDING_CONDITIONS[0] | {"status": "False", "reason": "Invalid", "message": "no"}
    status = {"observedGeneration": 1, "conditions": [stalled], "phase": "Stalled"}
    wanted = {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": "p", "namespace": namespace.name},
        "status": status,
    }
    apply = ("apply", "--server-side", "--subresource=status", "--field-manager=sluice", "-f", "-")
    crds.kubectl(*apply, input=json.dumps(wanted))
    written = namespace.get("InferenceService", "p")
    assert written["status"] == status
    crds.kubectl(*apply, input=json.dumps(wanted))
    again = namespace.get("InferenceService", "p")["metadata"]
    assert again["resourceVersion"] == written["metadata"]["resourceVersion"]
    assert again["generation"] == fresh["metadata"]["generation"]


def values_at(value: Any, path: str) -> list[Any]:
    """What stands at a path such as `rollout.checks[].name`, in every item of its lists."""
    values = [value]
    for name, is_list in re.findall(r"([a-zA-Z]+)(\[\])?", path):
        values = [item[name] for item in values if name in item]
        if is_list:
            values = [item for items in values for item in items]
    return values


def test_a_status_with_everything_in_it_is_accepted_and_shown(
    crds: Cluster, namespace: Namespace, fresh: Manifest
) -> None:
    now = "2026-11-01T12:00:00Z"
    track = {
        "model": "pizza-spatial",
        "version": "2.1.0",
        "revision": "bcdfghjklm",
        "digest": "sha256:" + 64 * "0",
        "space": "pizza-2",
        "replicas": 2,
        "readyReplicas": 2,
        "weight": 25,
    }
    times = ("started", "stepStarted", "shifted", "switched", "progress", "estimatedCompletion")
    check = {"name": "errors", "verdict": "Inconclusive", "value": "0.4%", "threshold": "1%"}
    rollout = {
        "state": "Paused",
        "revision": "bcdfghjklm",
        "step": 2,
        "steps": 4,
        "progress": "2/4",
        "weight": 25,
        "deadlineSeconds": 1200,
        "progressReplicas": 2,
        "stableRevision": "bcdfghjkln",
        "stableReplicas": 2,
        "readyFloor": 1,
        "restarts": 0,
        "previousRevision": "bcdfghjkln",
        "held": "WaitingForCapacity",
        "pausedReason": "InsufficientSamples",
        "goal": "Rejected",
        "back": False,
        "checks": [check | {"samples": 37, "dryRun": True}],
        "reason": "CheckFailed",
        "message": "n=37 of 300",
        **{f"{name}Time": now for name in times},
    }
    fresh["status"] |= {
        "observedGeneration": 1,
        "conditions": [item | {"observedGeneration": 1} for item in PENDING_CONDITIONS],
        "stable": track,
        "candidate": track,
        "rollout": rollout,
        "history": [
            {
                "version": "2.1.0",
                "revision": "bcdfghjklm",
                "from": now,
                "to": now,
                "weight": 25,
                "outcome": outcome,
                "reason": "ErrorRate 3.1% > 1% (n=2207)",
            }
            for outcome in (
                "Serving",
                "Replaced",
                "Rejected",
                "RolledBack",
                "Aborted",
                "Superseded",
            )
        ],
        "lastHandledRequest": {
            "request": f"promote bcdfghjklm {now}",
            "requestedBy": "system:serviceaccount:vision:ci",
            "outcome": "Refused",
            "message": "bcdfghjklm is not the live revision",
            "time": now,
        },
    }
    fields = walk_fields(make_structural(InferenceServiceStatus, "status"))
    assert [path for path, _ in fields if not values_at(fresh["status"], path)] == []
    crds.kubectl("replace", "--subresource=status", "-f", "-", input=json.dumps(fresh))
    assert namespace.get("InferenceService", "p")["status"] == fresh["status"]
    shown = crds.kubectl("get", "msvc", "-n", namespace.name).stdout.splitlines()[1].split()
    assert shown[:-1] == ["p", "Unknown", "Pending", "2.1.0", "2.1.0", "25", "2/4"]


def test_lifecycle_may_change(namespace: Namespace) -> None:
    full = next(s for s in load_samples("valid") if s.name == "modelversion-full").documents[0]
    made = namespace.create(full, **STRICT)
    try:
        made["spec"]["lifecycle"] = "Retired"
        assert namespace.replace(made, **STRICT)["spec"]["lifecycle"] == "Retired"
    finally:
        namespace.delete(full)


@pytest.mark.parametrize(
    ("kind", "plain", "wide"),
    [
        pytest.param(
            "msvc",
            "NAME READY PHASE STABLE CANDIDATE WEIGHT STEP AGE",
            "NAME READY PHASE STABLE CANDIDATE WEIGHT STEP REPLICAS REASON MESSAGE AGE",
            id="InferenceService",
        ),
        pytest.param(
            "mver",
            "NAME MODEL VERSION READY LIFECYCLE USED-BY AGE",
            "NAME MODEL VERSION READY LIFECYCLE USED-BY FORMAT SIZE ACCURACY DIGEST MESSAGE AGE",
            id="ModelVersion",
        ),
    ],
)
def test_columns(
    crds: Cluster, namespace: Namespace, fresh: Manifest, kind: str, plain: str, wide: str
) -> None:
    assert fresh["kind"] == "InferenceService"
    full = next(s for s in load_samples("valid") if s.name == "modelversion-full").documents[0]
    namespace.create(full, **STRICT)
    try:
        shown = crds.kubectl("get", kind, "-n", namespace.name).stdout.splitlines()
        more = crds.kubectl("get", kind, "-n", namespace.name, "-o", "wide").stdout.splitlines()
        both = crds.kubectl("get", "sluice", "-n", namespace.name, "-o", "name").stdout.split()
    finally:
        namespace.delete(full)
    assert shown[0].split() == plain.split()
    assert more[0].split() == wide.split()
    assert len(shown[0]) < 100
    want = {"msvc": ["p", "Unknown", "Pending"], "mver": ["pizza-spatial-2.1.0", "pizza-spatial"]}
    assert shown[1].split()[: len(want[kind])] == want[kind]
    assert both == [
        "inferenceservice.sluice.dev/p",
        "modelversion.sluice.dev/pizza-spatial-2.1.0",
    ]


@pytest.mark.parametrize(
    ("selector", "want"),
    [
        ("spec.model.name=pizza-spatial", ["p"]),
        ("spec.model.version=9.9.9", []),
        ("status.phase=Pending", ["p"]),
    ],
)
def test_selectable_fields(
    crds: Cluster, namespace: Namespace, fresh: Manifest, selector: str, want: list[str]
) -> None:
    assert fresh["metadata"]["name"] == "p"
    found = crds.kubectl(
        "get", "msvc", "-n", namespace.name, "--field-selector", selector, "-o", "name"
    ).stdout.split()
    assert found == [f"inferenceservice.sluice.dev/{name}" for name in want]


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_explain_has_a_line_for_every_field(crds: Cluster, kind: KindDefinition) -> None:
    found = json.loads(crds.kubectl("get", "crd", kind.crd_name, "-o", "json").stdout)
    (version,) = found["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    fields = walk_fields(schema)
    told = [path for path, node in fields if not path.startswith("metadata")]
    assert [path for path, node in fields if path in told and not node.get("description")] == []
    assert len(told) > 40
    explained = crds.kubectl("explain", f"{kind.plural}.spec").stdout
    first = next(iter(schema["properties"]["spec"]["properties"].values()))["description"]
    assert first in re.sub(r"\s+", " ", explained)


@pytest.mark.parametrize("path", sorted((ROOT / "config" / "samples").glob("pizza-*.yaml")))
def test_shipped_samples_are_accepted(crds: Cluster, namespace: Namespace, path: Path) -> None:
    said = crds.kubectl(
        "create", "--dry-run=server", "--validate=strict", "-n", namespace.name, "-f", str(path)
    )
    assert "created (server dry run)" in said.stdout
