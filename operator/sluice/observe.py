"""Reads the caches into a World.  It reads only, and it decides nothing.

A child counts only when its controller is this very InferenceService, by uid: one left over from a
deleted namesake, or somebody else's under our name, is reported and never touched.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sluice import labels, names
from sluice.api import conditions
from sluice.api.inferenceservice import InferenceService
from sluice.api.modelversion import ModelVersion
from sluice.caches import (
    BY_SERVICE,
    CHILDREN,
    GATEWAY,
    INFERENCE_SERVICE,
    MODEL_VERSION,
    Caches,
)
from sluice.errors import UserError
from sluice.pods import view_checker, view_pod
from sluice.requests import read_request
from sluice.resources.metadata import Manifest, Owner
from sluice.resources.route import is_default, is_idle, revision_of_backend
from sluice.rollout.course import Course, CourseError, load_course
from sluice.runtime.kinds import Obj
from sluice.world import (
    CONTROLLER_REVISION,
    DEPLOYMENT,
    HTTP_ROUTE,
    JOB,
    SERVICE,
    ComparerView,
    Evidence,
    GatewayView,
    JobView,
    PodView,
    RevisionView,
    RouteView,
    Trouble,
    World,
)

NO_EVIDENCE = Evidence()


def observe(caches: Caches, obj: Obj, evidence: Evidence = NO_EVIDENCE) -> World:
    """The world around one InferenceService; `evidence` is what was measured for its rollout."""
    metadata = obj["metadata"]
    owner = Owner(metadata["namespace"], metadata["name"], metadata["uid"])
    key = f"{owner.namespace}/{owner.name}"
    service, invalid = _parse_service(obj)
    children: dict[str, dict[str, Manifest]] = {}
    comparers: dict[str, dict[str, Manifest]] = {}
    jobs: dict[str, Manifest] = {}
    front: Manifest | None = None
    route: Manifest | None = None
    foreign: Trouble | None = None
    for kind in CHILDREN:
        for child in caches[kind].by(BY_SERVICE, key):
            if not is_owned(child, owner):
                foreign = foreign or describe_foreign(kind, child, owner)
            elif kind == SERVICE and child["metadata"]["name"] == names.front_name(owner.name):
                front = child
            elif kind == HTTP_ROUTE:
                route = child
            elif kind == JOB:
                jobs[child["metadata"]["name"]] = child
            elif revision := labels.revision_of(child):
                children.setdefault(revision, {})[kind] = child
            elif revision := labels.compared_by(child):
                comparers.setdefault(revision, {})[kind] = child
    pods: dict[str, list[PodView]] = {}
    comparing: dict[str, list[PodView]] = {}
    checking: dict[str, list[PodView]] = {}
    by_name: dict[str, str] = {}
    for pod in caches["Pod"].by(BY_SERVICE, key):
        if labels.checked_by(pod):
            checking.setdefault(labels.job_of(pod), []).append(view_checker(pod))
            continue
        if pod["status"]["phase"] in {"Failed", "Succeeded"}:
            continue  # evicted or ended: its Deployment has made another, and what it said is old
        if revision := labels.compared_by(pod):
            comparing.setdefault(revision, []).append(view_pod(pod))
            continue
        revision = labels.revision_of(pod)
        by_name[pod["metadata"]["name"]] = revision
        pods.setdefault(revision, []).append(view_pod(pod))
    reachable: dict[str, int] = {}
    # A pod may stand in two slices for a moment.
    for name in {
        name for part in caches["EndpointSlice"].by(BY_SERVICE, key) for name in part["pods"]
    }:
        if revision := by_name.get(name, ""):
            reachable[revision] = reachable.get(revision, 0) + 1
    version, quarantine, trouble = _find_version(caches, owner.namespace, service)
    revisions = {
        revision: _view_revision(revision, found, tuple(pods.get(revision, ())))
        for revision, found in children.items()
    }
    status = obj.get("status") or {}
    candidate = revisions.get((status.get("rollout") or {}).get("revision", ""))
    return World(
        owner=owner,
        generation=metadata.get("generation", 0),
        status=status,
        service=service,
        invalid=invalid or trouble,
        version=version,
        revisions=revisions,
        comparers={
            revision: ComparerView(found, tuple(comparing.get(revision, ())))
            for revision, found in comparers.items()
        },
        jobs={
            name: JobView(labels.checked_by(job), job, tuple(checking.get(name, ())))
            for name, job in jobs.items()
        },
        front=front,
        reachable=reachable,
        route=view_route(route) if route else None,
        gateways=_find_gateways(caches, owner.namespace, service),
        has_gateway_api=caches[HTTP_ROUTE].served,
        request=read_request(metadata.get("annotations") or {}),
        created=_read_time(metadata.get("creationTimestamp")),
        evidence=evidence,
        evaluation=_find_evaluation(caches, owner.namespace, candidate),
        quarantine=quarantine,
        foreign=foreign,
    )


def is_owned(child: Obj, owner: Owner) -> bool:
    """Whether this InferenceService is the child's controller."""
    return any(ref["uid"] == owner.uid for ref in _controllers(child))


def describe_foreign(kind: str, child: Obj, owner: Owner) -> Trouble:
    """Why a child of ours can't be made: its name is taken, and by whom."""
    name = child["metadata"]["name"]
    for reference in _controllers(child):
        who = f"{reference['kind']} {reference['name']}"
        if (reference["kind"], reference["name"]) == (INFERENCE_SERVICE, owner.name):
            message = (
                f"{kind} {name} belongs to a deleted {who}: waiting for its garbage collection"
            )
            return Trouble("WaitingForGarbageCollection", message)
        message = f"{kind} {name} is owned by {who}: rename one of the two"
        return Trouble("ChildIsForeign", message, permanent=True)
    message = f"{kind} {name} exists and is not Sluice's: delete or rename it, or rename the InferenceService"
    return Trouble("ChildIsForeign", message, permanent=True)


def _controllers(child: Obj) -> Iterator[dict[str, Any]]:
    for reference in child["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            yield reference


def _parse_service(obj: Obj) -> tuple[InferenceService | None, Trouble | None]:
    try:
        return InferenceService.parse(obj), None
    except UserError as error:
        return None, Trouble(error.reason, error.message, permanent=True)


def view_route(route: Manifest) -> RouteView:
    """What the route gives to whom, and whether its gateways have taken it."""
    weights: dict[str, int] = {}
    rules = [
        (rule, [(revision_of_backend(ref), int(ref.get("weight", 1))) for ref in refs])
        for rule in route["spec"].get("rules") or ()
        if (refs := rule.get("backendRefs"))
    ]
    for rule, refs in rules:
        if is_default(rule):
            total = sum(weight for _, weight in refs) or 1
            for revision, weight in refs:
                weights[revision] = weights.get(revision, 0) + round(100 * weight / total)
    named = {revision for _, refs in rules for revision, _ in refs}
    lanes = ["" if is_idle(rule) else refs[0][0] for rule, refs in rules[:2]]
    has_mix = any(len(refs) > 1 for _, refs in rules)
    generation = route["metadata"].get("generation", 0)
    parents = (route.get("status") or {}).get("parents") or ()
    wanted = route["spec"].get("parentRefs") or ()
    taken, trouble = 0, ""
    for parent in parents:
        found = {item["type"]: item for item in parent.get("conditions") or ()}
        good = True
        for type_ in ("Accepted", "ResolvedRefs"):
            item = found.get(type_)
            is_new = item is not None and item.get("observedGeneration", generation) >= generation
            if item is None or not is_new:
                good = False
            elif item["status"] != "True":
                good = False
                words = f"{item.get('reason', type_)}: {item.get('message', '')}".strip(": ")
                trouble = trouble or f"{parent['parentRef']['name']}: {words}"
        taken += good
    settled = bool(wanted) and taken >= len(wanted)
    mirror, mirror_percent = _find_mirror(route)
    return RouteView(
        route,
        weights,
        frozenset(named),
        tuple(lanes),
        has_mix=has_mix,
        mirror=mirror,
        mirror_percent=mirror_percent,
        settled=settled,
        trouble=trouble,
    )


def _find_mirror(route: Manifest) -> tuple[str, int]:
    """The Service that gets copies, and of how many percent of the requests."""
    for rule in route["spec"].get("rules") or ():
        for item in rule.get("filters") or ():
            if mirror := item.get("requestMirror"):
                return str(mirror["backendRef"]["name"]), int(mirror.get("percent", 100))
    return "", 0


def _find_gateways(
    caches: Caches, namespace: str, service: InferenceService | None
) -> tuple[GatewayView, ...]:
    if service is None or service.spec.traffic is None:
        return ()
    views = []
    for ref in service.spec.traffic.parent_refs:
        where = ref.namespace or namespace
        obj = caches[GATEWAY].get(where, ref.name)
        name = f"{where}/{ref.name}"
        if obj is None:
            views.append(GatewayView(name))
            continue
        listeners = [
            listener
            for listener in obj["listeners"]
            if ref.section_name in {None, listener["name"]}
            and ref.port in {None, listener["port"]}
            and listener["protocol"] in {"HTTP", "HTTPS"}
        ]
        # Plain HTTP where both are offered: a probe asks who answers, not for secrets.
        listeners.sort(key=lambda listener: listener["protocol"] == "HTTPS")
        addresses = obj["addresses"]
        if not listeners or not addresses:
            views.append(GatewayView(name))
            continue
        chosen = listeners[0]
        views.append(GatewayView(name, addresses[0], chosen["port"], chosen["protocol"] == "HTTPS"))
    return tuple(views)


def _read_time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _find_version(
    caches: Caches, namespace: str, service: InferenceService | None
) -> tuple[ModelVersion | None, str, Trouble | None]:
    """The wanted version, why it is quarantined if it is, and why it can't be read if it can't."""
    if service is None:
        return None, "", None
    name = names.version_name(service.spec.model.name, service.spec.model.version)
    obj = caches[MODEL_VERSION].get(namespace, name)
    if obj is None or "deletionTimestamp" in obj["metadata"]:
        return None, "", None
    found = conditions.find_condition(
        (obj.get("status") or {}).get("conditions") or (), conditions.QUARANTINED
    )
    quarantine = found["message"] if found and found["status"] == "True" else ""
    try:
        return ModelVersion.parse(obj), quarantine, None
    except UserError as error:
        message = f"ModelVersion {name}: {error.message}"
        return None, "", Trouble(error.reason, message, permanent=True)


def _find_evaluation(caches: Caches, namespace: str, view: RevisionView | None) -> dict[str, str]:
    """What a revision's version has registered; nothing where its ModelVersion is gone."""
    name = names.version_name(view.model, view.version) if view else ""
    obj = caches[MODEL_VERSION].get(namespace, name) or {}
    evaluation = obj.get("spec", {}).get("evaluation") or {}
    return {metric["name"]: metric["value"] for metric in evaluation.get("metrics") or ()}


def _view_revision(
    revision: str, children: dict[str, Manifest], pods: tuple[PodView, ...]
) -> RevisionView:
    """A revision from its record; from its Deployment where somebody deleted the record."""
    record = children.get(CONTROLLER_REVISION)
    any_child = record or next(iter(children.values()))
    found = any_child["metadata"].get("labels", {})
    data: dict[str, Any] = (record or {}).get("data") or {}
    recorded = (data.get("inputs") or {}).get("model") or {}
    model = recorded.get("name") or found.get(labels.MODEL, "")
    version = recorded.get("version") or found.get(labels.VERSION, "")
    inputs = data.get("inputs") or {"model": {"name": model, "version": version}}
    template = data.get("template")
    if template is None:
        # What runs is the next best truth: recording it restarts nothing.
        template = (children.get(DEPLOYMENT) or {}).get("spec", {}).get("template", {})
    return RevisionView(
        hash=revision,
        model=model,
        version=version,
        digest=(inputs.get("artifact") or {}).get("digest", ""),
        sequence=int((record or {}).get("revision", 0)),
        inputs=inputs,
        template=template,
        rejected=_read_outcome(record),
        course=_read_course(record),
        children=children,
        pods=pods,
    )


def _read_outcome(record: Manifest | None) -> Trouble | None:
    annotations = (record or {}).get("metadata", {}).get("annotations") or {}
    if annotations.get(labels.OUTCOME) != labels.REJECTED:
        return None
    reason, _, message = annotations.get(labels.OUTCOME_REASON, "").partition(": ")
    return Trouble(reason or labels.REJECTED, message, permanent=True)


def _read_course(record: Manifest | None) -> Course | None:
    """The recorded course; none where it was lost or is not ours: spec's is the next best then."""
    annotations = (record or {}).get("metadata", {}).get("annotations") or {}
    try:
        return load_course(annotations[labels.COURSE])
    except (KeyError, CourseError):
        return None
