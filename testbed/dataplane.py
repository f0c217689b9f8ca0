"""The data plane of simulated pods: real HTTP to every simulated pod and through simulated Gateways.

For tests and benchmarks, on a running instance::

    plane = dataplane.start(cluster)    # DataPlane; the same again where it runs already
    plane.stop()                        # else `down` stops it with the rest

A Gateway of class ``routes.GATEWAY_CLASS`` then gets an address, at which clients inside the
namespace are answered by pods, as its HTTPRoutes say.  As a program, this is one process that runs
``simpods`` and ``routes``; it is Ready at ``HEALTH_PORT`` once it knows all that there is.
"""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from testbed import controlplane, routes
from testbed.cluster import Cluster
from testbed.errors import ClusterError
from testbed.process import is_running
from testbed.simpods import PodServers
from testbed.watching import Api, Following

NAME = "dataplane"
HEALTH_PORT = 10246
DEFAULT_LAG_MS = 50
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class DataPlane:
    """The running data plane of an instance."""

    cluster: Cluster

    @property
    def log(self) -> Path:
        """Its log."""
        return self.cluster.logs / f"{NAME}.log"

    def restart(self) -> None:
        """SIGKILL and start again; returns once it answers.  Its pods' counters begin anew."""
        self.cluster.restart(NAME)

    def stop(self) -> None:
        """End it: pods and Gateways answer nobody."""
        self.cluster.stop(NAME)


def start(cluster: Cluster, *, lag_ms: float = DEFAULT_LAG_MS) -> DataPlane:
    """Start the data plane of ``cluster``; where it runs with another lag, start it anew.

    ``lag_ms`` is the time in milliseconds from a change to its effect on requests.  A ClusterError
    where the Gateway API's kinds are missing.
    """
    _check_kinds(cluster)
    cluster.kubectl("apply", "-f", "-", input=json.dumps(routes.make_class()))
    done = cluster.run_inside(["ip", "route", "replace", "local", routes.GATEWAY_CIDR, "dev", "lo"])
    if done.returncode != 0:
        raise ClusterError(f"no route to the addresses of gateways: {done.stderr.strip()}")
    kubeconfig = controlplane.client(cluster, NAME, NAME, "system:masters")
    argv = [sys.executable, "-m", "testbed.dataplane"]
    argv += [f"--kubeconfig={kubeconfig}", f"--lag-ms={lag_ms:g}"]
    known = cluster.processes.get(NAME)
    if known is not None and is_running(known) and known.argv != argv:
        cluster.stop(NAME)
    cluster.start(
        NAME,
        argv,
        env={"PYTHONPATH": f"{_ROOT}:{_ROOT / 'inference'}"},
        ready=f"http://127.0.0.1:{HEALTH_PORT}/healthz",
    )
    return DataPlane(cluster)


def _check_kinds(cluster: Cluster) -> None:
    wanted = ("gatewayclasses", "gateways", "httproutes")
    names = [f"{each}.gateway.networking.k8s.io" for each in wanted]
    listing = cluster.kubectl("get", "crd", "-o", "name").stdout
    missing = [name for name in names if f"/{name}\n" not in listing]
    if missing:
        raise ClusterError(
            f"testbed {cluster.name!r} has no {', '.join(missing)}: "
            f"`python -m testbed up --name {cluster.name}` applies the Gateway API"
        )


async def run(kubeconfig: Path, lag: float) -> None:
    """Answer until SIGTERM; ``lag`` is in seconds."""
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    async with Api(kubeconfig) as api, asyncio.TaskGroup() as tasks:
        servers = PodServers()
        simulator = routes.RouteSimulator(api, lag)
        followings = [
            Following(api, "/api/v1/pods", servers.take),
            *simulator.followings(),
        ]
        running = [tasks.create_task(each.run()) for each in followings]
        running.append(tasks.create_task(simulator.run()))
        await routes.accept_class(api)
        listener = await servers.listen()
        health = await _tell_health(followings)
        await over.wait()
        listener.close()
        health.close()
        for each in running:
            each.cancel()


async def _tell_health(followings: Sequence[Following]) -> asyncio.Server:
    async def answer(_: web.BaseRequest) -> web.Response:
        behind = [each.path for each in followings if not each.is_in_step]
        if behind:
            return web.Response(status=503, text=f"not known yet: {', '.join(behind)}")
        return web.Response(text="ok")

    manager = web.Server(answer, access_log=None)
    return await asyncio.get_running_loop().create_server(manager, "127.0.0.1", HEALTH_PORT)


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m testbed.dataplane --kubeconfig FILE``, inside the namespace."""
    parser = argparse.ArgumentParser(prog="python -m testbed.dataplane", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--lag-ms", type=float, default=DEFAULT_LAG_MS)
    arguments = parser.parse_args(argv)
    asyncio.run(run(arguments.kubeconfig, arguments.lag_ms / 1000))
    return 0


if __name__ == "__main__":
    sys.exit(main())
