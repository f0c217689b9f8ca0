"""States, and when a drain is over."""

from __future__ import annotations

import pytest

from sluice_inference.lifecycle import Lifecycle, State, Traffic, is_drained

LIFE = [State.LOADING, State.WARMING, State.READY, State.DRAINING, State.STOPPED]


def test_a_whole_life() -> None:
    life = Lifecycle()
    seen: list[State] = []
    life.on_change(seen.append)
    ready, answering = [], []
    for state in LIFE:
        assert life.enter(state)
        ready.append(life.is_ready())
        answering.append(life.is_answering())
    assert seen == LIFE
    assert ready == [False, False, True, False, False]
    assert answering == [False, False, True, True, False]


@pytest.mark.parametrize(
    ("path", "refused"),
    [
        pytest.param([State.LOADING], State.READY, id="never ready without warm-up"),
        pytest.param(LIFE[:4], State.READY, id="no way back from draining"),
        pytest.param([State.LOADING], State.DRAINING, id="nothing to drain before ready"),
        pytest.param([State.STOPPED], State.LOADING, id="the dead don't load"),
        pytest.param([State.LOADING, State.FAILED], State.WARMING, id="failed stays failed"),
    ],
)
def test_what_can_not_follow_is_refused(path: list[State], refused: State) -> None:
    life = Lifecycle()
    for state in path:
        assert life.enter(state)
    assert not life.enter(refused)
    assert life.state is path[-1]


@pytest.mark.parametrize(
    ("now", "in_flight", "last", "drained"),
    [
        pytest.param(1.0, 0, -9.0, False, id="quiet, but others may not have heard yet"),
        pytest.param(5.0, 0, -9.0, True, id="lingered and quiet"),
        pytest.param(5.0, 1, 4.9, False, id="a request is under way"),
        pytest.param(5.5, 0, 4.9, False, id="the last request was a moment ago"),
        pytest.param(6.0, 0, 4.9, True, id="silence for a second"),
        pytest.param(19.9, 3, 19.8, False, id="clients that never stop are served on"),
        pytest.param(20.0, 3, 19.9, True, id="but what is in flight needs its time"),
    ],
)
def test_when_a_drain_is_over(now: float, in_flight: int, last: float, drained: bool) -> None:
    traffic = Traffic(in_flight=in_flight, last=100 + last)
    assert is_drained(100 + now, 100, traffic, linger_s=5, timeout_s=25) is drained
