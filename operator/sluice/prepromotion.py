"""The pre-promotion Job: which candidate must pass one, when it runs, and what it says.

Pure.  It runs once per rollout, as soon as the candidate's pods are ready for its first step; a retry is
another rollout.  A first deployment, a way back and promote-full go without: nobody is to be protected,
or a person has decided.
"""

from sluice import names
from sluice.api.conditions import format_time
from sluice.rollout.course import Course
from sluice.rollout.cursor import Cursor, Goal, State
from sluice.rollout.sight import Sight
from sluice.world import JobView, World


def job_name(world: World, cursor: Cursor) -> str:
    """The name of this rollout's Job."""
    begun = format_time(cursor.started) if cursor.started else ""
    return names.checker_name(world.owner.name, cursor.revision, begun)


def find_job(world: World, cursor: Cursor) -> JobView | None:
    """This rollout's Job, once it is there."""
    return world.jobs.get(job_name(world, cursor))


def is_needed(cursor: Cursor, course: Course) -> bool:
    """Whether clients must wait for the Job: the candidate has none, and is to get some."""
    return (
        course.job is not None
        and bool(cursor.stable)
        and cursor.state is State.PROGRESSING
        and cursor.weight == 0
        and not cursor.back
        and cursor.goal is Goal.NONE
    )


def is_due(world: World, cursor: Cursor, course: Course, sight: Sight) -> bool:
    """Whether the Job is to be made now: there are pods that it can ask."""
    is_ready = sight.candidate.ready >= sight.needs(course.at(cursor.step))
    return is_needed(cursor, course) and is_ready and find_job(world, cursor) is None


def is_kept(cursor: Cursor) -> bool:
    """Whether this rollout's Job may still be asked, or its logs be of interest."""
    return cursor.state is not State.COMPLETE and not cursor.is_promoted and not cursor.back


def find_wait(world: World, cursor: Cursor | None, course: Course) -> tuple[str, str]:
    """Why clients wait for the Job, and why it has failed; each empty where that is not so."""
    if cursor is None or not is_needed(cursor, course):
        return "", ""
    job = find_job(world, cursor)
    if job is None:
        return "the pre-promotion Job has not begun", ""
    name = job.manifest["metadata"]["name"]
    if job.failure:
        return f"Job {name} failed", f"Job {name}: {job.failure}"
    if job.is_complete:
        return "", ""
    return f"Job {name} is running" + (f": {job.trouble}" if job.trouble else ""), ""
