"""Labels and annotations that Sluice writes and reads; `docs/contract.md` lists them for people.

This module must not decide anything: it only spells keys and puts them together.
"""

from collections.abc import Mapping

MANAGED_BY = "app.kubernetes.io/managed-by"
NAME = "app.kubernetes.io/name"
SERVICE = "sluice.dev/service"
REVISION = "sluice.dev/revision"
ROLE = "sluice.dev/role"
MODEL = "sluice.dev/model"
VERSION = "sluice.dev/version"
FRONT = "sluice.dev/front"
COMPARES = "sluice.dev/compares"
CHECKS = "sluice.dev/checks"
# Set by Kubernetes on the pods of a Job.
JOB_NAME = "batch.kubernetes.io/job-name"

MANAGER = "sluice"
INFERENCE = "sluice-inference"
PRIMARY = "primary"
COMPARER = "compare"
CHECKER = "check"

# Children are watched through this selector, so the operator never holds other people's objects.
SELECTOR = f"{MANAGED_BY}={MANAGER}"
FRONT_SELECTOR = f"{FRONT}=true"

# On every applied child: the hash of what was applied, so that a field we stop sending is noticed too.
APPLIED = "sluice.dev/applied"
# On a ControllerRevision: what became of it, and why.  Absent while nothing is decided.
OUTCOME = "sluice.dev/outcome"
OUTCOME_REASON = "sluice.dev/outcome-reason"
REJECTED = "Rejected"
# On a ControllerRevision: the course of its latest rollout, frozen before it began.
COURSE = "sluice.dev/course"
# On a ControllerRevision: a check that failed with clients, which no service of the namespace repeats.
QUARANTINE = "sluice.dev/quarantine"

# On an InferenceService, set by people: what they ask of the rollout, and who asks (sluice/requests.py).
REQUEST = "sluice.dev/request"
REQUESTED_BY = "sluice.dev/requested-by"


def service_labels(service: str) -> dict[str, str]:
    """What every child of a service carries."""
    return {MANAGED_BY: MANAGER, NAME: INFERENCE, SERVICE: service}


def revision_labels(
    service: str, revision: str, model: str, version: str, role: str = PRIMARY
) -> dict[str, str]:
    """What every child and pod of one revision carries."""
    return service_labels(service) | {
        REVISION: revision,
        ROLE: role,
        MODEL: model,
        VERSION: version,
    }


def pod_selector(service: str, revision: str) -> dict[str, str]:
    """Selects one revision's pods, and nothing a user's own labels could add to."""
    return {SERVICE: service, REVISION: revision}


def comparer_labels(service: str, revision: str) -> dict[str, str]:
    """What the comparer of a candidate carries: never `REVISION`, by which revisions are selected."""
    return service_labels(service) | {ROLE: COMPARER, COMPARES: revision}


def comparer_selector(service: str, revision: str) -> dict[str, str]:
    """Selects the pods of one candidate's comparer."""
    return {SERVICE: service, COMPARES: revision}


def checker_labels(service: str, revision: str) -> dict[str, str]:
    """What the Job that checks a candidate carries: never `REVISION`, as above."""
    return service_labels(service) | {ROLE: CHECKER, CHECKS: revision}


def revision_of(obj: Mapping[str, object]) -> str:
    """The revision an object belongs to, or an empty string."""
    return _read(obj, REVISION)


def compared_by(obj: Mapping[str, object]) -> str:
    """The candidate that a comparer's object compares, or an empty string for any other object."""
    return _read(obj, COMPARES)


def checked_by(obj: Mapping[str, object]) -> str:
    """The candidate that a Job, or a pod of it, checks; an empty string for any other object."""
    return _read(obj, CHECKS)


def job_of(pod: Mapping[str, object]) -> str:
    """The Job that a pod belongs to, or an empty string."""
    return _read(pod, JOB_NAME)


def _read(obj: Mapping[str, object], key: str) -> str:
    metadata = obj.get("metadata")
    found = metadata.get("labels") if isinstance(metadata, Mapping) else None
    value = found.get(key) if isinstance(found, Mapping) else None
    return value if isinstance(value, str) else ""
