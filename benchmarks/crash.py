"""bench-crash: SIGKILL of the operator before and after every write of every scenario ends as without it.

    python -m benchmarks.crash [--scenario NAME] [--only NAME:NUMBER:before] [--sample N] [--instance NAME]

Canary, blue/green, rollbacks, aborts and the like (`tests/crash_scenarios.py`) on the testbed's control
plane.  Clients ask all the time.  A failure is another end state, a Deployment, Service or route deleted
that is not deleted without a crash, or a request without a good answer.  The last line of stdout is one JSON
object: {"plans", "failures", …}; exit 1 where there are failures.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.instance import make_cluster, make_operator, make_plane, say
from testbed import dataplane
from tests.crash_play import Crasher, Moment, list_moments
from tests.crash_scenarios import SCENARIOS
from tests.seed import find_seed

AT_ONCE = 24
# Long enough for the route simulator's lag, and short enough for a thousand plans.
DRAIN_LAG_S = 0.5


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crash", description=__doc__)
    parser.add_argument("--scenario", action="append", help="only this one; may be repeated")
    parser.add_argument("--only", action="append", help="only this moment, as failures name it")
    parser.add_argument("--sample", type=int, default=0, help="so many moments only, drawn")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help=f"services ({AT_ONCE})")
    parser.add_argument("--instance", default="", help="a running testbed; default a fresh one")
    options = parser.parse_args()
    only = [Moment(name, int(number), when) for name, number, when in split(options.only or [])]
    known = [scenario.name for scenario in SCENARIOS]
    names = options.scenario or list(dict.fromkeys(m.scenario for m in only)) or known
    if unknown := set(names) - set(known):
        parser.error(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    began = time.monotonic()
    failures: dict[str, list[str]] = {}
    requests = late = 0
    with (
        make_cluster("bench-crash", options.instance) as cluster,
        make_operator(
            cluster,
            enter=cluster.enter,
            drain_lag=DRAIN_LAG_S,
            workers=4 * options.at_once,
            reconcile_timeout=600,
        ) as operator,
        make_plane(cluster) as plane,
        tempfile.TemporaryDirectory(prefix="sluice-crash-") as folder,
    ):
        dataplane.start(cluster)
        crasher = Crasher(cluster, plane, operator, Path(folder))
        clean = crasher.learn(names)
        for name, found in clean.items():
            say(f"{name}: {found.writes} writes without a crash")
        moments = only or list_moments(clean)
        if 0 < options.sample < len(moments):
            moments = random.Random(find_seed(sys.stderr)).sample(moments, options.sample)
        for start in range(0, len(moments), options.at_once):
            batch = moments[start : start + options.at_once]
            outcome = crasher.play(batch, clean)
            requests += outcome.requests
            late += outcome.late
            for moment in batch:
                if wrong := outcome.failures[moment]:
                    failures[str(moment)] = wrong
                    say(f"FAILED {moment} {outcome.reached.get(moment, 'at its end')}: {wrong}")
            say(f"{start + len(batch)} of {len(moments)} plans, {len(failures)} failed")
    result = {
        "plans": len(moments),
        "failures": len(failures),
        "scenarios": len(names),
        "requests": requests,
        "late": late,
        "seconds": round(time.monotonic() - began),
        "failed": failures,
    }
    print(json.dumps(result))
    return 1 if failures else 0


def split(moments: list[str]) -> list[tuple[str, str, str]]:
    """Moments as failures name them: scenario, number, before or after."""
    found = []
    for moment in moments:
        parts = moment.split(":")
        if len(parts) != 3 or not parts[1].isdigit() or parts[2] not in ("before", "after"):
            raise SystemExit(f"--only {moment}: must be NAME:NUMBER:before or NAME:NUMBER:after")
        found.append((parts[0], parts[1], parts[2]))
    return found


if __name__ == "__main__":
    sys.exit(main())
