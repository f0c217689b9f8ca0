"""Which Debian packages the node tier still lacks, and what it says where it can't install them."""

import io

import pytest

from testbed import packages
from testbed.errors import ClusterError
from testbed.progress import Progress


def have(monkeypatch: pytest.MonkeyPatch, *proofs: str) -> None:
    monkeypatch.setattr(packages, "is_there", lambda proof: proof in proofs)


@pytest.mark.parametrize(
    ("proofs", "missing"),
    [
        pytest.param(
            ("runc", "nft", "conntrack", "buildah", "debootstrap", "ip", "nsenter"),
            ["containerd", "containernetworking-plugins"],
            id="runc alone is no runtime",
        ),
        pytest.param(
            (
                *("containerd", "runc", "/usr/lib/cni/bridge", "nft", "conntrack"),
                *("buildah", "debootstrap", "ip", "nsenter"),
            ),
            [],
            id="all is there",
        ),
    ],
)
def test_plan(monkeypatch: pytest.MonkeyPatch, proofs: tuple[str, ...], missing: list[str]) -> None:
    have(monkeypatch, *proofs)
    assert packages.plan_packages() == missing


def test_nothing_missing_needs_no_root_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "is_there", lambda proof: True)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    said = io.StringIO()
    packages.ensure(Progress(said))
    assert said.getvalue() == ""


def test_without_root_the_command_to_run_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "is_there", lambda proof: proof != "nft")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ClusterError, match="apt-get install --no-install-recommends nftables"):
        packages.ensure(Progress(io.StringIO()))
