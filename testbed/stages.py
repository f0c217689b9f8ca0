"""How simulated pods and nodes behave: the Stages that kwok plays, and what pods say of themselves.

Data only; ``kwok`` runs it, and ``simpods`` answers requests.

A pod is Ready at once, its init containers having said ``{"outcome":"Verified",…}``; one that is not
restarted has succeeded then.  A pod that is to behave otherwise says so by annotations
``testbed.sluice.dev/KEY``, or by variables in any container's environment, ``TESTBED_KEY``
(``TESTBED_LOAD_TIME`` for ``load-time``).  An annotation wins, and may change while the pod lives.

================= =========================================================================
``behaviour``     one of ``BEHAVIOURS``
``fetch-time``    how long init containers run, as ``2s``
``load-time``     from then until Ready, or until the failure, as ``1m30s``
``stop-time``     from deletion until the pod is gone
``message``       termination message of what fails
``exit-code``     its exit code; 3 where not said
``error-percent`` share of inference requests answered by a 500, 0 to 100; 0 where not said
``latency-ms``    what an inference answer takes, 0 to 600000; 0 where not said
================= =========================================================================

The last two need the data plane (``dataplane``): without it nothing answers.
"""

from collections.abc import Mapping
from typing import Any

BEHAVIOURS = {
    "ready": "becomes Ready (also what a pod without the annotation does)",
    "never-ready": "containers run, the pod is not Ready",
    "crash-loop": "containers end with exit code and message, waiting in CrashLoopBackOff; a pod that "
    "is never restarted has failed",
    "fetch-failed": "init containers end with exit code and message, waiting in CrashLoopBackOff",
    "fetch-hangs": "init containers run for ever",
    "image-pull-failed": "containers wait in ImagePullBackOff",
}

_PREFIX = "testbed.sluice.dev"
_VARIABLE = "TESTBED_"


def read_environment(pod: Mapping[str, Any]) -> dict[str, str]:
    """Variables of all containers that have a value of their own."""
    containers = pod.get("spec", {}).get("containers", [])
    return {
        each["name"]: each["value"]
        for container in containers
        for each in container.get("env") or []
        if each.get("value")
    }


def read_instructions(pod: Mapping[str, Any]) -> dict[str, str]:
    """What a pod says by variables and annotations, by the keys above."""
    said = {
        name.removeprefix(_VARIABLE).lower().replace("_", "-"): value
        for name, value in read_environment(pod).items()
        if name.startswith(_VARIABLE)
    }
    annotations = pod["metadata"].get("annotations") or {}
    said |= {
        key.removeprefix(f"{_PREFIX}/"): value
        for key, value in annotations.items()
        if key.startswith(f"{_PREFIX}/")
    }
    return said


_HEAD = """\
{{ $now := Now }}
{{ $pod := . }}
{{ $name := or .metadata.name "" }}
{{ $space := or .metadata.namespace "" }}
{{ $shared := or .spec.hostNetwork false }}
{{ $address := .status.podIP }}{{ if not $address }}
{{ $address = PodIPWith .spec.nodeName $shared ( or .metadata.uid "" ) $name $space }}{{ end }}
hostIP: {{ NodeIPWith .spec.nodeName | Quote }}
podIP: {{ $address | Quote }}
podIPs:
- ip: {{ $address | Quote }}
startTime: {{ or .status.startTime $now | Quote }}
"""

# Annotations and variables as one dictionary, $say, annotations last so that they win.
_SAY = """\
{{ $say := dict "message" "" "exit-code" "3" }}
{{ range .spec.containers }}{{ range .env }}{{ if and .value ( hasPrefix "TESTBED_" .name ) }}
{{ $key := trimPrefix "TESTBED_" .name | lower | replace "_" "-" }}
{{ $_ := set $say $key .value }}{{ end }}{{ end }}{{ end }}
{{ range $key, $value := .metadata.annotations }}{{ if hasPrefix "testbed.sluice.dev/" $key }}
{{ $_ := set $say ( trimPrefix "testbed.sluice.dev/" $key ) $value }}{{ end }}{{ end }}
"""


def _conditions(*, initialized: bool, ready: bool) -> str:
    lines = ["conditions:"]
    for kind, value in (
        ("PodReadyToStartContainers", True),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", ready),
    ):
        reason = (
            ""
            if value
            else ("ContainersNotInitialized" if kind == "Initialized" else "ContainersNotReady")
        )
        lines += [
            f"- type: {kind}",
            f'  status: "{value}"',
            f'  reason: "{reason}"',
            # A condition that stays as it is keeps its time, as with a kubelet.
            f"  lastTransitionTime: {{{{ $since := $now }}}}{{{{ range $pod.status.conditions }}}}"
            f'{{{{ if and ( eq .type "{kind}" ) ( eq .status "{value}" ) }}}}'
            "{{ $since = .lastTransitionTime }}{{ end }}{{ end }}{{ $since | Quote }}",
        ]
    gates = (
        '{{ range .spec.readinessGates }}\n- type: {{ .conditionType | Quote }}\n  status: "True"\n'
    )
    return "\n".join(lines) + "\n" + gates + "  lastTransitionTime: {{ $now | Quote }}\n{{ end }}\n"


def _containers(state: str, *, ready: bool, started: bool, restarts: int = 0) -> str:
    return f"""\
containerStatuses:
{{{{ range .spec.containers }}}}
- name: {{{{ .name | Quote }}}}
  image: {{{{ .image | Quote }}}}
  imageID: ""
  ready: {str(ready).lower()}
  started: {str(started).lower()}
  restartCount: {restarts}
{state}
{{{{ end }}}}
"""


_RUNNING = """\
  state:
    running:
      startedAt: {{ $now | Quote }}"""

_TERMINATED = """\
    terminated:
      exitCode: {{ index $say "exit-code" }}
      reason: Error
      message: {{ index $say "message" | Quote }}
      startedAt: {{ $now | Quote }}
      finishedAt: {{ $now | Quote }}"""
_FAILED = f"""\
  state:
    waiting:
      reason: CrashLoopBackOff
      message: back-off restarting failed container
  lastState:
{_TERMINATED}"""


def _waiting(reason: str) -> str:
    return f"  state:\n    waiting:\n      reason: {reason}"


# What the digest check would report: the digest is the one the container was told to expect.
_VERIFIED = """\
{{ $digest := "" }}{{ $words := concat ( default list .command ) ( default list .args ) }}
{{ range $i, $word := $words }}
{{ if and ( eq $word "--digest" ) ( lt ( add1 $i ) ( int64 ( len $words ) ) ) }}
{{ $digest = index $words ( add1 $i ) }}{{ end }}{{ end }}
{{ $said := dict "outcome" "Verified" "digest" $digest "files" 6 "bytes" 1830412 }}
{{ $_ := set $said "seconds" "1.2" }}
  state:
    terminated:
      exitCode: 0
      reason: Completed
      message: {{ $said | toJson | Quote }}
      startedAt: {{ $now | Quote }}
      finishedAt: {{ $now | Quote }}"""


def _inits(state: str, *, ready: bool, restarts: int = 0) -> str:
    return f"""\
{{{{ if .spec.initContainers }}}}
initContainerStatuses:
{{{{ range .spec.initContainers }}}}
- name: {{{{ .name | Quote }}}}
  image: {{{{ .image | Quote }}}}
  imageID: ""
  ready: {str(ready).lower()}
  restartCount: {restarts}
{state}
{{{{ end }}}}
{{{{ end }}}}
"""


_FETCHING = (
    _HEAD
    + "phase: Pending\n"
    + _conditions(initialized=False, ready=False)
    + _inits(_RUNNING, ready=False)
    + _containers(_waiting("PodInitializing"), ready=False, started=False)
)
_FETCH_FAILED = (
    _HEAD
    + _SAY
    + "phase: Pending\n"
    + _conditions(initialized=False, ready=False)
    + _inits(_FAILED, ready=False, restarts=1)
    + _containers(_waiting("PodInitializing"), ready=False, started=False)
)
_RUNNING_NOT_READY = (
    _HEAD
    + "phase: Running\n"
    + _conditions(initialized=True, ready=False)
    + _inits(_VERIFIED, ready=True)
    + _containers(_RUNNING, ready=False, started=False)
)
_READY = (
    _HEAD
    + "phase: Running\n"
    + _conditions(initialized=True, ready=True)
    + _inits(_VERIFIED, ready=True)
    + _containers(_RUNNING, ready=True, started=True)
)
_CRASHED = (
    _HEAD
    + _SAY
    + "phase: Running\n"
    + _conditions(initialized=True, ready=False)
    + _inits(_VERIFIED, ready=True)
    + _containers(_FAILED, ready=False, started=False, restarts=3)
)
_NO_IMAGE = (
    _HEAD
    + "phase: Pending\n"
    + _conditions(initialized=False, ready=False)
    + _inits(_waiting("ImagePullBackOff"), ready=False)
    + _containers(_waiting("ImagePullBackOff"), ready=False, started=False)
)
_ENDED_BADLY = (
    _HEAD
    + _SAY
    + "phase: Failed\n"
    + _conditions(initialized=True, ready=False)
    + _inits(_VERIFIED, ready=True)
    + _containers(f"  state:\n{_TERMINATED}", ready=False, started=False)
)
_COMPLETED = (
    _HEAD
    + "phase: Succeeded\n"
    + _conditions(initialized=True, ready=False)
    + _inits(_VERIFIED, ready=True)
    + _containers(_VERIFIED, ready=False, started=False)
)

_NODE = """\
{{ $now := Now }}
phase: Running
addresses:
- type: InternalIP
  address: {{ NodeIP | Quote }}
- type: Hostname
  address: {{ NodeName | Quote }}
conditions:
{{ range NodeConditions }}
- type: {{ .type | Quote }}
  status: {{ .status | Quote }}
  reason: {{ .reason | Quote }}
  message: {{ .message | Quote }}
  lastHeartbeatTime: {{ $now | Quote }}
  lastTransitionTime: {{ $now | Quote }}
{{ end }}
"""


def variable_of(key: str) -> str:
    """The variable that says ``key``."""
    return _VARIABLE + key.upper().replace("-", "_")


def _say(key: str) -> str:
    variable = variable_of(key)
    return (
        f'.metadata.annotations["{_PREFIX}/{key}"] // '
        f'([.spec.containers[].env // [] | .[] | select(.name == "{variable}") | .value] | first)'
    )


def _each(field: str, path: str) -> str:
    return f"[.status.{field} // [] | .[] | {path}]"


_BEHAVIOUR = f'({_say("behaviour")}) // "ready"'
_IS_READY = (
    '([.status.conditions // [] | .[] | select(.type == "Ready") | .status] | first) == "True"'
)
# What a stage left the pod in, so that each is played once and the next follows from it.
_WHERE = (
    f'if {_IS_READY} then "ready"'
    ' elif .status.phase == "Succeeded" or .status.phase == "Failed" then "over"'
    f' elif ({_each("containerStatuses", ".lastState.terminated")} | any) then "crashed"'
    f' elif ({_each("initContainerStatuses", ".lastState.terminated")} | any) then "fetch-failed"'
    f' elif ({_each("containerStatuses", ".state.waiting.reason")} | first) == "ImagePullBackOff"'
    ' then "no-image"'
    ' elif .status.phase == "Running" then "running"'
    ' elif .status.podIP then "fetching" else "new" end'
)
_PACE = (
    f'if ({_say("fetch-time")}) or ({_say("load-time")}) or ({_BEHAVIOUR}) != "ready"'
    ' then "slow" else "fast" end'
)
_NEW = {"key": ".status.podIP", "operator": "DoesNotExist"}
_OLD = {"key": ".status.podIP", "operator": "Exists"}


def _is(expression: str, *values: str) -> dict[str, Any]:
    return {"key": expression, "operator": "In", "values": list(values)}


def _stage(
    name: str, when: list[dict[str, Any]], then: dict[str, Any], *, delay: str = ""
) -> dict[str, Any]:
    alive = {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"}
    if then.get("delete"):
        alive["operator"] = "Exists"
    spec: dict[str, Any] = {
        "resourceRef": {"apiGroup": "v1", "kind": "Node" if name.startswith("node") else "Pod"},
        "selector": {"matchExpressions": [alive, *when]},
        "next": then,
    }
    if delay:
        spec["delay"] = {"durationMilliseconds": 0, "durationFrom": {"expressionFrom": _say(delay)}}
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": spec,
    }


def make_stages() -> list[dict[str, Any]]:
    """All Stages, as kwok's configuration wants them.

    Every event of every pod is held against every stage, one expression after the other until one
    does not match, so the cheap ones that most pods fail come first.
    """
    fetched = ("ready", "never-ready", "crash-loop")
    long_running = _is(".spec.restartPolicy", "Always")
    return [
        _stage(
            "node-ready", [_is(f'if {_IS_READY} then "ready" else "new" end', "new")], _to(_NODE)
        ),
        # The usual pod: one write.
        _stage("pod-ready", [_NEW, long_running, _is(_PACE, "fast")], _to(_READY)),
        # One that takes its time or fails, step by step.
        _stage(
            "pod-fetching",
            [
                _NEW,
                long_running,
                _is(_PACE, "slow"),
                _is(_BEHAVIOUR, *fetched, "fetch-failed", "fetch-hangs"),
            ],
            _to(_FETCHING),
        ),
        _stage("pod-no-image", [_NEW, _is(_BEHAVIOUR, "image-pull-failed")], _to(_NO_IMAGE)),
        _stage(
            "pod-fetch-failed",
            [_OLD, _is(_BEHAVIOUR, "fetch-failed"), _is(_WHERE, "fetching")],
            _to(_FETCH_FAILED),
            delay="fetch-time",
        ),
        _stage(
            "pod-running",
            [
                _OLD,
                _is(".status.phase", "Pending"),
                _is(_BEHAVIOUR, *fetched),
                _is(_WHERE, "fetching", "fetch-failed", "no-image"),
            ],
            _to(_RUNNING_NOT_READY),
            delay="fetch-time",
        ),
        _stage(
            "pod-loaded",
            [_OLD, _is(_WHERE, "running", "crashed"), _is(_BEHAVIOUR, "ready")],
            _to(_READY),
            delay="load-time",
        ),
        _stage(
            "pod-crashed",
            [_OLD, _is(_BEHAVIOUR, "crash-loop"), _is(_WHERE, "running", "ready")],
            _to(_CRASHED),
            delay="load-time",
        ),
        _stage(
            "pod-unready",
            [_OLD, _is(_BEHAVIOUR, "never-ready"), _is(_WHERE, "ready")],
            _to(_RUNNING_NOT_READY),
        ),
        _stage(
            "pod-completed",
            [_NEW, _is(".spec.restartPolicy", "Never", "OnFailure"), _is(_BEHAVIOUR, "ready")],
            _to(_COMPLETED),
            delay="load-time",
        ),
        _stage(
            "pod-ended-badly",
            [_NEW, _is(".spec.restartPolicy", "Never"), _is(_BEHAVIOUR, "crash-loop")],
            _to(_ENDED_BADLY),
            delay="load-time",
        ),
        _stage(
            "pod-deleted",
            [{"key": ".metadata.finalizers", "operator": "DoesNotExist"}],
            {"delete": True},
            delay="stop-time",
        ),
    ]


def _to(template: str) -> dict[str, Any]:
    return {"statusTemplate": template}
