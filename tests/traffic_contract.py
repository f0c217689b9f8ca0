"""What our routes rely on, as checks that any gateway must pass: the simulated one and the real one.

A check starts nothing of the data plane itself, and knows no implementation.
"""

from collections.abc import Callable
from typing import Any

from tests.traffic_site import IN_A_ROW, Site, make_host, make_rule, read_samples, statuses
from tests.waiting import wait_for

PIN = "sluice-pin"


def check_weights_split_requests(site: Site) -> None:
    """75 to 25 over 2,000 requests, each answered by whom the gateway says it chose."""
    host = make_host()
    site.deploy("a")
    site.deploy("b", replicas=2)
    site.route(host, [make_rule({"a": 75, "b": 25})])
    site.wait_reached(host, "a", "b")
    seen = site.ask(host, 2000)
    assert statuses(seen) == {200: 2000}
    assert [one for one in seen if one.revision != one.routed] == []
    share = sum(one.revision == "b" for one in seen) / len(seen)
    # Five standard deviations of a fair choice: sqrt(0.25 * 0.75 / 2000) is 0.0097.
    assert 0.20 < share < 0.30, share


def make_lane(revision: str, *, has_clients: bool) -> dict[str, Any]:
    """A rule that its pin leads to, and everybody else too where it has the clients (docs/adr/0005)."""
    lane = make_rule({revision: 1}, {PIN: revision})
    if has_clients:
        lane["matches"] = [*lane["matches"], {"path": {"type": "PathPrefix", "value": "/"}}]
    return lane


def check_a_change_of_lanes_moves_everybody_and_loses_nobody(site: Site) -> None:
    """One write of a route moves all new requests; what is under way ends where it is."""
    host = make_host()
    site.deploy("a")
    site.deploy("b")
    site.route(host, [make_lane("a", has_clients=True), make_lane("b", has_clients=False)])
    site.wait_answers(host, lambda one: one.revision == "a", what="a has everything")
    site.wait_answers(host, lambda one: one.revision == "b", what="b is ready", sluice_pin="b")
    under_way = site.begin(host, 1500, at_once=4)
    site.route(host, [make_lane("a", has_clients=False), make_lane("b", has_clients=True)])
    site.wait_answers(host, lambda one: one.revision == "b", what="b has everything")
    met = statuses(under_way.result())
    assert met == {200: 1500}, met


def check_a_header_pins_a_revision(site: Site) -> None:
    """The rule with more headers wins, wherever it stands; another value is no match."""
    host = make_host()
    site.deploy("a")
    site.deploy("b")
    site.deploy("c")
    rules = [
        make_rule({"a": 100, "b": 0}),
        make_rule({"b": 1}, {PIN: "b"}),
        make_rule({"c": 1}, {"x-tenant": "t1", "x-kind": "k1"}),
    ]
    site.route(host, rules)
    site.wait_answers(host, lambda one: one.revision == "b", what="b is pinned", sluice_pin="b")
    both = {"x_tenant": "t1", "x_kind": "k1"}
    site.wait_answers(host, lambda one: one.revision == "c", what="c is reached", **both)
    for headers, revision in (
        ({}, "a"),
        ({"sluice_pin": "c"}, "a"),
        ({"x_tenant": "t1"}, "a"),
        (both, "c"),
        ({**both, "sluice_pin": "b"}, "c"),
    ):
        seen = site.ask(host, IN_A_ROW, **headers)
        met = {(one.status, one.revision) for one in seen}
        assert met == {(200, revision)}, (headers, met)


def check_a_mirror_gets_copies_and_answers_nobody(site: Site) -> None:
    """All of the requests, then a quarter of them."""
    host = make_host()
    site.deploy("a")
    site.deploy("copy")
    site.route(host, [make_rule({"a": 1}, mirror=("copy", 100))])
    site.wait_answers(host, lambda one: one.revision == "a", what="the route works")

    def is_mirrored() -> bool:
        before = site.answers("copy")
        assert site.ask(host)[0].revision == "a"
        return bool(wait_for(lambda: site.answers("copy") > before, what="a copy", seconds=5))

    wait_for(is_mirrored, what="copies arrive")
    asked = site.answers("a")
    before = wait_for(lambda: _find_rest(site, "copy"), what="no copy is under way")
    assert {one.revision for one in site.ask(host, 400)} == {"a"}
    wait_for(lambda: site.answers("copy") == before + 400, what="400 copies")
    assert site.answers("a") == asked + 400

    site.route(host, [make_rule({"a": 1}, mirror=("copy", 25))])

    def is_a_share() -> bool:
        before = _find_rest(site, "copy")
        site.ask(host, 400)
        copies = _find_rest(site, "copy") - before
        # Five standard deviations of a fair choice: sqrt(400 * 0.25 * 0.75) is 8.7.
        assert 56 < copies < 144, f"{copies} copies of 400"
        return True

    wait_for(is_a_share, what="a quarter is copied")


def _find_rest(site: Site, name: str) -> int:
    """Answers of a backend at a moment when none is under way and none has just come."""
    seen = [-1]

    def is_quiet() -> bool:
        seen.append(site.answers(name))
        return seen[-1] == seen[-2]

    wait_for(is_quiet, what=f"no request of {name} is under way")
    return seen[-1]


def check_a_missing_backend_is_said_and_costs_only_its_share(site: Site) -> None:
    """ResolvedRefs is False with the Service's name, and True once the Service is there."""
    host = make_host()
    site.deploy("a")
    rules = [make_rule({"a": 1}), make_rule({"later": 1}, {PIN: "later"})]
    site.route(host, rules)

    def is_said() -> bool:
        found = site.condition(host, "ResolvedRefs")
        assert found.get("status") == "False", found
        assert found["reason"] == "BackendNotFound", found
        assert "later" in found["message"], found
        return True

    wait_for(is_said, what="the missing backend is said")
    assert site.condition(host, "Accepted")["status"] == "True"
    site.wait_answers(host, lambda one: one.revision == "a", what="the other rule works")
    assert statuses(site.ask(host, IN_A_ROW, sluice_pin="later")) == {500: IN_A_ROW}
    site.deploy("later")
    wait_for(
        lambda: site.condition(host, "ResolvedRefs").get("status") == "True", what="it is resolved"
    )
    site.wait_answers(
        host, lambda one: one.revision == "later", what="it is reached", sluice_pin="later"
    )


def check_a_pod_that_is_not_ready_gets_nothing(site: Site) -> None:
    """Of two pods, the one that stays ready answers everything.

    Where no pod is ready, gateways differ: Envoy Gateway 1.9 goes on asking those that are not.
    """
    host = make_host()
    site.deploy("a", replicas=2)
    site.route(host, [make_rule({"a": 1})])
    site.wait_reached(host, "a")
    left, right = site.pods("a")
    site.make_unready(site.namespace, left["metadata"]["name"])

    def is_out() -> bool:
        before = [site.answers_of(pod) for pod in (left, right)]
        assert statuses(site.ask(host, IN_A_ROW)) == {200: IN_A_ROW}
        after = [site.answers_of(pod) for pod in (left, right)]
        return after == [before[0], before[1] + IN_A_ROW]

    wait_for(is_out, what="the pod that is not ready gets nothing")


def check_an_unknown_host_is_not_found(site: Site) -> None:
    """404, and only 404, for a host that no route names."""
    assert statuses(site.ask(make_host(), IN_A_ROW)) == {404: IN_A_ROW}


def check_a_request_is_given_up_after_the_timeout(site: Site) -> None:
    """504 from the gateway, after the route's time and long before the pod's."""
    host = make_host()
    site.deploy("slow", latency_ms=20_000)
    site.route(host, [make_rule({"slow": 1}, timeout="500ms")])
    wait_for(
        lambda: site.condition(host, "Accepted").get("status") == "True", what="the route is there"
    )
    wait_for(lambda: site.ask(host)[0].status == 504, what="it has its effect")
    (answer,) = site.ask(host)
    assert answer.status == 504
    assert 0.4 < answer.seconds < 10


def check_a_server_is_told_how_long_the_gateway_waits(site: Site) -> None:
    """It says itself that it is too late, before the gateway does: whose failure it was is on the answer."""
    host = make_host()
    site.deploy("slow", latency_ms=20_000)
    site.route(host, [make_rule({"slow": 1}, timeout="5s", sets={"sluice-timeout-ms": "1000"})])
    wait_for(lambda: site.ask(host)[0].revision == "slow", what="the route has its effect")
    (answer,) = site.ask(host, sluice_timeout_ms="60000")
    assert (answer.status, answer.revision, answer.routed) == (504, "slow", "slow"), answer
    assert 0.8 < answer.seconds < 4


def check_what_the_route_removes_never_reaches_a_server(site: Site) -> None:
    """No client passes for the comparer, whose requests are no samples."""
    host = make_host()
    site.deploy("only")
    site.route(host, [make_rule({"only": 1}, removes="sluice-shadow")])
    site.wait_answers(host, lambda one: one.revision == "only", what="the route has its effect")
    (pod,) = site.pods("only")

    def count() -> int:
        text = site.get(pod, "/metrics/rollout").body
        return sum(read_samples(text, "sluice_inference_answers_total").values())

    before = count()
    site.ask(host, sluice_shadow="true")
    wait_for(lambda: count() == before + 1, what="it is counted like any client's")


def check_only_what_a_rule_split_says_so(site: Site) -> None:
    """Whatever the client says: servers count what was split apart, and weights are held against it."""
    host = make_host()
    site.deploy("a")
    site.deploy("b")
    lane = make_rule({"a": 1}, removes="sluice-split")
    mix = make_rule({"a": 1, "b": 1}, {"sluice-pin": "mix"}, sets={"sluice-split": "1"})
    site.route(host, [lane, mix])
    site.wait_answers(host, lambda one: one.revision == "a", what="the lane has its effect")
    wait_for(
        lambda: "b" in {one.revision for one in site.ask(host, 20, sluice_pin="mix")},
        what="the mix has its effect",
    )

    def count() -> int:
        texts = [site.get(pod, "/metrics/rollout").body for name in "ab" for pod in site.pods(name)]
        name = "sluice_inference_split_answers_total "
        lines = [line for text in texts for line in text.splitlines() if line.startswith(name)]
        assert len(lines) == 2, "both count them"
        return sum(int(line.removeprefix(name)) for line in lines)

    before = count()
    site.ask(host, 10, sluice_split="1")
    site.ask(host, 6, sluice_pin="mix")
    wait_for(lambda: count() == before + 6, what="those of the mix alone are counted as split")


def check_a_request_ends_where_it_began(site: Site) -> None:
    """A change of weights while it is under way does not cut it."""
    host = make_host()
    site.deploy("old", latency_ms=4000)
    site.deploy("new")
    site.route(host, [make_rule({"old": 1})])
    (pod,) = site.pods("old")
    wait_for(
        lambda: site.condition(host, "Accepted").get("status") == "True", what="the route is there"
    )
    wait_for(lambda: site.ask(host)[0].revision == "old", what="it has its effect")
    under_way = site.begin(host)

    def is_under_way() -> bool:
        return '"in_flight":1' in site.get(pod, "/status").body.replace(" ", "")

    wait_for(is_under_way, what="a request is under way")
    site.route(host, [make_rule({"old": 0, "new": 1})])
    site.wait_answers(host, lambda one: one.revision == "new", what="new requests go elsewhere")
    (answer,) = under_way.result()
    assert (answer.status, answer.revision) == (200, "old")


CHECKS: list[Callable[[Site], None]] = [
    check_weights_split_requests,
    check_a_change_of_lanes_moves_everybody_and_loses_nobody,
    check_a_header_pins_a_revision,
    check_a_mirror_gets_copies_and_answers_nobody,
    check_a_missing_backend_is_said_and_costs_only_its_share,
    check_a_pod_that_is_not_ready_gets_nothing,
    check_an_unknown_host_is_not_found,
    check_a_request_is_given_up_after_the_timeout,
    check_a_server_is_told_how_long_the_gateway_waits,
    check_what_the_route_removes_never_reaches_a_server,
    check_only_what_a_rule_split_says_so,
    check_a_request_ends_where_it_began,
]
