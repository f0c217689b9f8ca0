"""What the state machine sees: one look at a service, as numbers and revision names.

Plain values.  `plan` makes them from a World; nothing here reads manifests.
"""

import math
from dataclasses import dataclass, field
from datetime import timedelta

from sluice.api.rolloutstatus import Verdict
from sluice.rollout.course import Course, Step


@dataclass(frozen=True, slots=True)
class Track:
    """What the state machine needs to know of one revision."""

    ready: int = 0
    wanted: int = 1  # ready pods that it needs before all clients may be sent to it
    cut_off: int = 0  # pods that only their nodes make unready: nothing is known of them
    reached: int = 0  # of its ready pods: how many are behind the front Service
    unschedulable: str = ""
    doomed_reason: str = ""  # a trouble that waiting can't mend
    doomed_message: str = ""
    trouble: str = ""  # the newest trouble's words, for the message of a rejection
    restarts: int = 0  # of the containers of its pods, together


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at a service: the revision it should run, and what runs."""

    target: str  # empty: unknown for now
    settles: bool = field(default=True, kw_only=True)  # what was decided last is on record
    stable_exists: bool = field(default=True, kw_only=True)
    stable_replicas: int = field(default=0, kw_only=True)
    deadline: int = field(default=1200, kw_only=True)  # seconds, of a rollout that begins now
    candidate: Track  # of the cursor's revision
    course: Course
    other_ready: int = 1  # ready pods of the revision that clients would go back to
    previous_ready: int = 0  # ready pods of the revision that drains or bakes
    rejected: tuple[str, str] | None = (
        None  # reason and message, where the target was rejected before
    )
    # Percent that the cursor's revision gets, by what clients go through; None while that isn't settled.
    carried: int | None = 0
    reachable: frozenset[str] = field(default_factory=frozenset)  # revisions that clients may reach
    weighs: bool = True  # whether clients can be given to two revisions by share
    proven: bool = True  # answers of the candidate came through the gateway
    unmirrored: str = ""  # why a shadow step's requests are not compared yet
    unchecked: str = ""  # why the pre-promotion Job does not let it have clients yet
    check_failed: str = ""  # why that Job never will
    verdict: Verdict = Verdict.PASS
    finding: str = ""  # the verdict's number and threshold
    is_recast: bool = False  # rejected, and spec asks for another course by now
    mixable: bool = True  # whether stable and candidate embed into the same space
    lag: timedelta = timedelta(seconds=5)  # how long clients may reach what they were moved from

    def needs(self, step: Step) -> int:
        """Ready pods of the candidate that this step presupposes."""
        return max(1, math.ceil(self.candidate.wanted * step.share / 100))
