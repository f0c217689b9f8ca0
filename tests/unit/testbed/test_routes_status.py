"""What the route simulator says in status."""

from testbed import routestatus
from testbed.routeview import View
from testbed.watching import Obj
from tests.unit.testbed.test_routes import (
    make_gateway,
    make_listener,
    make_route,
    make_rule,
    make_view,
)

OTHER = {"parentRef": {"name": "else"}, "controllerName": "example.com/other", "conditions": []}


def conditions(listing: list[Obj]) -> dict[str, tuple[str, str]]:
    return {one["type"]: (one["status"], one["reason"]) for one in listing}


def parents(view: View) -> list[Obj]:
    return routestatus.make_parents(view.routes["n/r"], view)


def test_a_route_is_accepted_and_misses_its_backends_until_they_are_there():
    route = make_route(make_rule("x"))
    route["metadata"]["generation"] = 7
    view = make_view(route)
    (found,) = parents(view)
    assert found["controllerName"] == routestatus.CONTROLLER
    assert found["parentRef"] == route["spec"]["parentRefs"][0]
    assert conditions(found["conditions"]) == {
        "Accepted": ("True", "Accepted"),
        "ResolvedRefs": ("False", "BackendNotFound"),
    }
    assert {one["observedGeneration"] for one in found["conditions"]} == {7}
    assert "Service n/x not found" in found["conditions"][1]["message"]
    service = {"metadata": {"name": "x", "namespace": "n"}, "spec": {"ports": [{"port": 80}]}}
    view.take("Service", "n/x", service)
    assert conditions(parents(view)[0]["conditions"])["ResolvedRefs"] == ("True", "ResolvedRefs")


def test_a_mirrors_service_is_a_backend_too():
    rule = make_rule("x")
    rule["filters"] = [
        {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "m", "port": 80}}}
    ]
    view = make_view(make_route(rule))
    service = {"metadata": {"name": "x", "namespace": "n"}, "spec": {"ports": [{"port": 80}]}}
    view.take("Service", "n/x", service)
    assert parents(view)[0]["conditions"][1]["message"] == "Service n/m not found"


def test_what_stays_as_it_is_keeps_its_time_and_others_entries_are_left_alone():
    route = make_route(make_rule("x"))
    view = make_view(route)
    said = parents(view)
    for one in said[0]["conditions"]:
        one["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    view = make_view({**route, "status": {"parents": [OTHER, *said]}})
    assert parents(view) == [OTHER, *said]
    gone = {
        **route,
        "spec": {**route["spec"], "parentRefs": []},
        "status": {"parents": [OTHER, *said]},
    }
    assert parents(make_view(gone)) == [OTHER]


def test_a_gateway_says_its_address_and_counts_routes():
    gateway = make_gateway(make_listener("http"), make_listener("odd", protocol="HTTPS", port=443))
    view = make_view(make_route(make_rule("x")), make_route(name="r2"), gateway=gateway)
    status = routestatus.make_gateway_status(gateway, view, "10.246.0.1", "")
    assert status["addresses"] == [{"type": "IPAddress", "value": "10.246.0.1"}]
    assert conditions(status["conditions"]) == {
        "Accepted": ("True", "Accepted"),
        "Programmed": ("True", "Programmed"),
    }
    http, odd = status["listeners"]
    assert (http["attachedRoutes"], odd["attachedRoutes"]) == (2, 0)
    assert conditions(http["conditions"])["Programmed"] == ("True", "Programmed")
    assert conditions(odd["conditions"])["Accepted"] == ("False", "UnsupportedValue")


def test_a_gateway_that_can_not_listen_is_not_programmed():
    gateway = make_gateway()
    status = routestatus.make_gateway_status(
        gateway, make_view(gateway=gateway), "", "port 80: in use"
    )
    assert conditions(status["conditions"])["Programmed"] == ("False", "AddressNotUsable")
    assert status["conditions"][1]["message"] == "port 80: in use"
    assert status["addresses"] == []


def test_a_lag_that_is_no_number_is_said():
    gateway = make_gateway()
    gateway["metadata"]["annotations"] = {"testbed.sluice.dev/lag-ms": "1s"}
    status = routestatus.make_gateway_status(gateway, make_view(gateway=gateway), "10.246.0.1", "")
    assert conditions(status["conditions"])["Accepted"] == ("False", "InvalidParameters")
    assert "'1s'; allowed is a whole number" in status["conditions"][0]["message"]
