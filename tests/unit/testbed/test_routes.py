"""What a route simulator reads out of routes, and which rule and endpoints a request meets."""

import pytest

from testbed.routerules import Backend, UnsupportedError, read_duration, read_rules
from testbed.routeview import AttachError, BackendError, View
from testbed.watching import Obj


def make_gateway(*listeners: Obj, name: str = "g", gateway_class: str = "simulated") -> Obj:
    return {
        "metadata": {"name": name, "namespace": "gw", "generation": 1},
        "spec": {
            "gatewayClassName": gateway_class,
            "listeners": list(listeners) or [make_listener()],
        },
    }


def make_listener(name: str = "http", origin: str = "All", **more: object) -> Obj:
    allowed = {"namespaces": {"from": origin}}
    return {"name": name, "protocol": "HTTP", "port": 80, "allowedRoutes": allowed, **more}


def make_route(
    *rules: Obj, name: str = "r", hosts: tuple[str, ...] = ("a.test",), age: int = 0, **ref: object
) -> Obj:
    return {
        "metadata": {
            "name": name,
            "namespace": "n",
            "generation": 1,
            "creationTimestamp": f"2026-01-0{age + 1}T00:00:00Z",
        },
        "spec": {
            "parentRefs": [{"name": "g", "namespace": "gw", **ref}],
            "hostnames": list(hosts),
            "rules": list(rules),
        },
    }


def make_rule(name: str, **headers: str) -> Obj:
    match = [{"name": key, "value": value} for key, value in headers.items()]
    return {"matches": [{"headers": match}], "backendRefs": [{"name": name, "port": 80}]}


def make_view(*routes: Obj, gateway: Obj | None = None) -> View:
    view = View("simulated")
    view.take("Gateway", "gw/g", gateway or make_gateway())
    for route in routes:
        view.take("HTTPRoute", f"n/{route['metadata']['name']}", route)
    return view


def find(view: View, host: str = "a.test", **headers: str) -> str:
    """The name of the backend that a request is for, or an empty string."""
    values = {name: [value] for name, value in headers.items()}
    rule = view.find_table("gw/g", 80).find(host, values)
    return rule.backends[0].name if rule else ""


def test_the_rule_with_more_headers_wins_wherever_it_stands():
    view = make_view(
        make_route(make_rule("any"), make_rule("one", x="1"), make_rule("two", x="1", y="2"))
    )
    assert find(view) == "any"
    assert find(view, x="2") == "any"
    assert find(view, x="1") == "one"
    assert find(view, x="1", y="2") == "two"


def test_of_equal_rules_that_of_the_older_route_wins():
    younger = make_route(make_rule("younger"), name="a", age=1)
    older = make_route(make_rule("older"), name="b", age=0)
    assert find(make_view(younger, older)) == "older"


def test_only_the_most_specific_host_is_looked_at():
    view = make_view(
        make_route(make_rule("exact", x="1"), name="exact", hosts=("a.b.test",)),
        make_route(make_rule("wide"), name="wide", hosts=("*.test",)),
        make_route(make_rule("closer"), name="closer", hosts=("*.b.test",)),
    )
    assert find(view, "a.b.test", x="1") == "exact"
    assert find(view, "a.b.test") == ""
    assert find(view, "c.b.test") == "closer"
    assert find(view, "d.c.b.test") == "closer"
    assert find(view, "c.test") == "wide"
    assert find(view, "test") == ""


@pytest.mark.parametrize(
    ("hostname", "hosts", "answers"),
    [
        ("", ("a.test",), "a.test"),
        ("a.test", ("a.test",), "a.test"),
        ("*.test", ("a.test",), "a.test"),
        ("a.test", ("*.test",), "a.test"),
        ("a.test", (), "a.test"),
    ],
)
def test_a_listeners_hostname_narrows_the_routes(hostname, hosts, answers):
    gateway = make_gateway(make_listener(hostname=hostname))
    view = make_view(make_route(make_rule("x"), hosts=hosts), gateway=gateway)
    assert find(view, answers) == "x"
    assert find(view, "b.other") == ""


@pytest.mark.parametrize(
    ("gateway", "route", "reason"),
    [
        (make_gateway(make_listener(origin="Same")), make_route(), "NotAllowedByListeners"),
        (make_gateway(make_listener(origin="Selector")), make_route(), "NotAllowedByListeners"),
        (make_gateway(), make_route(sectionName="other"), "NoMatchingParent"),
        (make_gateway(), make_route(port=81), "NoMatchingParent"),
        (
            make_gateway(make_listener(hostname="b.test")),
            make_route(),
            "NoMatchingListenerHostname",
        ),
        (make_gateway(), make_route({"filters": [{"type": "URLRewrite"}]}), "UnsupportedValue"),
    ],
)
def test_a_route_that_may_not_attach_gets_a_reason(gateway, route, reason):
    view = make_view(route, gateway=gateway)
    known = view.routes["n/r"]
    with pytest.raises(AttachError) as refused:
        view.attach(known, route["spec"]["parentRefs"][0])
    assert refused.value.reason == reason
    assert find(view) == ""


def test_the_gateways_of_another_class_are_not_ours():
    route = make_route(make_rule("x"))
    view = make_view(route, gateway=make_gateway(gateway_class="envoy"))
    assert view.attach(view.routes["n/r"], route["spec"]["parentRefs"][0]) is None
    assert find(view) == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"matches": [{"method": "GET"}]},
            "spec.rules[0].matches[0].method is not simulated; spec.rules[0].matches[0] may have path",
        ),
        (
            {"matches": [{"path": {"type": "Exact", "value": "/"}}]},
            "spec.rules[0].matches[0].path.type is 'Exact'",
        ),
        (
            {"matches": [{"headers": [{"type": "RegularExpression", "name": "x", "value": "."}]}]},
            "spec.rules[0].matches[0].headers[0].type is 'RegularExpression'",
        ),
        (
            {"backendRefs": [{"name": "x", "kind": "ServiceImport"}]},
            "spec.rules[0].backendRefs[0].kind is 'ServiceImport'",
        ),
        ({"timeouts": {"backendRequest": "1s"}}, "spec.rules[0].timeouts.backendRequest"),
        ({"timeouts": {"request": "1.5s"}}, "'1.5s' is no duration"),
        ({"retry": {}}, "spec.rules[0].retry is not simulated"),
    ],
)
def test_what_is_not_simulated_is_refused_by_its_path(change, says):
    with pytest.raises(UnsupportedError) as refused:
        read_rules(make_route(change))
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("500ms", 0.5), ("1m30s", 90), ("1h", 3600)]
)
def test_durations(text, seconds):
    assert read_duration(text) == seconds


def make_service(*ports: Obj) -> Obj:
    return {"metadata": {"name": "s", "namespace": "n"}, "spec": {"ports": list(ports)}}


def make_slice(name: str, *endpoints: tuple[str, bool | None], port: str = "http") -> Obj:
    return {
        "metadata": {
            "name": name,
            "namespace": "n",
            "labels": {"kubernetes.io/service-name": "s"},
        },
        "ports": [{"name": port, "port": 8080}],
        "endpoints": [
            {"addresses": [address], "conditions": {} if ready is None else {"ready": ready}}
            for address, ready in endpoints
        ],
    }


BACKEND = Backend("n", "s", 80)


def test_endpoints_are_those_that_are_ready_or_do_not_say():
    view = make_view()
    view.take("Service", "n/s", make_service({"name": "http", "port": 80}))
    view.take("EndpointSlice", "n/s-1", make_slice("s-1", ("10.0.0.1", True), ("10.0.0.2", False)))
    view.take("EndpointSlice", "n/s-2", make_slice("s-2", ("10.0.0.3", None)))
    view.take("EndpointSlice", "n/s-3", make_slice("s-3", ("10.0.0.4", True), port="other"))
    assert set(view.find_endpoints(BACKEND)) == {("10.0.0.1", 8080), ("10.0.0.3", 8080)}
    view.take("EndpointSlice", "n/s-1", make_slice("s-1", ("10.0.0.1", False)))
    assert view.find_endpoints(BACKEND) == (("10.0.0.3", 8080),)
    view.take("EndpointSlice", "n/s-2", None)
    assert view.find_endpoints(BACKEND) == ()


@pytest.mark.parametrize(
    ("service", "backend", "reason", "says"),
    [
        (None, BACKEND, "BackendNotFound", "Service n/s not found"),
        (make_service({"port": 81}), BACKEND, "BackendNotFound", "no port 80; it has 81"),
        (
            make_service({"port": 80}),
            Backend("n", "s", 80, is_permitted=False),
            "RefNotPermitted",
            "in another namespace",
        ),
    ],
)
def test_a_backend_that_is_none_has_a_reason(service, backend, reason, says):
    view = make_view()
    view.take("Service", "n/s", make_service({"port": 80}))
    assert view.find_endpoints(BACKEND) == ()
    view.take("Service", "n/s", service)
    with pytest.raises(BackendError) as refused:
        view.find_endpoints(backend)
    assert refused.value.reason == reason
    assert says in str(refused.value)
