"""How many GPUs a node is asked to have."""

import pytest

from testbed import kubelet
from testbed.errors import ClusterError


@pytest.mark.parametrize(
    ("value", "count"),
    [
        pytest.param(None, 8, id="eight where nobody says"),
        pytest.param("0", 0, id="none: a CPU node"),
        pytest.param("2", 2, id="two"),
        pytest.param("64", 64, id="the most"),
    ],
)
def test_count(monkeypatch: pytest.MonkeyPatch, value: str | None, count: int) -> None:
    monkeypatch.delenv("TESTBED_GPUS", raising=False)
    if value is not None:
        monkeypatch.setenv("TESTBED_GPUS", value)
    assert kubelet.count_gpus() == count


@pytest.mark.parametrize("value", ["", "-1", "eight", "1.5", "65"])
def test_other_counts_are_refused_with_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("TESTBED_GPUS", value)
    with pytest.raises(ClusterError, match=r"TESTBED_GPUS=.*0 to 64"):
        kubelet.count_gpus()
