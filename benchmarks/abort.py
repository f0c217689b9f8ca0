"""How fast a candidate loses its clients: `make bench-abort ABORTS=100`.

On a node tier, through a real Envoy and under an open-loop client: half of the aborts are asked for by a
person, half follow from a check that fails.  Each is timed from the moment that it was written (just before
the annotation was sent; when the API server told of the status with the verdict) to the candidate's last
answer to a client, by the server's own stamp and this machine's one clock.  The last line of stdout is
{"aborts", "max_s", "p50_s", "breach_to_verdict_p50_s", "failed_by_sluice", …}.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from benchmarks.attribution import count_failures
from benchmarks.cast import Fake
from benchmarks.instance import say
from benchmarks.theatre import Theatre, make_canary, make_theatre
from benchmarks.traffic import Traffic, run_traffic

GOAL_S = 3.0
# A candidate must have met clients before it is given up.
LEAST_ANSWERS = 20
# A verdict on a version that answers nothing but errors takes few answers.
MIN_SAMPLES = 30


def abort_by_request(theatre: Theatre, traffic: Traffic, number: int) -> tuple[str, float]:
    """A good candidate that a person gives up; its revision, and when that was written."""
    rollout = make_canary((50, 240), (100, 0), checks=())
    revision = theatre.ship("1.0.0", {"FAKE_LABEL": f"good-{number}"}, **rollout)
    theatre.wait_state("Analysing", revision)
    traffic.wait(revision, LEAST_ANSWERS)
    return revision, theatre.ask("abort", revision)


def abort_by_verdict(theatre: Theatre, traffic: Traffic, number: int) -> tuple[str, float]:
    """A candidate that begins to fail; its revision, and when the verdict was written."""
    rollout = make_canary((50, 240), (100, 0))
    rollout["analysis"]["minSamples"] = MIN_SAMPLES
    env = {"FAKE_LABEL": f"bad-{number}", "FAKE_FAIL_AFTER_INPUTS": str(LEAST_ANSWERS)}
    revision = theatre.ship("1.0.0", env, **rollout)
    return revision, theatre.wait_state("Aborting", revision).time


def run(theatre: Theatre, aborts: int, rate: float) -> dict[str, object]:
    """All aborts, one after the other."""
    folder = Path(theatre.cluster.folder)
    image = theatre.cast.write_image(folder / "small.png")
    stable = theatre.ship("1.0.0", **make_canary((100, 0)))
    theatre.wait_state("Complete", stable)
    written: dict[str, float] = {}
    by_verdict: set[str] = set()
    with run_traffic(
        theatre.cluster, theatre.cast.host, image, rate, folder / "answers.tsv"
    ) as traffic:
        traffic.wait(stable, round(rate))
        for number in range(aborts):
            if number % 2:
                revision, moment = abort_by_verdict(theatre, traffic, number)
                by_verdict.add(revision)
            else:
                revision, moment = abort_by_request(theatre, traffic, number)
            end = theatre.wait_state("Rejected", revision)
            assert end.stable["revision"] == stable, end.stable
            written[revision] = moment
            last = max(one.ended for one in traffic.answers if one.revision == revision)
            say(f"{number + 1}/{aborts} {end.rollout['reason']}: {last - moment:.2f} s")
        answers = traffic.stop()
    latest = dict.fromkeys(written, 0.0)
    breach: dict[str, float] = {}
    for answer in answers:
        if answer.revision in latest:
            latest[answer.revision] = max(latest[answer.revision], answer.ended)
            if not answer.is_good:
                breach.setdefault(answer.revision, answer.ended)
    seconds = [max(0.0, latest[revision] - written[revision]) for revision in written]
    verdicts = [written[revision] - breach[revision] for revision in by_verdict]
    failures = count_failures(answers, set(written))
    for what, count in failures.ours.most_common(10):
        say(f"FAILED BY SLUICE: {count} x {what}")
    return {
        "aborts": len(seconds),
        "max_s": round(max(seconds), 3),
        "p50_s": round(statistics.median(seconds), 3),
        "breach_to_verdict_p50_s": round(statistics.median(verdicts), 3) if verdicts else None,
        "by_verdict_max_s": round(
            max((latest[one] - written[one] for one in by_verdict), default=0.0), 3
        ),
        "requests": len(answers),
        "rate": rate,
        "failed_by_sluice": failures.by_sluice,
        "failed_by_candidate": failures.by_candidate,
    }


def main() -> int:
    """Sets up, runs, cleans up."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.abort", description=__doc__)
    parser.add_argument("--aborts", type=int, default=100)
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    parser.add_argument("--instance", default="", help="a running node tier, which is left running")
    options = parser.parse_args()
    if options.aborts < 1:
        parser.error("--aborts must be 1 or more")
    with make_theatre("bench-abort", options.instance, Fake(timeout="1s", cpu="300m")) as theatre:
        theatre.replicas = 1
        found = run(theatre, options.aborts, options.rate)
    print(json.dumps(found), flush=True)
    return 0 if float(str(found["max_s"])) <= GOAL_S and not found["failed_by_sluice"] else 1


if __name__ == "__main__":
    sys.exit(main())
