"""Which Debian packages a tier still lacks, how they are installed, and what it says where it can't."""

import io
from pathlib import Path

import pytest

from testbed import packages
from testbed.cluster import Tier
from testbed.errors import ClusterError
from testbed.progress import Progress

CONTROL_PLANE = ("ip", "nsenter", "unshare", "curl")
NODE = (
    *("containerd", "ctr", "runc", "/usr/lib/cni/bridge"),
    *("nft", "conntrack", "buildah", "debootstrap"),
)


def have(monkeypatch: pytest.MonkeyPatch, *proofs: str) -> None:
    monkeypatch.setattr(packages, "is_there", lambda proof: proof in proofs)


@pytest.mark.parametrize(
    ("tier", "proofs", "missing"),
    [
        pytest.param(
            "node",
            (*CONTROL_PLANE, "runc", "nft", "conntrack", "buildah", "debootstrap"),
            ["containerd", "containernetworking-plugins"],
            id="runc alone is no runtime",
        ),
        pytest.param("node", (*CONTROL_PLANE, *NODE), [], id="all is there"),
        pytest.param(
            "node", NODE, ["iproute2", "util-linux", "curl"], id="a node has a control plane"
        ),
        pytest.param("control-plane", CONTROL_PLANE, [], id="a control plane needs no runtime"),
        pytest.param(
            "control-plane", ("ip", "nsenter"), ["util-linux", "curl"], id="half a package is none"
        ),
    ],
)
def test_plan(
    monkeypatch: pytest.MonkeyPatch, tier: Tier, proofs: tuple[str, ...], missing: list[str]
) -> None:
    have(monkeypatch, *proofs)
    assert packages.plan_packages(tier) == missing


@pytest.mark.parametrize("tier", ["control-plane", "node"])
def test_nothing_missing_needs_no_root_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch, tier: Tier
) -> None:
    monkeypatch.setattr(packages, "is_there", lambda proof: True)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    said = io.StringIO()
    packages.ensure(tier, Progress(said))
    assert said.getvalue() == ""


@pytest.mark.parametrize(
    ("tier", "proof", "package"),
    [("node", "nft", "nftables"), ("control-plane", "ip", "iproute2")],
)
def test_without_root_the_command_to_run_is_said(
    monkeypatch: pytest.MonkeyPatch, tier: Tier, proof: str, package: str
) -> None:
    monkeypatch.setattr(packages, "is_there", lambda each: each != proof)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(
        ClusterError,
        match=f"the {tier} tier needs .*apt-get install --no-install-recommends {package}",
    ):
        packages.ensure(tier, Progress(io.StringIO()))


def test_a_system_program_is_found_on_a_path_without_sbin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert packages.is_there("sh")
    assert not packages.is_there("no-such-program")


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The machine's policy about starting services, which it need not have."""
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(packages, "_POLICY", policy)
    return policy


@pytest.fixture
def apt(policy: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A package manager that installs everything, and its notes of the policy meanwhile."""
    notes: list[str] = []
    has: set[str] = set()

    def run(*command: str) -> None:
        if command[1] == "install":
            notes.append(policy.read_text())
            has.update(CONTROL_PLANE + NODE)

    monkeypatch.setattr(packages, "_run", run)
    monkeypatch.setattr(packages, "_LOCK", policy.with_name("lock"))
    monkeypatch.setattr(packages, "is_there", lambda proof: proof in has)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")
    return notes


@pytest.mark.parametrize(
    "before",
    [
        pytest.param("", id="a machine without a policy"),
        pytest.param(packages._POLICY_TEXT, id="after a run that was killed"),
    ],
)
def test_installed_services_are_not_started(apt: list[str], policy: Path, before: str) -> None:
    if before:
        policy.write_text(before)
    packages.ensure("node", Progress(io.StringIO()))
    (during,) = apt
    assert during.startswith("#!/bin/sh\n")
    assert during.endswith("\nexit 101\n")
    assert not policy.exists()


def test_the_policy_of_the_machine_stays(apt: list[str], policy: Path) -> None:
    policy.write_text("exit 0")
    packages.ensure("node", Progress(io.StringIO()))
    assert apt == ["exit 0"]
    assert policy.read_text() == "exit 0"


def test_the_policy_may_be_run_and_goes_after_a_failure(policy: Path) -> None:
    def fail() -> None:
        with packages.services_held():
            assert policy.stat().st_mode & 0o777 == 0o755
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not policy.exists()
