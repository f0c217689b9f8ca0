"""What there is of an instance, per component: built, version, running, log.  Changes nothing."""

import json
from dataclasses import dataclass
from pathlib import Path

from testbed import build, gateway, process
from testbed.cluster import Cluster


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``is_good`` is None where the component isn't meant to run."""

    name: str
    version: str
    built: str
    running: str
    log: str
    is_good: bool | None


def examine(cluster: Cluster, components: list[str]) -> list[Finding]:
    """One finding per process that was started, then one per component without a process."""
    found: list[Finding] = []
    owners = {alias: each for each in build.COMPONENTS.values() for alias in each.programs}
    for name, record in cluster.processes.items():
        is_running = process.is_running(record)
        owner = owners.get(name)
        found.append(
            Finding(
                name=name,
                version=owner.version if owner else "",
                built=_built(owner) if owner else "",
                running=f"pid {record.pid}" if is_running else "DEAD",
                log=record.log,
                is_good=is_running,
            )
        )
    started = {owners[name].name for name in cluster.processes if name in owners}
    for name in components:
        if name not in started:
            each = build.COMPONENTS[name]
            found.append(Finding(name, each.version, _built(each), "-", "", None))
    return found


def describe_gateway(cluster: Cluster) -> str:
    """Where the gateway answers and where its logs are."""
    host, port = cluster.gateway_address()
    return (
        f"gateway: http://127.0.0.1:{cluster.gateway_port()} here, http://{host}:{port} inside; "
        f"it runs in pods, their log: {gateway.LOGS}=envoy (or =envoy-gateway)"
    )


def render(findings: list[Finding]) -> str:
    """The findings as a table."""
    rows = [("COMPONENT", "VERSION", "BUILT", "RUNNING", "LOG")]
    rows += [(f.name, f.version, f.built, f.running, f.log) for f in findings]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _built(component: build.Component) -> str:
    pattern = f"{component.name}-{component.version}-*/built"
    notes = sorted(Path(build.cache_root() / "bin").glob(pattern))
    if not notes:
        return "no"
    return str(json.loads(notes[-1].read_text()).get("go", "fetched"))
