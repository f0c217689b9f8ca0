"""The pre-promotion Job: a user's container that asks the candidate's own pods."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sluice import labels, names
from sluice.api.prepromotion import JOB_ENV, PrePromotionJob
from sluice.resources.companion import find_server, make_companion
from sluice.resources.metadata import Manifest, Owner, make_manifest

_RESOURCES = {
    "requests": {"cpu": "100m", "memory": "128Mi"},
    "limits": {"memory": "512Mi"},
}


@dataclass(frozen=True, slots=True)
class Checked:
    """The candidate that is checked."""

    revision: str
    model: str
    version: str
    template: Manifest


def make_checker(
    owner: Owner, name: str, stable: str, checked: Checked, asked: Mapping[str, Any]
) -> Manifest:
    """The Job; `asked` is `spec.rollout.prePromotion.job` as the rollout's course has it."""
    job = PrePromotionJob.model_validate(asked)
    own = labels.checker_labels(owner.name, checked.revision)
    pod = make_companion(checked.template, own, _make_container(owner, stable, checked, job))
    pod["spec"]["restartPolicy"] = "Never"
    # Nothing is known of the image: it may be whoever it was built for, but not root.
    pod["spec"]["securityContext"] = {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if job.service_account_name:
        pod["spec"] |= {
            "serviceAccountName": job.service_account_name,
            "automountServiceAccountToken": True,
        }
    return make_manifest(
        "batch/v1",
        "Job",
        name,
        owner,
        own,
        {
            "spec": {
                "backoffLimit": job.retries,
                "activeDeadlineSeconds": max(1, int(job.timeout_after.total_seconds())),
                "template": pod,
            }
        },
    )


def _make_container(owner: Owner, stable: str, checked: Checked, job: PrePromotionJob) -> Manifest:
    server = find_server(checked.template)
    candidate, stable = (names.child_name(owner.name, one) for one in (checked.revision, stable))
    environment = {
        # In one namespace with it, so that the short name is found at the first try.
        **dict(zip(JOB_ENV, (f"http://{candidate}", f"http://{stable}"), strict=True)),
        "SLUICE_SERVICE": owner.name,
        "SLUICE_REVISION": checked.revision,
        "MODEL_NAME": checked.model,
        "MODEL_VERSION": checked.version,
    }
    container: Manifest = {
        "name": "check",
        "image": job.image or server["image"],
        "env": [
            *({"name": key, "value": value} for key, value in environment.items()),
            *(item.to_dict() for item in job.env),
        ],
        "resources": job.resources.to_dict() if job.resources else _RESOURCES,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        # Its last words, for the message of a rejection.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if job.command is not None:
        container["command"] = list(job.command)
    if job.args is not None:
        container["args"] = list(job.args)
    if policy := server.get("imagePullPolicy") if job.image is None else None:
        container["imagePullPolicy"] = policy
    return container
