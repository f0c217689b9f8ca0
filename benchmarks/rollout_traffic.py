"""No client sees an error for how a version is rolled out: `make bench-rollout-traffic`.

On a node tier: real pods, a real Envoy that tries nothing again, and an open-loop client that doesn't
either.  One service goes through every scenario of `SCENARIOS` under the same traffic; each asserts how it
must end.  The last line of stdout is {"requests", "failed_by_sluice", "failed_by_candidate", "scenarios"}
(benchmarks/README.md); the exit code is 0 when none was failed by Sluice, of at least `LEAST_REQUESTS`.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.attribution import Share, count_failures, measure_share
from benchmarks.cast import CASTS, Flaw
from benchmarks.instance import say
from benchmarks.theatre import ERRORS, Moment, Theatre, make_canary, make_check, make_theatre
from benchmarks.traffic import Traffic, run_traffic
from tests.operator_process import OperatorProcess
from tests.waiting import wait_for

LEAST_REQUESTS = 100_000
# Before a share is measured, and after: what is under way belongs to the step before.
MARGIN_S = 1.0
KILL_S = 5.0
OUTAGE_S = 60.0
SLOWER = make_check("p95", metric="LatencyP95", type="RelativeToStable", maxIncreasePercent="20")


@dataclass
class Scene:
    """What a scenario plays with, and what it leaves for the report."""

    theatre: Theatre
    traffic: Traffic
    rate: float
    scale: float
    stable: str  # version that serves
    revision: str  # its revision
    number: int = 0  # of the last version
    candidates: set[str] = field(default_factory=set)
    outcome: str = ""

    def next_version(self) -> str:
        """A version that was never used."""
        self.number += 1
        return f"1.{self.number}.0"

    def ship(self, flaw: Flaw | None = None, **rollout: Any) -> tuple[str, str]:
        """Rolls out a new version; gives it and its revision."""
        version, flaw = self.next_version(), flaw or Flaw()
        revision = self.theatre.ship(version, flaw.env, source=flaw.source, **rollout)
        self.candidates.add(revision)
        return version, revision

    def hold(self, seconds: float) -> float:
        """A hold in the scale of this run."""
        return max(1.0, seconds * self.scale)

    def count_in(self, seconds: float) -> int:
        """How many requests clients send in a time, in the scale of this run."""
        return round(self.rate * seconds * self.scale)

    def expect_promoted(self, version: str, revision: str, seconds: float = 300.0) -> None:
        """It serves, alone, and the history says so."""
        end = self.theatre.wait_state("Complete", revision, seconds)
        self._expect(end, version, "True", "Serving", ("Serving", version))
        self.stable, self.revision = version, revision
        self.outcome = f"{version} Serving"
        self.theatre.wait_alone(revision)

    def expect_given_up(
        self, version: str, revision: str, outcome: str, reason: str, seconds: float = 180.0
    ) -> None:
        """The stable version serves, alone; the history says what became of the other, and why."""
        end = self.theatre.wait_state("Rejected", revision, seconds)
        self._expect(end, self.stable, "False", "RolledBack", (outcome, version))
        assert reason in end.rollout["reason"], end.rollout
        self.outcome = f"{version} {outcome}: {end.status['message']}"
        self.theatre.wait_alone(self.revision)

    def _expect(
        self, end: Moment, stable: str, ready: str, reason: str, ending: tuple[str, str]
    ) -> None:
        (found,) = (one for one in end.status["conditions"] if one["type"] == "Ready")
        assert (found["status"], found["reason"]) == (ready, reason), found
        assert end.stable["version"] == stable, end.stable
        # What serves again after a rollback has an entry of its own, above the one that failed.
        told = [(one["outcome"], one["version"]) for one in end.status["history"][:2]]
        assert ending in told, told


# The scenarios


def promote_a_good_canary(scene: Scene) -> None:
    """10 %, 50 %, 100 %: each step as long as a share takes to be measured."""
    rollout = make_canary((10, scene.hold(36)), (50, scene.hold(36)), (100, 0))
    scene.expect_promoted(*scene.ship(**rollout))


def roll_back_a_version_that_errs(scene: Scene) -> None:
    """5 % of its answers are errors, 1 % are allowed."""
    flaw = scene.theatre.cast.flaws["errs"]
    rollout = make_canary((flaw.weight, scene.hold(30)), (100, 0))
    shipped = scene.ship(flaw, **rollout)
    scene.expect_given_up(*shipped, "RolledBack", "AnalysisFailed")


def roll_back_a_version_that_is_slower(scene: Scene) -> None:
    """By 30 % or more (benchmarks/cast.py); P95 may be 20 % above stable's."""
    flaw = scene.theatre.cast.flaws["slower"]
    rollout = make_canary((flaw.weight, scene.hold(30)), (100, 0), checks=(ERRORS, SLOWER))
    shipped = scene.ship(flaw, **rollout)
    scene.expect_given_up(*shipped, "RolledBack", "AnalysisFailed", seconds=330)


def give_up_a_version_that_never_gets_ready(scene: Scene) -> None:
    """No client ever meets it."""
    flaw = scene.theatre.cast.flaws["never-ready"]
    rollout = make_canary((flaw.weight, scene.hold(10)), (100, 0), deadline="20s")
    version, revision = scene.ship(flaw, **rollout)
    scene.expect_given_up(version, revision, "Rejected", "ProgressDeadlineExceeded")
    assert scene.traffic.count(revision) == 0


def roll_back_a_version_that_fails_once_it_is_ready(scene: Scene) -> None:
    """Ready, a hundred good answers per pod, then 500 to everybody."""
    flaw = scene.theatre.cast.flaws["fails-later"]
    rollout = make_canary((flaw.weight, scene.hold(30)), (100, 0))
    shipped = scene.ship(flaw, **rollout)
    scene.expect_given_up(*shipped, "RolledBack", "AnalysisFailed")


def roll_back_a_version_that_hangs(scene: Scene) -> None:
    """Ready, and no answer within the route's time."""
    flaw = scene.theatre.cast.flaws["hangs"]
    rollout = make_canary((flaw.weight, scene.hold(30)), (100, 0))
    scene.expect_given_up(*scene.ship(flaw, **rollout), "RolledBack", "AnalysisFailed")


def switch_and_switch_back(scene: Scene) -> None:
    """Blue/green: preview, approval, all at once; and back by request while the old one is warm."""
    theatre = scene.theatre
    rollout: dict[str, Any] = {
        "strategy": "BlueGreen",
        "blueGreen": {"approval": "Required", "hold": f"{round(scene.hold(10))}s"},
        "bake": "10m",
        "deadline": "5m",
        "analysis": {"interval": "1s", "checks": [ERRORS]},
    }
    version, revision = scene.ship(**rollout)
    paused = theatre.wait_state("Paused", revision)
    assert paused.rollout["pausedReason"] == "WaitingForApproval", paused.rollout
    assert scene.traffic.count(revision) == 0
    theatre.ask("promote", revision)
    baking = theatre.wait_state("Baking", revision)
    assert baking.stable["version"] == version, baking.stable
    scene.traffic.wait(revision, scene.count_in(10))
    theatre.ask("rollback", revision, "previous")
    scene.expect_given_up(version, revision, "RolledBack", "RolledBackByRequest")


def abort_by_hand(scene: Scene) -> None:
    """A person's abort in the middle of a step."""
    rollout = make_canary((50, 240), (100, 0))
    version, revision = scene.ship(**rollout)
    scene.theatre.wait_state("Analysing", revision)
    scene.traffic.wait(revision, scene.count_in(10))
    scene.theatre.ask("abort", revision)
    scene.expect_given_up(version, revision, "Aborted", "Aborted")


def promote_while_the_operator_is_killed(scene: Scene) -> None:
    """SIGKILL at random moments, one in `KILL_S` seconds on average, from beginning to end."""
    # Samples don't outlive the operator, so between two kills there must be enough for a verdict.
    check = {**ERRORS, "maxPercent": "20"}
    rollout = make_canary((25, scene.hold(15)), (50, scene.hold(15)), (100, 0), checks=(check,))
    rollout["analysis"]["minSamples"] = 30
    assert scene.theatre.operator is not None, "make_theatre starts one"
    with _killing(scene.theatre.operator) as kills:
        scene.expect_promoted(*scene.ship(**rollout), seconds=400)
    assert kills, "the operator was not killed"
    scene.outcome = f"{scene.outcome}; the operator killed {len(kills)} times"


def promote_across_an_outage_of_the_api_server(scene: Scene) -> None:
    """It goes in the middle of a step and comes back after `OUTAGE_S` seconds."""
    theatre = scene.theatre
    rollout = make_canary((50, scene.hold(30)), (100, 0))
    version, revision = scene.ship(**rollout)
    theatre.wait_state("Analysing", revision)
    scene.traffic.wait(revision, round(scene.rate))
    say("  the API server is gone")
    theatre.cluster.kill("kube-apiserver")
    time.sleep(OUTAGE_S)
    theatre.cluster.restart("kube-apiserver")
    say("  the API server is back")
    scene.expect_promoted(version, revision)


SCENARIOS: dict[str, Callable[[Scene], None]] = {
    "canary": promote_a_good_canary,
    "errs": roll_back_a_version_that_errs,
    "slower": roll_back_a_version_that_is_slower,
    "never-ready": give_up_a_version_that_never_gets_ready,
    "fails-later": roll_back_a_version_that_fails_once_it_is_ready,
    "hangs": roll_back_a_version_that_hangs,
    "blue-green": switch_and_switch_back,
    "abort": abort_by_hand,
    "operator-killed": promote_while_the_operator_is_killed,
    "api-server-gone": promote_across_an_outage_of_the_api_server,
}
# Whose candidates are made to fail.
BAD = {"errs", "fails-later", "hangs"}
# Whose candidates have a flaw, which not every model can be given.
FLAWED = {"errs", "slower", "never-ready", "fails-later", "hangs"}


@contextlib.contextmanager
def _killing(operator: OperatorProcess) -> Iterator[list[float]]:
    """Kills the operator while the block runs; gives the moments, to be read at the end."""
    kills: list[float] = []
    over = threading.Event()
    chance = random.Random(4)

    def kill() -> None:
        while not over.wait(chance.uniform(0.4 * KILL_S, 1.6 * KILL_S)):
            if operator.is_running:
                os.kill(operator.pid, signal.SIGKILL)  # the theatre starts it again
                kills.append(time.time())

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        yield kills
    finally:
        over.set()
        thread.join()


# The report


def find_spans(moments: list[Moment], revision: str) -> list[tuple[int, float, float]]:
    """When a candidate had which weight for good: (percent, since, until)."""
    spans: list[tuple[int, float, float]] = []
    steady = {"Analysing", "Paused", "Baking"}
    for moment, after in itertools.pairwise(moments):
        weight = moment.rollout.get("weight", 0)
        is_steady = moment.revision == revision and moment.state in steady
        if not is_steady or not weight or moment.rollout.get("back"):
            continue
        if spans and spans[-1][0] == weight and spans[-1][2] == moment.time:
            spans[-1] = (weight, spans[-1][1], after.time)
        else:
            spans.append((weight, moment.time, after.time))
    return spans


def play(name: str, scene: Scene) -> tuple[float, float]:
    """One scenario; gives when it began and ended."""
    scene.candidates, scene.outcome = set(), ""
    say(f"{name}: {SCENARIOS[name].__doc__}")
    began = time.time()
    SCENARIOS[name](scene)
    ended = time.time()
    say(f"{name}: {scene.outcome} ({ended - began:.0f} s)")
    return began, ended


def report(
    name: str, scene: Scene, began: float, ended: float, moments: list[Moment]
) -> dict[str, Any]:
    """What a scenario's requests came to.  Those between two scenarios belong to the one before."""
    answers = [one for one in scene.traffic.answers if began <= one.sent < ended]
    failures = count_failures(answers, scene.candidates)
    for what, count in failures.ours.most_common(10):
        say(f"  FAILED BY SLUICE: {count} x {what}")
    shares: list[Share] = []
    for revision in sorted(scene.candidates):
        for weight, since, until in find_spans(moments, revision):
            if until - since > 2 * MARGIN_S + 1:
                window = since + MARGIN_S, until - MARGIN_S
                shares.append(measure_share(answers, revision, weight, *window))
    for share in shares:
        say(f"  share: {share.dump()}")
        assert share.is_good, f"{name}: {share.dump()}"
    if name not in BAD:
        assert failures.by_candidate == 0, f"{name}: the candidate failed {failures.by_candidate}"
    return {
        "name": name,
        "requests": len(answers),
        "failed_by_sluice": failures.by_sluice,
        "failed_by_candidate": failures.by_candidate,
        "split": [share.dump() for share in shares],
        "outcome": scene.outcome,
        "seconds": round(ended - began, 1),
    }


def run(theatre: Theatre, rate: float, scale: float, names: list[str]) -> dict[str, Any]:
    """Every scenario, one after the other, under one stream of requests."""
    folder, cast = Path(theatre.cluster.folder), theatre.cast
    image = cast.write_image(folder / "small.png")
    theatre.env = {**theatre.env, **cast.env}
    say("1.0.0 is deployed")
    revision = theatre.ship("1.0.0", **make_canary((100, 0)))
    theatre.wait_state("Complete", revision)
    theatre.story.wait(lambda one: one.status.get("phase") == "Healthy", "Healthy")
    reports: list[dict[str, Any]] = []
    with run_traffic(theatre.cluster, cast.host, image, rate, folder / "answers.tsv") as traffic:
        scene = Scene(theatre, traffic, rate, scale, "1.0.0", revision)
        scene.traffic.wait(revision, round(rate))
        began = traffic.answers[0].sent
        for name in names:
            _, ended = play(name, scene)
            # What was sent by now has been answered, or never will be.
            moments = theatre.story.since(began)
            wait_for(
                lambda ended=ended: traffic.answers[-1].sent > ended,  # type: ignore[misc]
                what="the answers of the scenario",
            )
            reports.append(report(name, scene, began, ended, moments))
            began = ended
        traffic.stop()
    return {
        **{
            key: sum(one[key] for one in reports)
            for key in ("requests", "failed_by_sluice", "failed_by_candidate")
        },
        "model": cast.service,
        "rate": rate,
        "scenarios": reports,
    }


def main() -> int:
    """Sets up, runs, cleans up."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rollout_traffic", description=__doc__
    )
    parser.add_argument("--model", choices=CASTS, default="fake", help="benchmarks/cast.py")
    parser.add_argument("--rate", type=float, help="requests a second; default: the model's")
    parser.add_argument("--scale", type=float, default=1.0, help="of all holds; less is shorter")
    parser.add_argument("--only", choices=SCENARIOS, nargs="+", help="some of the scenarios")
    parser.add_argument("--instance", default="", help="a running node tier, which is left running")
    options = parser.parse_args()
    cast = CASTS[options.model]()
    can = [name for name in SCENARIOS if name not in FLAWED or name in cast.flaws]
    names = options.only or can
    if unable := [name for name in names if name not in can]:
        parser.error(f"--only {unable[0]}: --model {options.model} can't play it; {', '.join(can)}")
    is_whole = options.scale >= 1 and len(names) == len(SCENARIOS)
    with make_theatre("bench-traffic", options.instance, cast) as theatre:
        found = run(theatre, options.rate or cast.rate, options.scale, names)
    print(json.dumps(found), flush=True)
    is_enough = not is_whole or found["requests"] >= LEAST_REQUESTS
    return 0 if found["failed_by_sluice"] == 0 and is_enough else 1


if __name__ == "__main__":
    sys.exit(main())
