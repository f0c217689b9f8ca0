"""The network namespace of an instance: make, enter, delete.

With root it is a named one, ``sluice-NAME``.  Without, a holder process keeps a user and network
namespace alive; only the control plane works there.  Pod and Service addresses therefore never
reach the machine's own network, and deleting the namespace takes bridge, routes and nftables rules
along.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from testbed.errors import ClusterError

BRIDGE = "sluice0"
BRIDGE_ADDRESS = "10.244.0.1"
"""Where the API server listens, on the bridge: pods of the real node reach it there."""
POD_CIDR = "10.244.0.0/24"
"""Pods of the real node."""
SIMULATED_POD_CIDR = "10.245.0.0/16"
"""Pods of the simulated nodes; local to loopback, so that one process can answer for all."""
SERVICE_CIDR = "10.96.0.0/16"
API_SERVICE_ADDRESS = "10.96.0.1"
DNS_SERVICE_ADDRESS = "10.96.0.10"

_SYSCTLS = (
    # Forwarding for pods; bridged packets pass nftables only where the module is there.
    "net/ipv4/ip_forward=1",
    "net/ipv4/ip_local_port_range=15000 65000",
    "net/core/somaxconn=4096",
    "net/bridge/bridge-nf-call-iptables=1",
)


def is_root() -> bool:
    """Whether named namespaces, and with them the node tier, are possible."""
    return os.geteuid() == 0


def path_of(name: str) -> Path:
    """Where the named namespace of instance ``name`` is mounted."""
    return Path("/run/netns") / f"sluice-{name}"


def exists(name: str) -> bool:
    """Whether the named namespace is there and alive."""
    return path_of(name).exists()


def make(name: str) -> None:
    """Make the named namespace of instance ``name``.  Needs root."""
    _run(["ip", "netns", "add", f"sluice-{name}"])


def delete(name: str) -> None:
    """Delete the named namespace, with all that is in it.  Nothing where there is none."""
    if exists(name):
        _run(["ip", "netns", "delete", f"sluice-{name}"])


def enter_named(name: str) -> list[str]:
    """The words before a command that run it in the named namespace, keeping its pid."""
    # Not `ip netns exec`: that mounts a new /sys, in which a kubelet finds no cgroups.
    return ["nsenter", f"--net={path_of(name)}"]


def enter_held(pid: int) -> list[str]:
    """The same for the namespaces that process ``pid`` holds without root."""
    return ["nsenter", "--user", "--net", "--preserve-credentials", f"--target={pid}"]


def holder() -> list[str]:
    """The command that holds a user and network namespace without root."""
    return ["unshare", "--user", "--map-root-user", "--net", "sleep", "infinity"]


def furnish(enter: Sequence[str]) -> None:
    """Loopback, bridge, routes and sysctls, inside.  Safe to run again."""
    script = f"""
set -e
ip link set lo up
ip link show {BRIDGE} >/dev/null 2>&1 || ip link add {BRIDGE} type bridge
ip addr replace {BRIDGE_ADDRESS}/24 dev {BRIDGE}
ip link set {BRIDGE} up
ip route replace {SERVICE_CIDR} dev {BRIDGE}
ip route replace local {SIMULATED_POD_CIDR} dev lo
"""
    for line in _SYSCTLS:
        key, _, value = line.partition("=")
        # A kernel without the bridge filter has no such file, and a namespace of an ordinary user
        # may not set every one: none of them decides whether the control plane works.
        script += f"{{ echo '{value}' > /proc/sys/{key}; }} 2>/dev/null || true\n"
    _run([*enter, "sh", "-c", script])


def reserve(enter: Sequence[str], port: int) -> None:
    """Keep ``port`` from outgoing connections inside.

    The API server's lies among those that they take, and while it is being restarted its own clients
    would sooner or later have it, or even connect to themselves.
    """
    file = "/proc/sys/net/ipv4/ip_local_reserved_ports"
    _run([*enter, "sh", "-c", f"{{ echo {port} > {file}; }} 2>/dev/null || true"])


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ClusterError(
            f"{command[0]} is not installed: apt-get install iproute2 util-linux"
        ) from error
    if done.returncode != 0:
        raise ClusterError(f"{' '.join(command[:4])}: {done.stderr.strip()}")
