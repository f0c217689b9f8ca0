"""That manifests are applied once, and when a kind can be used."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from testbed import manifests, stateroot
from testbed.cluster import Cluster

A = "a.x NamesAccepted=True Established=True"
B = "b.x Established=True NamesAccepted=True"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(stateroot, "path_of", lambda user: tmp_path / "state")
    cluster = Cluster("unit")
    cluster.prepare()
    return cluster


def test_the_same_is_applied_once_and_a_change_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[str] = []
    monkeypatch.setattr(cluster, "kubectl", lambda *words, **more: applied.append(more["input"]))
    done = [manifests.apply(cluster, "x", text) for text in ("a", "a", "b", "a")]
    assert done == [True, False, True, True]
    assert applied == ["a", "b", "a"]


def test_kinds_are_waited_for_until_all_are_established(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    listings = iter([f"{A}\nb.x", f"{A}\nb.x Established=False", f"{A}\n{B}"])

    def kubectl(verb: str, *arguments: str, **options: Any) -> SimpleNamespace:
        return SimpleNamespace(stdout="" if verb == "apply" else next(listings))

    monkeypatch.setattr(cluster, "kubectl", kubectl)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    (tmp_path / "kinds.yaml").write_text("kinds")
    manifests.apply_kinds(cluster, "kinds", tmp_path / "kinds.yaml")
    assert next(listings, "all looked at") == "all looked at"
    manifests.apply_kinds(cluster, "kinds", tmp_path / "kinds.yaml")


@pytest.mark.parametrize(
    ("listing", "pending"),
    [
        pytest.param(f"{A}\n{B}\n", [], id="all"),
        pytest.param(f"{A}\nb.x\n", ["b.x"], id="one that was just made, without conditions"),
        pytest.param(f"a.x Established=False\n{B}\n", ["a.x"], id="one not yet served"),
        pytest.param(f"a.x NamesAccepted=True\n{B}\n", ["a.x"], id="one with accepted names only"),
    ],
)
def test_pending(listing: str, pending: list[str]) -> None:
    assert manifests.pending_kinds(listing) == pending
