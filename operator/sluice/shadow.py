"""A shadow step: when a comparer is wanted, when requests are mirrored to it, and what that waits for.

Pure.  The comparer comes before the mirror and goes after it: a route that names a Service which isn't
there would be refused by its gateways.
"""

from sluice import names
from sluice.rollout.course import Course
from sluice.rollout.cursor import Cursor, State
from sluice.world import World

_STATES = {State.PROGRESSING, State.ANALYSING, State.PAUSED}


def is_shadowing(cursor: Cursor, course: Course) -> bool:
    """Whether the step at hand compares mirrored requests, or gets ready to."""
    # Not while it is taken back, wherever it stood: a lost status is rebuilt without the step.
    is_between = cursor.state in _STATES and bool(cursor.stable)
    return is_between and course.at(cursor.step).shadow > 0


def choose_mirror(world: World, cursor: Cursor, course: Course) -> tuple[str, int]:
    """The Service that the route mirrors to, and percent of stable's requests; empty and 0 for none."""
    if not is_shadowing(cursor, course):
        return "", 0
    wanted = _wanted_mirror(world, cursor, course)
    if world.route is not None and world.route.mirror == wanted[0]:
        return wanted  # a comparer that is gone for a moment shall not make routes
    comparer, candidate = world.comparers.get(cursor.revision), world.revisions.get(cursor.revision)
    is_ready = comparer is not None and comparer.is_ready
    return wanted if is_ready and candidate and candidate.ready_replicas else ("", 0)


def find_obstacle(world: World, cursor: Cursor | None, course: Course) -> str:
    """Why the step's requests are not compared yet; empty where they are, or needn't be."""
    if cursor is None or not is_shadowing(cursor, course):
        return ""
    comparer = world.comparers.get(cursor.revision)
    if comparer is None or not comparer.is_ready:
        trouble = comparer.trouble if comparer else ""
        return f"the comparer is not ready: {trouble}" if trouble else "the comparer is not ready"
    route = world.route
    if route is None or (route.mirror, route.mirror_percent) != _wanted_mirror(
        world, cursor, course
    ):
        return "the route does not mirror to the comparer yet"
    if not route.settled:
        return "the gateway has not taken the mirror yet"
    return ""


def find_comparer(world: World, revision: str) -> dict[str, str]:
    """Addresses of the comparer's pods that can be asked what they have counted, by name."""
    comparer = world.comparers.get(revision)
    pods = comparer.pods if comparer else ()
    return {pod.name: pod.address for pod in pods if pod.address and (pod.ready or pod.terminating)}


def _wanted_mirror(world: World, cursor: Cursor, course: Course) -> tuple[str, int]:
    name = names.comparer_name(world.owner.name, cursor.revision)
    return name, course.at(cursor.step).shadow
