"""TESTBED=local: brings an instance up to a tier and takes it down, in order, once at a time."""

import importlib
from typing import Any

from testbed import build, controlplane, environment, netns, packages, process
from testbed.cluster import TIERS, Cluster, Tier
from testbed.errors import ClusterError
from testbed.progress import Progress


def components(tier: Tier) -> list[str]:
    """What has to be built for ``tier``."""
    names = controlplane.components()
    if tier == "node":
        names += [name for name in _node().components() if name not in names]
    return names


def up(cluster: Cluster, tier: Tier, progress: Progress) -> None:
    """Bring ``cluster`` up to ``tier`` at least; quick where it is up, repairs what died."""
    if tier == "node" and not netns.is_root():
        raise ClusterError(
            "the node tier needs root: sudo python -m testbed up --tier node, or TESTBED=kind"
        )
    environment.extend_path()
    if tier == "node":
        _node().prepare()
    packages.ensure(tier, progress)
    # Building takes minutes and starts nothing, so it does not hold the instance.
    build.ensure(components(tier), progress)
    with cluster.starting_or_stopping("up"):
        if cluster.is_stale or _has_lost_its_record(cluster) or _has_lost_its_namespace(cluster):
            _down(cluster, progress)
        cluster.prepare()
        controlplane.up(cluster, progress)
        if tier == "node":
            _node().up(cluster, progress)
        reached = max(cluster.tier or TIERS[0], tier, key=TIERS.index)
        cluster.remember("tier", reached)
    progress.say(
        f"testbed {cluster.name!r} is up ({reached}): "
        f'eval "$(python -m testbed env --name {cluster.name})"'
    )


def down(cluster: Cluster, progress: Progress) -> None:
    """Stop and remove everything that was started for ``cluster``; fine where there is nothing."""
    environment.extend_path()
    with cluster.starting_or_stopping("down"):
        _down(cluster, progress)


def _down(cluster: Cluster, progress: Progress) -> None:
    has_lost_its_record = _has_lost_its_record(cluster)
    if not cluster.folder.exists() and not has_lost_its_record:
        return
    with progress.step(f"stop {cluster.name}"):
        # After a reboot as well: what the node keeps on disk outlives its processes.
        if cluster.recall("node") or has_lost_its_record:
            _node().down(cluster)
        if not cluster.is_stale:
            # Backwards: what depends on something ends before it.
            for record in reversed(cluster.processes.values()):
                process.stop(record)
        if netns.is_root():
            netns.delete(cluster.name)
        cluster.remove()


def _has_lost_its_record(cluster: Cluster) -> bool:
    """Whether a node's data outlived the record, which in memory is gone after a reboot."""
    return netns.is_root() and not cluster.state and bool(_node().has_data(cluster))


def _has_lost_its_namespace(cluster: Cluster) -> bool:
    """Whether processes may run in a namespace that can no longer be entered by its name."""
    if not cluster.processes:
        return False
    if netns.is_root():
        return not netns.exists(cluster.name)
    holder = cluster.processes.get("namespace")
    return holder is None or not process.is_running(holder)


def _node() -> Any:
    # By name at the last moment: the control-plane tier has to work without the node tier's needs.
    return importlib.import_module("testbed.node")
