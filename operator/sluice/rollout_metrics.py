"""Metrics of rollouts: where each one stands, how long they take, how they end.

A service has series only while something of it is rolled out, so that their number is bounded by the
rollouts under way; what ends is counted without names.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sluice.rollout.cursor import State
from sluice.runtime.kinds import Key

_SETTLED = {State.COMPLETE, State.REJECTED}
_SECONDS = (10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400)
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_WHOSE = ("namespace", "service")


class RolloutMetrics:
    """All of them, in the registry of the process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"sluice_rollout_{name}", text, (*_WHOSE, *labels), registry=registry)

        self._state = gauge("state", "1 for the state of a rollout under way.", "state")
        self._step = gauge("step", "The step under way, from 1.")
        self._weight = gauge("weight_percent", "Share of the clients that the candidate has.")
        self._value = gauge("check_value", "What a check measured, in its own unit.", "check")
        self._samples = gauge("check_samples", "Requests that a check has counted.", "check")
        self._verdict = gauge(
            "check_verdict", "1 pass, 0 inconclusive, -1 fail, of the step under way.", "check"
        )
        self._outcomes = Counter(
            "sluice_rollouts", "Rollouts that ended.", ("outcome",), registry=registry
        )
        self._duration = Histogram(
            "sluice_rollout_duration_seconds",
            "From its begin to the last client on one revision.",
            ("outcome",),
            buckets=_SECONDS,
            registry=registry,
        )

    def tell(
        self, key: Key, before: Mapping[str, Any], after: Mapping[str, Any], now: datetime
    ) -> None:
        """A status was written: shows where its rollout stands, and counts it where it ended."""
        old, new = before.get("rollout") or {}, after.get("rollout") or {}
        whose = (key.namespace, key.name)
        self.forget(key)
        if new and new.get("state") not in _SETTLED:
            self._state.labels(*whose, new["state"]).set(1)
            self._step.labels(*whose).set(new.get("step", 0))
            self._weight.labels(*whose).set((after.get("candidate") or {}).get("weight", 0))
            for check in new.get("checks", ()):
                self._tell_check(whose, check)
        was_moving = old.get("state") not in {None, *_SETTLED}
        is_moving = new.get("state") not in _SETTLED
        if not was_moving or (is_moving and old.get("startedTime") == new.get("startedTime")):
            return
        outcome = _find_outcome(after)
        self._outcomes.labels(outcome).inc()
        if started := old.get("startedTime"):
            seconds = (now - datetime.fromisoformat(started)).total_seconds()
            self._duration.labels(outcome).observe(max(0.0, seconds))

    def forget(self, key: Key) -> None:
        """Nothing of this service is shown any more."""
        whose = {"namespace": key.namespace, "service": key.name}
        for gauge in (
            self._state,
            self._step,
            self._weight,
            self._value,
            self._samples,
            self._verdict,
        ):
            gauge.remove_by_labels(whose)

    def _tell_check(self, whose: tuple[str, str], check: Mapping[str, Any]) -> None:
        if number := _NUMBER.search(check.get("value", "")):
            self._value.labels(*whose, check["name"]).set(float(number.group()))
        self._samples.labels(*whose, check["name"]).set(check["samples"])
        truth = {"Pass": 1, "Fail": -1}.get(check["verdict"], 0)
        self._verdict.labels(*whose, check["name"]).set(truth)


def _find_outcome(after: Mapping[str, Any]) -> str:
    """How it ended, as the history tells it."""
    if (after.get("rollout") or {}).get("state") == State.COMPLETE:
        return "Complete"
    for entry in after.get("history", ()):
        if entry["outcome"] not in {"Serving", "Replaced"}:
            return str(entry["outcome"])
    return "Superseded"
