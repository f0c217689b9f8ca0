"""What the rules of a service's route tell the servers of its requests."""

from sluice.api.inferenceservice import InferenceService
from sluice.resources.metadata import Manifest, Owner
from sluice.resources.route import Split, make_route
from tests.builders import inference_service

OWNER = Owner("vision", "pizza", "uid-pizza")
STABLE, CANDIDATE = "aaaaaaaaaa", "bbbbbbbbbb"
MIX = {STABLE: 90, CANDIDATE: 10}


def make_rules(split: Split) -> list[Manifest]:
    service = InferenceService.parse(inference_service().traffic(timeout="5s").obj())
    assert service.spec.traffic is not None
    rules: list[Manifest] = make_route(OWNER, service.spec.traffic, split)["spec"]["rules"]
    return rules


def find_marks(rule: Manifest) -> tuple[dict[str, str], list[str]]:
    """The headers of requests that a rule sets, and those that it removes."""
    (change,) = (
        item["requestHeaderModifier"]
        for item in rule["filters"]
        if item["type"] == "RequestHeaderModifier"
    )
    return {item["name"]: item["value"] for item in change["set"]}, change["remove"]


def test_only_the_mix_says_that_it_split_a_request() -> None:
    *lanes, mix = make_rules(Split((STABLE, CANDIDATE), mix=MIX))

    assert find_marks(mix) == (
        {"sluice-timeout-ms": "5000", "sluice-split": "1"},
        ["sluice-shadow"],
    )
    for lane in lanes:
        assert find_marks(lane) == (
            {"sluice-timeout-ms": "5000"},
            ["sluice-shadow", "sluice-split"],
        )


def test_who_is_matched_pinned_or_mirrored_was_not_split() -> None:
    headers = [{"name": "x-cohort", "value": "beta"}]
    split = Split(
        (STABLE, CANDIDATE),
        main=STABLE,
        mix=MIX,
        matched=CANDIDATE,
        match=[{"headers": headers}],
        mirror="pizza-compare",
        mirror_percent=100,
    )

    *lanes, mix = make_rules(split)

    assert {"x-cohort"} == {
        header["name"] for match in lanes[1]["matches"][1:] for header in match.get("headers", ())
    }
    assert [item["type"] for item in lanes[0]["filters"]][1:] == ["RequestMirror"]
    assert ["sluice-split" in find_marks(rule)[1] for rule in (*lanes, mix)] == [True, True, False]


def test_an_idle_lane_removes_what_clients_say() -> None:
    rules = make_rules(Split((STABLE, ""), main=STABLE))

    assert [find_marks(rule)[1] for rule in rules] == [["sluice-shadow", "sluice-split"]] * 2
