"""What the route simulator says in the status of Gateways and HTTPRoutes, as a Gateway controller must.

It only words what a view shows; it writes nothing.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from testbed.routerules import find_backends
from testbed.routeview import AttachError, BackendError, Route, View, find_unsupported, read_lag
from testbed.watching import Obj

CONTROLLER = "testbed.sluice.dev/simulated"
_KINDS = [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"}]
_STAMP = "%Y-%m-%dT%H:%M:%SZ"


def make_class_status(gateway_class: Obj) -> Obj:
    """The status of the GatewayClass."""
    said = [("Accepted", "True", "Accepted", "simulated by the testbed")]
    old = gateway_class.get("status", {}).get("conditions", [])
    return {"conditions": _settle(said, old, gateway_class["metadata"]["generation"])}


def make_gateway_status(gateway: Obj, view: View, address: str, problem: str) -> Obj:
    """The status of ``gateway``; ``problem`` says why it does not listen at ``address``."""
    generation = gateway["metadata"]["generation"]
    old = gateway.get("status", {})
    old_listeners = {one["name"]: one for one in old.get("listeners", [])}
    counts = _count_attached(gateway, view)
    listeners = []
    for listener in gateway["spec"]["listeners"]:
        name, unsupported = listener["name"], find_unsupported(listener)
        works = "False" if unsupported or problem else "True"
        said = [
            _judge("Accepted", not unsupported, "UnsupportedValue", unsupported),
            ("Programmed", works, "Programmed" if works == "True" else "Invalid", problem),
            ("ResolvedRefs", "True", "ResolvedRefs", ""),
        ]
        before = old_listeners.get(name, {}).get("conditions", [])
        listeners.append(
            {
                "name": name,
                "supportedKinds": _KINDS,
                "attachedRoutes": counts.get(name, 0),
                "conditions": _settle(said, before, generation),
            }
        )
    try:
        read_lag(gateway)
        accepted = _judge("Accepted", True, "", "")
    except ValueError as error:
        accepted = _judge("Accepted", False, "InvalidParameters", str(error))
    said = [
        accepted,
        _judge("Programmed", not problem, "AddressNotUsable", problem),
    ]
    return {
        "addresses": [{"type": "IPAddress", "value": address}] if address else [],
        "conditions": _settle(said, old.get("conditions", []), generation),
        "listeners": listeners,
    }


def make_parents(route: Route, view: View) -> list[Obj]:
    """``status.parents`` of ``route``: our own entries, and those of others as they are."""
    old = route.obj.get("status", {}).get("parents", [])
    found = [one for one in old if one["controllerName"] != CONTROLLER]
    for ref in route.obj["spec"].get("parentRefs", []):
        try:
            if view.attach(route, ref) is None:
                continue
            accepted = _judge("Accepted", True, "", "")
        except AttachError as error:
            accepted = _judge("Accepted", False, error.reason, str(error))
        before: list[Obj] = next(
            (
                one["conditions"]
                for one in old
                if one["parentRef"] == ref and one["controllerName"] == CONTROLLER
            ),
            [],
        )
        said = [accepted, _judge_references(route, view)]
        found.append(
            {
                "parentRef": ref,
                "controllerName": CONTROLLER,
                "conditions": _settle(said, before, route.obj["metadata"]["generation"]),
            }
        )
    return found


Said = tuple[str, str, str, str]


def _judge(kind: str, is_true: bool, reason: str, message: str) -> Said:
    return (kind, "True", kind, "") if is_true else (kind, "False", reason, message)


def _judge_references(route: Route, view: View) -> Said:
    problems = []
    for backend in find_backends(route.rules):
        try:
            view.check(backend)
        except BackendError as error:
            problems.append((error.reason, str(error)))
    if not problems:
        return ("ResolvedRefs", "True", "ResolvedRefs", "")
    messages = "; ".join(dict.fromkeys(message for _, message in problems))
    return ("ResolvedRefs", "False", problems[0][0], messages)


def _count_attached(gateway: Obj, view: View) -> dict[str, int]:
    name = f"{gateway['metadata']['namespace']}/{gateway['metadata']['name']}"
    counts: dict[str, int] = {}
    for route in view.routes.values():
        listeners: set[str] = set()
        for ref in route.obj["spec"].get("parentRefs", []):
            space = ref.get("namespace", route.obj["metadata"]["namespace"])
            if f"{space}/{ref['name']}" != name:
                continue
            try:
                listeners |= {one.listener for one in view.attach(route, ref) or []}
            except AttachError:
                continue
        for listener in listeners:
            counts[listener] = counts.get(listener, 0) + 1
    return counts


def _settle(said: Sequence[Said], before: Iterable[Obj], generation: int) -> list[Obj]:
    """Conditions as the API wants them; one that stays as it is keeps its time."""
    old = {one["type"]: one for one in before}
    now = datetime.now(UTC).strftime(_STAMP)
    settled = []
    for kind, status, reason, message in said:
        last = old.get(kind, {})
        kept = last.get("lastTransitionTime") if last.get("status") == status else None
        settled.append(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "observedGeneration": generation,
                "lastTransitionTime": kept or now,
            }
        )
    return settled
