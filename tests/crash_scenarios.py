"""Scenarios in which the operator is killed: what people do, one act after the other, and how it must end.

Data only; `crash_play` plays them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sluice.requests import Verb
from tests.builders import ServiceBuilder
from tests.space import Space, make_env

Status = dict[str, Any]
When = Callable[[Status], bool]
Do = Callable[[Space, str], object]
Act = tuple[When, Do]

LONG = "10m"
# Told to err always: five answers are enough.
CHECK = {"name": "errors", "metric": "ErrorRate", "type": "Absolute", "maxPercent": "50"}


@dataclass(frozen=True)
class Scenario:
    """`before` happens before writes count; the first act of `acts` is what makes them count."""

    name: str
    build: Callable[[ServiceBuilder], ServiceBuilder]
    acts: tuple[Act, ...]
    stable: str  # the version that serves in the end
    end: str = "Complete"
    before: tuple[Act, ...] = ()
    spare: str = (
        ""  # the revision without clients that may or may not be removed before it is needed again
    )


def at_once(_: Status) -> bool:
    return True


def is_in(state: str, version: str = "", *, step: int = 0) -> When:
    """Whether the rollout is in this state, with this candidate, at this step."""

    def look(status: Status) -> bool:
        rollout = status.get("rollout", {})
        track = status.get("candidate") or status.get("stable") or {}
        return (
            rollout.get("state") == state
            and version in ("", track.get("version"))
            and step in (0, rollout.get("step"))
        )

    return look


def serves(version: str) -> When:
    """Whether it is at rest with this version."""

    def look(status: Status) -> bool:
        return bool(
            status.get("rollout", {}).get("state") == "Complete"
            and status["stable"]["version"] == version
        )

    return look


def move(version: str, **env: str) -> Do:
    return lambda space, name: space.move(version, name, **env)


def ask(verb: Verb, target: str = "") -> Do:
    return lambda space, name: space.ask(verb, name, target)


def canary(
    *steps: int | dict[str, Any], **fields: Any
) -> Callable[[ServiceBuilder], ServiceBuilder]:
    return lambda service: service.canary(*steps, **fields)


def blue_green(hold: str = "1s", **fields: Any) -> Callable[[ServiceBuilder], ServiceBuilder]:
    return lambda service: service.blue_green(hold, **fields)


def checked(service: ServiceBuilder) -> ServiceBuilder:
    return service.canary(90, 100).analysis(CHECK, interval="1s", minSamples=1)


JOB = {"args": ["check"], "env": make_env(LOAD_TIME="500ms")}
BAD_JOB = {"args": ["check"], "env": make_env(BEHAVIOUR="crash-loop", MESSAGE="said no")}
HELD = canary({"weight": 25, "hold": LONG}, {"weight": 50, "hold": "1s"}, 100)
UP = (at_once, move("1.1.0"))
SHIFTED = is_in("Analysing", "1.1.0", step=1)

SCENARIOS = (
    Scenario("canary", canary({"weight": 25, "hold": "1s"}, 50, 100), (UP,), "1.1.0"),
    Scenario("canary-checked", checked, (UP,), "1.1.0"),
    Scenario("blue-green", blue_green(), (UP,), "1.1.0"),
    Scenario(
        "blue-green-approval",
        blue_green(approval=True),
        (UP, (is_in("Paused", "1.1.0"), ask(Verb.PROMOTE))),
        "1.1.0",
    ),
    Scenario("rolling-update", lambda service: service, (UP,), "1.1.0"),
    Scenario(
        "auto-rollback",
        checked,
        ((at_once, move("1.1.0", ERROR_PERCENT="100")),),
        "1.0.0",
        "Rejected",
    ),
    Scenario(
        "never-ready",
        canary(50, 100, deadline="5s"),
        ((at_once, move("1.1.0", BEHAVIOUR="never-ready")),),
        "1.0.0",
        "Rejected",
    ),
    Scenario("job", canary(50, 100, prePromotion={"job": JOB}), (UP,), "1.1.0"),
    Scenario(
        "job-fails",
        canary(50, 100, prePromotion={"job": BAD_JOB}),
        (UP,),
        "1.0.0",
        "Rejected",
    ),
    Scenario("abort", HELD, (UP, (SHIFTED, ask(Verb.ABORT))), "1.0.0", "Rejected"),
    Scenario(
        "abort-retry",
        HELD,
        (
            UP,
            (SHIFTED, ask(Verb.ABORT)),
            (is_in("Rejected"), ask(Verb.RETRY)),
            (SHIFTED, ask(Verb.PROMOTE_FULL)),
        ),
        "1.1.0",
        spare="R2",
    ),
    Scenario("promote-full", HELD, (UP, (SHIFTED, ask(Verb.PROMOTE_FULL))), "1.1.0"),
    Scenario(
        "pause-resume",
        HELD,
        (
            UP,
            (SHIFTED, ask(Verb.PAUSE)),
            (is_in("Paused", "1.1.0"), ask(Verb.RESUME)),
            (SHIFTED, ask(Verb.PROMOTE_FULL)),
        ),
        "1.1.0",
    ),
    Scenario(
        "third-version",
        HELD,
        (UP, (SHIFTED, move("1.2.0")), (is_in("Analysing", "1.2.0"), ask(Verb.PROMOTE))),
        "1.2.0",
    ),
    Scenario("revert", HELD, (UP, (SHIFTED, move("1.0.0"))), "1.0.0"),
    Scenario("bake", canary(50, 100, bake="2s"), (UP,), "1.1.0"),
    Scenario(
        "bake-revert",
        canary(50, 100, bake=LONG),
        (UP, (is_in("Baking", "1.1.0"), move("1.0.0"))),
        "1.0.0",
    ),
    Scenario(
        "rollback-previous",
        canary(50, 100),
        ((at_once, ask(Verb.ROLLBACK, "previous")),),
        "1.0.0",
        "Rejected",
        before=(UP, (serves("1.1.0"), lambda space, name: None)),
    ),
)
