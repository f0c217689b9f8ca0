"""The composition of a serving process: what its metrics say of the whole."""

from __future__ import annotations

import pytest

from sluice_inference.lifecycle import State
from sluice_inference.routing.roster import Roster
from sluice_inference.server import Server
from sluice_inference.settings import read_settings
from tests.serving import NAMES


@pytest.mark.parametrize(
    ("states", "fault", "value"),
    [
        pytest.param([State.LOADING, State.WARMING], "", 0, id="on the way"),
        pytest.param([State.LOADING, State.WARMING, State.READY], "", 1, id="ready"),
        pytest.param([State.LOADING, State.WARMING, State.READY], "stalled", 0, id="stalled"),
    ],
)
async def test_the_metric_of_readiness_says_what_the_probe_says(
    states: list[State], fault: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Roster, "find_fault", lambda _: fault)
    server = Server(read_settings({"BACKEND": "fake", "DEVICE": "cpu", **NAMES}))
    for state in states:
        server._lifecycle.enter(state)
    said = server._metrics.registry.get_sample_value("sluice_inference_model_ready")
    server._pool.close()
    assert said == value
