"""What a machine must have to become a node, said before anything is installed."""

import subprocess
from pathlib import Path

import pytest

from testbed import node
from testbed.errors import ClusterError


@pytest.mark.parametrize(
    "has_modprobe", [pytest.param(True, id="with modprobe"), pytest.param(False, id="without")]
)
def test_a_kernel_without_the_bridge_filter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_modprobe: bool
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **options: object) -> None:
        asked.append(command)
        if not has_modprobe:
            raise FileNotFoundError(command[0])

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(node, "_BRIDGE_FILTER", tmp_path / "bridge")
    with pytest.raises(ClusterError, match=r"bridge is not there.*`modprobe br_netfilter`"):
        node.load_modules()
    assert asked[0][-2:] == ["br_netfilter", "overlay"]
    (tmp_path / "bridge").mkdir()
    node.load_modules()
